"""Decayed popularity of items, the counted part of b_i(t) (DESIGN 1.5).

Legend: N items, D query dates, C rows of daily counts, H half-lives. Ages are whole days: a count of date d weighs
2^(-(day - d) / half_life) as of `day`, and only dates before `day` count.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.interest.data import DailyCounts

Float = npt.NDArray[np.float64]
FIRST_DAY = np.iinfo(np.int32).min  # before every date


def decayed_counts(daily: DailyCounts, day: int, half_lives: Sequence[float], n_items: int, n_types: int) -> Float:
    """[N, types, H] decayed counts over all dates before `day`, anonymous behaviours included."""
    return _add_dates(
        np.zeros((n_items, n_types, len(half_lives))), daily, (FIRST_DAY, day), np.asarray(half_lives, dtype=np.float64)
    )


def log_popularity(
    daily: DailyCounts, days: npt.NDArray[np.int32], half_lives: Sequence[float], n_items: int, n_types: int
) -> npt.NDArray[np.float32]:
    """[D, N, types * H] log(1 + decayed count) as of each of `days` (ascending), each date carried on from the one before.

    Cost follows rows and days, not rows times days: S(q) = 2^(-(q - p) / h) S(p) + what happened on the dates [p, q).
    """
    lives = np.asarray(half_lives, dtype=np.float64)
    state = np.zeros((n_items, n_types, len(lives)))
    result = np.empty((len(days), n_items, n_types * len(lives)), dtype=np.float32)
    before = FIRST_DAY
    for row, day in enumerate(days.tolist()):
        if row:
            state = state * np.exp2(-(day - before) / lives)
        state = _add_dates(state, daily, (before, day), lives)
        result[row] = np.log1p(state).reshape(n_items, -1)
        before = day
    return result


def _add_dates(state: Float, daily: DailyCounts, dates: tuple[int, int], lives: Float) -> Float:
    """`state` [N, types, H] plus the counts of dates [start, stop), decayed to `stop`; rows, and so sums, are in a fixed order."""
    n_items, n_types, _ = state.shape
    rows = slice(*np.searchsorted(daily.day, dates))
    cell = daily.item[rows].astype(np.int64) * n_types + daily.event_type[rows]
    age = (dates[1] - daily.day[rows]).astype(np.float64)
    added = [
        np.bincount(cell, weights=daily.count[rows] * np.exp2(-age / life), minlength=n_items * n_types).reshape(n_items, n_types)
        for life in lives
    ]
    return state + np.stack(added, axis=2)


def head_items(counts: npt.NDArray[np.number]) -> npt.NDArray[np.bool_]:
    """[N] True: one of the most popular items that together make half of the target events; ties are cut by row, as any would be.

    Args:
        counts: [N] target events of each item.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    head = np.zeros(len(counts), dtype=bool)
    head[order[(before < counts.sum() / 2) & (counts[order] > 0)]] = True
    return head
