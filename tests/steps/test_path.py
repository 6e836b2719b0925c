"""The whole path on the click example: what must be true of the tables it leaves."""

import os
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from delta.tables import DeltaTable
from mlflow import MlflowClient

from llmrec_pipeline.config import hash_json
from llmrec_pipeline.errors import TableError
from llmrec_pipeline.steps.heads import registry_of
from llmrec_pipeline.steps.summary import LABELS
from llmrec_pipeline.tracking import Run

pytestmark = pytest.mark.spark
SHARES = ("short", "long", "bias", "repeat", "collaborative")


def read(clicks, name: str) -> pl.DataFrame:
    """Read as somebody outside Spark does."""
    return pl.read_delta(clicks.warehouse.path(name))


def test_every_record_has_one_fate(clicks) -> None:
    counts = clicks.runs["ingest"].counts
    assert counts["records"] == 5_828
    assert (
        counts["records"]
        == counts["used"] + counts["duplicates_in_delivery"] + counts["duplicates_known"] + counts["quarantined"]
    )
    assert (counts["duplicates_in_delivery"], counts["quarantined: unknown event type"], counts["quarantined: no user"]) == (
        20,
        15,
        5,
    )
    assert read(clicks, "events").height == counts["used"]
    assert read(clicks, "quarantine").filter(pl.col("stage") == "ingest").height == counts["quarantined"]


def test_each_text_has_exactly_one_vector(clicks) -> None:
    vectors = read(clicks, "text_embeddings")
    assert vectors["text_hash"].is_unique().all()
    assert set(vectors["text_hash"]) == set(read(clicks, "texts")["text_hash"])
    assert set(vectors["embedding"].list.len()) == {384}


def test_every_user_has_twenty_distinct_ranked_items(clicks) -> None:
    lists = read(clicks, "recommendations")
    users = set(read(clicks, "user_sequences")["user_id"])
    assert set(lists["user_id"]) == users
    by_user = lists.group_by("user_id").agg(
        pl.col("rank").sort().alias("ranks"), pl.col("item_id").n_unique().alias("items"), pl.col("item_id")
    )
    assert set(by_user["items"]) == {20}
    assert all(list(ranks) == list(range(1, 21)) for ranks in by_user["ranks"])
    assert by_user["item_id"].n_unique() > len(users) / 2  # many different lists
    assert lists.null_count().select("score", "log_p", "log_s", "list_id").row(0) == (0, 0, 0, 0)
    newest = read(clicks, "items").sort("valid_from").group_by("item_id", maintain_order=True).last()
    named = lists.join(newest.select("item_id", expected="title"), on="item_id")
    assert named.height == lists.height > named["title"].null_count()
    assert named["title"].eq_missing(named["expected"]).all()


def test_the_shares_add_up_to_the_score_and_order_the_list(clicks) -> None:
    lists = read(clicks, "recommendations")
    assert (lists.select(pl.sum_horizontal(SHARES)).to_series() - lists["score"]).abs().max() < 1e-5
    ordered = lists.sort("user_id", "rank").with_columns(pl.col("score").diff().over("user_id").alias("step"))
    assert ordered["step"].max() <= 0
    assert ordered["score"].is_finite().all()
    for share in SHARES:
        assert lists[share].std() > 0, share


def test_lists_name_their_versions_and_stand_in_the_log(clicks) -> None:
    lists, log = read(clicks, "recommendations"), read(clicks, "recommendation_log")
    keys = ["list_id", "user_id", "rank", "item_id"]
    assert lists.select(keys).sort(keys).equals(log.select(keys).sort(keys))
    assert lists["head_version"].unique().to_list() == [clicks.runs["train"].versions["head_version"]]
    assert lists["as_of"].unique().to_list()[0].isoformat() == "2019-11-05T00:00:00+00:00"
    basis = dict(lists.filter(pl.col("rank") == 1)["basis"].value_counts().iter_rows())
    behaviours = read(clicks, "events").filter(pl.col("user_id").is_not_null()).group_by("user_id").len()
    assert basis.get("one_event", 0) == behaviours.filter(pl.col("len") == 1).height


def test_who_is_not_known_has_a_list(clicks) -> None:
    default = read(clicks, "default_recommendations").sort("rank")
    assert default["rank"].to_list() == list(range(1, 21))
    assert default["item_id"].n_unique() == 20
    assert default["segment"].unique().to_list() == ["all"]


def test_evaluation_holds_every_model_on_the_same_users(clicks) -> None:
    rows = read(clicks, "evaluation").filter((pl.col("slice") == "all") & (pl.col("metric") == "ndcg") & (pl.col("k") == 10))
    models = rows.filter(~pl.col("model").str.contains(" - "))
    assert set(models["model"]) == set(LABELS)
    assert models["n"].n_unique() == 1
    assert models["n"][0] == clicks.runs["evaluate"].counts["users"] > 20
    assert rows.filter(pl.col("value").is_null() | (pl.col("low") > pl.col("high"))).is_empty()
    value = dict(models.select("model", "value").iter_rows())
    assert value["joint"] > value["popularity"]
    difference = rows.filter(pl.col("model") == "joint - popularity")["value"][0]
    assert difference == pytest.approx(value["joint"] - value["popularity"], abs=1e-9)


def test_a_second_run_changes_nothing_but_job_runs(clicks) -> None:
    before, runs = clicks.versions(), clicks.warehouse.version("job_runs")
    first = {name: run.versions for name, run in clicks.runs.items()}
    again = replace(clicks).run()  # the fixture keeps the runs that made it
    assert clicks.versions() == before
    assert clicks.warehouse.version("job_runs") == runs + 6
    assert again["train"].versions["head_version"] == first["train"]["head_version"]
    assert again["ingest"].counts["used"] == 0
    assert again["encode"].counts["texts_new"] == 0


def test_what_shares_these_tables_stays_in_one_process(clicks, request: pytest.FixtureRequest) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process alone")
    assert request.node.nodeid.endswith("@clicks")


def test_no_job_leaves_its_scratch_files(clicks) -> None:
    assert list(Path(clicks.warehouse.root, "_scratch").iterdir()) == []


def test_job_runs_name_inputs_outputs_and_config(clicks) -> None:
    rows = {row["job"]: row for row in clicks.warehouse.read("job_runs").orderBy("started_at").collect()}
    assert rows["recommend"]["status"] == "succeeded"
    assert rows["recommend"]["versions"]["list_id"] == read(clicks, "recommendations")["list_id"][0]
    assert rows["textualise"]["inputs"]["events"] == clicks.warehouse.version("events")
    assert rows["evaluate"]["config_hash"] == hash_json(clicks.settings().model_dump(mode="json"))


def test_mlflow_has_what_encode_did_with_the_model_of_its_vectors(clicks) -> None:
    encoded, trained = (
        clicks.warehouse.read("job_runs").filter(f"job = '{job}'").orderBy("started_at").first() for job in ("encode", "train")
    )
    registry = registry_of(Run("test", clicks.settings(), clicks.spark, clicks.warehouse))
    version = registry.find(trained["versions"]["head_version"])
    metrics = MlflowClient(clicks.settings().pipeline.tracking.uri).get_run(version.run_id).data.metrics
    assert {name: metrics[f"encode.{name}"] for name in encoded["counts"]} == encoded["counts"]
    assert metrics["encode.seconds.forward all tasks"] == encoded["stages"]["forward all tasks"]


def test_sequences_are_readable_and_in_order(clicks) -> None:
    sequences = read(clicks, "user_sequences")
    row = sequences.sort("n_steps", descending=True).row(0, named=True)
    times = [behaviour["event_time"] for behaviour in row["steps"]]
    assert times == sorted(times)
    assert [behaviour["step"] for behaviour in row["steps"]] == list(range(row["n_steps"]))  # each row its own step
    assert len(row["text"].split("\n")) == row["n_steps"]
    sessions = [behaviour["features"]["same_session"] for behaviour in row["steps"]]
    assert not sessions[0]
    assert any(sessions)


def test_an_older_day_done_again_does_not_set_the_lists_back(clicks) -> None:
    before = clicks.versions()
    replace(clicks).run("recommend", overrides=("day='2019-11-01'",))
    assert clicks.versions() == before


def test_lists_of_a_day_that_is_yet_to_come_are_not_made(clicks) -> None:
    """They would keep those of every day until then from being published."""
    before = clicks.versions()
    with pytest.raises(TableError, match="day 2999-01-01 is yet to come"):
        replace(clicks).run("recommend", overrides=("day='2999-01-01'",))
    assert clicks.versions() == before


def test_an_item_that_an_ingest_has_yet_to_write_stops_recommend_before_it_writes(clicks_copy) -> None:
    """Events are committed before items: who reads in between is told, and takes no item for an unknown one."""
    item = clicks_copy.warehouse.read("items").orderBy("item_id").first()["item_id"]
    DeltaTable.forPath(clicks_copy.spark, clicks_copy.warehouse.path("items")).delete(f"item_id = '{item}'")
    DeltaTable.forPath(clicks_copy.spark, clicks_copy.warehouse.path("interest_states")).delete()
    before = clicks_copy.versions()
    with pytest.raises(
        TableError, match=f"table items lacks 1 items that events name, such as '{item}': an ingest .* run it again"
    ):
        clicks_copy.run("recommend")
    assert clicks_copy.versions() == before
