"""Plain recommenders that a model must beat, as score functions on blocks of users as of a query.

Legend: U users of a block, A all users, N items, S steps, B steps with a target item, G groups of TIFU-KNN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.collaborative import baskets
from llmrec_pipeline.interest.data import DailyCounts, Histories, Query
from llmrec_pipeline.interest.popularity import decayed_counts

Float = npt.NDArray[np.floating[Any]]
Double = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


def popularity(daily: DailyCounts, query: Query, target_types: npt.ArrayLike, n_items: int, days: int | None) -> Double:
    """[N] target events of each item before the query's day, in the last `days` days (None: ever), anonymous ones included.

    Args:
        daily: counts by date, item and type.
        query: the moment that is predicted for.
        target_types: [types] bool.
        n_items: N.
        days: length of the period that counts.
    """
    wanted = np.asarray(target_types, dtype=bool)[daily.event_type] & (daily.day < query.day) & (daily.item >= 0)
    if days is not None:
        wanted &= daily.day >= query.day - days
    return np.bincount(daily.item[wanted], daily.count[wanted], n_items).astype(np.float64)


def popularity_decayed(daily: DailyCounts, query: Query, target_types: npt.ArrayLike, n_items: int, half_life: float) -> Double:
    """[N] the same with a count of age a days weighing 2^(-a / half_life)."""
    wanted = np.asarray(target_types, dtype=np.float64)
    counts: Double = decayed_counts(daily, query.day, [half_life], n_items, len(wanted))[:, :, 0] @ wanted
    return counts


def own_scores(own: sparse.csr_array, popular: Double) -> Double:
    """[U, N] own (decayed) counts; a user without any is scored by popularity. Ties are left to the metrics' expectation."""
    scores: Double = own.toarray().astype(np.float64)
    empty = np.diff(own.indptr) == 0
    scores[empty] = popular
    return scores


@dataclass(frozen=True)
class TifuKnn:
    """Parameters of TIFU-KNN (Hu et al. 2020, "Modeling personalized item frequency information for next-basket ...")."""

    step_decay: float = 0.9  # r_b, from one step to the next within a group
    group_decay: float = 0.7  # r_g, from one group to the next
    groups: int = 7  # m
    alpha: float = 0.7  # share of the user's own vector
    neighbours: int = 300  # k


def tifu_vectors(
    histories: Histories, query: Query, target_types: npt.ArrayLike, n_items: int, params: TifuKnn
) -> sparse.csr_array:
    """[U, N] personalised item frequencies: steps decay within groups, groups towards the past (Hu et al. 2020, section 4.1)."""
    found, user = target_baskets(histories, query, target_types, n_items)
    return weighted_baskets(found, user, _step_weights(user, params), histories.n_users)


def target_baskets(
    histories: Histories, query: Query, target_types: npt.ArrayLike, n_items: int
) -> tuple[sparse.csr_array, npt.NDArray[np.int64]]:
    """[B, N] 1 at the target items of each step that has one, and [B] its user; users ascending, steps in time order."""
    step = histories.event_step
    counted = (
        np.asarray(target_types, dtype=bool)[histories.event_type]
        & (histories.item >= 0)
        & (histories.step_time < query.of_steps(histories))[step]
    )
    found = baskets(histories, counted, n_items)
    filled = np.flatnonzero(np.diff(found.indptr) > 0)
    return found[filled], histories.step_user[filled]


def weighted_baskets(of_steps: sparse.csr_array, user: npt.NDArray[np.int64], weight: Double, n_users: int) -> sparse.csr_array:
    """[U, N] sum of each user's baskets, each times its weight [B]."""
    weights = sparse.coo_array((weight, (user, np.arange(len(user)))), shape=(n_users, len(user))).tocsr()
    vectors: sparse.csr_array = (weights @ of_steps).tocsr()
    vectors.sort_indices()
    return vectors


def _step_weights(user: npt.NDArray[np.int64], params: TifuKnn) -> Double:
    """Weight of each step, given its user (steps in time order); earlier groups are the smaller ones where sizes differ."""
    first = np.searchsorted(user, user)
    n = np.searchsorted(user, user, side="right") - first  # steps of the user
    place = np.arange(len(user)) - first  # 0: the oldest
    groups = np.minimum(n, params.groups)
    size, larger = n // groups, n % groups  # the last `larger` groups have one step more
    small = (groups - larger) * size  # steps in the smaller groups
    group = np.where(place < small, place // size, (groups - larger) + (place - small) // (size + 1))
    inner = np.where(place < small, place % size, (place - small) % (size + 1))
    length = np.where(place < small, size, size + 1)
    within = params.step_decay ** (length - 1 - inner).astype(np.float64) / length
    weight: Double = within * params.group_decay ** (groups - 1 - group).astype(np.float64) / groups
    return weight


def tifu_scores(
    block: sparse.csr_array, rows: npt.NDArray[np.int64], everyone: sparse.csr_array, popular: Double, params: TifuKnn
) -> npt.NDArray[np.float32]:
    """[U, N] alpha * own vector + (1 - alpha) * mean vector of the nearest users (Hu et al. 2020, 4.2); no history: popularity.

    Needs the vectors of all users on each worker (one csr, 12 bytes a user and item): a trade-off accepted for a baseline.

    Args:
        block: [U, N] vectors of the block's users.
        rows: [U] the block's rows in `everyone` (-1: not there); a user is no neighbour of itself.
        everyone: [A, N] vectors of all users.
        popular: [N] scores of a user without history.
        params: of TIFU-KNN.
    """
    nearest = _nearest_users(block, rows, everyone, params.neighbours)  # [U, k]
    user = np.repeat(np.arange(len(nearest)), nearest.shape[1])
    share = np.full(user.shape, 1.0 / max(nearest.shape[1], 1))
    mean = sparse.coo_array((share, (user, nearest.ravel())), shape=(len(nearest), everyone.shape[0])).tocsr()
    scores = (params.alpha * block + (1.0 - params.alpha) * (mean @ everyone)).toarray().astype(np.float32)
    scores[np.diff(block.indptr) == 0] = popular.astype(np.float32)
    return np.asarray(scores, dtype=np.float32)


def _nearest_users(
    block: sparse.csr_array, rows: npt.NDArray[np.int64], everyone: sparse.csr_array, k: int
) -> npt.NDArray[np.int64]:
    """[U, min(k, others)] rows of the nearest other users with history, by Euclidean distance, in no order."""
    present = np.flatnonzero(np.diff(everyone.indptr) > 0)
    norms = everyone.multiply(everyone).sum(axis=1)[present]
    distance = norms[None, :] - 2.0 * (block @ everyone[present].T).toarray()  # less the user's own norm, which moves no order
    place = np.minimum(np.searchsorted(present, rows), max(len(present) - 1, 0))
    itself = present[place] == rows if len(present) else np.zeros(len(rows), dtype=bool)
    distance[np.flatnonzero(itself), place[itself]] = np.inf
    k = max(min(k, len(present) - 1), 0)
    chosen = np.argpartition(distance, k - 1, axis=1)[:, :k] if k else np.empty((len(rows), 0), dtype=np.int64)
    return present[chosen]
