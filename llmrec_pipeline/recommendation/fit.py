"""Fits the joint model's weights on validation by the mean cross-entropy over target events, in streaming passes (DESIGN 1.5).

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
from llmrec_pipeline.recommendation.joint import JointWeights, history_bucket, mixed_similarity, standardise, weighed_log_s
from llmrec_pipeline.recommendation.targets import Targets

Float = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Block:
    """What the fit needs of a block of users as of the start of validation."""

    log_p: Float  # [U, N] of the interest model
    similarity: Float  # [U, N] item-item similarity by co-occurrence
    own: Float  # [U, N] own decayed counts
    transition: Float  # [U, N] item-item similarity by transitions
    mask: Bool  # [U, N] True = candidate
    targets: Targets  # target events of the validation period; an item bought twice counts twice
    history_length: npt.NDArray[np.int64]  # [U] steps before validation


@dataclass(frozen=True)
class JointFit:
    """The fitted weights and what they were chosen by; cross-entropies are means over target events, in nats."""

    weights: JointWeights
    cross_entropy_p: float
    cross_entropy_s: float
    cross_entropy_y: float
    target_events: int
    masked_target_events: int  # dropped: their item was no candidate


def fit_joint(blocks: Callable[[], Iterable[Block]], grids: JointConfig) -> JointFit:
    """Chooses the share of transitions, w and tau by s alone, then lambda by history length and theta together; among equals the earlier value of a grid wins.

    At theta = 1 a p that is too sure of itself would make every lambda > 0 look worse, for log s sharpens it further: so each
    theta is given its own best lambdas, and the pair with the lowest cross-entropy is taken (ADR 0007).

    A bucket with fewer than `grids.bucket_users` users takes the lambda that is best for all users together.

    Args:
        blocks: called for each of two passes; must yield the same blocks each time.
        grids: values to choose from.

    Raises:
        ModelError: validation holds no target event on a candidate, or a cross-entropy is not finite.
    """
    events, masked, plain, similarity_grid = _sum(_first_pass(block, grids) for block in blocks())
    if not events:
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
    )
    losses, users = _sum(_fusion_losses(block, weights, grids) for block in blocks())  # [temperatures, B, L]
    chosen = [_choose_by_bucket(of_theta, users, grids) for of_theta in losses]
    totals = [of_theta[np.arange(len(users)), row].sum() for of_theta, row in zip(losses, chosen, strict=True)]
    theta = _best(totals, "y")
    cf_weight = tuple(grids.cf_weight[index] for index in chosen[theta])
    return JointFit(
        weights=replace(weights, cf_weight=cf_weight, temperature=grids.temperature[theta]),
        cross_entropy_p=float(plain / events),
        cross_entropy_s=float(similarity_grid[share, w, tau] / events),
        cross_entropy_y=float(totals[theta] / events),
        target_events=events,
        masked_target_events=masked,
    )


def _first_pass(block: Block, grids: JointConfig) -> tuple[int, int, float, npt.NDArray[np.float64]]:
    """Target events on candidates and on masked items, the summed cross-entropy of p, and `_similarity_losses`."""
    inside = len(block.targets.within(block.mask).item)
    plain = float(_user_losses(block.log_p, (1.0,), block).sum())
    return inside, len(block.targets.item) - inside, plain, _similarity_losses(block, grids)


def _similarity_losses(block: Block, grids: JointConfig) -> npt.NDArray[np.float64]:
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


def _fusion_losses(
    block: Block, weights: JointWeights, grids: JointConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """[temperatures, B, L] summed cross-entropy of y by history bucket, and [B] users with a target."""
    log_s = weighed_log_s(block.similarity, block.own, block.transition, weights, block.mask)
    log_s, log_p = np.where(block.mask, log_s, 0), np.where(block.mask, block.log_p, 0)
    bucket = history_bucket(block.history_length, weights.history_edges)
    buckets = len(weights.history_edges) + 1
    losses = np.empty((len(grids.temperature), buckets, len(grids.cf_weight)))
    for column, value in enumerate(grids.cf_weight):
        for row, of_theta in enumerate(_user_losses(log_p + np.float32(value) * log_s, grids.temperature, block)):
            losses[row, :, column] = np.bincount(bucket, of_theta, buckets)
    return losses, np.bincount(bucket[block.targets.within(block.mask).per_user > 0], minlength=buckets)


def _user_losses(logits: Float, temperatures: Sequence[float], block: Block) -> npt.NDArray[np.float64]:
    """[temperatures, U] cross-entropy of a masked softmax of logits / temperature, summed over the user's target events."""
    targets = block.targets.within(block.mask)
    inside = np.where(block.mask, logits, -np.inf)
    top = np.max(inside, axis=1, initial=-np.inf)
    inside -= np.where(np.isneginf(top), 0.0, top)[:, None].astype(inside.dtype)
    chosen = inside[targets.user, targets.item].astype(np.float64)
    losses, warmed = np.empty((len(temperatures), len(logits))), np.empty_like(inside)
    for row, temperature in enumerate(temperatures):
        total = np.exp(np.divide(inside, temperature, out=warmed), out=warmed).sum(axis=1)
        normaliser = np.log(np.where(total == 0, 1.0, total))  # 0: no candidate
        losses[row] = np.bincount(targets.user, normaliser[targets.user] - chosen / temperature, len(logits))
    return losses


def _choose_by_bucket(losses: npt.NDArray[np.float64], users: npt.NDArray[np.int64], grids: JointConfig) -> list[int]:
    """[B] place in the grid of lambda, from losses [B, L]."""
    common = _best(losses.sum(axis=0), "y")
    return [_best(row, "y") if count >= grids.bucket_users else common for row, count in zip(losses, users, strict=True)]


def _sum(of_blocks: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The sum of each member of the tuples; of no block 0."""
    return [sum(member) for member in zip((0, 0, 0, 0), *of_blocks, strict=False)]


def _best(losses: Any, of: str) -> int:
    if not np.all(np.isfinite(losses)):
        raise ModelError(
            f"the cross-entropy of {of} on validation is {np.asarray(losses).tolist()}, expected finite numbers; check the scores"
        )
    return int(np.argmin(losses))
