"""First-order transitions between the items of neighbouring steps, as a recommender (the Markov chain for sets of Rendle et al. 2010,
"Factorizing personalized Markov chains for next-basket recommendation", before it is factorised).

Legend: U users of a block, N items, S steps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.collaborative import neighbour_matrix, neighbours, recent_weights
from llmrec_pipeline.evaluation.baselines import baskets
from llmrec_pipeline.interest.data import Histories, Query

Single = npt.NDArray[np.float32]
STEP_DECAY = 0.7  # weight of a step against the one after it
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


def transition_matrix(found: Transitions, k: int) -> sparse.csr_array:
    """[N, N] share of an item's transitions that lead to each target item, shrunk; the k largest of each row.

    Args:
        found: transitions of all users.
        k: items kept per row; bounds the memory to 12 bytes * N * k.
    """
    pairs = found.pairs.astype(np.float64)
    pairs.data /= np.repeat(found.starts + SHRINKAGE, np.diff(pairs.indptr))
    return neighbour_matrix(neighbours(pairs.T.tocsr(), k), len(found.starts)).T.tocsr()


def markov_scores(
    histories: Histories, query: Query, type_weights: npt.ArrayLike, matrix: sparse.csr_array
) -> npt.NDArray[np.float32]:
    """[U, N] transitions from the items of the last steps, a step weighing STEP_DECAY of the one after it.

    At a decay of 0 it is the Markov chain for sets of Rendle et al. 2010 up to the size of the last step, which moves no order.
    """
    recent = recent_weights(histories, query, type_weights, matrix.shape[0], STEP_DECAY)
    scores: Single = (recent @ matrix).toarray().astype(np.float32)
    return scores
