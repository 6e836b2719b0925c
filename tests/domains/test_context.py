"""Behaviours without an item through the whole path, on a made social log: what the model sees of them, and when."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from pyspark.sql import SparkSession
from social_log import START, line, made_records, record

from llmrec_pipeline.cli import STEPS, run_step
from llmrec_pipeline.config import load_settings
from llmrec_pipeline.steps.dataset import day_number, load_dataset
from llmrec_pipeline.tracking import Run

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent
SMALL = (
    "encoder.backend=openvino",
    "encoder.precision=fp32",
    "encoder.max_unknown_share=1",  # the posts are English and Chinese, the encoder knows English
    "interest.hidden_size=16",
    "interest.item_dim=16",
    "interest.max_epochs=1",
    "evaluation.window_days=7",
    "evaluation.bootstrap=20",
)
ONLY_FOLLOWS = {"f1": ["@ana", "@ana"], "f2": ["@李雷", "@李雷"], "f3": ["@ana"]}


@pytest.fixture(scope="module")
def runs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The six steps; three users follow authors and do nothing else, the last day brings an author whom nobody followed before."""
    folder = tmp_path_factory.mktemp("social")
    made = list(made_records(seed=11, users=24, posts=60, days=30))
    for user, authors in ONLY_FOLLOWS.items():
        made += [record(START + timedelta(days=n), user, "follow", None, author) for n, author in enumerate(authors)]
    made.append(record(START + timedelta(days=29, hours=1), "u1", "follow", None, "@new"))
    (folder / "feed.json").write_text("\n".join(map(line, made)) + "\n", encoding="utf-8")
    paths = (f"warehouse={folder}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}", f"domain.source.path={folder}/feed.json")
    settings = load_settings(ROOT / "conf/pipeline.yaml", "social", (*SMALL, *paths))
    return {name: run_step(name, settings) for name in STEPS}


def read(runs: dict[str, Run], name: str) -> pl.DataFrame:
    return pl.read_delta(runs["ingest"].warehouse.path(name))


def test_each_context_text_is_encoded_and_stands_in_the_sequences(runs: dict[str, Run]) -> None:
    texts = read(runs, "texts").filter(pl.col("text").str.starts_with("followed "))
    assert set(texts["text"]) == {
        f"followed the author {name}" for name in ("@ana", "@bo", "@dee", "@eli", "@李雷", "@韩梅", "@new")
    }
    assert set(texts["text_hash"]) <= set(read(runs, "text_embeddings")["text_hash"])
    steps = read(runs, "user_sequences").explode("steps").unnest("steps").filter(pl.col("event_type") == "follow")
    assert set(steps["text_hash"]) == set(texts["text_hash"])
    assert steps["item_id"].is_null().all()


def test_the_model_knows_who_was_followed(runs: dict[str, Run]) -> None:
    """Two users who differ in nothing but the authors whom they followed."""
    states = {row["user_id"]: row for row in read(runs, "interest_states").iter_rows(named=True)}
    assert [states[user]["steps"] for user in ("f1", "f2", "f3")] == [2, 2, 1]
    assert (states["f1"]["own"], states["f2"]["own"]) == ([], [])
    assert states["f1"]["last_time"] == states["f2"]["last_time"]
    assert states["f1"]["h"] != pytest.approx(states["f2"]["h"], abs=1e-4)


def test_who_has_only_followed_has_a_list_that_says_so(runs: dict[str, Run]) -> None:
    lists = read(runs, "recommendations")
    basis = dict(lists.filter(pl.col("rank") == 1).select("user_id", "basis").iter_rows())
    assert (basis["f1"], basis["f2"], basis["f3"]) == ("joint", "joint", "one_event")
    assert set(basis) == {f"u{n}" for n in range(24)} | set(ONLY_FOLLOWS)
    assert lists["score"].is_finite().all()
    by_user = {user: rows.sort("item_id") for (user,), rows in lists.group_by("user_id")}
    assert by_user["f1"]["score"].to_list() != pytest.approx(by_user["f2"]["score"].to_list(), abs=1e-6)


def test_the_evaluation_predicts_posts_only(runs: dict[str, Run]) -> None:
    """Its targets are the answers of the last week to posts that somebody had answered before; no follow is among them."""
    answers = read(runs, "events").filter(pl.col("event_type") != "follow")
    start = START.date() + timedelta(days=23)
    before, after = answers.filter(pl.col("event_date") < start), answers.filter(pl.col("event_date") >= start)
    wanted = after.join(before, on="item_id", how="semi")
    counts = runs["evaluate"].counts
    assert (counts["targets"], counts["users"]) == (wanted.height, wanted["user_id"].n_unique())


def test_a_context_text_is_not_known_before_its_day(runs: dict[str, Run]) -> None:
    texts = dict(read(runs, "texts").select("text", "text_hash").iter_rows())
    last = day_number(START.date() + timedelta(days=29))
    for until, known in ((last, False), (last + 1, True)):
        hashes = load_dataset(runs["train"], until).text_hashes
        assert texts["followed the author @ana"] in hashes
        assert (texts["followed the author @new"] in hashes) is known
