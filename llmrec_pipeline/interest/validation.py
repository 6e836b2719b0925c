"""Validation of p alone while training: NDCG@10 and cross-entropy on what users did after the end of training.

Legend: U users with a target in the period, N items, J distinct targets of a user.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.cancelling import known_types
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories, Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.popularity import decayed_counts
from llmrec_pipeline.interest.scoring import Parts, item_side, score_parts
from llmrec_pipeline.interest.state import States

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
BLOCK_USERS = 512  # users scored at once


@dataclass(frozen=True)
class Validation:
    """Users with a target in [start.day, end day), their histories before it, and their distinct target items."""

    histories: Histories  # before `start`, of the U users
    offsets: Int  # [U + 1]
    item: npt.NDArray[np.int32]  # targets, candidates as of `start`
    start: Query
    catalogue: Catalogue
    text: npt.NDArray[np.float32]
    popularity: Float  # [N, types, half-lives]
    is_target: npt.NDArray[np.bool_]  # [types]

    def blocks(self, model: InterestModel) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Users [start, stop) and their logits [stop - start, N], block by block."""
        empty = States.empty(self.histories.user_ids, model.layout)
        states = advance(model, empty, self.histories, self.catalogue, self.text)
        items = item_side(model, self.catalogue, self.text)
        for start in range(0, states.n_users, BLOCK_USERS):
            users = slice(start, min(start + BLOCK_USERS, states.n_users))
            block = states.take(np.arange(users.start, users.stop))
            yield users, self._logits(model, score_parts(model, block, self.start, self.catalogue, items, self.popularity))

    def _logits(self, model: InterestModel, parts: Parts) -> npt.NDArray[np.float32]:
        logits = parts.logits
        logits[:, self.catalogue.first_day >= self.start.day] = -np.inf
        if not model.repeats:
            is_known = known_types(self.is_target, self.histories.cancels)
            known = (parts.own.total[:, is_known].sum(axis=1) > 0) & (parts.own.item >= 0)
            user = np.repeat(np.arange(len(logits)), np.diff(parts.own.offsets))
            logits[user[known], parts.own.item[known]] = -np.inf
        return logits

    def measure(self, model: InterestModel) -> tuple[float, float]:
        """Mean NDCG@10 over users, and mean cross-entropy over their target items; targets that are no candidates are none.

        Raises:
            ModelError: no target is a candidate.
        """
        ndcg, loss = [], []
        for users, logits in self.blocks(model):
            offsets = self.offsets[users.start : users.stop + 1]
            item = self.item[offsets[0] : offsets[-1]]
            user = np.repeat(np.arange(len(logits)), np.diff(offsets))
            inside = np.isfinite(logits[user, item])
            user, item = user[inside], item[inside]
            rows, position = np.unique(user, return_inverse=True)
            some = logits[rows]  # [users with a target, N]
            ndcg.append(ndcg_at(some, position, item, 10))
            top = some.max(axis=1, initial=-np.inf, keepdims=True)
            log_total = top[:, 0] + np.log(np.exp(some - top).sum(axis=1, dtype=np.float64))
            loss.append(log_total[position] - some[position, item])
        counted = np.concatenate(ndcg)
        if not len(counted):
            raise ModelError(
                f"none of {len(self.item)} validation targets is a candidate on day {self.start.day}; "
                "name a later day, so that items are known by then"
            )
        return float(counted.mean()), float(np.concatenate(loss).mean())


def ndcg_at(scores: npt.NDArray[np.float32], user: Int, item: npt.NDArray[np.int32], k: int) -> Float:
    """[U] NDCG@k with an ideal of min(k, number of targets); NaN for users without targets. Equal scores share the mean rank."""
    result = np.full(len(scores), np.nan)
    for row in np.unique(user):
        own = scores[row]
        mine = own[item[user == row]]
        rank = (own > mine[:, None]).sum(axis=1) + ((own == mine[:, None]).sum(axis=1) - 1) / 2
        gain = np.where(rank < k, 1 / np.log2(rank + 2), 0.0).sum()
        result[row] = gain / (1 / np.log2(np.arange(min(k, len(mine))) + 2)).sum()
    return result


def validation_of(
    histories: Histories,
    catalogue: Catalogue,
    daily: DailyCounts,
    text: npt.NDArray[np.float32],
    model: InterestModel,
    is_target: npt.NDArray[np.bool_],
    period: tuple[Query, Query],
) -> Validation:
    """The validation set of `period` = (start, end).

    Raises:
        ModelError: no user has a target in the period.
    """
    start, end = period
    step_of = histories.event_step
    day = histories.step_day[step_of]
    event = np.flatnonzero((day >= start.day) & (day < end.day) & is_target[histories.event_type] & (histories.item >= 0))
    pairs = np.unique(np.stack([histories.step_user[step_of[event]], histories.item[event].astype(np.int64)], axis=1), axis=0)
    users, row = np.unique(pairs[:, 0], return_inverse=True)
    if not len(users):
        raise ModelError(f"no user has a target on days [{start.day}, {end.day}); name a day inside the log, or a shorter window")
    popularity = decayed_counts(daily, start.day, model.config.popularity_half_lives, catalogue.n_items, len(is_target))
    return Validation(
        histories=histories.take(users).before(start.day),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(row))]),
        item=pairs[:, 1].astype(np.int32),
        start=start,
        catalogue=catalogue,
        text=text,
        popularity=popularity,
        is_target=is_target,
    )
