"""Item neighbours and the similarity behind s_{u,i} (DESIGN 1.5): numpy and scipy on blocks of users."""

from llmrec_pipeline.collaborative.interactions import history_weights, known_items, own_weights, recent_weights, transform
from llmrec_pipeline.collaborative.neighbours import Neighbours, borrow, neighbour_matrix, neighbours, unit
from llmrec_pipeline.collaborative.scores import collaborative_inputs, compress, similarity_scores
from llmrec_pipeline.collaborative.similarity import ease, fit_neighbours, gram, item_knn, merge_grams, similarity

__all__ = [
    "Neighbours",
    "borrow",
    "collaborative_inputs",
    "compress",
    "ease",
    "fit_neighbours",
    "gram",
    "history_weights",
    "item_knn",
    "known_items",
    "merge_grams",
    "neighbour_matrix",
    "neighbours",
    "own_weights",
    "recent_weights",
    "similarity",
    "similarity_scores",
    "transform",
    "unit",
]
