"""What the interest model is trained on: target-bearing steps, each predicted from the user's state just before it.

Legend: S steps, X examples (target-bearing steps), J distinct target items of examples, N items, E behaviour types, F counted
features (behaviour types x half-lives), D dates. The query of an example is its step's (step_time, step_day): popularity over
dates before that day, own counts over the user's earlier steps, candidates first seen before that day.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.cancelling import known_types
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories
from llmrec_pipeline.interest.own import own_before_steps
from llmrec_pipeline.interest.popularity import log_popularity
from llmrec_pipeline.interest.ragged import Column, Ragged, offsets_of, ranges, release, trim

Int = npt.NDArray[np.int64]
BEHAVIOURS_AT_ONCE = 50_000  # of the users who are counted together; bounds what that takes beside its result


@dataclass(frozen=True)
class Targets:
    """Distinct target items of each step, and why others were left out."""

    offsets: Int  # [S + 1]
    item: npt.NDArray[np.int32]  # [J]
    dropped: dict[str, int]  # reason -> distinct (step, item) targets that are no targets


@dataclass(frozen=True)
class Rows:
    """CSR rows by step: items with features. Steps that are not target-bearing have none."""

    offsets: Int  # [S + 1]
    item: npt.NDArray[np.int32]
    features: npt.NDArray[np.float32]  # [.., F]

    def of_steps(self, steps: Int) -> tuple[Int, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Position in `steps`, item and features of all rows of the given steps."""
        lengths = self.offsets[steps + 1] - self.offsets[steps]
        rows = ranges(self.offsets[steps], lengths)
        return np.repeat(np.arange(len(steps)), lengths), self.item[rows], self.features[rows]


@dataclass(frozen=True)
class Examples:
    """All of training that is counted before the first update; what has a row for each step is mapped from files."""

    count: int  # X
    following: int  # of them, those that are not the first step of their user
    targets: Targets
    weight: npt.NDArray[np.float32]  # [S] of each example in the loss; 0: no example
    own: Rows  # own decayed counts before each example; empty where items do not repeat
    known: Rows  # items that are masked; empty where items repeat
    of_item: Int  # [N] targets of each item
    days: npt.NDArray[np.int32]  # [D] dates of examples, ascending
    popularity: npt.NDArray[np.float32]  # [D, N, F]
    absent: npt.NDArray[np.bool_]  # [D, N] True: not yet a candidate

    def day_rows(self, step_day: npt.NDArray[np.int32]) -> Int:
        """Position of the dates of examples in `days`."""
        return np.searchsorted(self.days, step_day)


def targets_of(
    histories: Histories, catalogue: Catalogue, is_target: npt.NDArray[np.bool_], repeats: bool, horizon_days: float = 0.0
) -> Targets:
    """Targets of each step: distinct catalogue items of target events, less those that are no candidates as of the step.

    Dropped, and counted: items that the catalogue lacks (`unknown`), items first seen on the step's date or later (`new`) and,
    where items do not repeat, items that the user knows by then (`masked`).

    Args:
        histories: all users.
        catalogue: N items.
        is_target: [types].
        repeats: False: known items are no targets.
        horizon_days: a step with a target event has those of the user's later steps too that come less than so many days after it.
    """
    event = np.flatnonzero(is_target[histories.event_type])
    step, item = histories.event_step[event], histories.item[event].astype(np.int64)
    pairs = np.unique(np.stack([step, item], axis=1), axis=0)
    if horizon_days and len(pairs):
        pairs = _seen_from_earlier(pairs, histories, horizon_days)
    unknown = pairs[:, 1] < 0
    pairs = pairs[~unknown]
    step, item = pairs[:, 0], pairs[:, 1]
    new = catalogue.first_day[item] >= histories.step_day[step]
    masked = np.zeros(len(step), dtype=bool)
    if not repeats:
        knowing = np.flatnonzero(known_types(is_target, histories.cancels)[histories.event_type] & (histories.item >= 0))
        of = histories.event_step[knowing]
        known, first = np.unique(histories.step_user[of] * catalogue.n_items + histories.item[knowing], return_index=True)
        masked = of[first][np.searchsorted(known, histories.step_user[step] * catalogue.n_items + item)] < step
    keep = ~new & ~masked
    dropped = {"unknown": int(unknown.sum()), "new": int((new & ~masked).sum()), "masked": int(masked.sum())}
    return Targets(offsets_of(np.bincount(step[keep], minlength=histories.n_steps)), item[keep].astype(np.int32), dropped)


def _seen_from_earlier(pairs: Int, histories: Histories, days: float) -> Int:
    """Distinct (step, item) of `pairs` [J, 2], each also from those of the user's earlier steps there that lie less than `days` before it."""
    bearing, last = np.unique(pairs[:, 0], return_inverse=True)
    time = histories.step_time[bearing]
    apart = time.max() - time.min() + days + 1  # between users, so that one search serves all of them
    place = histories.step_user[bearing] * apart + (time - time.min())
    first = np.searchsorted(place, place - days, side="right")  # the earliest step from which each is seen
    lengths = last - first[last] + 1
    seen = np.stack([bearing[ranges(first[last], lengths)], np.repeat(pairs[:, 1], lengths)], axis=1)
    return np.unique(seen, axis=0)


def examples_of(
    histories: Histories,
    catalogue: Catalogue,
    daily: DailyCounts,
    config: InterestConfig,
    is_target: npt.NDArray[np.bool_],
    repeats: bool,
) -> Examples:
    """Counts everything that the examples of `histories` need; all of it lies before each example's own step."""
    target_rows, own_rows, known_rows, weight = Ragged(1), Ragged(2), Ragged(2), Column()
    of_item = np.zeros(catalogue.n_items, dtype=np.int64)
    dropped, dates, count, following = Counter[str](), set[int](), 0, 0
    for block in _user_blocks(histories):
        targets = targets_of(block, catalogue, is_target, repeats, config.horizon_days)
        lengths = np.diff(targets.offsets)
        bearing = np.flatnonzero(lengths)
        target_rows.append(lengths, targets.item)
        weight.append(_weights(block, targets, config))
        for rows, found in zip((own_rows, known_rows), _own_rows(block, lengths > 0, config, is_target, repeats), strict=True):
            rows.append(np.diff(found.offsets), found.item, found.features)
        of_item += np.bincount(targets.item, minlength=catalogue.n_items)
        dropped.update(targets.dropped)
        dates.update(block.step_day[bearing].tolist())
        count += len(bearing)
        following += int((~np.isin(bearing, block.step_offsets)).sum())
    days = np.array(sorted(dates), dtype=np.int32)
    offsets, item = target_rows.mapped()
    return Examples(
        count=count,
        following=following,
        targets=Targets(offsets, item, dict(dropped)),
        weight=weight.mapped(),
        own=Rows(*own_rows.mapped()),
        known=Rows(*known_rows.mapped()),
        of_item=of_item,
        days=days,
        popularity=log_popularity(daily, days, config.popularity_half_lives, catalogue.n_items, len(is_target)),
        absent=catalogue.first_day[None, :] >= days[:, None],
    )


def _weights(histories: Histories, targets: Targets, config: InterestConfig) -> npt.NDArray[np.float32]:
    """[S] n^target_exponent / m^user_exponent, n an example's number of targets, m its user's number of examples."""
    lengths = np.diff(targets.offsets)
    bearing = lengths > 0
    per_user = np.bincount(histories.step_user[bearing], minlength=histories.n_users)[histories.step_user]
    weight = lengths**config.target_exponent / np.maximum(per_user, 1.0) ** config.user_exponent
    return np.where(bearing, weight, 0.0).astype(np.float32)


def _own_rows(
    histories: Histories, bearing: npt.NDArray[np.bool_], config: InterestConfig, is_target: npt.NDArray[np.bool_], repeats: bool
) -> tuple[Rows, Rows]:
    """Own counts before each step that is `bearing` [S], or where items do not repeat known items; there is no use for the other."""
    half_lives = config.repeat_half_lives if repeats else ()
    counts = own_before_steps(histories, bearing, half_lives, len(is_target))
    features = counts.decayed.reshape(len(counts.item), len(is_target) * len(half_lives)).astype(np.float32)
    of_step = np.repeat(np.flatnonzero(bearing), np.diff(counts.offsets))

    def only(wanted: npt.NDArray[np.bool_]) -> Rows:
        return Rows(offsets_of(np.bincount(of_step[wanted], minlength=len(bearing))), counts.item[wanted], features[wanted])

    known = counts.total[:, known_types(is_target, histories.cancels)].sum(axis=1) > 0
    return only(np.full(len(known), repeats)), only(known & (not repeats))


def _user_blocks(histories: Histories) -> Iterator[Histories]:
    """Users with about BEHAVIOURS_AT_ONCE behaviours, as views."""
    before = histories.event_offsets[histories.step_offsets]  # [U + 1] behaviours before each user
    edges = np.searchsorted(before, np.arange(BEHAVIOURS_AT_ONCE, before[-1], BEHAVIOURS_AT_ONCE))
    cuts = np.unique(np.concatenate([[0], edges, [histories.n_users]])).tolist()
    for start, stop in pairwise(cuts):
        yield histories.users(start, stop)
        release(histories)
        trim()
