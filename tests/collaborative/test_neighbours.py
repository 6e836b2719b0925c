"""The sparse neighbours that are served: literal weights in, literal rows out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmrec_pipeline.collaborative import Neighbours, borrow, neighbours
from llmrec_pipeline.errors import InputError

# column j holds what the owned items say for item j
WEIGHTS = np.array([[0.0, 0.5, 0.2], [-0.9, 0.0, 0.2], [0.1, 0.5, 0.0]])


def rows(found: Neighbours) -> list[tuple[int, int, float]]:
    return [(int(i), int(j), round(float(w), 6)) for i, j, w in zip(found.item, found.neighbour, found.weight, strict=True)]


def test_largest_weights_by_size_stay_and_ties_go_to_the_lowest_row() -> None:
    assert rows(neighbours(WEIGHTS, 1)) == [(0, 1, -0.9), (1, 0, 0.5), (2, 0, 0.2)]
    assert rows(neighbours(WEIGHTS, 2)) == [(0, 1, -0.9), (0, 2, 0.1), (1, 0, 0.5), (1, 2, 0.5), (2, 0, 0.2), (2, 1, 0.2)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_fast_path_equals_a_slow_sort_for_dense_and_sparse(seed: int, k: int) -> None:
    weights = np.random.default_rng(seed).integers(-2, 3, (6, 6)).astype(np.float64)
    np.fill_diagonal(weights, 0.0)
    expected = []
    for item in range(6):
        ranked = sorted((-abs(weights[j, item]), j) for j in range(6) if weights[j, item])
        expected += [(item, j, weights[j, item]) for _, j in ranked[:k]]
    assert rows(neighbours(weights, k)) == expected
    assert rows(neighbours(sparse.csr_array(weights), k)) == expected


def test_a_cold_item_borrows_the_mean_of_its_nearest_warm_neighbours_in_text() -> None:
    found = Neighbours(
        np.array([0, 0, 1, 2], dtype=np.int32),
        np.array([1, 2, 0, 0], dtype=np.int32),
        np.array([0.6, 0.2, 0.4, 0.9], dtype=np.float32),
    )
    text = np.array([[1.0, 0.1], [1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [0.0, 0.0]], dtype=np.float32)  # item 4 has no text
    warm = np.array([True, True, True, False, False])
    lent = borrow(found, text, warm, m=2, k=5)
    assert rows(lent) == [(0, 1, 0.6), (0, 2, 0.2), (1, 0, 0.4), (2, 0, 0.9), (3, 1, 0.3), (3, 0, 0.2), (3, 2, 0.1)]
    assert rows(borrow(found, text, warm, m=2, k=1))[-1] == (3, 1, 0.3)


def test_nothing_is_borrowed_where_all_items_are_warm() -> None:
    found = neighbours(WEIGHTS, 2)
    assert rows(borrow(found, np.ones((3, 2), dtype=np.float32), np.array([True, True, True]), m=2, k=2)) == rows(found)


def test_vectors_of_another_catalogue_are_refused() -> None:
    with pytest.raises(InputError, match="given for 2 items, the warm mask for 3"):
        borrow(neighbours(WEIGHTS, 2), np.ones((2, 2), dtype=np.float32), np.array([True, False, True]), m=1, k=1)
