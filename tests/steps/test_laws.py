"""Laws that only hold over several jobs: as of, deliveries, faults (DESIGN 3)."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from llmrec_pipeline.cli import STEPS
from llmrec_pipeline.registry import Registry
from llmrec_pipeline.warehouse import Warehouse

pytestmark = [pytest.mark.spark, pytest.mark.slow]
LIST = ("user_id", "rank", "item_id", "score", "log_p", "log_s")
LOG = Path(__file__).parent.parent.parent / "examples/clicks/log.csv.gz"


def lists_of(path, day: str) -> list[tuple]:
    rows = path.warehouse.read("recommendations").filter(F.col("as_of") == F.lit(day).cast("timestamp"))
    return sorted(tuple(row) for row in rows.select(*LIST).collect())


def scramble(warehouse: Warehouse, since: str, until: str) -> None:
    """Gives every event of the dates [since, until) another item, one known since the first week, and known items another title from then on."""
    events = warehouse.read("events")
    chosen = (F.col("event_date") >= since) & (F.col("event_date") < until)
    items = [
        row[0] for row in events.filter("event_date < '2019-10-08'").select("item_id").distinct().orderBy("item_id").collect()
    ]
    others = F.array(*[F.lit(item) for item in items])
    other = F.get(others, F.pmod(F.xxhash64("event_id"), F.lit(len(items))).cast("int"))
    changed = events.withColumn("item_id", F.when(chosen, other).otherwise(F.col("item_id")))
    changed.write.format("delta").mode("overwrite").save(warehouse.path("events"))
    known = warehouse.read("items").filter(F.col("first_seen") < since)
    renamed = known.withColumn("title", F.concat(F.lit("another "), "title")).withColumn("valid_from", F.lit(since).cast("date"))
    renamed.write.format("delta").mode("append").save(warehouse.path("items"))


def lists_on(path) -> list[tuple]:
    """The lists for the morning of October 30th, the path run anew as of it, with profile texts; those of the last day would stand."""
    for table in ("recommendations", "default_recommendations", "recommendation_log"):
        shutil.rmtree(path.warehouse.path(table))
    overrides = ("day='2019-10-29'", "interest.profile_texts=true")
    path.run("textualise", "encode", "train", "recommend", overrides=overrides)
    return lists_of(path, "2019-10-30")


@pytest.fixture(scope="module")
def plain_lists(clicks, tmp_path_factory: pytest.TempPathFactory) -> list[tuple]:
    return lists_on(clicks.copy(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize(("since", "until", "equal"), [("2019-10-30", "2999-01-01", True), ("2019-10-20", "2019-10-30", False)])
def test_lists_as_of_a_day_depend_on_nothing_later(plain_lists, clicks_copy, since: str, until: str, equal: bool) -> None:
    scramble(clicks_copy.warehouse, since, until)
    assert len(plain_lists) > 2_000
    assert (lists_on(clicks_copy) == plain_lists) is equal


def states_of(path) -> dict[str, tuple]:
    rows = path.warehouse.read("interest_states").drop("state_version").collect()
    return {row["user_id"]: row for row in rows}


def deliver(path, source: Path, *days: str) -> None:
    """Ingest to recommend for each of the days."""
    for day in days:
        path.run(
            "ingest",
            "textualise",
            "encode",
            "recommend",
            overrides=(f"domain.source.path={source}/{day}.csv", f"day='{day[-10:]}'"),
        )


def test_two_days_one_after_the_other_give_what_both_at_once_give(spark, make_path, tmp_path: Path) -> None:
    lines = [row[0] for row in spark.read.text(str(LOG)).collect()]
    days = {day: [line for line in lines[1:] if line.startswith(day)] for day in ("2019-11-03", "2019-11-04")}
    base = [line for line in lines[1:] if line[:10] < "2019-11-03"]
    source = tmp_path / "in"
    source.mkdir()
    for name, rows in {"base": base, **days, "2019-11-03+2019-11-04": [row for part in days.values() for row in part]}.items():
        (source / f"{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n", encoding="utf-8")
    first = make_path("first", "ecommerce", "interest.profile_texts=true")
    first.run("ingest", "textualise", "encode", "train", overrides=(f"domain.source.path={source}/base.csv",))
    apart, together = (first.copy(tmp_path / name) for name in ("apart", "together"))
    deliver(apart, source, "2019-11-03", "2019-11-04")
    second = apart.runs["recommend"].counts
    assert 0 < apart.runs["textualise"].counts["profiles_changed"] < apart.warehouse.read("user_profiles").count() / 10
    deliver(together, source, "2019-11-03+2019-11-04")
    touched = {line.split(",")[7] for line in days["2019-11-04"]} - {""}
    assert second["users_changed"] <= len(touched)  # nobody else's history is read
    assert second["users_replayed"] < second["users_changed"]
    one, other = states_of(apart), states_of(together)
    assert set(one) == set(other)
    for user, state in one.items():
        assert (state["steps"], state["last_day"], state["fingerprint"]) == (
            other[user]["steps"],
            other[user]["last_day"],
            other[user]["fingerprint"],
        )
        for name in ("h", "c", "accumulators"):
            assert state[name] == pytest.approx(other[user][name], abs=1e-5)
    for mine, theirs in zip(lists_of(apart, "2019-11-05"), lists_of(together, "2019-11-05"), strict=True):
        assert mine[:2] == theirs[:2]
        assert mine[3:] == pytest.approx(theirs[3:], abs=1e-5)


class Fault(Exception):
    """Planted."""


@contextmanager
def faults(monkeypatch: pytest.MonkeyPatch, met: set[str]) -> Iterator[None]:
    """Raises after each commit, once for each of them; `met` remembers which have been.

    What stands before a commit is what the one before it has left: those points are the same ones.
    """

    def wrap(method: Callable[..., object], called: str | None = None) -> Callable[..., object]:
        def commit(self: object, name: str, *args: object, **named: object) -> object:
            result = method(self, name, *args, **named)
            if (called or name) not in met:
                met.add(called or name)
                raise Fault(called or name)
            return result

        return commit

    with monkeypatch.context() as patch:
        for name in ("insert_new", "upsert", "overwrite", "append"):
            patch.setattr(Warehouse, name, wrap(getattr(Warehouse, name)))
        patch.setattr(Registry, "register", wrap(Registry.register, "register"))
        yield


def test_a_job_that_dies_after_any_commit_can_be_run_again(clicks, make_path, monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = make_path("disturbed")
    for name in STEPS:
        met: set[str] = set()
        while True:
            with faults(monkeypatch, met):
                try:
                    disturbed.run(name)
                    break
                except Fault:
                    assert len(met) < 25
        assert met >= {"job_runs"} | COMMITS[name], name
    assert disturbed.contents() == clicks.contents()


COMMITS = {
    "ingest": {"events", "quarantine", "items"},
    "textualise": {"texts", "user_sequences"},
    "encode": {"encoders", "text_embeddings"},
    "train": {"item_neighbours", "interest_states", "register"},
    "recommend": {"recommendations", "default_recommendations", "recommendation_log"},
    "evaluate": {"evaluation"},
}
