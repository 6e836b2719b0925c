"""All baselines as of one moment: what is only counted is counted as of the moment that is predicted for (DESIGN 4).

Legend: U users of a block, A all users, N items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.collaborative import (
    Transitions,
    ease,
    fit_transitions,
    history_weights,
    item_knn,
    neighbour_matrix,
    neighbours,
    recent_weights,
    similarity_scores,
    transform,
    transitions,
)
from llmrec_pipeline.collaborative.similarity import gram
from llmrec_pipeline.config import CollaborativeConfig
from llmrec_pipeline.evaluation.baselines import TifuKnn, own_scores, popularity, popularity_decayed, tifu_scores, tifu_vectors
from llmrec_pipeline.evaluation.upcf import UpCf, upcf_scores, user_wise_popularity
from llmrec_pipeline.interest.data import DailyCounts, Histories, Query

Float = npt.NDArray[np.floating[Any]]
RECENT_DAYS = 30
POPULARITY_HALF_LIFE = 30.0  # days


@dataclass(frozen=True)
class Recipe:
    """What does not depend on the moment."""

    n_items: int
    target_types: Sequence[bool]  # [types]
    type_weights: Sequence[float]  # [types]
    config: CollaborativeConfig


@dataclass(frozen=True)
class Counted:
    """What the baselines need of everybody as of a query.

    Neighbours among users are looked for among all of them: three sparse matrices grow with users (12 bytes a user and item each).
    """

    recipe: Recipe
    query: Query
    popular: npt.NDArray[np.float64]  # [N] target events ever
    recent: npt.NDArray[np.float64]  # [N] target events in the last RECENT_DAYS days
    decayed: npt.NDArray[np.float64]  # [N] target events decayed at POPULARITY_HALF_LIFE
    user_ids: npt.NDArray[np.str_]  # [A] ascending
    tifu: sparse.csr_array  # [A, N] personalised item frequencies
    items: sparse.csr_array  # [A, N] 1 at the items of each user
    shares: sparse.csr_array  # [A, N] user-wise popularity
    knn: sparse.csr_array  # [N, N]
    ease: sparse.csr_array | None  # [N, N]; None: more items than the dense solve may take
    transitions: sparse.csr_array  # [N, N]

    def scores(self, past: Histories) -> dict[str, Float]:
        """[U, N] scores of each baseline for users with these histories before the query."""
        recipe, query = self.recipe, self.query
        n_items, types, shape = recipe.n_items, recipe.target_types, (past.n_users, recipe.n_items)
        own = history_weights(past, query, types, n_items, recipe.config.own_half_life)
        plain = _items(past, query, types, n_items)
        any_type = plain if _same_types(recipe) else _items(past, query, recipe.type_weights, n_items)
        rows = np.searchsorted(self.user_ids, past.user_ids)
        vectors = tifu_vectors(past, query, types, n_items, TifuKnn())
        return {
            "popularity": np.broadcast_to(self.popular, shape),
            "popularity_30d": np.broadcast_to(self.recent, shape),
            "popularity_decayed": np.broadcast_to(self.decayed, shape),
            "own_decayed": own_scores(own, self.recent),
            "markov": similarity_scores(recent_weights(past, query, recipe.type_weights, n_items), self.transitions),
            "item_knn": similarity_scores(plain, self.knn),
            **({"ease": similarity_scores(any_type, self.ease)} if self.ease is not None else {}),
            "tifu_knn": tifu_scores(vectors, rows, self.tifu, self.recent, TifuKnn()),
            "up_cf": upcf_scores(plain, self.items, self.shares, self.recent, UpCf()),
        }


@dataclass(frozen=True)
class _Part:
    """What a block of users adds, as of one query."""

    user_ids: npt.NDArray[np.str_]
    tifu: sparse.csr_array
    items: sparse.csr_array
    any_type: sparse.csr_array
    shares: sparse.csr_array
    transitions: Transitions


def count(recipe: Recipe, daily: DailyCounts, queries: Sequence[Query], blocks: Iterable[Histories]) -> list[Counted]:
    """The baselines as of each query, from one pass over everybody's history.

    Args:
        recipe: what does not depend on the moment.
        daily: counts by date, item and type, up to the latest query at least.
        queries: moments to predict for.
        blocks: all users, in ascending order of user_id.
    """
    parts: list[list[_Part]] = [[] for _ in queries]
    for block in blocks:
        for of_query, query in zip(parts, queries, strict=True):
            of_query.append(_part(recipe, query, block.before(query.day)))
    return [_counted(recipe, daily, query, of_query) for query, of_query in zip(queries, parts, strict=True)]


def _part(recipe: Recipe, query: Query, past: Histories) -> _Part:
    types, n_items = recipe.target_types, recipe.n_items
    items = _items(past, query, types, n_items)
    return _Part(
        user_ids=past.user_ids,
        tifu=tifu_vectors(past, query, types, n_items, TifuKnn()),
        items=items,
        any_type=items if _same_types(recipe) else _items(past, query, recipe.type_weights, n_items),
        shares=user_wise_popularity(past, query, types, n_items, UpCf()),
        transitions=transitions(past, query, recipe.type_weights, types, n_items),
    )


def _counted(recipe: Recipe, daily: DailyCounts, query: Query, parts: list[_Part]) -> Counted:
    n_items, types, config = recipe.n_items, recipe.target_types, recipe.config
    items = sparse.vstack([part.items for part in parts]).tocsr()
    together = gram(items)
    knn = neighbours(item_knn(together, config.knn_shrinkage), config.neighbours)
    if not _same_types(recipe):
        together = gram(sparse.vstack([part.any_type for part in parts]).tocsr())
    dense = np.count_nonzero(together.diagonal()) <= config.max_dense_items
    similar = neighbour_matrix(neighbours(ease(together, config.ease_l2), config.neighbours), n_items) if dense else None
    following = fit_transitions((part.transitions for part in parts), n_items, config.neighbours)
    return Counted(
        recipe=recipe,
        query=query,
        popular=popularity(daily, query, types, n_items, None),
        recent=popularity(daily, query, types, n_items, RECENT_DAYS),
        decayed=popularity_decayed(daily, query, types, n_items, POPULARITY_HALF_LIFE),
        user_ids=np.concatenate([part.user_ids for part in parts]),
        tifu=sparse.vstack([part.tifu for part in parts]).tocsr(),
        items=items,
        shares=sparse.vstack([part.shares for part in parts]).tocsr(),
        knn=neighbour_matrix(knn, n_items),
        ease=similar,
        transitions=neighbour_matrix(following, n_items),
    )


def _items(past: Histories, query: Query, types: npt.ArrayLike, n_items: int) -> sparse.csr_array:
    """[U, N] 1 at each user's items of the types with a weight."""
    return transform(history_weights(past, query, types, n_items, None), "binary")


def _same_types(recipe: Recipe) -> bool:
    """True: the types that say something of an item are the targets."""
    return [weight > 0 for weight in recipe.type_weights] == list(recipe.target_types)
