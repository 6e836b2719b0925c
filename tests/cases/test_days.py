"""Case 25 at the tables: whatever was run by hand, again, out of order or at the same time, they end as an undisturbed run leaves them."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from pyspark.sql import SparkSession

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.errors import InputError
from llmrec_pipeline.steps import ingest as ingest_step
from llmrec_pipeline.steps import recommend as recommend_step
from llmrec_pipeline.steps import states as states_step
from llmrec_pipeline.warehouse import Warehouse

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent
JOBS = ("ingest", "textualise", "encode", "recommend")
DAYS = ("2024-01-29", "2024-01-30")
PUBLISHED = ("interest_states", "recommendations", "default_recommendations", "recommendation_log")
Settings_ = Callable[[str], Settings]
KEYS = {
    "events": ("event_id",),
    "quarantine": ("quarantine_id",),
    "items": ("item_id", "valid_from"),
    "user_sequences": ("user_id", "event_date"),
    "interest_states": ("state_version", "user_id"),
    "recommendations": ("user_id", "rank"),
    "default_recommendations": ("segment", "rank"),
}
FLOATS = (
    "h",
    "c",
    "accumulators",
    "decayed",
    "total",
    "score",
    "short",
    "long",
    "bias",
    "repeat",
    "collaborative",
    "log_p",
    "log_s",
)
SMALL = (
    "encoder.backend=openvino",
    "encoder.precision=fp32",
    "interest.hidden_size=8",
    "interest.item_dim=8",
    "interest.max_epochs=1",
    "evaluation.window_days=7",
)


def made_log() -> dict[str, list[str]]:
    """Lines by day of January 2024: forty readers, a few things a day, some of them new ones on the delivered days."""
    draw, lines = np.random.default_rng(7), {}
    for day in range(1, 31):
        date, newest = f"2024-01-{day:02}", 20 + max(0, day - 26)
        rows = []
        for user in np.flatnonzero(draw.random(40) < 0.4):
            item, minute = draw.integers(newest), draw.integers(60)
            rows.append(f"u{user:02},i{item:02},Thing {item},buy,{date} 10:{minute:02}:00")
        lines[date] = rows
    return lines


@pytest.fixture(scope="module")
def base(spark: SparkSession, tracking_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained version and tables up to the day before DAYS, whose files are delivered."""
    folder = tmp_path_factory.mktemp("days")
    shutil.copy(tracking_store, folder)
    (folder / "in").mkdir()
    lines, header = made_log(), "user,item,title,action,time\n"
    for day in DAYS:
        (folder / f"in/{day}.csv").write_text(header + "\n".join(lines[day]) + "\n")
    before = [line for day, rows in lines.items() if day not in DAYS for line in rows]
    (folder / "in/2024-01-28.csv").write_text(header + "\n".join(before) + "\n")
    for job in ("ingest", "textualise", "encode", "train"):
        run_step(job, settings_in(folder, folder / "base")("2024-01-28"))
    return folder


def settings_in(base: Path, folder: Path) -> Settings_:
    """Settings of a day's run on the tables in `folder`."""
    columns = {"user_id": "user", "item_id": "item", "event_type": "action", "event_time": "time"}
    domain = {
        "name": "shop",
        "source": {"path": str(base / "in/{day}.csv")},
        "columns": columns,
        "items": {"columns": {"title": "title"}},
        "event_types": {"buy": {"target": True, "template": {"en": "bought {title}"}}},
    }
    (base / "shop.yaml").write_text(yaml.safe_dump(domain, sort_keys=False))
    paths = (f"warehouse={folder}", f"tracking.uri=sqlite:///{base / 'mlflow.db'}")
    return lambda day: load_settings(ROOT / "conf/pipeline.yaml", str(base / "shop.yaml"), (*SMALL, *paths, f"day='{day}'"))


def delivered(base: Path, name: str, *days: str) -> Path:
    """The tables of `base` in a folder of their own, after the runs of these days, one after the other."""
    folder = base / name
    shutil.copytree(base / "base", folder)
    settings = settings_in(base, folder)
    for day in days:
        for job in JOBS:
            run_step(job, settings(day))
    return folder


@pytest.fixture(scope="module")
def undisturbed(base: Path) -> Path:
    return delivered(base, "undisturbed", *DAYS)


def encoded(base: Path, undisturbed: Path, name: str) -> Path:
    """The tables of DAYS' runs, without what recommend wrote, in a folder of their own."""
    folder = base / name
    shutil.copytree(undisturbed, folder)
    for table in PUBLISHED:
        shutil.rmtree(folder / "shop" / table)
    shutil.copytree(base / "base/shop/interest_states", folder / "shop/interest_states")
    return folder


def versions(folder: Path) -> dict[str, int]:
    """The Delta version of every table but job_runs."""
    logs = (path for path in (folder / "shop").glob("*/_delta_log") if path.parent.name != "job_runs")
    return {path.parent.name: max(int(file.stem) for file in path.glob("*.json")) for path in logs}


def _read(folder: Path, name: str) -> pl.DataFrame:
    """A table; own counts of states as a list of ids and lists of numbers."""
    rows = pl.read_delta(str(folder / "shop" / name))
    if "own" not in rows.columns:
        return rows
    part = pl.element().struct.field
    ids, numbers = (
        pl.col("own").list.eval(part("item_id")),
        [pl.col("own").list.eval(part(of).explode()) for of in ("decayed", "total")],
    )
    return rows.with_columns(own=ids, decayed=numbers[0], total=numbers[1])


def items_of(folder: Path) -> pl.DataFrame:
    return _read(folder, "items").sort(KEYS["items"])


def assert_same_tables(folder: Path, expected: Path, keys: dict[str, tuple[str, ...]] = KEYS) -> None:
    """Keys, strings and whole numbers equal, floats to 1e-5; the texts of an order that did not last may stay."""
    tables = [[_read(root, name).sort(key) for name, key in keys.items()] for root in (folder, expected)]
    for mine, theirs in zip(*tables, strict=True):
        kept = [column for column in mine.columns if column not in ("list_id", *FLOATS)]
        assert mine.select(kept).equals(theirs.select(kept))
        for column in set(FLOATS) & set(mine.columns):
            one, other = (table[column].explode().to_numpy() for table in (mine, theirs))
            np.testing.assert_allclose(one, other, atol=1e-5)
    texts = [set(pl.read_delta(str(root / "shop/texts"))["text_hash"]) for root in (folder, expected)]
    assert texts[0] >= texts[1]


def test_25_after_runs_by_hand_the_schedule_ends_where_it_would_have(base: Path, undisturbed: Path) -> None:
    folder = delivered(base, "by-hand", DAYS[1])  # by hand, before the day before it
    settings, stand = settings_in(base, folder), versions(folder)
    for job in JOBS:  # a day already done
        assert run_step(job, settings(DAYS[1])).settings.pipeline.day == DAYS[1]
    with pytest.raises(InputError, match=r"source path '.*/in/2024-02-01\.csv' does not exist"):
        run_step("ingest", settings("2024-02-01"))
    assert versions(folder) == stand
    for day in DAYS:  # the schedule goes on
        for job in JOBS:
            run_step(job, settings(day))
    assert_same_tables(folder, undisturbed)
    runs = pl.read_delta(str(folder / "shop/job_runs")).filter(pl.col("job") == "ingest").sort("started_at")
    found = [(str(day), status) for day, status in runs.select("day", "status").iter_rows()]
    by_hand = [(DAYS[1], "succeeded"), (DAYS[1], "succeeded"), ("2024-02-01", "failed")]
    assert found == [("2024-01-28", "succeeded"), *by_hand, *((day, "succeeded") for day in DAYS)]


def test_25_a_back_fill_while_the_daily_run_is_on_loses_nothing(base: Path, undisturbed: Path) -> None:
    folder = delivered(base, "meeting")
    settings = settings_in(base, folder)
    with ThreadPoolExecutor(2) as pool:
        for job in JOBS:
            list(pool.map(lambda day, job=job: run_step(job, settings(day)), DAYS))
    assert_same_tables(folder, undisturbed)


def test_25_a_day_that_is_read_while_another_writes_items_leaves_no_row_of_what_it_missed(
    base: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later day has derived its items, and commits them; the whole of the day before comes between."""
    folder = delivered(base, "between")
    settings, upsert = settings_in(base, folder), Warehouse.upsert

    def overtaken(*given: Any, **named: Any) -> int:
        monkeypatch.setattr(Warehouse, "upsert", upsert)
        run_step("ingest", settings(DAYS[0]))
        return upsert(*given, **named)

    monkeypatch.setattr(Warehouse, "upsert", overtaken)
    run_step("ingest", settings(DAYS[1]))
    assert Warehouse.upsert is upsert
    assert items_of(folder).equals(items_of(undisturbed))


@pytest.mark.parametrize("ended_once", [False, True], ids=["first-time", "delivered-again-with-more"])
def test_25_a_day_killed_before_its_items_is_ended_by_whichever_day_comes_next(
    base: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, ended_once: bool
) -> None:
    own = base / f"killed-{ended_once}"
    shutil.copytree(base / "in", own / "in")
    shutil.copytree(base / "base", own / "tables")
    settings, file = settings_in(own, own / "tables"), own / f"in/{DAYS[1]}.csv"
    if ended_once:
        whole = file.read_text()
        file.write_text("".join(whole.splitlines(keepends=True)[:4]))
        run_step("ingest", settings(DAYS[1]))
        file.write_text(whole)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ingest_step, "_write_items", killed)
        with pytest.raises(KeyboardInterrupt):
            run_step("ingest", settings(DAYS[1]))
    stood = versions(own / "tables")["items"]
    for day in (*DAYS, DAYS[1]):  # the first of them makes items of all that stands
        run_step("ingest", settings(day))
    assert versions(own / "tables")["items"] == stood + 1
    assert items_of(own / "tables").equals(items_of(undisturbed))


def test_25_two_first_ingests_at_once_leave_the_items_that_one_after_the_other_would(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older day has made the tables, and writes events; the whole of the later day comes between."""
    folders = [base / name for name in ("first-in-turn", "first-at-once")]
    for day in DAYS:
        run_step("ingest", settings_in(base, folders[0])(day))
    settings, write_events = settings_in(base, folders[1]), ingest_step._write_events

    def overtaken(*given: Any, **named: Any) -> bool:
        monkeypatch.setattr(ingest_step, "_write_events", write_events)
        run_step("ingest", settings(DAYS[1]))
        return write_events(*given, **named)

    monkeypatch.setattr(ingest_step, "_write_events", overtaken)
    run_step("ingest", settings(DAYS[0]))
    assert ingest_step._write_events is write_events
    assert items_of(folders[1]).equals(items_of(folders[0]))


@pytest.mark.parametrize("point", ["states._advanced", "recommend._check"])
@pytest.mark.parametrize(("first", "second"), [DAYS, DAYS[::-1]], ids=["by-newer", "by-older"])
def test_25_a_recommend_that_another_day_overtakes_leaves_what_both_in_turn_would(
    base: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, point: str, first: str, second: str
) -> None:
    """The first has looked at what stands, lists and states, and derives its own; the whole of the second comes between."""
    folder = encoded(base, undisturbed, f"overtaken-{point}-{first}")
    settings, module, name = settings_in(base, folder), *point.split(".")
    target = {"states": states_step, "recommend": recommend_step}[module]
    undisturbed_call = getattr(target, name)

    def overtaken(*given: Any) -> Any:
        monkeypatch.setattr(target, name, undisturbed_call)
        run_step("recommend", settings(second))
        return undisturbed_call(*given)

    monkeypatch.setattr(target, name, overtaken)
    run_step("recommend", settings(first))
    assert getattr(target, name) is undisturbed_call
    assert_same_tables(folder, undisturbed, KEYS | {"recommendation_log": ("as_of", "user_id", "rank")})
