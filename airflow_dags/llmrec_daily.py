"""Takes one day's log through ingest, textualise, encode and recommend; docs/operations.md says which day, and how to run one again."""

import sys
from pathlib import Path

from airflow.sdk import DAG, CronDataIntervalTimetable, chain

sys.path.append(str(Path(__file__).resolve().parent))  # not every bundle puts this folder there

from llmrec_jobs import DEFAULTS, PARAMS, START, name_day, spark_job, zone_of

# The run after midnight does the day before. Not on the hour: a run triggered by hand for 00:00 would take a scheduled run's
# logical date, and the scheduler would leave that day out.
SCHEDULE = CronDataIntervalTimetable("17 0 * * *", timezone=zone_of())

with DAG(
    "llmrec_daily",
    description="The day's new behaviours to texts, vectors, states and lists",
    doc_md=__doc__,
    schedule=SCHEDULE,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params=PARAMS,
    tags=["llmrec"],
) as dag:
    arguments = name_day()
    chain(*[spark_job(name, arguments) for name in ("ingest", "textualise", "encode", "recommend")])
