"""What users did after the moment that they are asked at: what p is validated on while training, and what protocols test on.

Legend: U users with a target, N items, J distinct targets of a user, E behaviour types, H half-lives.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.cancelling import known_types
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories, Query, on_disk
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.popularity import decayed_counts
from llmrec_pipeline.interest.ragged import Column, offsets_of, release, trim
from llmrec_pipeline.interest.scoring import Parts, item_side, score_parts
from llmrec_pipeline.interest.state import States

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
BLOCK_USERS = 512  # users scored at once


@dataclass(frozen=True)
class HeldOut:
    """Users with targets, their histories before them, and the moment that each is asked at."""

    histories: Histories  # before the targets, of the U users
    offsets: Int  # [U + 1]
    item: npt.NDArray[np.int32]  # distinct targets of each user, ascending
    time: Float  # [U] instant of the query
    day: npt.NDArray[np.int32]  # [U] its date
    catalogue: Catalogue
    text: npt.NDArray[np.float32]
    popularity: dict[int, Float]  # date of a query -> [N, E, H]
    is_target: npt.NDArray[np.bool_]  # [E]

    def blocks(self, model: InterestModel) -> Iterator[tuple[Int, npt.NDArray[np.float32]]]:
        """Rows of users asked on one date, and their logits [rows, N], block by block."""
        items = item_side(model, self.catalogue, self.text)
        by_day = np.argsort(self.day, kind="stable")
        for start in range(0, len(by_day), BLOCK_USERS):
            users = np.sort(by_day[start : start + BLOCK_USERS])
            past = self.histories.take(users)
            states = advance(model, States.empty(past.user_ids, model.layout), past, self.catalogue, self.text)
            release(self.histories)
            trim()
            for day in np.unique(self.day[users]).tolist():
                places = np.flatnonzero(self.day[users] == day)
                rows, popularity = users[places], self.popularity[day]
                parts = score_parts(model, states.take(places), Query(self.time[rows], day), self.catalogue, items, popularity)
                yield rows, self._logits(model, parts, day)

    def _logits(self, model: InterestModel, parts: Parts, day: int) -> npt.NDArray[np.float32]:
        logits = parts.logits
        logits[:, self.catalogue.first_day >= day] = -np.inf
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
        for rows, logits in self.blocks(model):
            lengths = np.diff(self.offsets)[rows]
            item = np.concatenate([self.item[self.offsets[row] : self.offsets[row + 1]] for row in rows])
            user = np.repeat(np.arange(len(rows)), lengths)
            inside = np.isfinite(logits[user, item])
            user, item = user[inside], item[inside]
            present, position = np.unique(user, return_inverse=True)
            some = logits[present]  # [users with a target, N]
            ndcg.append(ndcg_at(some, position, item, 10))
            top = some.max(axis=1, initial=-np.inf, keepdims=True)
            log_total = top[:, 0] + np.log(np.exp(some - top).sum(axis=1, dtype=np.float64))
            loss.append(log_total[position] - some[position, item])
        counted = np.concatenate(ndcg)
        if not len(counted):
            raise ModelError(
                f"none of {len(self.item)} validation targets is a candidate on day {self.day.max()}; "
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


def held_out_between(
    histories: Histories,
    catalogue: Catalogue,
    daily: DailyCounts,
    text: npt.NDArray[np.float32],
    config: InterestConfig,
    is_target: npt.NDArray[np.bool_],
    period: tuple[Query, Query],
) -> HeldOut:
    """The targets of dates in `period` = [start, end), all users asked at its start.

    Raises:
        ModelError: no user has a target in the period.
    """
    start, end = period

    def held(block: Histories) -> npt.NDArray[np.bool_]:
        return (block.step_day >= start.day) & (block.step_day < end.day)

    def asked(users: Histories) -> tuple[Histories, Float, npt.NDArray[np.int32]]:
        n = users.n_users
        return users.before(start.day), np.full(n, float(start.time)), np.full(n, start.day, dtype=np.int32)

    found = _held_out(histories, (catalogue, daily, text, config, is_target), held, asked)
    if not found.histories.n_users:
        raise ModelError(f"no user has a target on days [{start.day}, {end.day}); name a day inside the log, or a shorter window")
    return found


def held_out_step(
    histories: Histories,
    catalogue: Catalogue,
    daily: DailyCounts,
    text: npt.NDArray[np.float32],
    config: InterestConfig,
    is_target: npt.NDArray[np.bool_],
    place: int,
) -> HeldOut:
    """The targets of each user's step number `place` from the end (1: the last), each user asked at that step's instant.

    Leave-last-step-out, for comparison with published figures: what other users did later may be in the training data.

    Raises:
        ModelError: no user has a target in such a step.
    """

    def asked(users: Histories) -> tuple[Histories, Float, npt.NDArray[np.int32]]:
        step = users.step_offsets[1:] - place
        return users.without_last(place), users.step_time[step], users.step_day[step]

    found = _held_out(histories, (catalogue, daily, text, config, is_target), lambda block: block.steps_left == place, asked)
    if not found.histories.n_users:
        raise ModelError(f"no user has a target in step {place} from the end; there are {histories.n_steps} steps")
    return found


def _held_out(
    histories: Histories,
    of_domain: tuple[Catalogue, DailyCounts, npt.NDArray[np.float32], InterestConfig, npt.NDArray[np.bool_]],
    held: Callable[[Histories], npt.NDArray[np.bool_]],
    asked: Callable[[Histories], tuple[Histories, Float, npt.NDArray[np.int32]]],
) -> HeldOut:
    """The targets in the steps that `held` [S] names of some users; of those with one, `asked` gives the past, instants and dates."""
    catalogue, daily, text, config, is_target = of_domain
    per_user, items, times, days = Column(), Column(), Column(), Column()

    def pasts() -> Iterator[Histories]:
        for block in histories.slices(BLOCK_USERS):
            users, targets, item = _targets(block, held(block), is_target)
            past, time, day = asked(block.take(users))
            per_user.append(targets)
            items.append(item)
            times.append(time)
            days.append(day)
            yield past

    past = on_disk(pasts())
    offsets, item, time, day = offsets_of(per_user.mapped()), items.mapped(), times.mapped(), days.mapped()
    popularity = {
        date: decayed_counts(daily, date, config.popularity_half_lives, catalogue.n_items, len(is_target))
        for date in np.unique(day).tolist()
    }
    return HeldOut(past, offsets, item, time, day, catalogue, text, popularity, is_target)


def _targets(
    histories: Histories, held: npt.NDArray[np.bool_], is_target: npt.NDArray[np.bool_]
) -> tuple[Int, Int, npt.NDArray[np.int32]]:
    """Users with a target in the steps `held` [S], how many distinct ones each has, and these."""
    step = histories.event_step
    event = np.flatnonzero(held[step] & is_target[histories.event_type] & (histories.item >= 0))
    pairs = np.unique(np.stack([histories.step_user[step[event]], histories.item[event].astype(np.int64)], axis=1), axis=0)
    users, lengths = np.unique(pairs[:, 0], return_counts=True)
    return users, lengths, pairs[:, 1].astype(np.int32)
