"""The two ingredients of s: literal own weights and neighbours in, literal scores out."""

import math

import numpy as np
import pytest
from scipy import sparse

from llmrec_pipeline.collaborative import collaborative_inputs, compress, neighbour_matrix, neighbours, similarity_scores
from llmrec_pipeline.config import CollaborativeConfig

# column j holds what the owned items say for item j
WEIGHTS = np.array([[0.0, 0.5, 0.2], [-0.9, 0.0, 0.2], [0.1, 0.5, 0.0]])
OWN = sparse.csr_array(np.array([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))


def test_scores_add_the_weights_of_what_a_user_owns() -> None:
    scores = similarity_scores(OWN, neighbour_matrix(neighbours(WEIGHTS, 3), 3))
    assert scores.dtype == np.float32
    assert scores == pytest.approx(np.array([[0.1, 1.5, 0.4], [0.0, 0.0, 0.0]]))


def test_compress_is_zero_for_what_speaks_against_an_item_and_keeps_the_order_of_the_rest() -> None:
    found = compress(np.array([[-1.0, 0.0, 0.1, 0.3]]), 0.1)
    assert found == pytest.approx(np.array([[0.0, 0.0, math.log(2), math.log(4)]]))


def test_inputs_take_the_configured_form_of_own_counts() -> None:
    recent = sparse.csr_array(np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    matrix = neighbour_matrix(neighbours(WEIGHTS, 3), 3)
    config = CollaborativeConfig(interaction="binary", similarity_floor=0.1)
    similarity, own = collaborative_inputs(OWN, recent, matrix, config)
    assert similarity == pytest.approx(np.array([[math.log(2), math.log(11), math.log(3)], [0.0, 0.0, 0.0]]), rel=1e-5)
    assert own == pytest.approx(np.array([[math.log(1.5), 0.0, 0.0], [0.0, 0.0, 0.0]]))
    plain, _ = collaborative_inputs(OWN, recent, matrix, config.model_copy(update={"interaction": "count"}))
    assert plain[0, 1] == pytest.approx(math.log(1 + 1.5 / 0.1))
