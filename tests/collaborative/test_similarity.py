"""EASE and item-kNN against hand-worked and slow references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmrec_pipeline.collaborative import ease, fit_neighbours, gram, item_knn, merge_grams, neighbour_matrix, similarity
from llmrec_pipeline.config import CollaborativeConfig

X = sparse.csr_array(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))


def test_gram_counts_co_occurrence() -> None:
    assert gram(X).toarray().tolist() == [[3.0, 2.0, 1.0], [2.0, 2.0, 1.0], [1.0, 1.0, 2.0]]


def test_ease_of_two_items_is_worked_out_by_hand() -> None:
    # G + l2 I = [[4, 2], [2, 3]], inverse = [[3, -2], [-2, 4]] / 8; B_01 = 2/8 / (4/8), B_10 = 2/8 / (3/8)
    weights = ease(sparse.csr_array(np.array([[3.0, 2.0], [2.0, 2.0]])), 1.0)
    assert weights == pytest.approx(np.array([[0.0, 0.5], [2.0 / 3.0, 0.0]]))


def test_ease_column_is_the_ridge_regression_of_its_item_on_the_others() -> None:
    rng = np.random.default_rng(3)
    dense = (rng.random((40, 6)) < 0.4).astype(np.float64)
    weights = ease(gram(sparse.csr_array(dense)), 5.0)
    for item in range(6):
        rest = [other for other in range(6) if other != item]
        design = dense[:, rest]
        expected = np.linalg.solve(design.T @ design + 5.0 * np.eye(5), design.T @ dense[:, item])
        assert weights[rest, item] == pytest.approx(expected)
        assert weights[item, item] == 0.0


def test_item_knn_is_the_shrunk_cosine_without_its_diagonal() -> None:
    weights = item_knn(gram(X), 1.0).toarray()
    assert weights[0, 1] == pytest.approx(2.0 / (np.sqrt(6.0) + 1.0))
    assert weights[1, 2] == pytest.approx(1.0 / 3.0)
    assert np.diag(weights).tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 19))
def test_blocks_of_users_add_up_to_all_users(seed: int, cut: int) -> None:
    dense = (np.random.default_rng(seed).random((20, 5)) < 0.3).astype(np.float64)
    whole = sparse.csr_array(dense)
    merged = merge_grams([gram(whole[:cut]), gram(whole[cut:])], 5)
    assert np.array_equal(merged.toarray(), dense.T @ dense)


def test_method_falls_back_to_item_knn_beyond_the_dense_limit() -> None:
    total = gram(X)
    small = CollaborativeConfig(max_dense_items=2, knn_shrinkage=1.0)
    fallen = similarity(total, small)
    assert not isinstance(fallen, np.ndarray)
    assert np.array_equal(fallen.toarray(), item_knn(total, 1.0).toarray())
    assert np.array_equal(similarity(total, CollaborativeConfig(ease_l2=2.0)), ease(total, 2.0))


def test_fitted_neighbours_hold_the_same_weights_as_the_full_matrix_when_none_is_cut() -> None:
    config = CollaborativeConfig(interaction="binary", ease_l2=2.0, neighbours=3)
    found = fit_neighbours([X[:2], X[2:]], 3, config)
    assert neighbour_matrix(found, 3).toarray() == pytest.approx(ease(gram(X), 2.0), abs=1e-6)


def test_an_item_that_nobody_has_gets_no_neighbours() -> None:
    lonely = sparse.csr_array(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    for config in (CollaborativeConfig(ease_l2=1.0), CollaborativeConfig(method="item_knn")):
        found = fit_neighbours([lonely], 3, config)
        assert set(found.item.tolist()) == {0, 1}
