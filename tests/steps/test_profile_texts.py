"""Profile texts on their way through the tables (`interest.profile_texts`)."""

from pathlib import Path

import pytest

from llmrec_pipeline.behaviour.profiles import snapshots_of
from llmrec_pipeline.cli import run_step
from llmrec_pipeline.errors import ConfigError, TableError
from llmrec_pipeline.steps.dataset import sequences_before, with_profile_vectors
from llmrec_pipeline.steps.heads import make_scorer, serving_head
from llmrec_pipeline.tracking import Run

pytestmark = pytest.mark.spark
LOG = Path(__file__).parent.parent.parent / "examples/clicks/log.csv.gz"
ON = "interest.profile_texts=true"
FOREVER = 100_000


@pytest.fixture(scope="module")
def active(spark) -> list[str]:
    """The lines of the click example of its thirty most active users, its header first."""
    lines = [row[0] for row in spark.read.text(str(LOG)).collect()]
    events: dict[str, list[str]] = {}
    for line in lines[1:]:
        events.setdefault(line.split(",")[7], []).append(line)
    events.pop("", None)
    most = sorted(events, key=lambda user: (-len(events[user]), user))[:30]
    return [lines[0], *(line for user in most for line in events[user])]


def deliver(path, name: str, header: str, lines: list[str]) -> None:
    source = path.folder / f"{name}.csv"
    source.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    path.run("ingest", "textualise", overrides=(f"domain.source.path={source}",))


def profiles(path) -> set[tuple]:
    return {tuple(row) for row in path.warehouse.read("user_profiles").collect()}


def slowly(path) -> set[tuple]:
    """The same from all sequences at once, by polars' joins: user_id, renewal, event_date, step, text."""
    import polars as pl

    read = {name: pl.read_delta(path.warehouse.path(name)) for name in ("user_sequences", "items", "texts")}
    behaviours = (
        read["user_sequences"].select("user_id", "event_date", "steps").explode("steps").unnest("steps").with_row_index("n")
    )
    named = read["items"].select("item_id", "valid_from", "category", "brand")
    newest = behaviours.join(named, on="item_id", how="left").filter(
        (pl.col("valid_from") <= pl.col("event_date")) | pl.col("valid_from").is_null()
    )
    last = newest.sort("n", "valid_from").group_by("n", maintain_order=True).last()
    told = last.join(read["texts"].select("text_hash", "text"), on="text_hash", how="left", maintain_order="left")
    rows = told.sort("user_id", "event_date", "n").to_dicts()
    return {(row["user_id"], row["renewal"], row["event_date"], row["step"], row["text"]) for row in snapshots_of(rows, 256)}


def test_snapshots_are_those_of_the_whole_history_in_whatever_order_it_came(make_path, active: list[str]) -> None:
    header, lines = active[0], active[1:]
    late, early = (
        [line for line in lines if "2019-10-05" <= line < "2019-10-09"],
        [line for line in lines if line >= "2019-10-09"],
    )
    early += [line for line in lines if line < "2019-10-05"]
    at_once, apart = make_path("at_once", "ecommerce", ON), make_path("apart", "ecommerce", ON)
    deliver(at_once, "all", header, lines)
    texts = at_once.warehouse.read("texts").select("text_hash", "text")
    found = at_once.warehouse.read("user_profiles").join(texts, on="text_hash")
    named = {tuple(row) for row in found.select("user_id", "renewal", "event_date", "step", "text").collect()}
    assert len({user for user, *_ in named}) == 30
    assert named == slowly(at_once)
    deliver(apart, "early", header, early)
    before = profiles(apart)
    deliver(apart, "late", header, late)
    assert profiles(apart) == profiles(at_once) != before
    version = apart.warehouse.version("user_profiles")
    apart.run("textualise")
    assert apart.runs["textualise"].counts["profiles_changed"] == 0
    assert apart.warehouse.version("user_profiles") == version
    run_step("textualise", apart.settings(), rebuild=True)
    assert profiles(apart) == profiles(at_once)
    events = apart.warehouse.read("events")
    events.filter("event_date < '2019-10-09'").write.format("delta").mode("overwrite").save(apart.warehouse.path("events"))
    apart.run("textualise")  # as after a corrected day: what nothing asks for any more goes
    assert profiles(apart) == {row for row in profiles(at_once) if str(row[2]) < "2019-10-09"} != set()
    apart.warehouse.create(["text_embeddings", "quarantine"])
    run = Run("train", apart.settings(), apart.spark, apart.warehouse)
    with pytest.raises(TableError, match=r"^\d+ profile texts have no vector under encoder none; run jobs/encode\.py first"):
        with_profile_vectors(run, sequences_before(run, FOREVER), "none")
    none = with_profile_vectors(run, sequences_before(run, FOREVER), "none", until=0)  # as for a head that reads none
    assert none.filter("profiles IS NULL").count() == apart.warehouse.read("user_sequences").count()
    apart.run("textualise", overrides=("interest.profile_texts=false",))  # a forgotten --set
    with pytest.raises(
        TableError, match=r"user_profiles lacks \d+ profile texts of user_sequences as they stand: .* run jobs/textualise\.py"
    ):
        sequences_before(run, FOREVER)


def test_a_head_that_wants_profile_texts_is_refused_where_the_config_has_none(clicks) -> None:
    run = Run("recommend", clicks.settings(), clicks.spark, clicks.warehouse)
    head = serving_head(run)
    head.model.config = head.model.config.model_copy(update={"profile_texts": True})
    said = r"was trained with interest\.profile_texts, which the config has off; name --set interest\.profile_texts=true"
    with pytest.raises(ConfigError, match=said):
        make_scorer(run, head, None, None, None)
