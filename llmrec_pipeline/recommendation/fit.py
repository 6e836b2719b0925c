"""Fits the joint model's weights on validation, in two streaming passes (DESIGN 1.5).

Legend: U users of a block, N items, P target events, A x W x T the grid of (share of transitions, w, tau), L that of lambda, B history
buckets.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.config import JointConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.held_out import ndcg_at
from llmrec_pipeline.recommendation.joint import (
    FirstTimeWeights,
    JointWeights,
    first_time_similarity,
    history_bucket,
    mixed_similarity,
    standardise,
    weighed_log_s,
)
from llmrec_pipeline.recommendation.targets import Targets

Float = npt.NDArray[np.floating[Any]]
Double = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
LEAST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Block:
    """What the fit needs of a block of users as of the start of validation."""

    log_p: Float  # [U, N] of the interest model
    similarity: Float  # [U, N] item-item similarity by co-occurrence
    own: Float  # [U, N] own decayed counts
    transition: Float  # [U, N] item-item similarity by transitions
    mask: Bool  # [U, N] True = candidate
    had: Bool | None  # [U, N] True: the user had a target event with the item before; None: items do not repeat
    targets: Targets  # target events of the validation period; an item bought twice counts twice
    history_length: Int  # [U] steps before validation

    @property
    def new(self) -> Bool:
        """[U, N] True: a candidate that the user has not had."""
        return self.mask if self.had is None else self.mask & ~self.had


@dataclass(frozen=True)
class JointFit:
    """The fitted weights and what they were chosen by; cross-entropies are means over users of means over target events, in nats."""

    weights: JointWeights
    cross_entropy_p: float
    cross_entropy_s: float
    cross_entropy_y: float
    target_events: int
    masked_target_events: int  # dropped: their item was no candidate


def fit_joint(blocks: Callable[[], Iterable[Block]], grids: JointConfig) -> JointFit:
    """Chooses the share of transitions, w and tau by s alone, then lambda by history length and theta together, all by cross-entropy: the mean
    over users of that of their target events, as lists are judged. Among equals the earlier value of a grid wins.

    At theta = 1 a p that is too sure of itself would make every lambda > 0 look worse, for log s sharpens it further: so each
    theta is given its own best lambdas, and the pair with the lowest cross-entropy is taken (ADR 0007).

    A bucket with fewer than `grids.bucket_users` users takes the lambda that is best for all users together.

    Where items repeat, and so many users have a target that they had not, these items have a share of transitions, a w and a lambda by NDCG@10
    among them, and a theta by cross-entropy (ADR 0019).

    Args:
        blocks: called for each of two passes; must yield the same blocks each time.
        grids: values to choose from.

    Raises:
        ModelError: validation holds no target event on a candidate, or a cross-entropy is not finite.
    """
    users, events, masked, new_users, plain, similarity_grid, ndcg = (
        _sum(_first_pass(block, grids) for block in blocks()) or (0,) * 7
    )
    if not users:
        raise ModelError(
            f"validation has no target event on a candidate ({masked} on masked items); lengthen evaluation.window_days"
        )
    share, w, tau = (int(index) for index in np.unravel_index(_best(similarity_grid, "s"), similarity_grid.shape))
    weights = JointWeights(
        cf_transition_weight=grids.cf_transition_weight[share],
        cf_repeat_weight=grids.cf_repeat_weight[w],
        cf_temperature=grids.cf_temperature[tau],
        cf_weight=(1.0,) * (len(grids.history_edges) + 1),
        history_edges=grids.history_edges,
        temperature=1.0,
        first_time=_first_time(ndcg, grids) if new_users >= grids.bucket_users else None,
    )
    losses, in_bucket, new_losses = _sum(_second_pass(block, weights, grids) for block in blocks())
    chosen = [_choose_by_bucket(of_theta, in_bucket, grids) for of_theta in losses]
    totals = [of_theta[np.arange(len(in_bucket)), row].sum() for of_theta, row in zip(losses, chosen, strict=True)]
    theta, new_theta = _best(totals, "y"), _best(new_losses, "y among first-time items")
    if weights.first_time:
        new_weights = replace(weights.first_time, temperature=grids.first_time.temperature[new_theta])
        weights = replace(weights, first_time=new_weights)
    cf_weight = tuple(grids.cf_weight[index] for index in chosen[theta])
    return JointFit(
        weights=replace(weights, cf_weight=cf_weight, temperature=grids.temperature[theta]),
        cross_entropy_p=float(plain / users),
        cross_entropy_s=float(similarity_grid[share, w, tau] / users),
        cross_entropy_y=float((totals[theta] + new_losses[new_theta]) / users),
        target_events=events,
        masked_target_events=masked,
    )


def _first_pass(block: Block, grids: JointConfig) -> tuple[Any, ...]:
    """Of users with a target the number, of target events those on candidates and on masked items; where items repeat, users with a target that
    they had not; the summed cross-entropy of p, `_similarity_losses` and `_first_time_ndcg`.
    """
    inside = block.targets.within(block.mask)
    users, events = int((inside.per_user > 0).sum()), len(inside.item)
    new_users, ndcg = (0, 0) if block.had is None else _first_time_ndcg(block, grids)
    plain = float(_user_losses(block.log_p, (1.0,), block).sum())
    return users, events, len(block.targets.item) - events, new_users, plain, _similarity_losses(block, grids), ndcg


def _similarity_losses(block: Block, grids: JointConfig) -> Double:
    """[A, W, T] summed cross-entropy of s alone."""
    own = standardise(block.own, block.mask)
    losses = np.zeros((len(grids.cf_transition_weight), len(grids.cf_repeat_weight), len(grids.cf_temperature)))
    for place, share in enumerate(grids.cf_transition_weight):
        similar = standardise(mixed_similarity(block.similarity, block.transition, share, block.mask), block.mask)
        for row, w in enumerate(grids.cf_repeat_weight):
            if row and not own.any():  # nothing for w to weigh
                losses[place, row] = losses[place, 0]
                continue
            losses[place, row] = _user_losses(similar + np.float32(w) * own, grids.cf_temperature, block).sum(axis=1)
    return losses


def _first_time_ndcg(block: Block, grids: JointConfig) -> tuple[int, Double]:
    """Users with a target that they had not, and [shares, ws, lambdas] their summed NDCG@10 among such items."""
    new, targets, grid = block.new, block.targets.within(block.new).distinct(), grids.first_time
    some, position = np.unique(targets.user, return_inverse=True)
    log_p, own = np.where(new, block.log_p, -np.inf)[some], standardise(block.own, new)
    ndcg = np.zeros((len(grid.cf_transition_weight), len(grid.cf_repeat_weight), len(grid.cf_weight)))
    for place, share in enumerate(grid.cf_transition_weight):
        similar = standardise(mixed_similarity(block.similarity, block.transition, share, new), new)
        for row, w in enumerate(grid.cf_repeat_weight):
            if row and not own.any():  # nothing for w to weigh
                ndcg[place, row] = ndcg[place, 0]
                continue
            weighed = (similar + np.float32(w) * own)[some]
            for column, value in enumerate(grid.cf_weight):
                ndcg[place, row, column] = ndcg_at(log_p + np.float32(value) * weighed, position, targets.item, 10).sum()
    return len(some), ndcg


def _first_time(ndcg: Double, grids: JointConfig) -> FirstTimeWeights:
    """The best share, w and lambda; theta is fitted after them."""
    share, w, value = np.unravel_index(np.argmax(ndcg), ndcg.shape)
    grid = grids.first_time
    return FirstTimeWeights(grid.cf_transition_weight[share], grid.cf_repeat_weight[w], grid.cf_weight[value], 1.0)


def _second_pass(block: Block, weights: JointWeights, grids: JointConfig) -> tuple[Double, Int, Double]:
    """Summed cross-entropies of y, [temperatures, B, L] by history bucket, and [B] users whom they depend on.

    Where first-time items have weights of their own, a target among them counts there as the choice of such an item, and the third, [temperatures
    of first-time items], is that of which one it is: the two add up. Else it is 0.
    """
    log_s = weighed_log_s(block.similarity, block.own, block.transition, weights, block.mask)
    log_s, log_p = np.where(block.mask, log_s, 0), np.where(block.mask, block.log_p, 0)
    bucket, buckets = history_bucket(block.history_length, weights.history_edges), len(weights.cf_weight)
    telling = block.targets.within(block.mask).per_user > 0
    if weights.first_time and block.had is not None:
        telling &= (block.mask & block.had).any(axis=1)  # to others all is new
    in_bucket = np.bincount(bucket[telling], minlength=buckets)
    losses = np.empty((len(grids.temperature), buckets, len(grids.cf_weight)))
    for column, value in enumerate(grids.cf_weight):
        found = _user_losses(log_p + np.float32(value) * log_s, grids.temperature, block, split=weights.first_time is not None)
        losses[:, :, column] = [np.bincount(bucket, of_theta, buckets) for of_theta in found]
    return losses, in_bucket, _new_losses(block, weights.first_time, grids)


def _new_losses(block: Block, weights: FirstTimeWeights | None, grids: JointConfig) -> Double:
    """[temperatures] summed cross-entropy of targets that the user has not had among all such candidates."""
    if weights is None:
        return np.zeros(len(grids.first_time.temperature))
    similar = first_time_similarity(block.similarity, block.own, block.transition, weights, block.new)
    logits = np.where(block.new, block.log_p, 0) + np.float32(weights.cf_weight) * similar
    per_user = block.targets.within(block.mask).per_user
    losses = _user_losses(logits, grids.first_time.temperature, replace(block, mask=block.new), per_user=per_user)
    return np.asarray(losses.sum(axis=1))


def _user_losses(
    logits: Float, temperatures: Sequence[float], block: Block, split: bool = False, per_user: Int | None = None
) -> Double:
    """[temperatures, U] cross-entropy of a masked softmax of logits / temperature: each user's mean over target events.

    `split`: of a target that the user has not had, only that it is such an item. `per_user` [U]: target events of which the mean is.
    """
    targets = block.targets.within(block.mask)
    inside = np.where(block.mask, logits, -np.inf)
    top = np.max(inside, axis=1, initial=-np.inf)
    inside -= np.where(np.isneginf(top), 0.0, top)[:, None].astype(inside.dtype)
    chosen = inside[targets.user, targets.item].astype(np.float64)
    new = block.new.astype(inside.dtype) if split else None
    share = 1 / np.maximum(targets.per_user if per_user is None else per_user, 1)[targets.user]
    losses, warmed = np.empty((len(temperatures), len(logits))), np.empty_like(inside)
    for row, temperature in enumerate(temperatures):
        total = np.exp(np.divide(inside, temperature, out=warmed), out=warmed).sum(axis=1)
        total = np.where(total == 0, 1.0, total)  # 0: no candidate
        loss = np.log(total)[targets.user] - chosen / temperature
        if new is not None:
            total_new = np.maximum(np.einsum("un,un->u", warmed, new), LEAST)
            loss = np.where(new[targets.user, targets.item] > 0, np.log(total / total_new)[targets.user], loss)
        losses[row] = np.bincount(targets.user, share * loss, len(logits))
    return losses


def _choose_by_bucket(losses: npt.NDArray[np.float64], users: npt.NDArray[np.int64], grids: JointConfig) -> list[int]:
    """[B] place in the grid of lambda, from losses [B, L]."""
    common = _best(losses.sum(axis=0), "y")
    return [_best(row, "y") if count >= grids.bucket_users else common for row, count in zip(losses, users, strict=True)]


def _sum(of_blocks: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The sum of each member of the tuples."""
    return tuple(sum(member) for member in zip(*of_blocks, strict=True))


def _best(losses: Any, of: str) -> int:
    if not np.all(np.isfinite(losses)):
        raise ModelError(
            f"the cross-entropy of {of} on validation is {np.asarray(losses).tolist()}, expected finite numbers; check the scores"
        )
    return int(np.argmin(losses))
