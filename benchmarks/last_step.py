"""Leave-last-step-out: the joint model, its parts and the baselines on each user's last step (DESIGN 4).

It leaks across users, as published figures do: what is counted for s, and for the baselines that look at everybody, comes from all steps
but the last of each user. p's popularity and the baselines' are as of each user's own instant. All items are candidates but those that
the user knows, where items do not repeat.

Legend: U users, B of a block, N items, X models, M metrics, K cut-offs.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec_pipeline.collaborative import Neighbours, fit_neighbours
from llmrec_pipeline.config import InterestConfig, Settings
from llmrec_pipeline.evaluation.baselines import popularity, popularity_decayed
from llmrec_pipeline.evaluation.counted import POPULARITY_HALF_LIFE, RECENT_DAYS, Counted, Recipe, count
from llmrec_pipeline.evaluation.metrics import block_metrics
from llmrec_pipeline.evaluation.tuned import Choice, pool, tune, weighted_sum
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Histories, Query
from llmrec_pipeline.interest.held_out import HeldOut, held_out_step
from llmrec_pipeline.interest.own import own_counts
from llmrec_pipeline.interest.scoring import Parts
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.training import TrainedModel, train
from llmrec_pipeline.recommendation import Block, JointFit, JointWeights, Targets, fit_joint, log_softmax
from llmrec_pipeline.recommendation.scorer import Scorer, co_occurrence_weights
from llmrec_pipeline.steps.dataset import Dataset

Float32 = npt.NDArray[np.float32]
VALIDATION, TEST = 2, 1  # places from the end
BLOCK_USERS = 512
BEFORE_ALL = np.iinfo(np.int32).min


@dataclass(frozen=True)
class Task:
    """A domain's log with its last two steps of each user held out."""

    settings: Settings
    dataset: Dataset  # all items are candidates from the start
    histories: Histories

    @staticmethod
    def of(settings: Settings, dataset: Dataset, histories: Histories) -> "Task":
        first_day = np.full(dataset.catalogue.n_items, BEFORE_ALL, dtype=np.int32)
        return Task(settings, replace(dataset, catalogue=replace(dataset.catalogue, first_day=first_day)), histories)

    @property
    def catalogue(self) -> Catalogue:
        return self.dataset.catalogue

    @property
    def is_target(self) -> list[bool]:
        return [kind.target for kind in self.settings.domain.event_types.values()]

    def held_out(self, place: int, config: InterestConfig) -> HeldOut:
        dataset, is_target = self.dataset, np.array(self.is_target)
        return held_out_step(self.histories, self.catalogue, dataset.daily, dataset.text_vectors, config, is_target, place)

    @property
    def end(self) -> Query:
        """After everything: what is counted over all users is not asked when."""
        return Query(float(self.histories.step_time.max()) + 1, int(self.histories.step_day.max()) + 1)


@dataclass(frozen=True)
class Asked:
    """A block of users of one date, as of their instants."""

    rows: npt.NDArray[np.int64]  # [B] of the held-out users
    scorer: Scorer
    parts: Parts
    mask: npt.NDArray[np.bool_]  # [B, N]
    targets: Targets
    steps: npt.NDArray[np.int64]  # [B] history length


def learn(task: Task, seed: int) -> TrainedModel:
    """p, trained on all steps but the last two of each user, validated on the last but one."""
    settings, dataset = task.settings, task.dataset
    config = settings.pipeline.interest
    torch.set_num_threads(config.threads)
    return train(
        task.histories.without_last(VALIDATION),
        task.held_out(VALIDATION, config),
        task.catalogue,
        dataset.daily,
        dataset.text_vectors,
        config,
        event_types=list(dataset.event_types),
        target_types=list(settings.domain.targets),
        repeats=settings.domain.repeats,
        period=(task.end, task.end),
        seed=seed,
    )


def neighbours_of(task: Task, place: int) -> Neighbours:
    """Item neighbours from all steps but the last `place` of each user."""
    settings, past, n_items = task.settings, task.histories.without_last(place), task.catalogue.n_items
    half_lives = settings.pipeline.interest.repeat_half_lives
    weights = [kind.weight for kind in settings.domain.event_types.values()]

    def blocks() -> Iterator[Any]:
        for block in slices(past):
            own = own_counts(block, task.end, half_lives, len(weights), task.catalogue)
            yield co_occurrence_weights(own, weights, n_items, settings.pipeline.collaborative, half_lives)

    return fit_neighbours(blocks(), n_items, settings.pipeline.collaborative)


def asked(task: Task, trained: TrainedModel, place: int, weights: JointWeights) -> Iterator[Asked]:
    """All users with a target in the step at `place`, block by block."""
    settings, dataset, model = task.settings, task.dataset, trained.model
    held = task.held_out(place, model.config)
    scorer = Scorer(
        model=model,
        catalogue=task.catalogue,
        text_vectors=dataset.text_vectors,
        popularity=next(iter(held.popularity.values())),
        neighbours=neighbours_of(task, place),
        weights=weights,
        config=settings.pipeline.collaborative,
        domain=settings.domain,
        query=task.end,
        blocked=np.zeros(task.catalogue.n_items, dtype=bool),
    )
    states = advance(model, States.empty(held.histories.user_ids, model.layout), held.histories, task.catalogue, dataset.text_vectors)
    for day, popularity in held.popularity.items():
        of_day = np.flatnonzero(held.day == day)
        for start in range(0, len(of_day), BLOCK_USERS):
            rows = of_day[start : start + BLOCK_USERS]
            of_block = scorer.at(Query(held.time[rows], day), popularity)
            parts = of_block.parts(states.take(rows))
            mask, _ = of_block.candidates(parts.own)
            targets = Targets.of([held.item[held.offsets[row] : held.offsets[row + 1]].tolist() for row in rows])
            yield Asked(rows, of_block, parts, mask, targets, states.steps[rows])


def fit(task: Task, trained: TrainedModel) -> JointFit:
    """w, tau, lambda and theta, on the last step but one."""
    edges = task.settings.pipeline.joint.history_edges
    neutral = JointWeights(0.0, 1.0, (0.0,) * (len(edges) + 1), edges, 1.0)
    blocks = [
        Block(log_softmax(a.parts.logits, a.mask), *vars(a.scorer.similar(a.parts.own)).values(), a.mask, a.targets, a.steps)
        for a in asked(task, trained, VALIDATION, neutral)
    ]
    return fit_joint(lambda: iter(blocks), task.settings.pipeline.joint)


def baselines_at(task: Task, place: int) -> Counted:
    collaborative = task.settings.pipeline.collaborative
    weights = [kind.weight for kind in task.settings.domain.event_types.values()]
    recipe = Recipe(task.catalogue.n_items, task.is_target, weights, collaborative)
    return count(recipe, task.dataset.daily, [task.end], slices(task.histories.without_last(place)))[0]


def plain_scores(task: Task, counted: Counted, held: HeldOut, query: Query, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """[B, N] of each baseline, popularity as of the users' date, own history as of their instants."""
    daily, types, n_items = task.dataset.daily, task.is_target, task.catalogue.n_items
    as_of = replace(
        counted,
        query=query,
        popular=popularity(daily, query, types, n_items, None),
        recent=popularity(daily, query, types, n_items, RECENT_DAYS),
        decayed=popularity_decayed(daily, query, types, n_items, POPULARITY_HALF_LIFE),
    )
    return as_of.scores(held.histories.take(rows))


def slices(histories: Histories) -> Iterator[Histories]:
    for start in range(0, histories.n_users, BLOCK_USERS):
        yield histories.users(start, min(start + BLOCK_USERS, histories.n_users))


def tune_sum(task: Task, trained: TrainedModel, neutral: JointWeights) -> Choice:
    held, counted = task.held_out(VALIDATION, trained.model.config), baselines_at(task, VALIDATION)
    return tune(
        [
            pool(plain_scores(task, counted, held, a.scorer.query, a.rows), a.mask, a.targets)
            for a in asked(task, trained, VALIDATION, neutral)
        ]
    )


def measure(task: Task, seed: int, ks: tuple[int, ...]) -> dict[str, Any]:
    """Metrics of every model for every user: `values` [X, U, M, K] under `models`, `user_ids` [U], and what was fitted."""
    began = time.perf_counter()
    trained = learn(task, seed)
    seconds = time.perf_counter() - began
    fitted = fit(task, trained)
    choice = tune_sum(task, trained, fitted.weights)
    held, counted = task.held_out(TEST, trained.model.config), baselines_at(task, TEST)
    values: dict[str, npt.NDArray[np.float64]] = {}
    for a in asked(task, trained, TEST, fitted.weights):
        scores = a.scorer.fuse(a.parts, a.steps)
        plain = plain_scores(task, counted, held, a.scorer.query, a.rows)
        models = {"joint": scores.joint.score, "p": scores.log_p, "s": scores.log_s, **plain}
        models["tuned_sum"] = weighted_sum(plain, choice.weights, a.mask)
        for name, of_model in models.items():
            found = block_metrics(of_model, a.mask, a.targets, ks)
            values.setdefault(name, np.full((held.histories.n_users, *found.shape[1:]), np.nan))[a.rows] = found
    return {
        "models": list(values),
        "values": np.stack(list(values.values())),
        "user_ids": held.histories.user_ids,
        "epochs": trained.epochs,
        "train_s": seconds,
        "weights": fitted.weights.to_dict(),
        "tuned_sum": choice.weights,
    }
