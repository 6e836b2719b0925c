import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec_pipeline.encoding.batching import SPREAD, pad, padding_share, plan

LENGTHS = st.lists(st.integers(1, 64), max_size=200).map(lambda values: np.array(values, dtype=np.int64))


def test_batches_hold_neighbouring_lengths_longest_first() -> None:
    batches = plan(np.array([3, 8, 3, 8, 7, 2]), budget=24)
    assert [batch.tolist() for batch in batches] == [[1, 3, 4], [0, 2], [5]]


def test_the_budget_splits_texts_of_one_length_in_their_order() -> None:
    assert [batch.tolist() for batch in plan(np.array([5, 5, 5, 5, 5]), budget=10)] == [[0, 1], [2, 3], [4]]


def test_no_texts_give_no_batches() -> None:
    assert plan(np.array([], dtype=np.int64), budget=64) == []
    assert padding_share(np.array([], dtype=np.int64), []) == 0.0


@given(LENGTHS, st.integers(64, 512))
def test_each_text_is_in_one_batch_within_budget_and_spread(lengths: np.ndarray, budget: int) -> None:
    batches = plan(lengths, budget)
    assert sorted(np.concatenate([*batches, np.array([], dtype=np.int64)]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = lengths[batch].max()
        assert len(batch) * longest <= budget
        assert lengths[batch].min() >= SPREAD * longest


@given(LENGTHS, st.integers(64, 4096))
def test_padding_is_at_most_an_eighth_of_what_is_computed(lengths: np.ndarray, budget: int) -> None:
    assert 0 <= padding_share(lengths, plan(lengths, budget)) <= 1 - SPREAD


def test_padding_share_counts_padded_over_computed_tokens() -> None:
    assert padding_share(np.array([4, 2, 3]), [np.array([0, 1]), np.array([2])]) == pytest.approx(2 / 11)


def test_rows_are_padded_on_the_right_and_the_mask_marks_their_tokens() -> None:
    ids, mask = pad([[101, 7, 102], [101, 102]], pad_id=0)
    assert ids.tolist() == [[101, 7, 102], [101, 102, 0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]
