"""Which day a run is for, by each way to start one (the rule, and the first task of a real run)."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

pytest.importorskip("airflow", reason="Airflow lives in an environment of its own: make test-airflow")

import pendulum
from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import DagRun
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables.base import DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from hypothesis import example, given
from hypothesis import strategies as st
from llmrec_jobs import day_of_run, job_arguments, zone_of

NOW = datetime(2011, 11, 10, 12, tzinfo=UTC)
JOBS = "ingest|textualise|encode|recommend"


def run_of(run_type: str, logical: str | None = None, interval: tuple[Any, Any] | None = None) -> DagRun:
    start, end = interval or (None, None)
    return DagRun(
        dag_id="llmrec_daily",
        run_id=f"{run_type}__1",
        logical_date=pendulum.parse(logical) if logical else start,
        data_interval_start=start,
        data_interval_end=end,
        run_after=NOW,
        start_date=NOW,
        end_date=None,
        run_type=run_type,
        state="running",
        consumed_asset_events=[],
        partition_key=None,
    )


def interval_after(timetable: Any, earliest: str, zone: str, last: DataInterval | None = None) -> tuple[Any, Any]:
    """The first data interval that begins at or after a local time; `last`: the one that follows it."""
    restriction = TimeRestriction(earliest=pendulum.parse(earliest, tz=zone), latest=None, catchup=True)
    info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
    return info.data_interval.start, info.data_interval.end


@pytest.mark.parametrize("logical", ["2011-11-02T00:00:00Z", "2011-11-02T09:30:00Z", "2011-11-02T23:59:59Z"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/London", "America/Los_Angeles", "Asia/Tokyo"])
def test_a_logical_date_means_the_date_that_the_operator_wrote(logical: str, zone: str) -> None:
    yesterday = (
        pendulum.parse("2011-11-01T00:17:00Z"),
        pendulum.parse("2011-11-02T00:17:00Z"),
    )  # what Airflow infers for such a run
    assert day_of_run(None, run_of("manual", logical, yesterday), zone, NOW) == (date(2011, 11, 2), "logical date")
    assert day_of_run(None, run_of("manual", logical), zone, NOW)[0] == date(2011, 11, 2)


@pytest.mark.parametrize("run_type", ["manual", "scheduled", "backfill", "asset_triggered"])
def test_the_param_wins_over_whatever_started_the_run(run_type: str) -> None:
    interval = (pendulum.parse("2011-11-05T00:17:00Z"), pendulum.parse("2011-11-06T00:17:00Z"))
    assert day_of_run("2011-11-02", run_of(run_type, interval=interval), "UTC", NOW) == (date(2011, 11, 2), "param day")
    assert day_of_run("2011-11-30", run_of(run_type), "UTC", NOW)[0] == date(2011, 11, 30)  # also where it is not over


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
@pytest.mark.parametrize(
    "day", ["2011-11-01", "2011-07-01", "2011-03-27", "2011-10-30"]
)  # winter, summer, both changes of the clock
def test_the_daily_run_after_midnight_does_the_day_before(dags: dict[str, DAG], run_type: str, day: str) -> None:
    start, end = interval_after(coerce_to_core_timetable(dags["llmrec_daily"].timetable), day, "Europe/London")
    found, named_by = day_of_run(None, run_of(run_type, interval=(start, end)), "Europe/London", NOW)
    assert found == date.fromisoformat(day) == start.astimezone(ZoneInfo("Europe/London")).date()
    assert end.astimezone(ZoneInfo("Europe/London")).strftime("%F %R") == f"{found + timedelta(days=1)} 00:17"
    assert named_by == "data interval"


def test_the_weekly_run_on_monday_trains_up_to_sunday(dags: dict[str, DAG]) -> None:
    interval = interval_after(coerce_to_core_timetable(dags["llmrec_train"].timetable), "2011-10-31", "Europe/London")
    assert day_of_run(None, run_of("scheduled", interval=interval), "Europe/London", NOW)[0] == date(2011, 11, 6)
    assert date(2011, 11, 6).strftime("%A") == "Sunday"


@given(
    day=st.dates(date(2005, 1, 1), date(2035, 12, 31)),
    zone=st.sampled_from(
        [
            "UTC",
            "Africa/Cairo",
            "America/New_York",
            "America/Sao_Paulo",
            "Asia/Kolkata",
            "Australia/Lord_Howe",
            "Europe/London",
            "Pacific/Auckland",
        ]
    ),
)
@example(day=date(2012, 10, 21), zone="America/Sao_Paulo")  # clocks go on at midnight: 00:17 is not there, the run comes at 01:17
def test_scheduled_days_follow_one_another_without_gap_in_any_zone(day: date, zone: str) -> None:
    """From two days before, as a schedule that starts on a date without 00:17 begins with the date after it."""
    timetable = CronDataIntervalTimetable("17 0 * * *", timezone=zone)
    begins = (day - timedelta(days=2)).isoformat()
    intervals = [interval_after(timetable, begins, zone)]
    while len(intervals) < 4:
        intervals.append(interval_after(timetable, begins, zone, DataInterval(*intervals[-1])))
    assert [end for _, end in intervals[:-1]] == [start for start, _ in intervals[1:]]
    days = [day_of_run(None, run_of("scheduled", interval=interval), zone, NOW)[0] for interval in intervals]
    assert days == [days[0] + timedelta(days=place) for place in range(4)]
    assert day in days


@pytest.mark.parametrize("hour", range(24))
def test_a_run_by_hand_on_the_hour_takes_no_scheduled_run_s_place(dags: dict[str, DAG], hour: int) -> None:
    start, _ = interval_after(coerce_to_core_timetable(dags["llmrec_daily"].timetable), "2011-11-02", "Europe/London")
    assert start != datetime(2011, 11, 2, hour, tzinfo=UTC)  # the scheduler leaves out a logical date that is taken


def test_a_run_that_names_no_day_says_which_param_to_give() -> None:
    with pytest.raises(AirflowFailException, match=r"'manual__1' names no day.*param day = YYYY-MM-DD"):
        day_of_run(None, run_of("manual"), "UTC", NOW)


@pytest.mark.parametrize(
    ("logical", "zone", "today"),
    [
        ("2011-11-10T00:00:00Z", "UTC", "2011-11-10"),
        ("2011-11-10T09:30:00Z", "America/New_York", "2011-11-10"),
        ("2011-12-01T00:00:00Z", "UTC", "2011-11-10"),
    ],
)
def test_a_logical_date_whose_day_is_not_over_is_refused(logical: str, zone: str, today: str) -> None:
    day = logical[:10]
    with pytest.raises(
        AirflowFailException, match=rf"names {day}, which is not over in {zone} \(today is {today}\).*param day = {day}"
    ):
        day_of_run(None, run_of("manual", logical), zone, NOW)


@pytest.mark.parametrize("text", ["2011-02-30", "20111102", "2011-11-2", "yesterday", "2011-11-02T00:00Z"])
def test_a_param_that_is_no_date_is_quoted(text: str) -> None:
    with pytest.raises(AirflowFailException, match=rf"param day is '{text}', expected a date as YYYY-MM-DD"):
        day_of_run(text, run_of("manual"), "UTC", NOW)


def test_every_setting_becomes_a_pair_of_arguments() -> None:
    params = {"domain": "ecommerce", "settings": ["warehouse=tables", "interest.max_epochs=1"]}
    config, path, *rest = job_arguments(params, date(2011, 11, 2))
    assert config == "--config"
    assert path.endswith("/conf/pipeline.yaml")
    assert rest == ["--day", "2011-11-02", "--domain", "ecommerce", "--set", "warehouse=tables", "--set", "interest.max_epochs=1"]
    assert job_arguments({"domain": None, "settings": []}, date(2011, 11, 2))[2:] == ["--day", "2011-11-02"]


def test_the_zone_is_the_domain_s() -> None:
    assert zone_of() == zone_of("retail") == "Europe/London"
    assert zone_of("ecommerce") == "UTC"


@pytest.mark.parametrize(
    ("logical", "conf", "day", "named_by"),
    [
        ("2011-11-02T00:00:00Z", {}, "2011-11-02", "logical date"),
        ("2011-11-02T09:30:00Z", {}, "2011-11-02", "logical date"),
        ("2011-11-05T09:30:00Z", {"day": "2011-11-02"}, "2011-11-02", "param day"),
        (None, {"day": "2011-11-02"}, "2011-11-02", "param day"),
    ],
)
def test_the_first_task_of_a_real_run_prints_the_day(
    database: object,
    dags: dict[str, DAG],
    capfd: pytest.CaptureFixture[str],
    logical: str | None,
    conf: dict[str, str],
    day: str,
    named_by: str,
) -> None:
    run = dags["llmrec_daily"].test(
        logical_date=pendulum.parse(logical) if logical else None, run_conf=conf, mark_success_pattern=JOBS
    )
    assert run.state == "success"
    assert run.get_task_instance("name_day").xcom_pull("name_day")[2:4] == ["--day", day]
    captured = capfd.readouterr()
    assert f"day {day}, named by the {named_by}" in captured.out + captured.err


def test_a_real_run_that_names_no_day_fails_at_once_and_starts_no_job(
    database: object, dags: dict[str, DAG], capfd: pytest.CaptureFixture[str]
) -> None:
    run = dags["llmrec_daily"].test(logical_date=None, run_conf={}, mark_success_pattern=JOBS)
    assert run.state == "failed"
    states = {task.task_id: (task.state, task.try_number) for task in run.get_task_instances()}
    assert states.pop("name_day") == ("failed", 1)  # not tried again
    assert {state for state, _ in states.values()} == {"upstream_failed"}
    captured = capfd.readouterr()
    assert "trigger it again with param day = YYYY-MM-DD" in captured.out + captured.err
