"""First-order transitions between the items of neighbouring steps: order where co-occurrence has none.

The Markov chain for sets of Rendle et al. 2010, "Factorizing personalized Markov chains for next-basket recommendation", before it is
factorised; scored from the last steps, one weighing `own.ONE_STEP` of the one after it.

Legend: N items, S steps.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.collaborative.interactions import baskets
from llmrec_pipeline.collaborative.neighbours import Neighbours, neighbours
from llmrec_pipeline.interest.data import Histories, Query

SHRINKAGE = 5.0  # added to the transitions seen from an item; damps items with few


@dataclass(frozen=True)
class Transitions:
    """Sums over pairs of neighbouring steps of one user; those of two blocks add up."""

    pairs: sparse.csr_array  # [N, N] pairs with item i in the earlier step and target item j in the later one
    starts: npt.NDArray[np.float64]  # [N] pairs with item i in the earlier step


def transitions(
    histories: Histories, query: Query, type_weights: npt.ArrayLike, target_types: npt.ArrayLike, n_items: int
) -> Transitions:
    """What follows what before the query: from every behaviour with a weight to the target items of the user's next step.

    Args:
        histories: a block of users.
        query: only steps before it count.
        type_weights: [types] weight of each behaviour type; 0: the type is not there.
        target_types: [types] bool.
        n_items: N.
    """
    step = histories.event_step
    past = (histories.item >= 0) & (histories.step_time < query.of_steps(histories))[step]
    seen = past & ((np.asarray(type_weights, dtype=np.float64) > 0) | np.asarray(target_types))[histories.event_type]
    wanted = past & np.asarray(target_types, dtype=bool)[histories.event_type]
    before, after = (baskets(histories, kept, n_items) for kept in (seen, wanted))  # [S, N]
    filled = np.flatnonzero(np.diff(before.indptr) > 0)
    user = histories.step_user[filled]
    together = user[1:] == user[:-1]
    earlier = before[filled[:-1][together]]
    pairs = (earlier.T @ after[filled[1:][together]]).tocsr()
    return Transitions(pairs, np.asarray(earlier.sum(axis=0), dtype=np.float64))


def fit_transitions(blocks: Iterable[Transitions], n_items: int, k: int) -> Neighbours:
    """The share of an item's transitions that lead to each target item, shrunk.

    Args:
        blocks: transitions of all users, in one order: the same order gives the same bits.
        n_items: N.
        k: items kept per item that they follow on.
    """
    pairs, starts = sparse.csr_array((n_items, n_items), dtype=np.float64), np.zeros(n_items)
    for block in blocks:
        pairs, starts = pairs + block.pairs, starts + block.starts
    shares = pairs.tocsr()
    shares.data = shares.data / np.repeat(starts + SHRINKAGE, np.diff(shares.indptr))
    kept = neighbours(shares.T.tocsr(), k)  # its `item` is what is followed on
    order = np.lexsort((kept.item, kept.neighbour))
    return Neighbours(kept.neighbour[order], kept.item[order], kept.weight[order])
