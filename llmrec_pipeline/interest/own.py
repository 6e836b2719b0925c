"""A user's own counts per item, the counted part of r_{u,i}(t) (DESIGN 1.5): carried, from whole histories, and before each step.

Legend: U users, S steps, M own items (CSR over users or steps), N items, E behaviour types, R half-lives.
A behaviour of age a days weighs 2^(-a / half_life), times what later ones leave of it (`cancelling.py`). Beside that it is counted by
the user's own steps, one weighing 2^(-1 / RECENT_HALF_LIFE) of the one after it: what the last steps were about, whatever the calendar
says. Carried counts hold item ids, not catalogue rows, so that a growing catalogue leaves them valid; behaviours with an item that the
catalogue lacks (-1) are no part of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.interest.cancelling import standing, taken_types
from llmrec_pipeline.interest.data import Catalogue, Histories, OwnCounts, Query, rows_of
from llmrec_pipeline.interest.ragged import offsets_of, ranges

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
RECENT_HALF_LIFE = 2.0  # steps
ONE_STEP = 2 ** (-1 / RECENT_HALF_LIFE)


@dataclass(frozen=True)
class OwnItems:
    """Each user's own items as of the user's last step, by item id in ascending order."""

    offsets: Int  # [U + 1]
    item_id: npt.NDArray[np.str_]  # [M]
    decayed: Float  # [M, E, R]
    recent: Float  # [M, E] decayed by steps
    total: Float  # [M, E] plain counts of what stands

    @staticmethod
    def empty(n_users: int, n_types: int, n_half_lives: int) -> "OwnItems":
        offsets = np.zeros(n_users + 1, dtype=np.int64)
        by_type = np.empty((0, n_types))
        return OwnItems(offsets, np.empty(0, dtype=np.str_), np.empty((0, n_types, n_half_lives)), by_type, by_type)

    def take(self, users: Int) -> "OwnItems":
        """The rows of the given users, in the given order."""
        lengths = np.diff(self.offsets)[users]
        rows = ranges(self.offsets[users], lengths)
        return OwnItems(offsets_of(lengths), self.item_id[rows], self.decayed[rows], self.recent[rows], self.total[rows])

    def as_of(self, last_time: Float, query: Query, catalogue: Catalogue, half_lives: Sequence[float]) -> OwnCounts:
        """The same counts decayed from each user's `last_time` [U] to the query, by catalogue row (-1: the catalogue lacks it)."""
        user = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        decay = decay_factors(query.time - last_time, half_lives)[user]  # [M, R]
        decayed = self.decayed * decay[:, None, :]
        return OwnCounts(self.offsets, rows_of(self.item_id, catalogue.item_ids), decayed, self.recent, self.total)


def step_decay(steps: npt.NDArray[np.integer]) -> Float:
    """What is left of a behaviour after so many steps more."""
    left: Float = np.exp2(-steps / RECENT_HALF_LIFE)
    return left


def decay_factors(age: Float, half_lives: Sequence[float]) -> Float:
    """2^(-age / half_life) with a last axis of half-lives; an age below zero counts as zero."""
    return np.exp2(-np.maximum(age, 0.0)[..., None] / np.asarray(half_lives, dtype=np.float64))


def advance_own(
    own: OwnItems, last_time: Float, histories: Histories, catalogue: Catalogue, half_lives: Sequence[float]
) -> OwnItems:
    """Own counts after the new steps of `histories`, decayed to each user's newest step.

    Args:
        own: counts before, of the same users in the same order.
        last_time: [U] instant that `own` is decayed to; without meaning for users without steps before.
        histories: new steps only; all of them after `last_time`.
        catalogue: that `histories.item` points into.
        half_lives: days.
    """
    has_new = np.diff(histories.step_offsets) > 0
    newest = last_time.copy()
    newest[has_new] = histories.step_time[histories.step_offsets[1:][has_new] - 1]
    keep = histories.item >= 0
    user = histories.step_user[histories.event_step][keep]
    added = decay_factors(newest[user] - histories.step_time[histories.event_step][keep], half_lives)  # [m, R]
    is_type = histories.event_type[keep, None] == np.arange(own.total.shape[1])  # [m, E]
    old_user = np.repeat(np.arange(histories.n_users), np.diff(own.offsets))
    faded = own.decayed * decay_factors(newest - last_time, half_lives)[old_user][:, None, :]
    added_recent = step_decay(histories.steps_left - 1)[histories.event_step][keep]  # [m]
    faded_recent = own.recent * step_decay(np.diff(histories.step_offsets))[old_user][:, None]
    ids = np.union1d(catalogue.item_ids, own.item_id) if len(own.item_id) else catalogue.item_ids
    old_code, code = rows_of(own.item_id, ids), rows_of(catalogue.item_ids, ids)[histories.item[keep]]
    old_pair, pair = old_user * len(ids) + old_code, user * len(ids) + code
    shares, old_shares = standing(
        pair, histories.event_type[keep], histories.event_step[keep], histories.cancels, old_pair, own.total
    )
    counted = is_type * shares[:, None]  # [m, E]
    key = np.concatenate([old_pair, pair])
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    found = key[order][first]
    decayed = np.concatenate([faded * old_shares[:, :, None], added[:, None, :] * counted[:, :, None]])[order]
    recent = np.concatenate([faded_recent * old_shares, added_recent[:, None] * counted])[order]
    total = np.concatenate([own.total * old_shares, counted])[order]
    return OwnItems(
        offsets_of(np.bincount(found // len(ids), minlength=histories.n_users)),
        ids[found % len(ids)],
        np.add.reduceat(decayed, first, axis=0) if len(first) else decayed,
        np.add.reduceat(recent, first, axis=0) if len(first) else recent,
        np.rint(np.add.reduceat(total, first, axis=0)) if len(first) else total,
    )


def own_counts(histories: Histories, query: Query, half_lives: Sequence[float], n_types: int, catalogue: Catalogue) -> OwnCounts:
    """Own counts of each user from all steps before the query, without a carried state."""
    past = histories.earlier(query)
    nothing = OwnItems.empty(past.n_users, n_types, len(half_lives))
    last_time = np.full(past.n_users, query.time)
    has_steps = np.diff(past.step_offsets) > 0
    last_time[has_steps] = past.step_time[past.step_offsets[1:][has_steps] - 1]
    own = advance_own(nothing, np.zeros(past.n_users), past, catalogue, half_lives)
    return own.as_of(last_time, query, catalogue, half_lives)


def own_before_steps(
    histories: Histories, selected: npt.NDArray[np.bool_], half_lives: Sequence[float], n_types: int
) -> OwnCounts:
    """Own counts as of just before each selected step: what r and the mask of known items are in training.

    Args:
        histories: whole histories of U users.
        selected: [S] True: a row of the result, in step order; only the user's steps before it count.
        half_lives: days.
        n_types: E.

    Returns:
        Counts whose CSR rows are the selected steps.
    """
    lengths = np.diff(histories.step_offsets)
    by_length = np.argsort(-lengths, kind="stable")  # so that the users who still have a step k are always the first ones
    pairs = _pairs(histories, by_length)
    decayed = np.zeros((len(pairs.item), n_types, len(half_lives)))
    recent, total = np.zeros((len(pairs.item), n_types)), np.zeros((len(pairs.item), n_types))
    parts: list[tuple[Int, Int, Float, Float, Float]] = []
    starts = histories.step_offsets[:-1][by_length]
    for k in range(int(lengths.max(initial=0))):
        steps = starts[: np.count_nonzero(lengths > k)] + k
        active = pairs.offsets[len(steps)]
        position = pairs.user[:active]  # rank of each pair's user
        if k:
            gap = histories.step_time[steps] - histories.step_time[steps - 1]
            decayed[:active] *= decay_factors(gap, half_lives)[position][:, None, :]
        rows = np.flatnonzero(selected[steps][position] & (total[:active].sum(axis=1) > 0))
        parts.append((steps[position[rows]], rows, decayed[rows], recent[rows], total[rows]))
        recent[:active] *= ONE_STEP
        events = ranges(histories.event_offsets[steps], np.diff(histories.event_offsets)[steps])
        events = events[histories.item[events] >= 0]
        where = (pairs.of_event[events], histories.event_type[events].astype(np.int64))
        np.add.at(total, where, 1.0)
        np.add.at(recent, where, 1.0)
        np.add.at(decayed, where, 1.0)
        _take_back(decayed, recent, total, where, histories.cancels)
    return _in_step_order(parts, pairs.item, selected, (n_types, len(half_lives)))


def _take_back(decayed: Float, recent: Float, total: Float, where: tuple[Int, Int], cancels: Sequence[int]) -> None:
    """Takes back, in place, what a step's behaviours cancel (`cancelling.standing`, one step at a time)."""
    taken = taken_types(where[1], cancels)
    cells, times = np.unique(where[0][taken >= 0] * total.shape[1] + taken[taken >= 0], return_counts=True)
    account = np.divmod(cells, total.shape[1])
    n = total[account]
    left = np.maximum(n - times, 0.0)
    decayed[account] *= (left / np.maximum(n, 1.0))[:, None]
    recent[account] *= left / np.maximum(n, 1.0)
    total[account] = left


@dataclass(frozen=True)
class _Pairs:
    """The distinct (user, item) pairs of histories, users in order of rank."""

    user: Int  # [pairs] rank of the user
    item: npt.NDArray[np.int32]  # [pairs]
    offsets: Int  # [U + 1] pairs of a rank
    of_event: Int  # [events] pair of each behaviour; without meaning where its item is -1


def _pairs(histories: Histories, by_length: Int) -> _Pairs:
    rank = np.empty(histories.n_users, dtype=np.int64)
    rank[by_length] = np.arange(histories.n_users)
    known = histories.item >= 0
    base = int(histories.item.max(initial=0)) + 1
    key = rank[histories.step_user[histories.event_step]] * base + histories.item
    distinct, inverse = np.unique(key[known], return_inverse=True)
    of_event = np.full(len(key), -1, dtype=np.int64)
    of_event[known] = inverse
    user = distinct // base
    return _Pairs(user, (distinct % base).astype(np.int32), offsets_of(np.bincount(user, minlength=histories.n_users)), of_event)


def _in_step_order(
    parts: list[tuple[Int, Int, Float, Float, Float]],
    item: npt.NDArray[np.int32],
    selected: npt.NDArray[np.bool_],
    sizes: tuple[int, int],
) -> OwnCounts:
    by_type = np.empty((0, sizes[0]))
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, *sizes)), by_type, by_type)
    step, pair, decayed, recent, total = (np.concatenate(column) for column in zip(*(parts or [nothing]), strict=True))
    order = np.argsort(step, kind="stable")
    offsets = offsets_of(np.bincount(step, minlength=len(selected))[selected])
    return OwnCounts(offsets, item[pair[order]], decayed[order], recent[order], total[order])
