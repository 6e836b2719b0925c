"""What both DAGs share: the day that a run is for, the arguments of its jobs, one spark-submit a job.

Airflow parses this again and again, so it imports neither Spark nor torch nor the package: what a job does, conf/ says.
"""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowFailException

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "conf" / "pipeline.yaml"
DEFAULTS = {"retries": 1, "retry_delay": timedelta(minutes=5)}  # a job run again on equal data changes nothing
START = datetime(2000, 1, 1, tzinfo=UTC)  # before any log; catchup is off
PARAMS = {
    "day": Param(None, type=["null", "string"], format="date", description="YYYY-MM-DD to process; empty: the run's own day"),
    "domain": Param(None, type=["null", "string"], description="domain instead of the one in conf/pipeline.yaml"),
    "settings": Param([], type="array", items={"type": "string"}, description="key=value, each as the jobs' --set; no secrets"),
}


def zone_of(domain: str | None = None) -> str:
    """IANA zone of a domain's dates, by default of the domain that conf/pipeline.yaml names."""
    name = domain or str(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["domain"])
    file = Path(name) if name.endswith((".yaml", ".yml")) else CONFIG.parent / "domains" / f"{name}.yaml"
    return str(yaml.safe_load(file.read_text(encoding="utf-8")).get("zone", "UTC"))


def day_of_run(day: str | None, run: Any, zone: str, now: datetime) -> tuple[date, str]:
    """The day that a run is for, and what named it.

    Args:
        day: the param of that name; it wins.
        run: the DagRun. Of a scheduled or back-filled one the last whole date of its data interval counts (of a daily one the date
            on which the interval starts), in the domain's zone; of any other the date of its logical date as it was written, in UTC.
        zone: the domain's IANA zone.
        now: the present; a day named by a logical date must be over.

    Raises:
        AirflowFailException: nothing names a day, or what does names none that can be processed; the task is not tried again.
    """
    if day:
        return _date(day), "param day"
    if run.run_type in ("scheduled", "backfill"):
        return run.data_interval_end.astimezone(ZoneInfo(zone)).date() - timedelta(days=1), "data interval"
    if run.logical_date is None:
        raise AirflowFailException(
            f"run {run.run_id!r} names no day: it has neither a param day nor a logical date; trigger it again with param day = YYYY-MM-DD"
        )
    named, today = run.logical_date.astimezone(UTC).date(), now.astimezone(ZoneInfo(zone)).date()
    if named >= today:
        raise AirflowFailException(
            f"logical date {run.logical_date.isoformat()} names {named}, which is not over in {zone} (today is {today}); "
            f"name an earlier day, or give param day = {named} to process it as far as it has come"
        )
    return named, "logical date"


def _date(text: str) -> date:
    try:
        found = datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise AirflowFailException(
            f"param day is {text!r}, expected a date as YYYY-MM-DD; trigger the run again with e.g. 2011-11-02"
        )
    return found


def job_arguments(params: Any, day: date) -> list[str]:
    """The command line of every job of a run."""
    domain = ["--domain", params["domain"]] if params["domain"] else []
    settings = [word for pair in params["settings"] for word in ("--set", pair)]
    return ["--config", str(CONFIG), "--day", day.isoformat(), *domain, *settings]


@task
def name_day(params: Any = None, dag_run: Any = None) -> list[str]:
    """Prints the day that the run is for, and hands the arguments to its jobs."""
    day, named_by = day_of_run(params["day"], dag_run, zone_of(params["domain"]), datetime.now(UTC))
    print(f"day {day}, named by the {named_by}")
    return job_arguments(params, day)


def spark_job(name: str, arguments: Any) -> SparkSubmitOperator:
    """The task that submits jobs/NAME.py over the connection spark_default."""
    application = str(REPOSITORY / "jobs" / f"{name}.py")
    return SparkSubmitOperator(
        task_id=name, name=f"llmrec {name}", conn_id="spark_default", application=application, application_args=arguments
    )
