"""Fairness in the objective: how far p is from showing groups of items as much as their number of items asks for.

Legend: P examples of an update, N items, C of them in its softmax, A groups.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int = npt.NDArray[np.int64]


def popularity_groups(target_items: npt.NDArray[np.integer], n_items: int) -> Int:
    """[N] 0: of the head, the fewest items that have half of the targets; 1: all others. Among equals the lower row is in the head.

    Args:
        target_items: rows of the target items, one for each target.
        n_items: N.
    """
    often = np.bincount(target_items, minlength=n_items)
    order = np.argsort(-often, kind="stable")
    before = np.cumsum(often[order]) - often[order]
    groups = np.ones(n_items, dtype=np.int64)
    groups[order[2 * before < often.sum()]] = 0
    return groups


def even_shares(groups: Int, trained: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """[A] each group's share of the trained items that have a group.

    Args:
        groups: [N] from 0; -1: none.
        trained: [N] True: the item stands in softmaxes of training.
    """
    number = np.bincount(groups[trained & (groups >= 0)], minlength=int(groups.max(initial=-1)) + 1)
    return np.asarray(number / max(number.sum(), 1), dtype=np.float32)


def unevenness(logits: Tensor, weight: Tensor, groups: Tensor, even: Tensor) -> Tensor:
    """KL(even || exposure), in nats: 0 where the groups have the same exposure per item (demographic parity, Singh and Joachims 2018).

    A group's exposure is its share of the mean p over the examples, of what items with a group have. Groups without trained items do
    not count.

    Args:
        logits: [P, C] of the softmax, each with the log of how many items it stands for; -inf: masked.
        weight: [P] of the examples.
        groups: [C] of the items; -1: none.
        even: [A] of `even_shares`.
    """
    mean = weight @ torch.softmax(logits, dim=1)  # [C]
    known = groups >= 0
    mass = mean.new_zeros(len(even)).index_add(0, groups[known], mean[known])
    there = even > 0
    exposure = (mass[there] / mass[there].sum()).clamp(min=torch.finfo(mass.dtype).tiny)
    return (even[there] * (even[there] / exposure).log()).sum()
