"""Measures the serving version on the window that it was not trained on, beside its parts and the baselines (DESIGN 4)."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import functions as F
from scipy import sparse

from llmrec_pipeline.collaborative import (
    history_weights,
    item_knn,
    merge_grams,
    neighbour_matrix,
    neighbours,
    similarity_scores,
    transform,
)
from llmrec_pipeline.collaborative.similarity import gram
from llmrec_pipeline.evaluation.baselines import TifuKnn, own_scores, popularity, tifu_scores, tifu_vectors
from llmrec_pipeline.evaluation.bootstrap import Estimate, Partials, differences, finish, merge
from llmrec_pipeline.evaluation.evaluator import Task, evaluate_block
from llmrec_pipeline.evaluation.windows import day_name
from llmrec_pipeline.interest.data import Histories
from llmrec_pipeline.recommendation.scorer import Scorer
from llmrec_pipeline.steps.dataset import Dataset, load_dataset, scratch, sequences_before, user_blocks
from llmrec_pipeline.steps.heads import Head, make_scorer, query_at, read_neighbours, serving_head
from llmrec_pipeline.steps.train import states_at, targets_between
from llmrec_pipeline.steps.versions import data_versions, evaluation_id
from llmrec_pipeline.tracking import Report, Run

log = logging.getLogger("llmrec")
INPUTS = ("events", "items", "user_sequences", "text_embeddings", "item_neighbours")
JOINT = "joint"
FIRST_TIME = "first_time"  # the slice without what the user knows


def evaluate(run: Run) -> None:
    """Writes metrics with intervals for the joint model, p, s and the baselines; nothing when this evaluation exists."""
    run.warehouse.create(["evaluation"])
    head = serving_head(run)
    evaluation = evaluation_id(run.settings, head.head_version, data_versions(run, INPUTS))
    run.versions["evaluation_id"] = evaluation
    if not run.read("evaluation").filter(F.col("evaluation_id") == evaluation).isEmpty():
        log.info("evaluate: evaluation %s exists", evaluation)
        run.wrote("evaluation")
        return
    end = head.start + run.settings.pipeline.evaluation.window_days
    with run.stage("read"):
        dataset = load_dataset(run, head.start)
        query = query_at(head.start, run.settings.domain)
        scorer = make_scorer(run, head, dataset, query, read_neighbours(run, head.head_version, dataset.catalogue))
        ordered = sequences_before(run, end).orderBy("user_id", "event_date")
    with scratch(run, ordered, "sequences") as shards:
        size = run.settings.pipeline.recommend.block_users
        with run.stage("baselines"):
            baselines = fit_baselines(scorer, dataset, (block.before(head.start) for block in user_blocks(shards, dataset, size)))
        with run.stage("score") as report:
            total = -(-baselines.n_users // size)
            merged = merge(_counted(partials_of(run, scorer, baselines, user_blocks(shards, dataset, size), end), report, total))
    run.counts |= {"users": int(merged.weights[0, 0]), "targets": merged.targets, "targets_not_candidates": merged.masked_targets}
    with run.stage("write"):
        estimates = [*finish(merged), *differences_to_joint(merged)]
        _write(run, head, evaluation, estimates)
    run.wrote("evaluation")


@dataclass(frozen=True)
class Baselines:
    """What plain recommenders need of everybody, as of the window's start.

    TIFU-KNN looks for neighbours among all users: its vectors are the one thing here that grows with users (12 bytes a user and item).
    """

    popular: npt.NDArray[np.float64]  # [N] target events ever
    recent: npt.NDArray[np.float64]  # [N] target events in the last 30 days
    knn: sparse.csr_array  # [N, N]
    tifu: sparse.csr_array  # [A, N] vectors of all users
    user_ids: npt.NDArray[np.str_]  # [A] ascending

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    def scores(self, scorer: Scorer, past: Histories) -> dict[str, Any]:
        """[U, N] scores of each baseline for users with these histories."""
        n_items, types, config = scorer.catalogue.n_items, scorer.is_target, scorer.config
        shape = (past.n_users, n_items)
        own = history_weights(past, scorer.query, types, n_items, config.own_half_life)
        plain = transform(history_weights(past, scorer.query, types, n_items, None), "binary")
        rows = np.searchsorted(self.user_ids, past.user_ids)
        vectors = tifu_vectors(past, scorer.query, types, n_items, TifuKnn())
        return {
            "popularity": np.broadcast_to(self.popular, shape),
            "popularity_30d": np.broadcast_to(self.recent, shape),
            "own_decayed": own_scores(own, self.recent),
            "item_knn": similarity_scores(plain, self.knn),
            "tifu_knn": tifu_scores(vectors, rows, self.tifu, self.recent, TifuKnn()),
        }


def fit_baselines(scorer: Scorer, dataset: Dataset, blocks: Iterator[Histories]) -> Baselines:
    """One pass over everybody's history before the window."""
    n_items, types = scorer.catalogue.n_items, scorer.is_target
    grams, vectors, ids = [], [], []
    for past in blocks:
        grams.append(gram(transform(history_weights(past, scorer.query, types, n_items, None), "binary")))
        vectors.append(tifu_vectors(past, scorer.query, types, n_items, TifuKnn()))
        ids.append(past.user_ids)
    found = neighbours(item_knn(merge_grams(grams, n_items), scorer.config.knn_shrinkage), scorer.config.neighbours)
    return Baselines(
        popular=popularity(dataset.daily, scorer.query, types, n_items, None),
        recent=popularity(dataset.daily, scorer.query, types, n_items, 30),
        knn=neighbour_matrix(found, n_items),
        tifu=sparse.vstack(vectors).tocsr(),
        user_ids=np.concatenate(ids),
    )


def _counted(partials: Iterator[Partials], report: Report, total: int) -> Iterator[Partials]:
    for done, part in enumerate(partials, 1):
        report(done, max(done, total))
        yield part


def partials_of(run: Run, scorer: Scorer, baselines: Baselines, blocks: Iterator[Histories], end: int) -> Iterator[Partials]:
    """Partial sums of each block that has a user with a target in the window."""
    for block in blocks:
        wanted = targets_between(block, scorer.query.day, end, scorer.is_target)
        rows = np.flatnonzero(wanted.per_user)
        if len(rows):
            yield evaluate_users(run, scorer, baselines, block.take(rows), end)


def evaluate_users(run: Run, scorer: Scorer, baselines: Baselines, users: Histories, end: int) -> Partials:
    """Partial sums of users who have a target in the window."""
    pipeline, start = run.settings.pipeline, scorer.query.day
    past = users.before(start)
    states = states_at(scorer, past, scorer.query)
    scores = scorer.score(states)
    models: Mapping[str, Any] = {
        JOINT: scores.joint.score,
        "p": scores.log_p,
        "s": scores.log_s,
        **baselines.scores(scorer, past),
    }
    task = Task(
        item_ids=scorer.catalogue.item_ids,
        ks=pipeline.evaluation.ks,
        history_edges=pipeline.joint.history_edges,
        repeats=scorer.domain.repeats,
        replicates=pipeline.evaluation.bootstrap,
        seed=pipeline.seed,
    )
    targets = targets_between(users, start, end, scorer.is_target)
    return evaluate_block(task, models, scores.mask, targets, scores.known, states.steps, users.user_ids)


def differences_to_joint(merged: Partials) -> list[Estimate]:
    """The joint model less each other model, paired by user."""
    rows = [row for name in merged.models if name != JOINT for row in differences(merged, name)]
    return [row for row in rows if row.model == JOINT]


def _write(run: Run, head: Head, evaluation: str, estimates: list[Estimate]) -> None:
    window = date.fromisoformat(day_name(head.start))
    rows = [
        {
            "evaluation_id": evaluation,
            "window": window,
            "slice": row.slice,
            "model": f"{row.model} - {row.baseline}" if row.baseline else row.model,
            "metric": row.metric,
            "k": row.k,
            "value": _or_null(row.value),
            "low": _or_null(row.low),
            "high": _or_null(row.high),
            "n": row.n,
            "candidates": "all" if run.settings.domain.repeats and row.slice != FIRST_TIME else "unknown",
            "head_version": head.head_version,
        }
        for row in estimates
    ]
    run.warehouse.append("evaluation", run.spark.createDataFrame(rows, run.warehouse.schema("evaluation")))


def _or_null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
