"""Trains on the log up to a day and measures what came of it, once a week; docs/operations.md says which day."""

import sys
from pathlib import Path

from airflow.sdk import DAG, CronDataIntervalTimetable, chain

sys.path.append(str(Path(__file__).resolve().parent))  # not every bundle puts this folder there

from llmrec_jobs import DEFAULTS, PARAMS, START, name_day, spark_job, zone_of

# Mondays, some hours after the daily run has done the Sunday, up to which is trained.
SCHEDULE = CronDataIntervalTimetable("17 4 * * 1", timezone=zone_of())

with DAG(
    "llmrec_train",
    description="A new version of the interest model and the collaborative part, and its evaluation",
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
    chain(*[spark_job(name, arguments) for name in ("train", "evaluate")])
