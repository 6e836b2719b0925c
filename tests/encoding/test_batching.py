from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from llmrec_pipeline.encoding.batching import FILLED, SPREAD, Tokens, pad, plan

LENGTHS = st.lists(st.integers(1, 64), max_size=200).map(lambda values: np.array(values, dtype=np.int64))


def test_equal_lengths_go_together_and_a_batch_that_they_fill_by_half_takes_no_others() -> None:
    lengths = np.array([4, 8, 4, 8, 7, 4, 3])
    assert [batch.tolist() for batch in plan(lengths, budget=24)] == [[1, 3], [4], [0, 2, 5], [6]]


def test_a_batch_less_than_half_full_takes_shorter_texts_down_to_the_spread() -> None:
    assert [batch.tolist() for batch in plan(np.array([3, 10, 3, 10, 9, 8]), budget=80)] == [[1, 3, 4], [5], [0, 2]]


def test_the_budget_splits_texts_of_one_length_in_their_order() -> None:
    assert [batch.tolist() for batch in plan(np.array([5, 5, 5, 5, 5]), budget=10)] == [[0, 1], [2, 3], [4]]


def test_no_texts_give_no_batches() -> None:
    assert plan(np.array([], dtype=np.int64), budget=64) == []


@given(LENGTHS, st.integers(64, 512))
def test_each_text_is_in_one_batch_within_budget_and_spread(lengths: np.ndarray, budget: int) -> None:
    batches = plan(lengths, budget)
    assert sorted(np.concatenate([*batches, np.array([], dtype=np.int64)]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = lengths[batch].max()
        assert len(batch) * longest <= budget
        assert lengths[batch].min() >= SPREAD * longest


@given(st.integers(0, 2**32), st.integers(2_000, 20_000))
def test_padding_is_at_most_three_in_a_hundred_of_what_a_task_computes(seed: int, texts: int) -> None:
    """Lengths of behaviour texts: most near the middle, a long tail."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.8, 0.5, texts), 3, 64).astype(np.int64)
    computed = sum(len(batch) * int(lengths[batch].max()) for batch in plan(lengths, 1024))
    assert computed * 0.97 <= lengths.sum()


@given(LENGTHS, st.integers(64, 512))
def test_a_batch_that_equal_lengths_fill_has_no_padding(lengths: np.ndarray, budget: int) -> None:
    for batch in plan(lengths, budget):
        longest = lengths[batch].max()
        if (lengths[batch] == longest).sum() * longest >= FILLED * budget:
            assert (lengths[batch] == longest).all()


def test_rows_are_padded_on_the_right_and_the_mask_marks_their_tokens() -> None:
    tokens = Tokens.of([[101, 7, 102], [], [101, 102], [101, 8, 9, 102]])
    ids, mask = pad(tokens, np.array([2, 0]))
    assert ids.tolist() == [[101, 102, 0], [101, 7, 102]]
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert tokens.lengths.tolist() == [3, 0, 2, 4]


def test_tokens_repeated_are_the_same_texts_again() -> None:
    tokens = Tokens.of([[1, 2], [], [3]]).repeated(2)
    assert [tokens.values[a:b].tolist() for a, b in pairwise(tokens.offsets)] == [[1, 2], [], [3]] * 2
    assert Tokens.of([[1, 2]]).repeated(0).lengths.tolist() == [2]


def test_tokens_of_an_arrow_column_are_those_of_its_rows_also_of_a_slice() -> None:
    column = pa.array([[1, 2], [3], None, [4, 5, 6]], pa.list_(pa.int32()))
    tokens = Tokens.from_arrow(column.slice(1))
    assert tokens.lengths.tolist() == [1, 0, 3]
    assert [tokens.values[a:b].tolist() for a, b in pairwise(tokens.offsets)] == [[3], [], [4, 5, 6]]
