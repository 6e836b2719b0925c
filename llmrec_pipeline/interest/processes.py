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


def sum_over_processes(value: float) -> float:
    """The sum, the same in each."""
    if rank_and_size()[1] == 1:
        return value
    found = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(found)
    return float(found)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Leaves in every process the sum of all processes' gradients."""
    if rank_and_size()[1] == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([_gradient(parameter).flatten() for parameter in trained])
    dist.all_reduce(flat)
    for parameter, summed in zip(trained, torch.split(flat, [parameter.numel() for parameter in trained]), strict=True):
        _gradient(parameter).copy_(summed.view_as(parameter))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def as_first(tensors: Iterable[Tensor]) -> None:
    """Overwrites tensors with those of process 0: processors may differ in a sum's last bit, and decisions must not."""
    if rank_and_size()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)
