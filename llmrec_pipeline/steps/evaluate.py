"""Measures the newest version on the window that it was not trained on, beside its parts and the baselines (DESIGN 4)."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import functions as F

from llmrec_pipeline.collaborative import history_weights, unit
from llmrec_pipeline.evaluation.bootstrap import Estimate, Partials, finish, leads, merge
from llmrec_pipeline.evaluation.counted import Counted, Recipe, count
from llmrec_pipeline.evaluation.evaluator import Task, Users, evaluate_block
from llmrec_pipeline.evaluation.lists import self_information
from llmrec_pipeline.evaluation.tuned import Choice, K, Pool, pool, tune, weighted_sum
from llmrec_pipeline.interest.cancelling import known_types
from llmrec_pipeline.interest.data import Histories
from llmrec_pipeline.interest.popularity import head_items
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.recommendation import candidate_mask
from llmrec_pipeline.recommendation.scorer import Scorer, Scores
from llmrec_pipeline.steps.dataset import (
    Dataset,
    day_of,
    load_dataset,
    scratch,
    sequences_before,
    user_blocks,
    with_profile_vectors,
)
from llmrec_pipeline.steps.heads import Head, make_scorer, pinned_head, query_at, read_neighbours, registry_of
from llmrec_pipeline.steps.train import states_at, targets_between
from llmrec_pipeline.steps.versions import data_versions, evaluation_id
from llmrec_pipeline.tracking import Report, Run

log = logging.getLogger("llmrec")
INPUTS = ("events", "items", "user_sequences", "text_embeddings", "item_neighbours")
JOINT = "joint"
TUNED_SUM = "tuned_sum"
VALIDATION = "validation"  # the slice of what the tuned sum was chosen by, on the days before the window
FIRST_TIME = "first_time"  # the slice without what the user knows


def evaluate(run: Run) -> None:
    """Writes metrics with intervals for the joint model, p, s and the baselines; nothing when this evaluation exists."""
    run.warehouse.create(["evaluation"])
    registry = registry_of(run)
    head = pinned_head(run, registry, registry.newest())
    evaluation = evaluation_id(run.settings, head.versions, data_versions(run, INPUTS))
    run.versions["evaluation_id"] = evaluation
    if not run.read("evaluation").filter(F.col("evaluation_id") == evaluation).isEmpty():
        log.info("evaluate: evaluation %s exists", evaluation)
        run.wrote("evaluation")
        return
    end = head.start + run.settings.pipeline.evaluation.window_days
    with run.stage("read"):
        sequences = sequences_before(run, end)
        dataset = load_dataset(run, head.start)
        query = query_at(head.start, run.settings.domain)
        scorer = make_scorer(run, head, dataset, query, read_neighbours(run, head, dataset.catalogue))
        ordered = with_profile_vectors(run, sequences, head.encoder_id, head.start).orderBy("user_id", "event_date")
    with scratch(run, ordered, "sequences") as shards:
        size = run.settings.pipeline.recommend.block_users

        def blocks() -> Iterator[Histories]:
            return user_blocks(shards, dataset, size)

        with run.stage("baselines"):
            earlier, baselines = count_baselines(run, head, scorer, dataset, blocks())
        with run.stage("tune"):
            choice = tune_sum(scorer, earlier, blocks(), head)
        with run.stage("score") as report:
            task = window_task(run, scorer, baselines.popular, run.settings.pipeline.evaluation.ks)
            total = -(-len(baselines.user_ids) // size)
            merged = merge(_reported(partials_of(task, scorer, baselines, choice, blocks(), end), report, total))
    run.counts |= {"users": int(merged.weights[0, 0]), "targets": merged.targets, "targets_not_candidates": merged.masked_targets}
    with run.stage("write"):
        estimates = [*finish(merged), *leads(merged, JOINT), *(_validation(choice) if choice else [])]
        write_estimates(run, head.head_version, head.start, evaluation, estimates)
    run.wrote("evaluation")


def count_baselines(run: Run, head: Head, scorer: Scorer, dataset: Dataset, blocks: Iterator[Histories]) -> list[Counted]:
    """The baselines as of the start of validation and as of the window's."""
    recipe = Recipe(scorer.catalogue.n_items, scorer.is_target, scorer.type_weights, scorer.config)
    queries = [query_at(day, run.settings.domain) for day in (head.validation_start, head.start)]
    return count(recipe, dataset.daily, queries, blocks)


def tune_sum(scorer: Scorer, baselines: Counted, blocks: Iterator[Histories], head: Head) -> Choice | None:
    """Members and weights of the tuned sum, by the validation period; None: nobody has a target in it that was a candidate."""
    pools = [part for block in blocks if (part := _pool(scorer, baselines, block, head))]
    if not any(part.target.any() for part in pools):
        return None
    choice = tune(pools)
    log.info("evaluate: tuned_sum = %s, NDCG@10 %.4f on validation", choice.weights, choice.ndcg)
    return choice


def _validation(choice: Choice) -> list[Estimate]:
    """What the tuned sum was chosen by: NDCG of each baseline alone and of the sum on validation, and the members' weights."""
    values = [("ndcg", name, value) for name, value in (choice.single | {TUNED_SUM: choice.ndcg}).items()]
    values += [("weight", name, value) for name, value in choice.weights.items()]
    return [Estimate(VALIDATION, name, metric, K, value, np.nan, np.nan, choice.users) for metric, name, value in values]


def _pool(scorer: Scorer, baselines: Counted, block: Histories, head: Head) -> Pool | None:
    wanted = targets_between(block, head.validation_start, head.start, scorer.is_target)
    users = block.take(np.flatnonzero(wanted.per_user))
    if not users.n_users:
        return None
    past, query = users.before(head.validation_start), baselines.query
    types = known_types(scorer.is_target, scorer.domain.cancels)
    known = history_weights(past, query, types, scorer.catalogue.n_items, None) > 0
    mask = candidate_mask(scorer.catalogue.first_day, query.day, known, scorer.domain.repeats, scorer.blocked)
    targets = targets_between(users, head.validation_start, head.start, scorer.is_target)
    return pool(baselines.scores(past), mask, targets)


def _reported(partials: Iterator[Partials], report: Report, total: int) -> Iterator[Partials]:
    for done, part in enumerate(partials, 1):
        report(done, max(done, total))
        yield part


def partials_of(
    task: Task, scorer: Scorer, baselines: Counted, choice: Choice | None, blocks: Iterator[Histories], end: int
) -> Iterator[Partials]:
    """Partial sums of each block that has a user with a target in the window."""
    for block in blocks:
        wanted = targets_between(block, scorer.query.day, end, scorer.is_target)
        rows = np.flatnonzero(wanted.per_user)
        if len(rows):
            yield evaluate_users(task, scorer, baselines, choice, block.take(rows), end)


def evaluate_users(task: Task, scorer: Scorer, baselines: Counted, choice: Choice | None, users: Histories, end: int) -> Partials:
    """Partial sums of users who have a target in the window."""
    start = scorer.query.day
    past = users.before(start)
    states = states_at(scorer, past, scorer.query)
    scores = scorer.score(states)
    plain = baselines.scores(past)
    models: dict[str, Any] = {JOINT: scores.joint.score, "p": scores.log_p, "s": scores.log_s, **plain}
    if choice:
        models[TUNED_SUM] = weighted_sum(plain, choice.weights, scores.mask)
    return evaluate_block(task, models, scores.mask, window_users(scorer, users, states, scores, end))


def window_users(scorer: Scorer, users: Histories, states: States, scores: Scores, end: int) -> Users:
    """Who the users of a block are and what they did in the window.

    Args:
        scorer: as of the window's start.
        users: a block, with the window.
        states: theirs before it.
        scores: theirs.
        end: of the window.
    """
    start = scorer.query.day
    return Users(
        user_ids=users.user_ids,
        history_length=states.steps,
        since=_days_since(users.before(start), start),
        known=scores.known,
        targets=targets_between(users, start, end, scorer.is_target),
        of_type={name: targets_between(users, start, end, only) for name, only in _each_type(scorer).items()},
    )


def window_task(run: Run, scorer: Scorer, popular: npt.NDArray[np.float64], ks: tuple[int, ...]) -> Task:
    """What is the same for every block of the window; `popular` is [N] target events before it."""
    pipeline, catalogue = run.settings.pipeline, scorer.catalogue
    return Task(
        item_ids=catalogue.item_ids,
        ks=ks,
        history_edges=scorer.weights.history_edges,
        repeats=scorer.domain.repeats,
        replicates=pipeline.evaluation.bootstrap,
        seed=pipeline.seed,
        information=self_information(popular),
        text=unit(catalogue.vectors(scorer.text_vectors)),
        head=head_items(popular),
        target_types=tuple(_each_type(scorer)),
    )


def _each_type(scorer: Scorer) -> dict[str, list[bool]]:
    """The types of targets, each as [types] bool; empty where there is one only."""
    names = list(scorer.domain.targets)
    types = list(scorer.domain.event_types)
    return {name: [kind == name for kind in types] for name in names} if len(names) > 1 else {}


def _days_since(past: Histories, day: int) -> npt.NDArray[np.int64]:
    """[U] days from the last step before `day` to it; `day` itself for a user without one."""
    last = np.zeros(past.n_users, dtype=np.int64)
    np.maximum.at(last, past.step_user, past.step_day.astype(np.int64))
    return day - last


def write_estimates(run: Run, head_version: str, start: int, evaluation: str, estimates: list[Estimate]) -> None:
    """Adds the rows of one evaluation of a window that starts on the day `start`."""
    rows = [
        {
            "evaluation_id": evaluation,
            "window": day_of(start),
            "slice": row.slice,
            "model": f"{row.model} - {row.baseline}" if row.baseline else row.model,
            "metric": row.metric,
            "k": row.k,
            "value": _or_null(row.value),
            "low": _or_null(row.low),
            "high": _or_null(row.high),
            "n": row.n,
            "candidates": "all" if run.settings.domain.repeats and row.slice != FIRST_TIME else "unknown",
            "head_version": head_version,
        }
        for row in estimates
    ]
    written = run.spark.createDataFrame(rows, run.warehouse.schema("evaluation"))
    run.warehouse.insert_new("evaluation", written, f"t.evaluation_id = '{evaluation}'")


def _or_null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
