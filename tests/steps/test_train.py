"""What a head_version depends on, and what it does not."""

import numpy as np
import pytest

from llmrec_pipeline.interest.training import TrainedModel
from llmrec_pipeline.recommendation import JointFit
from llmrec_pipeline.steps.dataset import load_dataset, scratch, sequences_before
from llmrec_pipeline.steps.heads import make_scorer, query_at, read_neighbours, serving_head
from llmrec_pipeline.steps.train import _fit_joint, training_window
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
    scorer = make_scorer(run, head, dataset, query, read_neighbours(run, head.head_version, dataset.catalogue))
    return fit, dataset.catalogue.item_ids[scorer.blocked]


def test_what_lists_leave_out_has_no_say_in_the_weights(clicks) -> None:
    most = clicks.warehouse.read("events").groupBy("item_id").count().orderBy("count", ascending=False).limit(5).collect()
    names = sorted(row["item_id"] for row in most)
    free, blocked = fitted(clicks), fitted(clicks, f"recommend.blocked_items={names}")
    assert (free[1].tolist(), blocked[1].tolist()) == ([], names)
    assert blocked[0] == free[0]
