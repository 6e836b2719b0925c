"""UP-CF@r: the recency-aware, user-wise popularity of a user's neighbours (Faggioli, Polato and Aiolli 2020).

"Recency Aware Collaborative Filtering for Next Basket Recommendation", UMAP 2020, section 3. Legend: U users of a block, A all users,
N items, B steps with a target item.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.evaluation.baselines import target_baskets, weighted_baskets
from llmrec_pipeline.interest.data import Histories, Query

Single = npt.NDArray[np.float32]
BLOCK_CELLS = 8_000_000  # cells of similarity between users held at once (32 MB)


@dataclass(frozen=True)
class UpCf:
    """Parameters of UP-CF@r, under the paper's names."""

    recency: int = 25  # r: last steps that count
    locality: int = 5  # q: power of the similarity; a large one listens to the nearest alone
    asymmetry: float = 0.25  # alpha: power of the user's own number of items; 1 - alpha is the neighbour's


def user_wise_popularity(
    histories: Histories, query: Query, target_types: npt.ArrayLike, n_items: int, params: UpCf
) -> sparse.csr_array:
    """[U, N] share of the user's last r steps that hold the item: pi_r(u, i) = count / min(r, steps of u)."""
    baskets, user = target_baskets(histories, query, target_types, n_items)
    last = np.searchsorted(user, user, side="right")
    steps = last - np.searchsorted(user, user)
    since = last - 1 - np.arange(len(user))  # 0: the user's last
    weight = (since < params.recency) / np.minimum(steps, params.recency)
    return weighted_baskets(baskets, user, weight, histories.n_users)


def upcf_scores(
    block: sparse.csr_array,
    everyone: sparse.csr_array,
    popular_with: sparse.csr_array,
    popular: npt.NDArray[np.float64],
    params: UpCf,
) -> Single:
    """[U, N] sum over all users v of w(u, v)^q pi_r(v, i), with the asymmetric cosine w(u, v) = |I_u and I_v| / (|I_u|^alpha |I_v|^(1 - alpha)).

    The user is among its own neighbours, at w = 1, as in the paper. A user without history is scored by popularity.

    Args:
        block: [U, N] 1 at the items of the block's users.
        everyone: [A, N] the same for all users (one csr, 12 bytes a user and item).
        popular_with: [A, N] `user_wise_popularity` of all users.
        popular: [N] scores of a user without history.
        params: of UP-CF.
    """
    scores = np.empty(block.shape, dtype=np.float32)
    sizes, others = block.sum(axis=1), np.maximum(everyone.sum(axis=1), 1.0) ** (1.0 - params.asymmetry)
    others_items, shares = everyone.T.tocsc().astype(np.float32), popular_with.T.tocsr().astype(np.float32)
    height = max(1, BLOCK_CELLS // max(everyone.shape[0], 1))
    for start in range(0, block.shape[0], height):
        rows = slice(start, start + height)
        common = (block[rows].astype(np.float32) @ others_items).toarray()  # [height, A]
        norm = np.maximum(sizes[rows], 1.0)[:, None] ** params.asymmetry * others
        similarity = ((common / norm) ** params.locality).astype(np.float32)
        scores[rows] = (shares @ np.ascontiguousarray(similarity.T)).T
    scores[sizes == 0] = popular.astype(np.float32)
    return scores
