"""Baselines: literal histories in, literal scores out; TIFU-KNN beside a slow reference that follows the paper."""

import numpy as np
import pytest
from basket_cases import histories
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmrec_pipeline.evaluation.baselines import TifuKnn, own_scores, popularity, tifu_scores, tifu_vectors
from llmrec_pipeline.interest.data import DailyCounts, Query

DAILY = DailyCounts(
    day=np.array([0, 5, 9, 9, 10], dtype=np.int32),
    item=np.array([0, 1, 1, 2, 2], dtype=np.int32),
    event_type=np.array([0, 0, 0, 1, 0], dtype=np.int8),
    count=np.array([4.0, 2.0, 1.0, 8.0, 16.0]),
)


def test_popularity_counts_target_events_before_the_day_and_within_the_period() -> None:
    query = Query(10.0, 10)
    assert popularity(DAILY, query, [True, False], 4, None).tolist() == [4.0, 3.0, 0.0, 0.0]
    assert popularity(DAILY, query, [True, False], 4, 5).tolist() == [0.0, 3.0, 0.0, 0.0]
    assert popularity(DAILY, query, [True, True], 4, 1).tolist() == [0.0, 1.0, 8.0, 0.0]


def test_own_counts_fall_back_to_popularity_for_users_without_history() -> None:
    own = sparse.csr_array(np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert own_scores(own, np.array([5.0, 1.0, 0.0])).tolist() == [[0.0, 2.0, 0.0], [5.0, 1.0, 0.0]]


def slow_vector(baskets: list[list[int]], n_items: int, params: TifuKnn) -> np.ndarray:
    """Hu et al. 2020, section 4.1, with loops; the earlier groups are the smaller ones."""
    m = min(len(baskets), params.groups)
    sizes = [len(baskets) // m + (1 if group >= m - len(baskets) % m else 0) for group in range(m)]
    vector, start = np.zeros(n_items), 0
    for group, size in enumerate(sizes):
        inner = np.zeros(n_items)
        for place, basket in enumerate(baskets[start : start + size]):
            inner[sorted(set(basket))] += params.step_decay ** (size - 1 - place)
        vector += params.group_decay ** (m - 1 - group) * inner / size
        start += size
    return vector / m


baskets_of_users = st.lists(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=11), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(baskets_of_users, st.integers(1, 4))
def test_tifu_vectors_equal_the_paper_worked_with_loops(baskets: list[list[list[int]]], groups: int) -> None:
    params = TifuKnn(groups=groups)
    found = tifu_vectors(histories(baskets), Query(100.0, 100), [True], 5, params).toarray()
    for user, own in enumerate(baskets):
        expected = slow_vector(own, 5, params) if own else np.zeros(5)
        assert found[user] == pytest.approx(expected)


def test_tifu_vectors_know_nothing_of_later_steps() -> None:
    full, cut = histories([[[0], [1], [2, 2]]]), histories([[[0], [1]]])
    early = tifu_vectors(full, Query(2.0, 2), [True], 3, TifuKnn())
    assert np.array_equal(early.toarray(), tifu_vectors(cut, Query(2.0, 2), [True], 3, TifuKnn()).toarray())


def test_tifu_scores_mix_the_own_vector_with_the_mean_of_the_nearest_others() -> None:
    everyone = sparse.csr_array(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.9, 0.0, 0.3], [0.0, 1.0, 0.0], [0.8, 0.2, 0.0]]))
    popular = np.array([3.0, 2.0, 1.0])
    params = TifuKnn(alpha=0.5, neighbours=2)
    found = tifu_scores(everyone[[0, 1]], np.array([0, 1]), everyone, popular, params)
    # user 0's nearest others are users 2 and 4; user 1 has no history
    assert found == pytest.approx(np.array([[0.5 + 0.5 * 0.85, 0.5 * 0.1, 0.5 * 0.15], [3.0, 2.0, 1.0]]))


def test_tifu_scores_work_with_fewer_users_than_neighbours() -> None:
    everyone = sparse.csr_array(np.array([[1.0, 0.0], [0.0, 1.0]]))
    found = tifu_scores(everyone, np.array([0, 1]), everyone, np.zeros(2), TifuKnn(alpha=0.7, neighbours=300))
    assert found == pytest.approx(np.array([[0.7, 0.3], [0.3, 0.7]]))
    alone = tifu_scores(everyone[:1], np.array([0]), everyone[:1], np.zeros(2), TifuKnn(alpha=0.7))
    assert alone == pytest.approx(np.array([[0.7, 0.0]]))
