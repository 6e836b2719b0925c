"""Ingest, measured; `make bench-ingest`.

In one warm session, interleaved: Online Retail II as CSV to `events` and `quarantine`, Spark's own CSV reader writing the same columns
to Delta unvalidated, the same work in pandas; then 0, 1, 10 and 100 per cent of new records on top of the log. Start-up (session and the
first Delta operation) is stated apart.
"""

import json
import logging
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pandas_ingest
from report import ROOT, Figure, figure, output, raw_repeats, write_result

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.session import get_session

WORK = ROOT / "benchmarks/work/ingest"
REPEATS = 3
SHARES = (0.0, 0.01, 0.1, 1.0)
COLUMNS = (
    "`Customer ID` AS user_id",
    "StockCode AS item_id",
    "CASE WHEN Invoice LIKE 'C%' THEN 'return' ELSE 'purchase' END AS event_type",
    "CAST(InvoiceDate AS timestamp) AS event_time",
    "CAST(InvoiceDate AS date) AS event_date",
    "Invoice AS step_key",
    "CAST(Quantity AS double) AS quantity",
    "CAST(Price AS double) AS price",
    "'online_retail_ii' AS source",
    "struct(Description AS title) AS item_fields",
)


def main() -> int:
    commit = output("git", "rev-parse", "HEAD")
    raw, repeats = raw_repeats("ingest", "conf/pipeline.yaml", "conf/domains/retail.yaml", "conf/spark/spark-defaults.conf")
    if not any(repeat["commit"] == commit for repeat in repeats):
        logging.getLogger("py4j").setLevel(logging.ERROR)
        repeats.append({"commit": commit, "date": datetime.now(UTC).isoformat(timespec="seconds"), **measure()})
        raw.write_text(json.dumps(repeats, indent=1) + "\n")
    return write_result("ingest", repeats[-1], repeats, figures(repeats[-1]))


def measure() -> dict[str, Any]:
    output("rm", "-rf", str(WORK))
    WORK.mkdir(parents=True)
    log = pd.read_parquet(ROOT / "examples/online_retail_ii/online_retail_II.parquet")
    log.to_csv(WORK / "log.csv", index=False)
    began = time.perf_counter()
    spark = get_session("bench ingest")
    spark.range(1).write.format("delta").save(str(WORK / "first"))
    start_up = time.perf_counter() - began
    rounds = [one_round(spark, number) for number in range(REPEATS + 1)][1:]  # the first one warms up
    return {"start_up": start_up, "rounds": rounds, "increments": increments(log)}


def one_round(spark: Any, number: int) -> dict[str, Any]:
    """Each side once, on an empty folder."""
    run = run_step("ingest", settings(f"round-{number}", "log.csv"))
    began = time.perf_counter()
    plain = spark.read.option("header", True).csv(str(WORK / "log.csv")).selectExpr(*COLUMNS)
    plain.write.format("delta").save(str(WORK / f"plain-{number}"))
    middle = time.perf_counter()
    counts = pandas_ingest.ingest(WORK / "log.csv", WORK / f"pandas-{number}")
    ended = time.perf_counter()
    textualised = run_step("textualise", settings(f"round-{number}", "log.csv"))
    if {name: run.counts[name] for name in counts} != counts:
        raise SystemExit(f"the two sides disagree: {counts} in pandas, {run.counts} here")
    return {
        "ingest": run.stages,
        "spark_csv": middle - began,
        "pandas": ended - middle,
        "textualise": sum(textualised.stages.values()),
        "counts": counts,
    }


def increments(log: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A share of new records (users of another name) delivered after the whole log."""
    found = {}
    run_step("ingest", settings("grown", "log.csv"))
    for share in SHARES:
        more = log.sample(frac=share, random_state=17)
        more = more.assign(**{"Customer ID": [f"{share}-{user}" for user in more["Customer ID"].astype(str)]})
        (more if share else log.head(100_000)).to_csv(WORK / "more.csv", index=False)
        began = time.perf_counter()
        run = run_step("ingest", settings("grown", "more.csv"))
        found[str(share)] = {"seconds": time.perf_counter() - began, "new": run.counts["used"], "stages": run.stages}
    return found


def settings(warehouse: str, file: str) -> Settings:
    overrides = (f"warehouse={WORK / warehouse}", f"domain.source.path={WORK / file}", "domain.source.format=csv")
    return load_settings(Path(ROOT / "conf/pipeline.yaml"), "retail", overrides)


def figures(repeat: dict[str, Any]) -> list[Figure]:
    rounds = repeat["rounds"]
    ours = [turn["ingest"]["parse"] + turn["ingest"]["write"] for turn in rounds]
    against = {
        side: statistics.median(one / turn[side] for one, turn in zip(ours, rounds, strict=True))
        for side in ("spark_csv", "pandas")
    }
    text = statistics.median(
        (turn["ingest"]["parse"] + turn["ingest"]["write"] + turn["ingest"]["items"]) / turn["textualise"] for turn in rounds
    )
    grown = repeat["increments"]
    fixed = grown["0.0"]["seconds"]
    first = statistics.median(sum(turn["ingest"].values()) for turn in rounds) / rounds[0]["counts"]["used"]
    slope = (grown["1.0"]["seconds"] - fixed) / grown["1.0"]["new"]
    seconds = ", ".join(f"{float(share):.0%} {row['seconds']:.1f}" for share, row in grown.items())
    return [
        figure(
            "seconds against Spark's CSV reader", against["spark_csv"], "x", "lower", 2.0, 1.3, f"{statistics.median(ours):.1f} s"
        ),
        figure("rows/s against pandas", 1 / against["pandas"], "x", "higher", 1.0, 2.0, "equal counts on both sides"),
        figure("nothing new", fixed, "s", "lower", 10, 5, f"100,000 known records; all: {seconds} s"),
        figure("seconds per new record against a first load's", slope / first, "x", "lower", 1.2, 1.0, "100% new"),
        figure("textualise, rows/s against ingest's", text, "x", "higher", 2, 5, "whole log"),
        figure("start-up", repeat["start_up"], "s", "lower", None, None, "session and first Delta operation"),
    ]


if __name__ == "__main__":
    sys.exit(main())
