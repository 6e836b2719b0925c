"""What the joint model, its parts and the baselines reach on one protocol's task (`protocol.py`), user by user.

Legend: U users with a target, B of a block, N items, M metrics, K cut-offs.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from protocol import BLOCK_USERS, Asked, Float32, Int, Moment, Task, among, asked, fit, is_target, learn, neutral
from scipy import sparse

from llmrec_pipeline.encoding.choosing import processor
from llmrec_pipeline.evaluation.baselines import popularity, popularity_decayed
from llmrec_pipeline.evaluation.calibration import LIST, ratios, reliability
from llmrec_pipeline.evaluation.counted import POPULARITY_HALF_LIFE, RECENT_DAYS, Counted, Recipe, count
from llmrec_pipeline.evaluation.metrics import block_metrics
from llmrec_pipeline.evaluation.tuned import Choice, pool, tune, weighted_sum
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Histories, Query
from llmrec_pipeline.interest.examples import targets_of
from llmrec_pipeline.interest.exposure import popularity_groups
from llmrec_pipeline.interest.training import TrainedModel
from llmrec_pipeline.recommendation import log_softmax
from llmrec_pipeline.recommendation.ranking import top_k

ALL = "all"
FIRST_TIME = "first_time"  # candidates and targets without what the user knows
NEW_ITEMS = "new_items"  # targets that nobody has had, among all candidates


def _type_weights(task: Task) -> list[float]:
    return [kind.weight for kind in task.settings.domain.event_types.values()]


class Plain:
    """The baselines at a moment."""

    def __init__(self, task: Task, moment: Moment) -> None:
        self._task, self._moment, self._types = task, moment, is_target(task.settings)
        recipe = Recipe(task.catalogue.n_items, self._types, _type_weights(task), task.settings.pipeline.collaborative)
        self._counted = count(recipe, task.dataset.daily, [moment.query], moment.counted.slices(BLOCK_USERS))[0]

    def scores(self, rows: Int) -> dict[str, Any]:
        """[B, N] of each baseline for users of one date, popularity and own history as of their instants."""
        task, held = self._task, self._moment.held
        query = Query(held.time[rows], int(held.day[rows[0]]))
        return self._as_of(query, task.dataset.daily, task.catalogue.n_items).scores(held.histories.take(rows))

    def _as_of(self, query: Query, daily: Any, n_items: int) -> Counted:
        if query.day == self._counted.query.day:
            return replace(self._counted, query=query)
        return replace(
            self._counted,
            query=query,
            popular=popularity(daily, query, self._types, n_items, None),
            recent=popularity(daily, query, self._types, n_items, RECENT_DAYS),
            decayed=popularity_decayed(daily, query, self._types, n_items, POPULARITY_HALF_LIFE),
        )


def tune_sum(task: Task, trained: TrainedModel) -> Choice:
    """Members and weights of the tuned sum, on validation."""
    plain = Plain(task, task.validation)
    found = asked(task, trained, task.validation, neutral(task))
    return tune([pool(plain.scores(a.rows), a.mask, a.targets) for a in found])


@dataclass
class Found:
    """What one seed reached: metrics of every model for every user, NaN where a user has no target."""

    user_ids: npt.NDArray[np.str_]
    values: dict[str, dict[str, npt.NDArray[np.float64]]]  # slice (all, first_time) -> model -> [U, M, K]
    report: dict[str, Any]
    category_gain: npt.NDArray[np.float64]  # [U] what a step in a category adds to its share of the list

    def add(self, of: str, model: str, rows: Int, found: npt.NDArray[np.float64]) -> None:
        models = self.values.setdefault(of, {})
        models.setdefault(model, np.full((len(self.user_ids), *found.shape[1:]), np.nan))[rows] = found


def measure(task: Task, seed: int, ks: tuple[int, ...], baselines: bool = True) -> Found:
    """Trains, fits and tests; `baselines`: beside the joint model and its parts."""
    began = time.perf_counter()
    trained, epochs = learn(task, seed)
    seconds = time.perf_counter() - began
    fitted = fit(task, trained)
    device = processor(task.settings.pipeline.interest.device)
    told = {"epochs": epochs, "train_s": seconds, "device": device, "weights": fitted.weights.to_dict()}
    users = task.test.held.histories.user_ids
    found = Found(users, {}, told, np.full(len(users), np.nan))
    plain = Plain(task, task.test) if baselines else None
    if plain:
        told["tuned_sum"] = tune_sum(task, trained).weights
    rng, reliable = np.random.default_rng(seed), []
    listed = np.zeros(task.catalogue.n_items, dtype=np.int64)
    for a in asked(task, trained, task.test, fitted.weights):
        scores = a.scorer.fuse(a.parts, a.steps)
        found.category_gain[a.rows] = category_gain(task, a, scores.joint.score, rng)
        lists = _lists(a, scores.joint.score, a.mask)
        listed += np.bincount(lists[lists >= 0], minlength=len(listed))
        log_y, outcomes = log_softmax(scores.joint.score, a.mask), a.targets.within(a.mask)
        reliable.append(reliability(log_y, lists, outcomes, np.ones((1, len(lists)))))
        models: dict[str, Any] = {"joint": scores.joint.score, "p": scores.log_p, "s": scores.log_s}
        if plain:
            of_baselines = plain.scores(a.rows)
            models |= of_baselines | {"tuned_sum": weighted_sum(of_baselines, told["tuned_sum"], a.mask)}
        masks = {ALL: a.mask}
        if task.settings.domain.repeats:
            masks[FIRST_TIME] = a.mask & ~a.known.toarray().astype(bool)
        if task.new is not None:
            models |= {
                "joint_known": np.where(task.new, np.nanmin(scores.joint.score, initial=0, where=a.mask) - 1, scores.joint.score)
            }
            asked_new = among(task.new, a.targets)
            for name, of_model in (models | text_neighbours(task, a.rows)).items():
                found.add(NEW_ITEMS, name, a.rows, block_metrics(of_model, a.mask, asked_new, ks))
        for name, of_model in models.items():
            for of, mask in masks.items():
                found.add(of, name, a.rows, block_metrics(of_model, mask, a.targets, ks))
    told["tail_share"] = float(listed[_tail(task)].sum() / listed.sum())
    told["calibration"] = ratios(sum(sums for sums, _ in reliable), sum(pairs for _, pairs in reliable))[0].tolist()
    return found


def _tail(task: Task) -> npt.NDArray[np.bool_]:
    """[N] True: the item is none of the fewest that have half of the targets of training."""
    types, repeats = np.array(is_target(task.settings)), task.settings.domain.repeats
    learnt = targets_of(task.past, task.validation.held.catalogue, types, repeats)
    return popularity_groups(np.bincount(learnt.item, minlength=task.catalogue.n_items)) == 1


def _lists(a: Asked, score: Float32, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """[B, LIST]"""
    return top_k(score, mask, LIST, a.states.user_ids, a.scorer.catalogue.item_ids, 0).item


def category_gain(task: Task, a: Asked, score: Float32, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """[B] share of a category in the user's list after a step with one item of it, less that before; NaN without such an item.

    The item is a random candidate, and stands in neither list; its step comes at the instant that the user is asked at, and the user is
    asked again an hour later.
    """
    category, users = task.category, len(a.rows)
    may = a.mask & (category >= 0)
    asked_of = np.flatnonzero(may.any(axis=1))
    gain = np.full(users, np.nan)
    if not len(asked_of):
        return gain
    item = np.where(may, rng.random(may.shape), -1).argmax(axis=1).astype(np.int32)
    mask = a.mask.copy()
    mask[np.arange(users), item] = False
    query, scorer = a.scorer.query, a.scorer
    once = np.arange(users + 1)
    step = Histories(
        user_ids=a.states.user_ids,
        step_offsets=once,
        step_day=np.full(users, query.day, dtype=np.int32),
        step_time=np.broadcast_to(query.time, (users,)).astype(np.float64),
        step_session=np.zeros(users, dtype=bool),
        event_offsets=once,
        item=item,
        event_type=np.full(users, is_target(task.settings).index(True), dtype=np.int8),
        text=task.catalogue.text[item],
        quantity=np.full(users, np.nan, dtype=np.float32),
        cancels=task.test.held.histories.cancels,
    )
    states = advance(scorer.model, a.states, step, task.catalogue, task.dataset.text_vectors)
    later = scorer.at(Query(step.step_time + 1 / 24, query.day), scorer.popularity)
    after = later.fuse(later.parts(states), states.steps).joint.score
    shares = []
    for scores in (score, after):
        lists = _lists(a, np.where(mask, scores, 0), mask)
        same = (category[lists] == category[item][:, None]) & (lists >= 0)
        shares.append(same.sum(axis=1) / np.maximum((lists >= 0).sum(axis=1), 1))
    gain[asked_of] = (shares[1] - shares[0])[asked_of]
    return gain


def text_neighbours(task: Task, rows: Int) -> dict[str, Float32]:
    """[B, N] cosine of each item's text vector with the mean of those of the user's behaviours; of vectors as they are, and centred."""
    vectors, histories = task.catalogue.vectors(task.dataset.text_vectors), task.test.held.histories.take(rows)
    some = histories.item >= 0
    shape = (histories.n_users, task.catalogue.n_items)
    user = histories.step_user[histories.event_step[some]]
    pooling = sparse.coo_array((np.ones(len(user), dtype=np.float32), (user, histories.item[some])), shape=shape).tocsr()
    centred = vectors - vectors[task.catalogue.text >= 0].mean(axis=0)
    return {name: _unit(pooling @ of) @ _unit(of).T for name, of in (("text_knn", vectors), ("text_knn_centred", centred))}


def _unit(vectors: Float32) -> Float32:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
