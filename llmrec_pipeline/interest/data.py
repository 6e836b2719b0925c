"""Histories: the steps of many users as flat arrays, the one form in which torch code sees behaviour.

Legend: U users, S steps, E behaviours, J profile texts, K text dimensions; offsets are CSR-style (row r owns [offsets[r], offsets[r + 1])).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.interest.ragged import Column, Ragged, offsets_of, ranges, release, trim

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """Behaviours of U users in time order, grouped into steps (DESIGN 1.2).

    Users are in ascending order of user_id, steps in time order, behaviours of a step in item order.
    """

    user_ids: npt.NDArray[np.str_]  # [U]
    step_offsets: Int  # [U + 1] steps of a user
    step_day: npt.NDArray[np.int32]  # [S] event_date as days since 1970-01-01, in the domain's zone
    step_time: npt.NDArray[np.float64]  # [S] instant of the step's first event, days since the epoch, UTC
    step_session: npt.NDArray[np.bool_]  # [S] True: same session as the user's step before
    event_offsets: Int  # [S + 1] behaviours of a step
    item: npt.NDArray[np.int32]  # [E] row in the catalogue; -1: an item the catalogue lacks
    event_type: npt.NDArray[np.int8]  # [E] position of the type in the domain's event_types
    text: npt.NDArray[np.int32]  # [E] row in the text matrix; -1: no text
    quantity: npt.NDArray[np.float32]  # [E] NaN where the log has none
    cancels: tuple[int, ...] = ()  # [types] the type of which a behaviour takes one back, -1: none; empty: none does
    snapshot_step: Int = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # [J] ascending, that each profile text is of
    snapshots: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))  # [J, K] its vector

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_steps(self) -> int:
        return len(self.step_day)

    def before(self, day: int) -> "Histories":
        """The same users with the steps of dates before `day` only (users left without steps stay)."""
        keep = self.step_day < day
        return self._select_steps(keep)

    def earlier(self, query: "Query") -> "Histories":
        """The same users with the steps before the query's instant only."""
        return self._select_steps(self.step_time < query.of_steps(self))

    def without_last(self, steps: int) -> "Histories":
        """The same users without the last `steps` steps of each."""
        return self._select_steps(self.steps_left > steps)

    def _select_steps(self, keep: npt.NDArray[np.bool_]) -> "Histories":
        return self._of_steps(self.user_ids, offsets_of(keep)[self.step_offsets], np.flatnonzero(keep))

    def take(self, users: Int) -> "Histories":
        """The users of the given rows (ascending)."""
        lengths = self.step_offsets[users + 1] - self.step_offsets[users]
        return self._of_steps(self.user_ids[users], offsets_of(lengths), ranges(self.step_offsets[users], lengths))

    def _of_steps(self, user_ids: npt.NDArray[np.str_], step_offsets: Int, steps: Int) -> "Histories":
        lengths = self.event_offsets[steps + 1] - self.event_offsets[steps]
        events = ranges(self.event_offsets[steps], lengths)
        first, last = (np.searchsorted(self.snapshot_step, steps, side) for side in ("left", "right"))
        snapshots = ranges(first, last - first)
        return Histories(
            user_ids=user_ids,
            step_offsets=step_offsets,
            step_day=self.step_day[steps],
            step_time=self.step_time[steps],
            step_session=self.step_session[steps],
            event_offsets=offsets_of(lengths),
            item=self.item[events],
            event_type=self.event_type[events],
            text=self.text[events],
            quantity=self.quantity[events],
            cancels=self.cancels,
            snapshot_step=np.repeat(np.arange(len(steps)), last - first),
            snapshots=self.snapshots[snapshots],
        )

    def slices(self, users: int) -> Iterator["Histories"]:
        """So many users at a time, as views; of mapped histories no more than one slice takes memory."""
        for start in range(0, self.n_users, users):
            yield self.users(start, min(start + users, self.n_users))
            release(self)
            trim()

    def users(self, start: int, stop: int) -> "Histories":
        """Users [start, stop) as views of the same arrays."""
        s0, s1 = self.step_offsets[start], self.step_offsets[stop]
        e0, e1 = self.event_offsets[s0], self.event_offsets[s1]
        j0, j1 = np.searchsorted(self.snapshot_step, [s0, s1])
        return Histories(
            user_ids=self.user_ids[start:stop],
            step_offsets=self.step_offsets[start : stop + 1] - s0,
            step_day=self.step_day[s0:s1],
            step_time=self.step_time[s0:s1],
            step_session=self.step_session[s0:s1],
            event_offsets=self.event_offsets[s0 : s1 + 1] - e0,
            item=self.item[e0:e1],
            event_type=self.event_type[e0:e1],
            text=self.text[e0:e1],
            quantity=self.quantity[e0:e1],
            cancels=self.cancels,
            snapshot_step=self.snapshot_step[j0:j1] - s0,
            snapshots=self.snapshots[j0:j1],
        )

    @property
    def event_step(self) -> Int:
        """[E] the step that each behaviour belongs to."""
        return np.repeat(np.arange(self.n_steps), np.diff(self.event_offsets))

    @property
    def step_user(self) -> Int:
        """[S] the user that each step belongs to."""
        return np.repeat(np.arange(self.n_users), np.diff(self.step_offsets))

    @property
    def steps_left(self) -> Int:
        """[S] steps that the user has from this one on; 1: it is the last."""
        return self.step_offsets[1:][self.step_user] - np.arange(self.n_steps)


NOBODY = Histories(
    user_ids=np.empty(0, dtype=np.str_),
    step_offsets=np.zeros(1, dtype=np.int64),
    step_day=np.empty(0, dtype=np.int32),
    step_time=np.empty(0, dtype=np.float64),
    step_session=np.empty(0, dtype=np.bool_),
    event_offsets=np.zeros(1, dtype=np.int64),
    item=np.empty(0, dtype=np.int32),
    event_type=np.empty(0, dtype=np.int8),
    text=np.empty(0, dtype=np.int32),
    quantity=np.empty(0, dtype=np.float32),
)


def on_disk(blocks: Iterable[Histories]) -> Histories:
    """The users of all blocks, one block after another, their steps and behaviours mapped from files; user ids alone stay in memory."""
    steps, behaviours, renewals, snapshots = Ragged(3), Ragged(4), Column(), Column()
    user_ids: list[npt.NDArray[np.str_]] = []
    cancels: tuple[int, ...] = ()
    for block in chain([NOBODY], blocks):
        renewals.append(block.snapshot_step + steps.values)
        snapshots.append(block.snapshots)
        steps.append(np.diff(block.step_offsets), block.step_day, block.step_time, block.step_session)
        behaviours.append(np.diff(block.event_offsets), block.item, block.event_type, block.text, block.quantity)
        user_ids.append(block.user_ids)
        cancels = block.cancels
    step_offsets, day, time, session = steps.mapped()
    event_offsets, item, event_type, text, quantity = behaviours.mapped()
    return Histories(
        user_ids=np.concatenate(user_ids),
        step_offsets=step_offsets,
        step_day=day,
        step_time=time,
        step_session=session,
        event_offsets=event_offsets,
        item=item,
        event_type=event_type,
        text=text,
        quantity=quantity,
        cancels=cancels,
        snapshot_step=renewals.mapped(),
        snapshots=snapshots.mapped(),
    )


@dataclass(frozen=True)
class Catalogue:
    """Items that can be scored, in ascending order of item_id; a row number here is "the item" in all arrays."""

    item_ids: npt.NDArray[np.str_]  # [N]
    first_day: npt.NDArray[np.int32]  # [N] first_seen as days since 1970-01-01
    text: npt.NDArray[np.int32]  # [N] row of the item's target text in the text matrix; -1: no text

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def vectors(self, text_vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[N, K] text vector of each item from those of all texts [texts, K]; zeros where it has no text."""
        return vectors_at(self.text, text_vectors)


@dataclass(frozen=True)
class DailyCounts:
    """How often each item had each kind of behaviour on each date, anonymous behaviours included; sorted by (day, item, event_type)."""

    day: npt.NDArray[np.int32]  # [C] days since 1970-01-01
    item: npt.NDArray[np.int32]  # [C] row in the catalogue
    event_type: npt.NDArray[np.int8]  # [C]
    count: npt.NDArray[np.float64]  # [C]


@dataclass(frozen=True)
class Query:
    """The moment that a list is for: only what lies before it may be used."""

    time: float | npt.NDArray[np.float64]  # days since the epoch, UTC, of all users or of each [U]: ages are measured to here
    day: int  # date in the domain's zone; popularity counts dates before it

    def of_steps(self, histories: Histories) -> float | npt.NDArray[np.float64]:
        """The instant for the steps of its users: one, or [S]."""
        return self.time if isinstance(self.time, float) else self.time[histories.step_user]


@dataclass(frozen=True)
class OwnCounts:
    """Each user's own items as of one moment (CSR over users); the user's whole item history in bounded form.

    `decayed[j, e, h]` sums 2^(-age / half_life_h) over the user's behaviours of type e with that item, as far as they stand.
    """

    offsets: Int  # [U + 1]
    item: npt.NDArray[np.int32]  # [M] row in the catalogue
    decayed: npt.NDArray[np.float64]  # [M, event types, half-lives]
    recent: npt.NDArray[np.float64]  # [M, event types] decayed by the user's steps, see `own.py`
    total: npt.NDArray[np.float64]  # [M, event types] plain counts of what stands


def vectors_at(rows: npt.NDArray[np.integer], vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[n, K] of the vectors [texts, K] those in the rows [n]; zeros where the row is -1."""
    found = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
    found[rows >= 0] = vectors[rows[rows >= 0]]
    return found


def rows_of(ids: npt.NDArray[Any], known: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Position of each id in the ascending array `known`; -1 where it is not there."""
    if not len(known):
        return np.full(len(ids), -1, dtype=np.int32)
    found = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[found] == ids, found, -1).astype(np.int32)
