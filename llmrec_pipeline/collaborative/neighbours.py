"""The sparse form in which item similarity is kept, served and evaluated alike.

Legend: N items, K neighbours kept per item, D dimensions of a text vector.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.errors import InputError

Float = npt.NDArray[np.float64]
BLOCK_CELLS = 4_000_000  # cells of a dense block of weights or cosines held at once (32 MB)


@dataclass(frozen=True)
class Neighbours:
    """Rows of `item_neighbours`: owning `neighbour` adds `weight` to the score of `item`; by item, then |weight| falling."""

    item: npt.NDArray[np.int32]  # [rows] row in the catalogue
    neighbour: npt.NDArray[np.int32]  # [rows] row in the catalogue
    weight: npt.NDArray[np.float32]  # [rows]


def neighbours(weights: Float | sparse.csr_array, k: int) -> Neighbours:
    """The k weights of largest size per scored item; among equals the lowest neighbour row stays.

    Args:
        weights: [N, N], weights[i, j]: what an owned item i says for item j. Zeros are not kept.
        k: neighbours per item.
    """
    by_item = weights.T if isinstance(weights, np.ndarray) else weights.T.tocsr()  # [scored item, owned item]
    n_items = by_item.shape[0]
    height = max(1, BLOCK_CELLS // max(n_items, 1))
    blocks = ((start, by_item[start : start + height]) for start in range(0, n_items, height))
    return _stack([_strongest(_reaching(block, k), start, k) for start, block in blocks])


def neighbour_matrix(found: Neighbours, n_items: int) -> sparse.csr_array:
    """[N, N] in scoring orientation: a row is the owned item, a column the scored one."""
    matrix = sparse.coo_array((found.weight, (found.neighbour, found.item)), shape=(n_items, n_items)).tocsr()
    matrix.sort_indices()
    return matrix


def borrow(found: Neighbours, text_vectors: npt.NDArray[np.float32], warm: npt.NDArray[np.bool_], m: int, k: int) -> Neighbours:
    """Gives each cold item the mean of the neighbours of its m nearest warm items in text (DESIGN 1.5).

    Args:
        found: neighbours of the warm items.
        text_vectors: [N, D]; a row of zeros is an item without text, which stays without neighbours.
        warm: [N] True: the item has training events.
        m: warm items to borrow from, by cosine; ties go to the lowest row.
        k: neighbours kept per item.

    Raises:
        InputError: vectors and mask are of different lengths.
    """
    if len(text_vectors) != len(warm):
        raise InputError(
            f"text vectors are given for {len(text_vectors)} items, the warm mask for {len(warm)}; both need the catalogue's rows"
        )
    text = unit(text_vectors)
    has_text = text.any(axis=1)
    cold, lenders = np.flatnonzero(~warm & has_text), np.flatnonzero(warm & has_text)
    if not len(cold) or not len(lenders):
        return found
    n_items, height = len(warm), max(1, BLOCK_CELLS // len(lenders))
    shares = [_nearest(text[cold[start : start + height]] @ text[lenders].T, m) for start in range(0, len(cold), height)]
    matrix = neighbour_matrix(found, n_items).T.tocsr()[lenders]  # [lender, owned item]
    lent = _strongest(sparse.vstack(shares).tocsr() @ matrix, 0, k)
    lent = Neighbours(cold[lent.item].astype(np.int32), lent.neighbour, lent.weight)
    keep = warm[found.item]
    return _stack([Neighbours(found.item[keep], found.neighbour[keep], found.weight[keep]), lent])


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[N, D] vectors at length 1; a vector of zeros (an item without text) stays."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)


def _nearest(cosine: npt.NDArray[np.float32], m: int) -> sparse.csr_array:
    """[cold, lenders] 1/m at the m largest cosines of each row."""
    m = min(m, cosine.shape[1])
    chosen = np.argsort(-cosine, axis=1, kind="stable")[:, :m]
    row = np.repeat(np.arange(len(chosen)), m)
    return sparse.coo_array((np.full(row.shape, 1.0 / m), (row, chosen.ravel())), shape=cosine.shape).tocsr()


def _reaching(rows: Float | sparse.csr_array, k: int) -> Float | sparse.csr_array:
    """A block's entries that are at least as large as their row's k-th largest: what is then sorted is little."""
    if not isinstance(rows, np.ndarray):
        return _reaching_sparse(rows, k)
    size = np.abs(rows).astype(np.float32)
    k_th = max(size.shape[1] - k, 0)
    row, column = np.nonzero(size >= np.partition(size, k_th, axis=1)[:, k_th, None])
    return sparse.coo_array((rows[row, column], (row, column)), shape=rows.shape)


def _reaching_sparse(rows: sparse.csr_array, k: int) -> sparse.csr_array:
    kept: sparse.csr_array = rows.copy()
    sizes: npt.NDArray[np.float32] = np.abs(rows.data).astype(np.float32)
    for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        if stop - start > k:
            own = sizes[start:stop]
            kept.data[start:stop][own < np.partition(own, len(own) - k)[len(own) - k]] = 0.0
    kept.eliminate_zeros()
    return kept


def _strongest(rows: Float | sparse.csr_array, start: int, k: int) -> Neighbours:
    """Top k by size within each row of a block whose first row is item `start`."""
    pairs = sparse.coo_array(rows)
    item, neighbour = pairs.coords
    weight = pairs.data.astype(np.float32)
    keep = weight != 0
    item, neighbour, weight = item[keep], neighbour[keep], weight[keep]
    order = np.lexsort((neighbour, -np.abs(weight), item))
    item, neighbour, weight = item[order], neighbour[order], weight[order]
    place = np.arange(len(item)) - np.searchsorted(item, item)
    best = place < k
    return Neighbours((item[best] + start).astype(np.int32), neighbour[best].astype(np.int32), weight[best])


def _stack(parts: list[Neighbours]) -> Neighbours:
    item = np.concatenate([part.item for part in parts])
    order = np.argsort(item, kind="stable")
    return Neighbours(
        item[order],
        np.concatenate([part.neighbour for part in parts])[order],
        np.concatenate([part.weight for part in parts])[order],
    )
