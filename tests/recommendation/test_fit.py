"""The fit of the joint weights: blocks of users in, the best grid values out."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from llmrec_pipeline.config import FirstTimeConfig, JointConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.evaluation.metrics import RANKING, block_metrics
from llmrec_pipeline.recommendation import (
    Block,
    FirstTimeWeights,
    Targets,
    collaborative_log_s,
    first_time_similarity,
    fit_joint,
    joint_logit,
    log_softmax,
    mixed_similarity,
    weighed_log_s,
    with_first_time,
)

GRIDS = JointConfig(
    cf_transition_weight=(0.0, 0.5, 1.0), cf_repeat_weight=(0.0, 1.0, 3.0), cf_temperature=(0.3, 1.0, 3.0), cf_weight=(0.0, 0.5, 1.0), temperature=(0.5, 1.0, 2.0),
    history_edges=(3,), bucket_users=2,
    first_time=FirstTimeConfig(cf_transition_weight=(0.0, 0.5, 1.0), cf_repeat_weight=(0.0, 1.0, 3.0), cf_weight=(0.0, 0.5, 1.0, 2.0), temperature=(0.5, 1.0, 2.0)),
)  # fmt: skip
NDCG = RANKING.index("ndcg")


def sample(users: int, seed: int) -> Block:
    rng = np.random.default_rng(seed)
    similarity, own, transition, log_p = (rng.normal(size=(users, 6)).astype(np.float32) for _ in range(4))
    mask = np.ones((users, 6), dtype=bool)
    mask[:, 5] = False
    chance = np.exp(log_p + 0.7 * (0.5 * similarity + 0.5 * transition + 2 * own))[:, :5]
    bought = [rng.choice(5, size=2, p=row / row.sum()).tolist() for row in chance]
    lengths = rng.integers(0, 6, users)
    return Block(log_softmax(log_p, mask), similarity, own, transition, mask, None, Targets.of(bought), lengths)


def mean_loss(block: Block, logit: np.ndarray) -> float:
    """Mean over users of the mean cross-entropy of their target events."""
    targets = block.targets
    loss = -log_softmax(logit, block.mask)[targets.user, targets.item]
    per_user = np.bincount(targets.user, loss) / targets.per_user
    return float(per_user.mean())


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
        of_pair = replace(fitted.weights, cf_weight=weights, temperature=theta)
        return mean_loss(block, joint_logit(block.log_p, log_s[best], of_pair, block.history_length, block.mask))

    every = [
        (loss(pair, theta), pair, theta) for theta in GRIDS.temperature for pair in itertools.product(GRIDS.cf_weight, repeat=2)
    ]
    lowest, cf_weight, temperature = min(every)
    assert (weights.cf_weight, weights.temperature) == (cf_weight, temperature)
    assert fitted.cross_entropy_y == pytest.approx(lowest, abs=1e-5)
    assert fitted.cross_entropy_p == pytest.approx(-block.log_p[user, item].mean(), abs=1e-5)
    assert fitted.cross_entropy_y < fitted.cross_entropy_p


def test_blocks_are_streamed_and_the_same_users_in_two_blocks_give_the_same_weights() -> None:
    block = had_some(sample(60, 4))
    block.had[:20] = False  # of the first block nobody had anything
    block.had[59] = True  # and of the last one somebody all

    def halves() -> Iterator[Block]:
        for rows in (slice(0, 20), slice(20, 60)):
            start, stop = block.targets.offsets[rows.start], block.targets.offsets[rows.stop]
            targets = Targets(block.targets.offsets[rows.start : rows.stop + 1] - start, block.targets.item[start:stop])
            p, *three = (of[rows] for of in (block.log_p, block.similarity, block.own, block.transition))
            yield Block(p, *three, block.mask[rows], block.had[rows], targets, block.history_length[rows])

    assert fit_joint(halves, GRIDS).weights == fit_joint(lambda: iter([block]), GRIDS).weights


def had_some(block: Block) -> Block:
    """Some of the candidates were had before."""
    return replace(block, had=np.random.default_rng(8).random(block.mask.shape) < 0.4)


def test_first_time_items_get_what_a_slow_search_finds_and_so_do_all_beside_them() -> None:
    block = had_some(sample(200, 1))
    fitted, new = fit_joint(lambda: iter([block]), GRIDS), block.mask & ~block.had
    weights, first_time = fitted.weights, fitted.weights.first_time

    def similar(share: float, w: float) -> np.ndarray:
        return first_time_similarity(block.similarity, block.own, block.transition, FirstTimeWeights(share, w, 1.0, 1.0), new)

    def ndcg(share: float, w: float, value: float) -> float:
        scores = block.log_p + value * similar(share, w)
        return float(np.nanmean(block_metrics(scores, new, block.targets, (10,))[:, NDCG, 0]))

    grid = GRIDS.first_time
    every = itertools.product(grid.cf_transition_weight, grid.cf_repeat_weight, grid.cf_weight)
    best = max(every, key=lambda three: round(ndcg(*three), 9))
    assert (first_time.cf_transition_weight, first_time.cf_repeat_weight, first_time.cf_weight) == best
    assert first_time.cf_repeat_weight > 0  # the sample's own counts tell of items not had too
    log_s = weighed_log_s(block.similarity, block.own, block.transition, weights, block.mask)

    def loss(pair: tuple[float, float], theta: float, new_theta: float) -> float:
        changed = replace(weights, cf_weight=pair, temperature=theta)
        logit = joint_logit(block.log_p, log_s, changed, block.history_length, block.mask)
        of_new = replace(first_time, temperature=new_theta)
        return mean_loss(block, with_first_time(logit, block.log_p, similar(*best[:2]), of_new, new))

    grid = itertools.product(itertools.product(GRIDS.cf_weight, repeat=2), GRIDS.temperature, GRIDS.first_time.temperature)
    lowest, *chosen = min((loss(*three), *three) for three in grid)
    assert [weights.cf_weight, weights.temperature, first_time.temperature] == chosen
    assert fitted.cross_entropy_y == pytest.approx(lowest, abs=1e-5)


def test_too_few_users_with_a_first_time_target_leave_one_lambda_for_all() -> None:
    block = had_some(sample(200, 1))
    users = np.unique(block.targets.within(block.mask & ~block.had).user)
    few = GRIDS.model_copy(update={"bucket_users": len(users) + 1})
    enough = GRIDS.model_copy(update={"bucket_users": len(users)})
    assert fit_joint(lambda: iter([block]), few).weights.first_time is None
    assert fit_joint(lambda: iter([block]), enough).weights.first_time


def test_a_user_counts_once_however_many_target_events_there_are() -> None:
    block = had_some(sample(100, 5))
    rows = [block.targets.item[2 * user : 2 * user + 2].tolist() for user in range(100)]
    more = replace(block, targets=Targets.of([row * (50 if user < 10 else 1) for user, row in enumerate(rows)]))
    one, other = (fit_joint(lambda of=of: iter([of]), GRIDS) for of in (block, more))
    assert other.weights == one.weights
    assert other.cross_entropy_y == pytest.approx(one.cross_entropy_y)
    assert (one.target_events, other.target_events) == (200, 1180)


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
