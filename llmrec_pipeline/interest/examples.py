"""What the interest model is trained on: target-bearing steps, each predicted from the user's state just before it.

Legend: S steps, X examples (target-bearing steps), J distinct target items of examples, N items, E behaviour types, F counted
features (behaviour types x half-lives), D dates. The query of an example is its step's (step_time, step_day): popularity over
dates before that day, own counts over the user's earlier steps, candidates first seen before that day.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.cancelling import known_types
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories
from llmrec_pipeline.interest.own import offsets_of, own_before_steps, ranges
from llmrec_pipeline.interest.popularity import log_popularity

Int = npt.NDArray[np.int64]
OWN_ROWS_AT_ONCE = 200_000  # behaviours whose own counts are made together; bounds the float64 intermediate


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
    """All of training that is counted before the first update."""

    targets: Targets
    weight: npt.NDArray[np.float32]  # [S] of each example in the loss; 0: no example
    own: Rows  # own decayed counts before each example
    known: Rows  # items that are masked; empty where items repeat
    days: npt.NDArray[np.int32]  # [D] dates of examples, ascending
    day_row: Int  # [S] position of the step's date in `days`
    popularity: npt.NDArray[np.float32]  # [D, N, F]
    absent: npt.NDArray[np.bool_]  # [D, N] True: not yet a candidate


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
    targets = targets_of(histories, catalogue, is_target, repeats, config.horizon_days)
    bearing = np.diff(targets.offsets) > 0
    own, known = _own_rows(histories, bearing, config, is_target, repeats)
    days = np.unique(histories.step_day[bearing])
    return Examples(
        targets=targets,
        weight=_weights(histories, targets, config),
        own=own,
        known=known,
        days=days,
        day_row=np.searchsorted(days, histories.step_day),
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
    half_lives = config.repeat_half_lives if repeats else ()
    is_known = known_types(is_target, histories.cancels)
    own_parts, known_parts = [], []
    for start, stop in _user_blocks(histories):
        steps = slice(histories.step_offsets[start], histories.step_offsets[stop])
        counts = own_before_steps(histories.users(start, stop), bearing[steps], half_lives, len(is_target))
        lengths = np.zeros(steps.stop - steps.start, dtype=np.int64)
        lengths[bearing[steps]] = np.diff(counts.offsets)
        features = counts.decayed.reshape(len(counts.item), len(is_target) * len(half_lives)).astype(np.float32)
        known = counts.total[:, is_known].sum(axis=1) > 0 if not repeats else np.zeros(len(counts.item), dtype=bool)
        of_step = np.repeat(np.arange(len(lengths)), lengths)
        own_parts.append((lengths, counts.item, features))
        known_parts.append((np.bincount(of_step[known], minlength=len(lengths)), counts.item[known], features[known]))
    return _stacked(own_parts), _stacked(known_parts)


def _user_blocks(histories: Histories) -> list[tuple[int, int]]:
    """Users [start, stop) with about OWN_ROWS_AT_ONCE behaviours each."""
    before = histories.event_offsets[histories.step_offsets]  # [U + 1] behaviours before each user
    edges = np.searchsorted(before, np.arange(OWN_ROWS_AT_ONCE, before[-1], OWN_ROWS_AT_ONCE))
    cuts = np.unique(np.concatenate([[0], edges, [histories.n_users]])).tolist()
    return list(pairwise(cuts))


def _stacked(parts: list[tuple[Int, npt.NDArray[np.int32], npt.NDArray[np.float32]]]) -> Rows:
    lengths, item, features = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Rows(offsets_of(lengths), item, features)
