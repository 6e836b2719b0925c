"""Training on several processes: each takes a share of the users of every update, and all make the same step (data parallel).

A process that `torch.distributed` knows nothing of is alone, and every function here gives back what it was given.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmrec_pipeline.interest.data import Int


def rank_and_size() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(users: Int) -> Int:
    """This process's part of an update's users."""
    rank, size = rank_and_size()
    return users[rank::size]


def total(value: float) -> float:
    """Sum over the processes, the same in each."""
    if rank_and_size()[1] == 1:
        return value
    found = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(found)
    return float(found)


def sum_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Leaves in every process the sum of all processes' gradients."""
    if rank_and_size()[1] == 1:
        return
    trained = [weight for weight in weights if weight.requires_grad]
    for weight in trained:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    flat = torch.cat([_gradient(weight).flatten() for weight in trained])
    dist.all_reduce(flat)
    for weight, summed in zip(trained, torch.split(flat, [weight.numel() for weight in trained]), strict=True):
        _gradient(weight).copy_(summed.view_as(weight))


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad
