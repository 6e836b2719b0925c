"""What lists are like, whatever becomes of them: how new to the world, how varied, how evenly they show the catalogue.

Legend: U users of a block, N items, D dimensions of a text vector, L places of a list, K cut-offs.
"""

import numpy as np
import numpy.typing as npt

Double = npt.NDArray[np.float64]
LISTS = ("novelty", "diversity")


def self_information(counts: npt.NDArray[np.float64]) -> Double:
    """[N] -log2 of each item's share of the target events, one event added to each (Zhou et al. 2010; Vargas and Castells 2011).

    Args:
        counts: [N] target events of each item.
    """
    share = (counts + 1.0) / (counts + 1.0).sum()
    return np.asarray(-np.log2(share))


def list_metrics(items: npt.NDArray[np.int32], information: Double, text: npt.NDArray[np.float32], ks: tuple[int, ...]) -> Double:
    """[U, 2, K] novelty and diversity of the first k places of each list, in the order of LISTS.

    novelty: mean self-information of the items, in bits. diversity: 1 less the mean cosine of all pairs of items with a text
    (Ziegler et al. 2005, section 3.3); 0 where a list holds fewer than two.

    Args:
        items: [U, L] rows in the catalogue, best first; -1: the list ends before.
        information: [N] `self_information`.
        text: [N, D] unit vectors.
        ks: cut-offs, none above L.
    """
    last = np.array(ks) - 1
    there = items >= 0
    listed = np.maximum(np.cumsum(there, axis=1), 1)[:, last]
    novelty = np.cumsum(np.where(there, information[items], 0.0), axis=1)[:, last] / listed
    vectors = np.where(there[:, :, None], text[items], np.float32(0.0))  # [U, L, D]
    has_text = np.einsum("uld,uld->ul", vectors, vectors) > 0.5
    n = np.cumsum(has_text, axis=1)[:, last].astype(np.float64)
    total = np.stack([vectors[:, :k].sum(axis=1) for k in ks], axis=1).astype(np.float64)  # [U, K, D]
    pairs = n * (n - 1)
    cosine = (np.square(total).sum(axis=2) - n) / np.maximum(pairs, 1.0)
    return np.stack([novelty, np.where(pairs > 0, 1.0 - cosine, 0.0)], axis=1)


def gini(listed: npt.NDArray[np.int64]) -> float:
    """Inequality of exposure: 0 when all items stand in as many lists, near 1 when few take all; NaN without a listing.

    Args:
        listed: [items] lists that hold each item.
    """
    n, total = len(listed), float(listed.sum())
    if not n or not total:
        return float("nan")
    rank = np.arange(1, n + 1)
    return float(((2 * rank - n - 1) * np.sort(listed)).sum() / (n * total))
