"""The schedule goes on, whatever is run by hand or back-filled beside it: Airflow's own scheduler creates the runs here.

No job runs, and the clock is told: what is tested is which days get a run.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow lives in an environment of its own: make test-airflow")

import pendulum
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.backfill import Backfill, ReprocessBehavior, _create_backfill
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from llmrec_jobs import day_of_run
from sqlalchemy import delete, select, update

DAGS = Path(__file__).parent.parent.parent / "airflow_dags"
NAME, ZONE = "llmrec_daily", "Europe/London"
NIGHTS = [f"2011-11-0{day}T00:20:00Z" for day in (2, 3, 4, 5)]  # each after 00:17 in London
DELIVERED = [date(2011, 11, day) for day in (1, 2, 3, 4)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the time by which the schedule knows which interval is the latest."""
    return lambda now: monkeypatch.setattr("airflow.timetables.interval.utcnow", lambda: pendulum.parse(now))


@pytest.fixture
def scheduler(database: Path, clock: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """One round of the DAG processor and the scheduler at a time; what was running is done by then."""
    _forget()

    def tick(now: str) -> None:
        clock(now)
        with create_session() as session:
            session.execute(update(DagRun).where(DagRun.dag_id == NAME).values(state=DagRunState.SUCCESS))
        _parse()
        with create_session() as session:
            model = session.scalars(select(DagModel).where(DagModel.dag_id == NAME)).one()
            if model.next_dagrun_create_after <= pendulum.parse(now):
                SchedulerJobRunner(Job())._create_dag_runs([model], session)

    yield tick
    _forget()


def _forget() -> None:
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == NAME))
        session.execute(delete(Backfill).where(Backfill.dag_id == NAME))


def _parse() -> None:
    with create_session() as session:
        DagBundlesManager().sync_bundles_to_db(session=session)
    sync_bag_to_db(DagBag(str(DAGS)), "dags-folder", None)


def trigger(number: int, logical: str | None, **params: str) -> None:
    """A run by hand, with the interval that Airflow's API infers for it."""
    with create_session() as session:
        dag = session.scalar(SerializedDagModel.latest_item_select_object(NAME)).dag
        at = pendulum.parse(logical) if logical else None
        dag.create_dagrun(
            run_id=f"manual__{number}",
            logical_date=at,
            data_interval=dag.timetable.infer_manual_data_interval(run_after=at) if at else None,
            run_after=at or pendulum.now("UTC"),
            conf=params,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.UI,
            state=DagRunState.QUEUED,
            session=session,
        )


def days(*run_types: str) -> list[date]:
    """Days of the runs of these types, ascending; those that name none are left out, as they start no job."""
    with create_session() as session:
        runs: list[Any] = list(session.scalars(select(DagRun).where(DagRun.dag_id == NAME, DagRun.run_type.in_(run_types))))
    named = [run for run in runs if run.logical_date or (run.conf or {}).get("day")]
    now = datetime(2011, 11, 10, tzinfo=UTC)
    return sorted(day_of_run((run.conf or {}).get("day"), run, ZONE, now)[0] for run in named)


def by_hand(place: int) -> None:
    """Each way of the case to start a run: no date, both logical dates, a day done before, one not yet delivered."""
    ways = [
        (None, {}),
        ("2011-11-02T00:00:00Z", {}),
        ("2011-11-02T09:30:00Z", {}),
        (None, {"day": "2011-11-01"}),
        (None, {"day": "2011-11-09"}),
    ]
    for number, (logical, params) in enumerate(ways):
        if place == number % len(NIGHTS):
            trigger(number, logical, **params)


def test_runs_by_hand_leave_out_and_double_no_scheduled_day(scheduler: Callable[[str], None]) -> None:
    for place, night in enumerate(NIGHTS):
        scheduler(night)
        by_hand(place)
        scheduler(night)  # nothing new in the same night
    assert days("scheduled") == DELIVERED
    assert Counter(days("manual")) == {date(2011, 11, 1): 1, date(2011, 11, 2): 2, date(2011, 11, 9): 1}


def test_runs_by_hand_before_their_day_s_scheduled_run_do_not_take_its_place(scheduler: Callable[[str], None]) -> None:
    scheduler(NIGHTS[0])
    trigger(1, "2011-11-02T00:00:00Z")
    trigger(2, "2011-11-02T09:30:00Z")
    trigger(3, "2011-11-03T00:00:00Z")
    for night in NIGHTS[1:]:
        scheduler(night)
    assert days("scheduled") == DELIVERED


def test_a_logical_date_that_is_the_schedule_s_own_would_take_its_place(scheduler: Callable[[str], None]) -> None:
    """The control, and why the schedule is not on the hour: the day is done by hand, and the scheduler leaves it out."""
    scheduler(NIGHTS[0])
    trigger(1, "2011-11-02T00:17:00Z")
    for night in NIGHTS[1:]:
        scheduler(night)
    assert days("scheduled") == [day for day in DELIVERED if day != date(2011, 11, 2)]
    assert days("manual") == [date(2011, 11, 2)]


def test_a_back_fill_while_the_daily_run_is_on_fills_the_gaps_alone(scheduler: Callable[[str], None]) -> None:
    """By the command of docs/operations.md: days that have a run keep it, and the next nights come as ever."""
    scheduler(NIGHTS[0])  # 1 November, not done yet
    _create_backfill(
        dag_id=NAME,
        from_date=pendulum.parse("2011-10-29T00:00+01:00"),
        to_date=pendulum.parse("2011-11-01T23:59Z"),
        max_active_runs=1,
        reverse=False,
        dag_run_conf=None,
        triggering_user_name="somebody",
        reprocess_behavior=ReprocessBehavior.NONE,
    )
    assert days("backfill") == [date(2011, 10, 29), date(2011, 10, 30), date(2011, 10, 31)]
    for night in NIGHTS[1:]:
        scheduler(night)
    assert days("scheduled") == DELIVERED
