"""What users did with items, as sparse matrices: the input of co-occurrence, of own counts in s and of the baselines.

Legend: U users of a block, N items of the catalogue, M rows of own counts, S steps, E behaviours.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.errors import InputError
from llmrec_pipeline.interest.cancelling import standing
from llmrec_pipeline.interest.data import Histories, OwnCounts, Query
from llmrec_pipeline.interest.own import step_decay

Float = npt.NDArray[np.float64]
Interaction = Literal["binary", "log", "count"]


def own_weights(own: OwnCounts, type_weights: npt.ArrayLike, n_items: int, half_life: int | None) -> sparse.csr_array:
    """[U, N] weighted counts of each user's own items.

    Args:
        own: counts as of the moment that is predicted for.
        type_weights: [types] weight of each behaviour type; 0: the type does not count.
        n_items: N; rows of items that the catalogue lacks (-1) are left out.
        half_life: position on the last axis of `own.decayed`; None: plain counts.

    Raises:
        InputError: `type_weights` or `half_life` does not fit the counts.
    """
    weights = np.asarray(type_weights, dtype=np.float64)
    if weights.shape != own.total.shape[1:]:
        raise InputError(
            f"type_weights has shape {weights.shape}, own counts have {own.total.shape[1:]}; give one weight per event type"
        )
    if half_life is not None and not 0 <= half_life < own.decayed.shape[2]:
        raise InputError(
            f"half-life position {half_life} is not in the range of own counts [0, {own.decayed.shape[2]}); see own_half_life"
        )
    counts = own.total if half_life is None else own.decayed[:, :, half_life]
    user = np.repeat(np.arange(len(own.offsets) - 1), np.diff(own.offsets))
    return _matrix(counts @ weights, user, own.item, (len(own.offsets) - 1, n_items))


def own_recent_weights(own: OwnCounts, type_weights: npt.ArrayLike, n_items: int) -> sparse.csr_array:
    """[U, N] the same, decayed by the user's own steps: what the last ones were about."""
    user = np.repeat(np.arange(len(own.offsets) - 1), np.diff(own.offsets))
    return _matrix(own.recent @ np.asarray(type_weights, dtype=np.float64), user, own.item, (len(own.offsets) - 1, n_items))


def history_weights(
    histories: Histories, query: Query, type_weights: npt.ArrayLike, n_items: int, half_life: float | None
) -> sparse.csr_array:
    """[U, N] the same counts straight from histories, for any half-life in days (None: no decay)."""
    age = (query.of_steps(histories) - histories.step_time)[histories.event_step]  # [E]
    decay = np.ones_like(age) if half_life is None else np.exp2(-np.maximum(age, 0) / half_life)
    return _event_matrix(histories, np.where(age > 0, decay, 0.0), type_weights, n_items)


def recent_weights(histories: Histories, query: Query, type_weights: npt.ArrayLike, n_items: int) -> sparse.csr_array:
    """[U, N] `own_recent_weights` straight from histories."""
    earlier = histories.step_time < query.of_steps(histories)  # [S]
    seen = np.concatenate([[0], np.cumsum(earlier)])
    since = seen[histories.step_offsets[1:]][histories.step_user] - seen[1:]  # [S] 0: the user's last step
    weight = np.where(earlier, step_decay(since), 0.0)
    return _event_matrix(histories, weight[histories.event_step], type_weights, n_items)


def baskets(histories: Histories, kept: npt.NDArray[np.bool_], n_items: int) -> sparse.csr_array:
    """[S, N] 1 at the items of each step's kept behaviours."""
    cells = (histories.event_step[kept], histories.item[kept])
    found = sparse.coo_array((np.ones(int(kept.sum()), dtype=np.float32), cells), shape=(histories.n_steps, n_items)).tocsr()
    found.sum_duplicates()
    found.data[:] = 1.0
    return found


def known_items(own: OwnCounts, known_types: npt.ArrayLike, n_items: int) -> sparse.csr_array:
    """[U, N] bool, True: the user knows the item (DESIGN 1.2). `known_types` is [types] bool, see `cancelling.known_types`."""
    return own_weights(own, np.asarray(known_types, dtype=np.float64), n_items, None) > 0


def transform(weights: sparse.csr_array, interaction: Interaction) -> sparse.csr_array:
    """The form in which an own count enters co-occurrence: 1, log(1 + count), or the count."""
    changed: sparse.csr_array = weights.copy()
    if interaction == "binary":
        changed.data = np.ones_like(changed.data)
    elif interaction == "log":
        changed.data = np.log1p(changed.data)
    return changed


def _event_matrix(histories: Histories, weight: Float, type_weights: npt.ArrayLike, n_items: int) -> sparse.csr_array:
    step = histories.event_step  # [E]
    user = histories.step_user[step]
    by_type = np.asarray(type_weights, dtype=np.float64)[histories.event_type]
    past = np.flatnonzero((weight > 0) & (histories.item >= 0))
    pair = user[past] * n_items + histories.item[past]
    nothing = (np.empty(0, dtype=np.int64), np.empty((0, len(histories.cancels))))
    shares = np.zeros(len(weight))
    shares[past], _ = standing(pair, histories.event_type[past], step[past], histories.cancels, *nothing)
    return _matrix(weight * shares * by_type, user, histories.item, (histories.n_users, n_items))


def _matrix(values: Float, user: npt.NDArray[np.int64], item: npt.NDArray[np.int32], shape: tuple[int, int]) -> sparse.csr_array:
    keep = (item >= 0) & (values > 0)
    matrix = sparse.coo_array((values[keep], (user[keep], item[keep])), shape=shape).tocsr()
    matrix.sum_duplicates()
    return matrix
