"""Exact top-k and its tie-breaking hash."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.recommendation import top_k
from llmrec_pipeline.recommendation.hashing import counter_bits, hash_ids, hash_pairs

HASHES = [8839371747507686334, 9260656408219841379, 13630668014928753130]  # of the ids in the test below, seed 17
USERS = np.array(["ann", "bob", "cy"])
ITEMS = np.array([f"item-{number}" for number in range(7)])


def test_best_candidates_come_first_and_short_lists_are_filled_with_minus_one() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    mask = np.array([[True, False, True, True], [False, False, True, False]])
    found = top_k(scores, mask, 2, USERS[:2], ITEMS[:4], seed=1)
    assert found.item.tolist() == [[3, 2], [2, -1]]
    assert found.score.tolist() == [[0.7, 0.5], [2.0, -np.inf]]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_fast_path_equals_a_slow_sort_whatever_the_row_order(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores, mask = rng.integers(0, 3, (3, 7)).astype(np.float32), rng.random((3, 7)) < 0.7
    found = top_k(scores, mask, k, USERS, ITEMS, seed=5)
    for u in range(3):
        tie = hash_pairs(np.repeat(hash_ids(USERS[u : u + 1], 5), 7), hash_ids(ITEMS, 5))
        ranked = sorted((i for i in range(7) if mask[u, i]), key=lambda i: (-scores[u, i], int(tie[i])))[:k]
        assert found.item[u].tolist() == ranked + [-1] * (k - len(ranked))
    rows, columns = rng.permutation(3), rng.permutation(7)
    shuffled = top_k(scores[rows][:, columns], mask[rows][:, columns], k, USERS[rows], ITEMS[columns], seed=5)
    original = np.where(shuffled.item >= 0, columns[shuffled.item], -1)
    assert np.array_equal(original, found.item[rows])


def test_ties_are_spread_over_items_and_differ_by_user_and_seed() -> None:
    users = np.array([f"u{number}" for number in range(2000)])
    scores, mask = np.zeros((2000, 7)), np.ones((2000, 7), dtype=bool)
    first = top_k(scores, mask, 1, users, ITEMS, seed=1).item[:, 0]
    counts = np.bincount(first, minlength=7)
    assert counts.min() > 2000 / 7 * 0.8
    assert np.any(first != top_k(scores, mask, 1, users, ITEMS, seed=2).item[:, 0])


def test_hashes_are_the_same_on_every_machine() -> None:
    assert hash_ids(np.array(["85123A", "", "商品"]), 17).tolist() == HASHES
    assert hash_ids(np.array(["85123A", "a much longer id"]), 17)[0] == HASHES[0]


def test_hash_keeps_apart_order_case_length_and_sides() -> None:
    ids = np.array(["ab", "ba", "aB", "abb", "b", "1", "01", "10"])
    assert len(set(hash_ids(ids, 0).tolist())) == len(ids)
    assert hash_pairs(hash_ids(ids[:1], 0), hash_ids(ids[1:2], 0)) != hash_pairs(hash_ids(ids[1:2], 0), hash_ids(ids[:1], 0))
    assert len(np.unique(counter_bits(hash_ids(ids, 0), 1000))) == 8000


def test_a_candidate_without_a_finite_score_is_refused() -> None:
    scores = np.array([[1.0, np.nan, 3.0]])
    with pytest.raises(ModelError, match="user row 0 for item row 1 is nan"):
        top_k(scores, np.ones((1, 3), dtype=bool), 2, USERS[:1], ITEMS[:3], seed=1)
    assert top_k(scores, np.array([[True, False, True]]), 2, USERS[:1], ITEMS[:3], seed=1).item.tolist() == [[2, 0]]
