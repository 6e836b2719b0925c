"""Reliability of y: literal pairs, and a world where y is the truth."""

import numpy as np
import pytest

from llmrec_pipeline.evaluation.calibration import DECILES, ratios, reliability
from llmrec_pipeline.recommendation import Targets

ONE = np.ones((1, 2))


def test_outcome_is_the_items_share_of_the_users_target_events() -> None:
    log_y = np.log(np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]))
    lists = np.array([[0, 1], [0, -1]], dtype=np.int32)
    sums, pairs = reliability(log_y, lists, Targets.of([[0, 0, 1, 2], [2]]), ONE)
    assert pairs.sum() == 3
    assert sums[0].sum(axis=1) == pytest.approx([0.5 + 0.3 + 0.5, 2 / 4 + 1 / 4 + 0])
    assert np.count_nonzero(pairs) == 2  # the pairs at one half share a bin


def test_a_user_without_a_target_counts_for_nothing_and_weights_count() -> None:
    log_y = np.log(np.array([[0.5, 0.5], [0.9, 0.1]]))
    lists = np.array([[0, 1], [0, 1]], dtype=np.int32)
    sums, pairs = reliability(log_y, lists, Targets.of([[0], []]), np.array([[1.0, 1.0], [3.0, 7.0]]))
    assert pairs.sum() == 2
    assert sums.sum(axis=2).tolist() == [[1.0, 1.0], [3.0, 3.0]]


def test_users_without_any_target_give_no_pair() -> None:
    sums, pairs = reliability(
        np.log(np.full((2, 2), 0.5)), np.zeros((2, 1), dtype=np.int32), Targets.of([[], []]), np.ones((3, 2))
    )
    assert sums.shape == (3, 2, len(pairs))
    assert not sums.any()
    assert not pairs.any()


def test_who_behaves_as_y_says_is_found_calibrated_and_who_does_not_is_not() -> None:
    rng = np.random.default_rng(4)
    users, items, events = 3000, 40, 20
    chance = rng.dirichlet(np.full(items, 0.4), users)
    log_y = np.log(np.maximum(chance, 1e-12))
    lists = np.argsort(-chance, axis=1)[:, :20].astype(np.int32)
    bought = Targets.of([rng.choice(items, events, p=row / row.sum()).tolist() for row in chance])
    found = ratios(*reliability(log_y, lists, bought, np.ones((1, users))))[0]
    assert found[3:] == pytest.approx(np.ones(DECILES - 3), abs=0.06)
    flat = log_y / 2  # too unsure
    flat -= np.log(np.exp(flat).sum(axis=1, keepdims=True))
    assert ratios(*reliability(flat, lists, bought, np.ones((1, users))))[0, -1] > 1.3


def test_deciles_hold_a_tenth_of_the_pairs_each_and_an_empty_one_has_no_ratio() -> None:
    log_y = -np.linspace(0.1, 10, 1000)[None]
    lists = np.arange(1000, dtype=np.int32)[None]
    sums, pairs = reliability(log_y, lists, Targets.of([[0]]), np.ones((1, 1)))
    assert pairs.sum() == 1000
    found = ratios(sums, pairs)[0]
    assert found[-1] == pytest.approx(1 / np.exp(log_y[0, :100]).sum(), rel=0.05)
    assert found[:-1].tolist() == [0.0] * (DECILES - 1)
    assert np.isnan(ratios(np.zeros((1, 2, 500)), np.zeros(500, dtype=np.int64))).all()
