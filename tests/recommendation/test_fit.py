"""The fit of the joint weights: blocks of users in, the best grid values out."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from llmrec_pipeline.config import JointConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.recommendation import (
    Block,
    Targets,
    collaborative_log_s,
    fit_joint,
    joint_log_y,
    log_softmax,
    mixed_similarity,
)

GRIDS = JointConfig(
    cf_transition_weight=(0.0, 0.5, 1.0), cf_repeat_weight=(0.0, 1.0, 3.0), cf_temperature=(0.3, 1.0, 3.0), cf_weight=(0.0, 0.5, 1.0), temperature=(0.5, 1.0, 2.0),
    history_edges=(3,), bucket_users=2,
)  # fmt: skip


def sample(users: int, seed: int) -> Block:
    rng = np.random.default_rng(seed)
    similarity, own, transition, log_p = (rng.normal(size=(users, 6)).astype(np.float32) for _ in range(4))
    mask = np.ones((users, 6), dtype=bool)
    mask[:, 5] = False
    chance = np.exp(log_p + 0.7 * (0.5 * similarity + 0.5 * transition + 2 * own))[:, :5]
    bought = [rng.choice(5, size=2, p=row / row.sum()).tolist() for row in chance]
    return Block(log_softmax(log_p, mask), similarity, own, transition, mask, Targets.of(bought), rng.integers(0, 6, users))


def test_fit_equals_a_slow_search_and_does_not_depend_on_blocks() -> None:
    block = sample(300, 1)
    fitted = fit_joint(lambda: iter([block]), GRIDS)
    user, item = block.targets.user, block.targets.item
    log_s = {
        (share, w, tau): collaborative_log_s(
            mixed_similarity(block.similarity, block.transition, share, block.mask), block.own, w, tau, block.mask
        )
        for share, w, tau in itertools.product(GRIDS.cf_transition_weight, GRIDS.cf_repeat_weight, GRIDS.cf_temperature)
    }
    best = min(log_s, key=lambda three: -log_s[three][user, item].mean())
    weights = fitted.weights
    assert (weights.cf_transition_weight, weights.cf_repeat_weight, weights.cf_temperature) == best
    assert 0 < weights.cf_transition_weight < 1
    assert fitted.cross_entropy_s == pytest.approx(-log_s[best][user, item].mean(), abs=1e-5)

    def loss(weights: tuple[float, float], theta: float) -> float:
        by_user = np.where(block.history_length >= 3, weights[1], weights[0])
        return float(-joint_log_y(block.log_p, log_s[best], by_user, theta, block.mask)[user, item].mean())

    every = [
        (loss(pair, theta), pair, theta) for theta in GRIDS.temperature for pair in itertools.product(GRIDS.cf_weight, repeat=2)
    ]
    lowest, cf_weight, temperature = min(every)
    assert (weights.cf_weight, weights.temperature) == (cf_weight, temperature)
    assert fitted.cross_entropy_y == pytest.approx(lowest, abs=1e-5)
    assert fitted.cross_entropy_p == pytest.approx(-block.log_p[user, item].mean(), abs=1e-5)
    assert fitted.cross_entropy_y < fitted.cross_entropy_p


def test_blocks_are_streamed_and_the_same_users_in_two_blocks_give_the_same_weights() -> None:
    block = sample(60, 4)

    def halves() -> Iterator[Block]:
        for rows in (slice(0, 20), slice(20, 60)):
            start, stop = block.targets.offsets[rows.start], block.targets.offsets[rows.stop]
            targets = Targets(block.targets.offsets[rows.start : rows.stop + 1] - start, block.targets.item[start:stop])
            p, *three = (of[rows] for of in (block.log_p, block.similarity, block.own, block.transition))
            yield Block(p, *three, block.mask[rows], targets, block.history_length[rows])

    assert fit_joint(halves, GRIDS).weights == fit_joint(lambda: iter([block]), GRIDS).weights


def test_masked_targets_are_dropped_and_counted() -> None:
    block = sample(10, 2)
    more = replace(block, targets=Targets.of([[5, -1, 0]] + [[1]] * 9))
    fitted = fit_joint(lambda: iter([more]), GRIDS)
    assert (fitted.target_events, fitted.masked_target_events) == (10, 2)


def test_a_bucket_with_few_users_takes_the_lambda_of_all() -> None:
    block = sample(300, 1)
    lone = replace(block, history_length=np.where(np.arange(300) == 0, 9, 1))
    fitted = fit_joint(lambda: iter([lone]), GRIDS)
    assert fitted.weights.cf_weight[1] == fitted.weights.cf_weight[0] > 0


def test_a_useless_similarity_gets_lambda_zero() -> None:
    block = sample(300, 1)
    noise = np.random.default_rng(9).normal(size=(3, 300, 6)).astype(np.float32)
    log_p = log_softmax(block.similarity + 2 * block.own, block.mask)
    useless = replace(block, log_p=log_p, similarity=noise[0], own=noise[1], transition=noise[2])
    assert fit_joint(lambda: iter([useless]), GRIDS.model_copy(update={"cf_temperature": (0.3,)})).weights.cf_weight == (0.0, 0.0)


def test_validation_without_targets_and_scores_without_values_are_refused() -> None:
    block = sample(5, 3)
    empty = replace(block, targets=Targets.of([[5]] + [[]] * 4))
    with pytest.raises(ModelError, match=r"no target event on a candidate \(1 on masked items\)"):
        fit_joint(lambda: iter([empty]), GRIDS)
    broken = replace(block, log_p=np.full_like(block.log_p, np.nan))
    with pytest.raises(ModelError, match="cross-entropy of y"):
        fit_joint(lambda: iter([broken]), GRIDS)
