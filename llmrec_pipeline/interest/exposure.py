"""Fairness in the objective: how far p is from giving groups of items as much as their number of items asks for.

Legend: P examples of an update, N items, C of them in its softmax, A groups.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmrec_pipeline.interest.popularity import head_items

Int = npt.NDArray[np.int64]


def popularity_groups(targets: Int) -> Int:
    """[N] 0: of the head, the fewest items that have half of the `targets` [N]; 1: all others. Among equals the lower row is in the head."""
    return np.where(head_items(targets), 0, 1)


def unevenness(logits: Tensor, log_weight: Tensor, weight: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """KL(even || exposure), in nats: 0 where groups have the same exposure per candidate (demographic parity, Singh and Joachims 2018).

    A group's exposure is its share of the mean p over the examples, of what all items with a group have; its even share that of a p
    which is uniform over each example's candidates. 0 where no item with a group is in the softmax.

    Args:
        logits: [P, C] of the softmax, `log_weight` among them; -inf: masked.
        log_weight: [C] log of how many items each stands for.
        weight: [P] of the examples.
        groups: [C] of the items; -1: none.
        n_groups: A.
    """
    uniform = log_weight.expand_as(logits).masked_fill(logits.isneginf(), -torch.inf)
    even, exposure = (_shares(weight @ torch.softmax(of, dim=1), groups, n_groups) for of in (uniform, logits))
    return (torch.xlogy(even, even) - even * exposure.clamp(min=torch.finfo(exposure.dtype).tiny).log()).sum()


def _shares(mass: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """[A] of the mass [C] of all items with a group, what each group has; 0 where none has any."""
    by_group = mass.new_zeros(n_groups + 1).index_add(0, groups % (n_groups + 1), mass)[:-1]  # the last one: no group
    return by_group / by_group.sum().clamp(min=torch.finfo(mass.dtype).tiny)
