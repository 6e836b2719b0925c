"""A block's ingredients of s_{u,i} (DESIGN 1.5): item-item similarity, transitions and own counts.

Legend: U users of a block, N items.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.collaborative.interactions import transform
from llmrec_pipeline.config import CollaborativeConfig

Float = npt.NDArray[np.floating[Any]]
Single = npt.NDArray[np.float32]


def similarity_scores(weights: sparse.csr_array, matrix: sparse.csr_array) -> Single:
    """[U, N] item-item similarity of each user: own weights [U, N] times `neighbour_matrix` [N, N]."""
    scores: Single = (weights @ matrix).toarray().astype(np.float32, copy=False)
    return scores


def compress(similarity: Float, floor: float) -> Single:
    """[U, N] log(1 + max(similarity, 0) / floor): heavy-tailed similarity on the scale of log odds, which a softmax needs."""
    return np.log1p(np.maximum(similarity, 0) / floor).astype(np.float32)


def collaborative_inputs(
    weights: sparse.csr_array, recent: sparse.csr_array, matrix: sparse.csr_array, config: CollaborativeConfig
) -> tuple[Single, Single]:
    """[U, N] similarity and [U, N] own counts, as `recommendation.collaborative_log_s` and `fit_joint` take them.

    Args:
        weights: [U, N] own weights of the same kind as `fit_neighbours` was given (decayed by `config.half_life`).
        recent: [U, N] own weights decayed by `config.own_half_life`.
        matrix: `neighbour_matrix` [N, N].
        config: how co-occurrence was fitted.
    """
    similarity = similarity_scores(transform(weights, config.interaction), matrix)
    own: Single = transform(recent, "log").toarray().astype(np.float32)
    return compress(similarity, config.similarity_floor), own
