"""Exact top-k lists with ties broken by a seeded hash, never by item id or row order (DESIGN 4).

Legend: U users of a block, N items, k places of a list, F finalists (candidates that reach a user's k-th best score).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.recommendation.hashing import hash_ids, hash_pairs

Float = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TopK:
    """The k best candidates of each user, best first; a user with fewer candidates has -1 (score -inf) at the end."""

    item: npt.NDArray[np.int32]  # [U, k] row in the catalogue
    score: Float  # [U, k]


def top_k(scores: Float, mask: Bool, k: int, user_ids: npt.NDArray[np.str_], item_ids: npt.NDArray[np.str_], seed: int) -> TopK:
    """Exact top k of each user's candidates; ties by a hash of (seed, user_id, item_id), independent of rows and blocks.

    Args:
        scores: [U, N].
        mask: [U, N] True = candidate.
        k: places of a list.
        user_ids: [U].
        item_ids: [N].
        seed: of the tie-breaking hash.

    Raises:
        ModelError: a candidate's score is not finite.
    """
    require_finite(scores, mask)
    inside = np.where(mask, scores, -np.inf)
    k_th = max(inside.shape[1] - k, 0)
    threshold = np.partition(inside, k_th, axis=1)[:, k_th]
    user, item = np.nonzero((inside >= threshold[:, None]) & mask)  # [F] finalists, ties at the k-th place included
    value = inside[user, item]
    tie = hash_pairs(hash_ids(user_ids, seed)[user], hash_ids(item_ids, seed)[item])
    order = np.lexsort((tie, -value, user))
    user, item, value = user[order], item[order], value[order]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    best = place < k
    items = np.full((len(scores), k), -1, dtype=np.int32)
    listed = np.full((len(scores), k), -np.inf, dtype=inside.dtype)
    items[user[best], place[best]] = item[best]
    listed[user[best], place[best]] = value[best]
    return TopK(items, listed)


def require_finite(scores: Float, mask: Bool) -> None:
    """Raises ModelError when a candidate's score is NaN or infinite: such a score must never be ranked."""
    wrong = ~np.isfinite(scores) & mask
    if wrong.any():
        user, item = (int(index[0]) for index in np.nonzero(wrong))
        raise ModelError(
            f"the score of user row {user} for item row {item} is {scores[user, item]}, expected a finite number "
            f"({int(wrong.sum())} such scores); check the model's inputs for missing values"
        )
