"""What a head_version depends on, and what it does not."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from delta.tables import DeltaTable
from pyspark.sql import functions as F

from llmrec_pipeline.errors import ConfigError, ModelError, TableError
from llmrec_pipeline.interest.artefacts import RECURRENCE, file_hash, load, save
from llmrec_pipeline.interest.training import TrainedModel
from llmrec_pipeline.recommendation import JointFit
from llmrec_pipeline.steps.dataset import day_of, load_dataset, scratch, sequences_before
from llmrec_pipeline.steps.heads import make_scorer, query_at, read_head, read_neighbours, registry_of, serving_head
from llmrec_pipeline.steps.train import INPUTS, _exposure_groups, _fit_joint, training_window
from llmrec_pipeline.steps.versions import data_versions, state_version, with_weights
from llmrec_pipeline.tracking import Run

pytestmark = pytest.mark.spark


def fitted(path, *overrides: str) -> tuple[JointFit, np.ndarray]:
    """The joint weights of the serving model, fitted anew under `overrides`, and the items that its lists leave out."""
    settings = path.settings(*overrides)
    run = Run("train", settings, path.spark, path.warehouse)
    window, _ = training_window(run)
    head, dataset, query = serving_head(run), load_dataset(run, window.start), query_at(window.start, settings.domain)
    ordered = sequences_before(run, window.start).orderBy("user_id", "event_date")
    with scratch(run, ordered, "sequences") as shards:
        histories = dataset.histories(shards.to_table())
    fit = _fit_joint(run, TrainedModel(head.model, query, query, 17, [], {}), dataset, histories, window)
    scorer = make_scorer(run, head, dataset, query, read_neighbours(run, head, dataset.catalogue))
    return fit, dataset.catalogue.item_ids[scorer.blocked]


def test_what_lists_leave_out_has_no_say_in_the_weights(clicks) -> None:
    most = clicks.warehouse.read("events").groupBy("item_id").count().orderBy("count", ascending=False).limit(5).collect()
    names = sorted(row["item_id"] for row in most)
    free, blocked = fitted(clicks), fitted(clicks, f"recommend.blocked_items={names}")
    assert (free[1].tolist(), blocked[1].tolist()) == ([], names)
    assert blocked[0] == free[0]


def groups_of(path, *overrides: str, days: int = 0) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Ids of the catalogue's items, their groups `days` before validation, and that date."""
    run = Run("train", path.settings(*overrides), path.spark, path.warehouse)
    window, _ = training_window(run)
    dataset, until = load_dataset(run, window.start), window.validation_start - days
    return dataset.catalogue.item_ids, _exposure_groups(run, dataset, until), until


def test_items_are_grouped_by_what_the_catalogue_says_of_them(clicks) -> None:
    items, found, until = groups_of(clicks, "interest.exposure_weight=0.1", "interest.exposure_groups=category")
    rows = clicks.warehouse.read("items").filter(F.col("valid_from") < F.lit(day_of(until))).collect()
    category = {row["item_id"]: row["category"] for row in sorted(rows, key=lambda row: row["valid_from"])}
    named = sorted({name for name in category.values() if name})
    assert len(named) > 1
    assert [named[group] if group >= 0 else None for group in found] == [category.get(str(item)) for item in items]


def test_without_a_weight_or_by_popularity_no_table_is_asked_for_groups(clicks) -> None:
    assert groups_of(clicks, "interest.exposure_groups=category")[1] is None
    assert groups_of(clicks, "interest.exposure_weight=0.1")[1] is None


def test_groups_that_no_item_has_are_refused(clicks) -> None:
    with pytest.raises(
        ConfigError, match=r"is 'brand', but the items of domain 'ecommerce' have 0 of them before .*, expected two"
    ):
        groups_of(clicks, "interest.exposure_weight=0.1", "interest.exposure_groups=brand", days=10_000)


def test_neighbours_that_a_version_has_lost_stop_its_lists_until_train_has_added_them(clicks_copy) -> None:
    path = clicks_copy
    head, before = path.warehouse.read("item_neighbours").first()["head_version"], path.contents()["item_neighbours"]
    DeltaTable.forPath(path.spark, path.warehouse.path("item_neighbours")).delete("kind = 'transition'")
    left, serving = path.warehouse.read("item_neighbours").count(), path.versions()
    for job in ("recommend", "evaluate"):
        with pytest.raises(
            TableError,
            match=rf"item_neighbours holds {left} rows of head_version {head}, expected {len(before)}; run jobs/train\.py",
        ):
            path.run(job)
    assert path.versions() == serving
    assert path.run("train")["train"].counts["neighbours"] == len(before) - left > 0
    assert path.contents()["item_neighbours"] == before
    lists = path.contents()["recommendations"]
    path.run("recommend")
    assert path.contents()["recommendations"] == lists


def test_a_version_may_have_no_neighbours(clicks) -> None:
    run = Run("recommend", clicks.settings(), clicks.spark, clicks.warehouse)
    window, _ = training_window(run)
    catalogue, without = load_dataset(run, window.start).catalogue, replace(serving_head(run), head_version="without")
    assert [read_neighbours(run, replace(without, neighbours=made), catalogue).rows for made in (0, None)] == [0, 0]
    with pytest.raises(TableError, match="holds 0 rows of head_version without, expected 1"):
        read_neighbours(run, replace(without, neighbours=1), catalogue)


def test_states_are_those_of_the_weights_that_made_them(clicks, tmp_path: Path) -> None:
    run = Run("train", clicks.settings(), clicks.spark, clicks.warehouse)
    registry, window = registry_of(run), training_window(run)[0]
    version, inputs = registry.newest(), data_versions(run, INPUTS)
    with registry.files(version) as files:
        shutil.copytree(files, tmp_path / "one")
    weights = file_hash(tmp_path / "one" / RECURRENCE)
    state = with_weights(state_version(run.settings, version.tags["encoder_id"], window.start, inputs), weights)
    assert version.tags["state_version"] == read_head(tmp_path / "one").state_version == state != with_weights(state, "others")
    assert {row[0] for row in clicks.warehouse.read("interest_states").select("state_version").distinct().collect()} == {state}

    trained = load(tmp_path / "one")
    with torch.no_grad():
        trained.model.recurrence.items.ids.weight.mul_(2.0)
    others = save(tmp_path / "one", trained)[RECURRENCE]
    with pytest.raises(ModelError, match=f"joint.json was written for recurrence.safetensors of hash {weights}, found {others}"):
        read_head(tmp_path / "one")
