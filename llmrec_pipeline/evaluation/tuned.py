"""The tuned sum: z-scores of up to three baselines, chosen and weighted by NDCG@10 on the validation period alone.

It is the figure to beat where people buy again. The baselines are chosen one after the other, each by what it adds to the sum so far,
so that three which say the same are not taken for their own merit.

Legend: U users of a block, N items, X baselines, P places of a pool. Masks: True = candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.recommendation.joint import standardise
from llmrec_pipeline.recommendation.targets import Targets

Float = npt.NDArray[np.floating[Any]]
Single = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
K = 10  # cut-off of the NDCG that decides
MEMBERS = 3
GRID = (0.1, 0.2, 0.35, 0.6, 1.0, 1.7)  # weights beside the first member's 1
DEPTH = 100  # items of each baseline's list that a pool holds
TIE = 1e-5  # a target loses a tie: what a tie of the whole catalogue would give, which the pool does not hold


@dataclass(frozen=True)
class Pool:
    """Z-scores of a block of users on the items that can matter: each baseline's first DEPTH, and the targets."""

    scores: dict[str, Single]  # [U, P] each
    mask: Bool  # [U, P]
    target: Bool  # [U, P]


@dataclass(frozen=True)
class Choice:
    """What validation chose."""

    weights: dict[str, float]  # up to MEMBERS baselines, in the order in which they were chosen
    ndcg: float  # NDCG@10 of the sum on validation
    single: dict[str, float]  # [X] NDCG@10 of each baseline alone
    users: int


def pool(models: Mapping[str, Float], mask: Bool, targets: Targets) -> Pool:
    """What tuning keeps of a block: a tenth of its scores or so.

    Args:
        models: [U, N] scores of each baseline.
        mask: [U, N].
        targets: target events of the validation period.
    """
    wanted = targets.distinct().within(mask)
    standard: dict[str, Single] = {name: standardise(scores, mask).astype(np.float32) for name, scores in models.items()}
    chosen = np.zeros(mask.shape, dtype=bool)
    chosen[wanted.user, wanted.item] = True
    depth = min(DEPTH, mask.shape[1])
    for values in standard.values():
        best = np.argpartition(np.where(mask, -values, np.inf), depth - 1, axis=1)[:, :depth]
        np.put_along_axis(chosen, best, True, axis=1)
    width = int(chosen.sum(axis=1).max(initial=0))
    place = np.argsort(~chosen, axis=1, kind="stable")[:, :width]
    inside = np.take_along_axis(chosen & mask, place, axis=1)
    target = np.zeros(mask.shape, dtype=bool)
    target[wanted.user, wanted.item] = True
    pooled = {name: np.take_along_axis(values, place, axis=1) for name, values in standard.items()}
    return Pool(pooled, inside, np.take_along_axis(target, place, axis=1))


def tune(pools: Sequence[Pool]) -> Choice:
    """The members and weights with the highest NDCG@10 on validation; among equals the first baseline and the lower weight.

    Args:
        pools: of all blocks with users who have a target in validation.
    """
    names = list(pools[0].scores)
    single = {name: _ndcg(pools, {name: 1.0}) for name in names}
    weights = {max(names, key=lambda name: single[name]): 1.0}
    best = max(single.values())
    while len(weights) < MEMBERS:
        grown = [weights | {name: weight} for name in names if name not in weights for weight in GRID]
        best, weights, better = _best(pools, grown, best, weights)
        if not better:
            break
    for name in list(weights)[1:]:  # once more, now that the others are there
        best, weights, _ = _best(pools, [weights | {name: weight} for weight in GRID], best, weights)
    return Choice(weights, best, single, sum(int(part.target.any(axis=1).sum()) for part in pools))


def weighted_sum(models: Mapping[str, Float], weights: Mapping[str, float], mask: Bool) -> Single:
    """[U, N] sum of the members' z-scores over the candidates, each times its weight."""
    total = np.zeros(mask.shape, dtype=np.float32)
    for name, weight in weights.items():
        total += np.float32(weight) * standardise(models[name], mask)
    return total


def _best(
    pools: Sequence[Pool], tried: list[dict[str, float]], best: float, weights: dict[str, float]
) -> tuple[float, dict[str, float], bool]:
    """The best of what was tried where it beats what there was; True: it does."""
    values = [_ndcg(pools, candidate) for candidate in tried]
    place = int(np.argmax(values)) if values else 0
    better = bool(values) and values[place] > best
    return (values[place], tried[place], True) if better else (best, weights, False)


def _ndcg(pools: Sequence[Pool], weights: Mapping[str, float]) -> float:
    """Mean NDCG@K of a weighted sum over the users with a target."""
    total, users = 0.0, 0
    gain = 1.0 / np.log2(np.arange(2, K + 2))
    for part in pools:
        summed = sum(np.float32(weight) * part.scores[name] for name, weight in weights.items())
        below = np.where(part.mask, np.float32(TIE) * part.target - summed, np.inf)
        depth = min(K, below.shape[1])
        first = np.argpartition(below, depth - 1, axis=1)[:, :depth]
        order = np.argsort(np.take_along_axis(below, first, axis=1), axis=1, kind="stable")
        hits = np.take_along_axis(part.target, np.take_along_axis(first, order, axis=1), axis=1)
        count = part.target.sum(axis=1)
        ideal = np.cumsum(gain)[np.clip(count, 1, K) - 1]
        total, users = total + float((hits @ gain[:depth] / ideal).sum()), users + int((count > 0).sum())
    return total / users if users else float("nan")
