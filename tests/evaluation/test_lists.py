"""Novelty, diversity and exposure of lists, worked out by hand."""

import math

import numpy as np
import pytest

from llmrec_pipeline.collaborative import unit
from llmrec_pipeline.evaluation.lists import gini, list_metrics, self_information


def test_novelty_is_the_mean_self_information_in_bits() -> None:
    information = self_information(np.array([6.0, 2.0, 0.0, 0.0]))  # 7, 3, 1 and 1 of 12
    assert information == pytest.approx([math.log2(12 / 7), 2.0, math.log2(12), math.log2(12)])
    found = list_metrics(np.array([[1, 2, 0], [2, -1, -1]], dtype=np.int32), information, np.zeros((4, 2), np.float32), (1, 2, 3))
    assert found[0, 0] == pytest.approx([2.0, 1 + math.log2(12) / 2, (2 + math.log2(12) + math.log2(12 / 7)) / 3])
    assert found[1, 0] == pytest.approx([math.log2(12)] * 3)  # a list that ends is the mean of what it holds


def test_diversity_is_one_less_the_mean_cosine_of_pairs() -> None:
    text = unit(np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32))
    lists = np.array([[0, 1, 2], [0, 2, 3], [3, 3, 0], [0, -1, -1]], dtype=np.int32)
    found = list_metrics(lists, np.zeros(4), text, (1, 2, 3))[:, 1]
    assert found[0] == pytest.approx([0.0, 1.0, 1 - 1 / 3])  # cosines 0; then 0, 1, 0
    assert found[1] == pytest.approx([0.0, 0.0, 0.0])  # the third has no text
    assert found[2:] == pytest.approx(np.zeros((2, 3)))  # fewer than two with a text


def test_diversity_equals_the_pairs_one_by_one() -> None:
    rng = np.random.default_rng(2)
    text = unit(rng.normal(size=(20, 5)).astype(np.float32))
    lists = rng.permuted(np.tile(np.arange(20, dtype=np.int32), (4, 1)), axis=1)[:, :6]
    found = list_metrics(lists, np.zeros(20), text, (4, 6))[:, 1]
    for row, own in zip(found, lists, strict=True):
        for value, k in zip(row, (4, 6), strict=True):
            pairs = [float(text[a] @ text[b]) for a in own[:k] for b in own[:k] if a != b]
            assert value == pytest.approx(1 - np.mean(pairs), abs=1e-5)


def test_gini_goes_from_equal_shares_to_one_for_all() -> None:
    assert gini(np.array([3, 3, 3])) == 0.0
    assert gini(np.array([0, 0, 0, 8])) == 0.75  # (n - 1) / n
    assert gini(np.array([1, 3])) == 0.25
    assert math.isnan(gini(np.zeros(3, dtype=np.int64)))
