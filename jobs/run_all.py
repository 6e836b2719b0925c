"""Runs the whole path in one Spark session: ingest, textualise, encode, train, recommend, evaluate; then prints what came of it.

spark-submit jobs/run_all.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import (
    STEPS,
    ConfigOption,
    DayOption,
    DebugOption,
    DomainOption,
    SetOption,
    main_of,
    overrides_of,
    run_jobs,
)


def run_all(
    config: ConfigOption = "conf/pipeline.yaml",
    domain: DomainOption = None,
    set_: SetOption = None,
    day: DayOption = None,
    debug: DebugOption = False,
) -> None:
    """Runs ingest, textualise, encode, train, recommend and evaluate in one Spark session, and prints what came of it."""
    run_jobs(STEPS, config, domain, overrides_of(set_, day), debug=debug, summary=True)


main = main_of(run_all)

if __name__ == "__main__":
    main()
