"""Item-item similarity from co-occurrence: EASE and item-kNN.

Legend: U users of a block, N items. `weights[i, j]` says how much an owned item i speaks for item j.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

from llmrec_pipeline.collaborative.interactions import transform
from llmrec_pipeline.collaborative.neighbours import Neighbours, neighbours
from llmrec_pipeline.config import CollaborativeConfig
from llmrec_pipeline.errors import InputError

Float = npt.NDArray[np.float64]
THREADED_ITEMS = 12_000  # OpenBLAS 0.3.30 ends the process in dpotrf of 16,000 items on two threads; on one it does not


def gram(weights: sparse.csr_array) -> sparse.csr_array:
    """[N, N] co-occurrence X^T X of a block of users, X being their item weights [U, N]."""
    product: sparse.csr_array = (weights.T @ weights).tocsr()
    product.sort_indices()
    return product


def merge_grams(partials: Iterable[sparse.csr_array], n_items: int) -> sparse.csr_array:
    """The sum of blocks' co-occurrences, in the order given: the same order gives the same bits."""
    total = sparse.csr_array((n_items, n_items), dtype=np.float64)
    for partial in partials:
        total = total + partial
    total.sort_indices()
    return total


def ease(gram: sparse.csr_array, l2: float) -> Float:
    """[N, N] EASE weights: B = I - P diag(P)^-1 with P = (G + l2 I)^-1, diagonal 0 (Steck 2019, equation 8).

    Raises:
        InputError: the co-occurrence is too ill-conditioned for `l2`.
    """
    warm = np.flatnonzero(gram.diagonal() > 0)  # an item that nobody has has no weights: leave it out of the solve
    dense = np.asfortranarray(gram[warm][:, warm].toarray(), dtype=np.float64)
    dense[np.diag_indices_from(dense)] += l2
    with threadpool_limits(1 if len(warm) > THREADED_ITEMS else None, user_api="blas"):
        factor, failed = linalg.lapack.dpotrf(dense, lower=1, overwrite_a=1)
        inverse, failed = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1) if not failed else (factor, failed)
    if failed:
        raise InputError(f"EASE could not invert the co-occurrence (LAPACK code {failed}); raise ease_l2 above {l2}")
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = np.zeros(gram.shape)
    weights[np.ix_(warm, warm)] = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def item_knn(gram: sparse.csr_array, shrinkage: float) -> sparse.csr_array:
    """[N, N] shrunk cosine G_ij / (sqrt(G_ii G_jj) + shrinkage), diagonal 0 (Sarwar et al. 2001; Bell and Koren 2007)."""
    norm = np.sqrt(gram.diagonal())
    pairs = gram.tocoo()
    row, column = pairs.coords
    apart = row != column
    row, column = row[apart], column[apart]
    cosine = pairs.data[apart] / (norm[row] * norm[column] + shrinkage)
    return sparse.coo_array((cosine, (row, column)), shape=gram.shape).tocsr()


def similarity(gram: sparse.csr_array, config: CollaborativeConfig) -> Float | sparse.csr_array:
    """[N, N] weights by the configured method: EASE while the items with events fit `max_dense_items`, item-kNN beyond."""
    if config.method == "ease" and np.count_nonzero(gram.diagonal()) <= config.max_dense_items:
        return ease(gram, config.ease_l2)
    return item_knn(gram, config.knn_shrinkage)


def fit_neighbours(blocks: Iterable[sparse.csr_array], n_items: int, config: CollaborativeConfig) -> Neighbours:
    """Item neighbours from blocks of users' own weights [U, N]: what is served, and what is evaluated."""
    total = merge_grams((gram(transform(block, config.interaction)) for block in blocks), n_items)
    return neighbours(similarity(total, config), config.neighbours)
