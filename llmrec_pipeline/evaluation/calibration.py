"""Reliability of y: does what is given a chance of 2% get 2% of what the user then does?

The pairs are those of the lists: each user with each of the first places. The outcome of a pair is the share of the user's target events in
the window that are the item. Pairs are held as sums in bins of log y, so that blocks add up; deciles are cut between bins.

Legend: U users of a block, N items, L places of a list, R bootstrap rows (`bootstrap.py`), V bins.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.recommendation.targets import Targets

Float = npt.NDArray[np.floating[Any]]
Double = npt.NDArray[np.float64]
LIST = 20  # places of a list that are judged
DECILES = 10
BINS = 500
WIDTH = 0.04  # of a bin, in nats: bins reach from e^-20 to 1


def reliability(
    log_y: Float, items: npt.NDArray[np.int32], targets: Targets, weights: Double
) -> tuple[Double, npt.NDArray[np.int64]]:
    """[R, 2, V] weighted sums of y and of outcomes by bin of log y, and [V] pairs.

    Args:
        log_y: [U, N] log probability over the user's candidates.
        items: [U, L] the lists; -1: the list ends before.
        targets: target events on candidates; an item bought twice counts twice.
        weights: [R, U] bootstrap weights; a user without a target counts for nothing.
    """
    shape = (len(items), log_y.shape[1])
    events = sparse.coo_array((np.ones(len(targets.item)), (targets.user, targets.item)), shape=shape).tocsr()
    events.sum_duplicates()
    user, place = np.nonzero((items >= 0) & (targets.per_user > 0)[:, None])
    if not len(user):
        return np.zeros((len(weights), 2, BINS)), np.zeros(BINS, dtype=np.int64)
    item = items[user, place]
    log_chance = log_y[user, item].astype(np.float64)
    outcome = np.asarray(events[user, item]).ravel() / targets.per_user[user]
    found = BINS - 1 - np.clip((-log_chance / WIDTH).astype(np.int64), 0, BINS - 1)  # ascending with y
    sums = [
        weights @ sparse.coo_array((values, (user, found)), shape=(len(items), BINS)).tocsr()
        for values in (np.exp(log_chance), outcome)
    ]
    return np.stack(sums, axis=1), np.bincount(found, minlength=BINS)


def ratios(sums: Double, pairs: npt.NDArray[np.int64]) -> Double:
    """[R, DECILES] mean outcome over mean y, decile 1 holding the lowest y; NaN where a decile holds nothing."""
    total = pairs.sum()
    decile = (DECILES * (np.cumsum(pairs) - pairs / 2) / max(total, 1)).astype(np.int64).clip(0, DECILES - 1)  # [V]
    by_decile = np.stack([sums[:, :, (decile == d) & (pairs > 0)].sum(axis=2) for d in range(DECILES)], axis=2)  # [R, 2, DECILES]
    chance, outcome = by_decile[:, 0], by_decile[:, 1]
    return np.where(chance > 0, outcome / np.where(chance > 0, chance, 1.0), np.nan)
