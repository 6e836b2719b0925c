"""Item neighbours and the similarity behind s_{u,i} (DESIGN 1.5): numpy and scipy on blocks of users."""

from llmrec_pipeline.collaborative.interactions import (
    baskets,
    history_weights,
    known_items,
    own_recent_weights,
    own_weights,
    recent_weights,
    transform,
)
from llmrec_pipeline.collaborative.neighbours import Neighbours, borrow, neighbour_matrix, neighbours, unit
from llmrec_pipeline.collaborative.scores import collaborative_inputs, compress, similarity_scores
from llmrec_pipeline.collaborative.similarity import ease, fit_neighbours, gram, item_knn, merge_grams, similarity
from llmrec_pipeline.collaborative.transitions import Transitions, fit_transitions, transitions

__all__ = [
    "Neighbours",
    "Transitions",
    "baskets",
    "borrow",
    "collaborative_inputs",
    "compress",
    "ease",
    "fit_neighbours",
    "fit_transitions",
    "gram",
    "history_weights",
    "item_knn",
    "known_items",
    "merge_grams",
    "neighbour_matrix",
    "neighbours",
    "own_recent_weights",
    "own_weights",
    "recent_weights",
    "similarity",
    "similarity_scores",
    "transform",
    "transitions",
    "unit",
]
