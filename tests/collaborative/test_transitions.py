"""Transitions between neighbouring steps: literal histories in, counts, shares and scores worked out by hand."""

import numpy as np
import pytest
from basket_cases import histories
from scipy import sparse

from llmrec_pipeline.collaborative import (
    Transitions,
    fit_transitions,
    neighbour_matrix,
    recent_weights,
    similarity_scores,
    transitions,
)
from llmrec_pipeline.collaborative.transitions import SHRINKAGE
from llmrec_pipeline.interest.data import Query
from llmrec_pipeline.interest.own import ONE_STEP

LATER = Query(100.0, 100)
# user 0: {0, 1} -> {2}; user 1: {0} -> {1, 2} -> {0}; user 2: one step, no transition
THREE = histories([[[0, 1], [2]], [[0], [1, 2], [0]], [[2]]])


def transition_matrix(found: Transitions, k: int) -> sparse.csr_array:
    return neighbour_matrix(fit_transitions([found], len(found.starts), k), len(found.starts))


def test_transitions_are_pairs_of_neighbouring_steps_of_one_user() -> None:
    found = transitions(THREE, LATER, [1.0], [True], 4)
    expected = [[0, 1, 2, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert found.pairs.toarray().tolist() == expected
    assert found.starts.tolist() == [2.0, 2.0, 1.0, 0.0]


def test_an_item_twice_in_a_step_counts_once() -> None:
    found = transitions(histories([[[0, 0], [1, 1]]]), LATER, [1.0], [True], 2)
    assert found.pairs.toarray().tolist() == [[0, 1], [0, 0]]


def test_only_steps_before_the_query_count() -> None:
    found = transitions(THREE, Query(2.0, 2), [1.0], [True], 4)
    assert found.starts.tolist() == [2.0, 1.0, 0.0, 0.0]  # the step of day 2 is not there


def test_shares_are_shrunk_and_the_largest_of_each_row_stay() -> None:
    found = transitions(THREE, LATER, [1.0], [True], 4)
    whole = transition_matrix(found, 4).toarray()
    assert whole[0].tolist() == pytest.approx([0.0, 1 / 7, 2 / 7, 0.0])
    assert whole[3].tolist() == [0.0] * 4
    cut = transition_matrix(found, 1).toarray()
    assert cut[0].tolist() == pytest.approx([0.0, 0.0, 2 / 7, 0.0])
    assert cut[1].tolist() == pytest.approx([1 / 7, 0.0, 0.0, 0.0])  # of equals the lowest column


def test_what_stays_equals_a_sort_of_each_row() -> None:
    dense = np.random.default_rng(4).integers(0, 6, (30, 30)).astype(np.float64)
    as_they_are = np.full(30, 1 - SHRINKAGE)  # starts by which nothing is divided
    found = transition_matrix(Transitions(sparse.csr_array(dense), as_they_are), 3).toarray()
    for row, kept in zip(dense, found, strict=True):
        best = sorted(range(30), key=lambda column: (-row[column], column))[:3]
        assert kept.tolist() == [row[column] if column in best else 0.0 for column in range(30)]


def test_scores_come_from_the_last_steps_a_nearer_one_weighing_more() -> None:
    matrix = sparse.csr_array(np.array([[0.0, 0.5, 0.0], [0.0, 0.0, 0.25], [0.0, 0.0, 0.0]]))
    past = histories([[[0], [1]], [[2]], []])
    scores = similarity_scores(recent_weights(past, LATER, [1.0], 3), matrix)
    assert scores == pytest.approx(np.array([[0.0, 0.5 * ONE_STEP, 0.25], [0.0] * 3, [0.0] * 3]))
