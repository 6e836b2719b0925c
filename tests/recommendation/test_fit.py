"""The fit of the joint weights: blocks of users in, the best grid values out."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from llmrec_pipeline.config import JointConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.recommendation import Block, Targets, collaborative_log_s, fit_joint, joint_log_y, log_softmax

GRIDS = JointConfig(
    cf_repeat_weight=(0.0, 1.0, 3.0), cf_temperature=(0.3, 1.0, 3.0), cf_weight=(0.0, 0.5, 1.0), temperature=(0.5, 1.0, 2.0),
    history_edges=(3,), bucket_users=2,
)  # fmt: skip


def sample(users: int, seed: int) -> Block:
    rng = np.random.default_rng(seed)
    similarity, own, log_p = (rng.normal(size=(users, 6)).astype(np.float32) for _ in range(3))
    mask = np.ones((users, 6), dtype=bool)
    mask[:, 5] = False
    chance = np.exp(log_p + 0.7 * (similarity + 2 * own))[:, :5]
    bought = [rng.choice(5, size=2, p=row / row.sum()).tolist() for row in chance]
    return Block(log_softmax(log_p, mask), similarity, own, mask, Targets.of(bought), rng.integers(0, 6, users))


def test_fit_equals_a_slow_search_and_does_not_depend_on_blocks() -> None:
    block = sample(300, 1)
    fitted = fit_joint(lambda: iter([block]), GRIDS)
    user, item = block.targets.user, block.targets.item
    log_s = {
        (w, tau): collaborative_log_s(block.similarity, block.own, w, tau, block.mask)
        for w, tau in itertools.product(GRIDS.cf_repeat_weight, GRIDS.cf_temperature)
    }
    best = min(log_s, key=lambda pair: -log_s[pair][user, item].mean())
    assert (fitted.weights.cf_repeat_weight, fitted.weights.cf_temperature) == best
    assert fitted.cross_entropy_s == pytest.approx(-log_s[best][user, item].mean(), abs=1e-5)

    def loss(weights: tuple[float, float], theta: float) -> float:
        by_user = np.where(block.history_length >= 3, weights[1], weights[0])
        return float(-joint_log_y(block.log_p, log_s[best], by_user, theta, block.mask)[user, item].mean())

    every = [
        (loss(pair, theta), pair, theta) for theta in GRIDS.temperature for pair in itertools.product(GRIDS.cf_weight, repeat=2)
    ]
    lowest, weights, temperature = min(every)
    assert (fitted.weights.cf_weight, fitted.weights.temperature) == (weights, temperature)
    assert fitted.cross_entropy_y == pytest.approx(lowest, abs=1e-5)
    assert fitted.cross_entropy_p == pytest.approx(-block.log_p[user, item].mean(), abs=1e-5)
    assert fitted.cross_entropy_y < fitted.cross_entropy_p


def test_blocks_are_streamed_and_the_same_users_in_two_blocks_give_the_same_weights() -> None:
    block = sample(60, 4)

    def halves() -> Iterator[Block]:
        for rows in (slice(0, 20), slice(20, 60)):
            start, stop = block.targets.offsets[rows.start], block.targets.offsets[rows.stop]
            targets = Targets(block.targets.offsets[rows.start : rows.stop + 1] - start, block.targets.item[start:stop])
            p, similarity, own = block.log_p[rows], block.similarity[rows], block.own[rows]
            yield Block(p, similarity, own, block.mask[rows], targets, block.history_length[rows])

    assert fit_joint(halves, GRIDS).weights == fit_joint(lambda: iter([block]), GRIDS).weights


def test_masked_targets_are_dropped_and_counted() -> None:
    block = sample(10, 2)
    more = Block(block.log_p, block.similarity, block.own, block.mask, Targets.of([[5, -1, 0]] + [[1]] * 9), block.history_length)
    fitted = fit_joint(lambda: iter([more]), GRIDS)
    assert (fitted.target_events, fitted.masked_target_events) == (10, 2)


def test_a_bucket_with_few_users_takes_the_lambda_of_all() -> None:
    block = sample(300, 1)
    lone = Block(block.log_p, block.similarity, block.own, block.mask, block.targets, np.where(np.arange(300) == 0, 9, 1))
    fitted = fit_joint(lambda: iter([lone]), GRIDS)
    assert fitted.weights.cf_weight[1] == fitted.weights.cf_weight[0] > 0


def test_a_useless_similarity_gets_lambda_zero() -> None:
    block = sample(300, 1)
    noise = np.random.default_rng(9).normal(size=(2, 300, 6)).astype(np.float32)
    useless = Block(
        log_softmax(block.similarity + 2 * block.own, block.mask),
        noise[0],
        noise[1],
        block.mask,
        block.targets,
        block.history_length,
    )
    assert fit_joint(lambda: iter([useless]), GRIDS.model_copy(update={"cf_temperature": (0.3,)})).weights.cf_weight == (0.0, 0.0)


def test_validation_without_targets_and_scores_without_values_are_refused() -> None:
    block = sample(5, 3)
    empty = Block(block.log_p, block.similarity, block.own, block.mask, Targets.of([[5]] + [[]] * 4), block.history_length)
    with pytest.raises(ModelError, match=r"no target event on a candidate \(1 on masked items\)"):
        fit_joint(lambda: iter([empty]), GRIDS)
    broken = Block(
        np.full_like(block.log_p, np.nan), block.similarity, block.own, block.mask, block.targets, block.history_length
    )
    with pytest.raises(ModelError, match="cross-entropy of y"):
        fit_joint(lambda: iter([broken]), GRIDS)
