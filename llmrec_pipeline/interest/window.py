"""Cutting histories into windows of steps, padded to a rectangle, as tensors.

Legend: B users of a batch, T steps of a window, W behaviours and J profile texts in it, E behaviour types, K text dimensions. A *cell* is the
position b * T + t of a step in the rectangle.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from llmrec_pipeline.interest.data import Histories
from llmrec_pipeline.interest.ragged import ranges

Int = npt.NDArray[np.int64]
NO_QUANTITY = 0  # bucket of steps whose log has no quantity
LAST_BUCKET = 23


@dataclass(frozen=True)
class Window:
    """T steps of B users; padding comes last and repeats the user's last instant."""

    length: Tensor  # [B] steps that are there
    time: Tensor  # [B, T] float64, days since the epoch
    size: Tensor  # [B, T] bucket of the step's number of behaviours
    quantity: Tensor  # [B, T] bucket of the step's mean quantity
    session: Tensor  # [B, T] 1: same session as the step before
    profile: Tensor  # [B, T, K] sum of the step's text vectors
    snapshot: Tensor  # [B, T] row + 1 of the profile text that the step renewed, ascending with a user's steps; 0: none
    snapshots: Tensor  # [J, K] vectors of these
    event_cell: Tensor  # [W] cell of each behaviour
    event_type: Tensor  # [W]
    event_item: Tensor  # [W] row of the model's id table; 0: no id of its own
    event_text: Tensor  # [W] row of the text matrix + 1; 0: no text
    steps: Int  # [cells that are there] row of the step in the histories, by user and time
    cells: Int  # [the same] its cell


def log_bucket(values: npt.NDArray[np.floating] | Tensor, start: int = 1) -> Tensor:
    """Whole part of log2(1 + value), from `start` on, so that bucket 0 is left for 'none'."""
    exact = torch.as_tensor(values).double().clamp(min=0)
    return (torch.log2(1 + exact).long() + start).clamp(max=LAST_BUCKET)


def window_of(histories: Histories, users: Int, first: int, width: int, item_row: Int, text: npt.NDArray[np.float32]) -> Window:
    """Steps [first, first + width) of the given users.

    Args:
        histories: of all users.
        users: [B] rows of the users.
        first: position of the window's first step in each user's history; a user may have fewer steps.
        width: T, at most; the window is as wide as its longest row.
        item_row: [N] the model's id row of each catalogue item.
        text: [texts, K] raw text vectors.
    """
    begin, end = histories.step_offsets[users] + first, histories.step_offsets[users + 1]
    length = np.clip(end - begin, 0, width)
    shape = (len(users), int(length.max(initial=0)))
    steps = ranges(begin, length)
    cells = ranges(np.arange(len(users)) * shape[1], length)
    sizes = histories.event_offsets[steps + 1] - histories.event_offsets[steps]
    events = ranges(histories.event_offsets[steps], sizes)
    event_cell = np.repeat(cells, sizes)
    item, row = histories.item[events], histories.text[events].astype(np.int64)
    after = np.searchsorted(histories.snapshot_step, steps, side="right")
    renewing = after > np.searchsorted(histories.snapshot_step, steps)
    snapshots = histories.snapshots[after[renewing] - 1]  # of a step with several the last one
    return Window(
        length=torch.as_tensor(length),
        time=torch.as_tensor(_padded_time(histories.step_time[steps], cells, length, shape)),
        size=_spread(log_bucket(sizes.astype(np.float64)), cells, shape),
        quantity=_spread(_quantity_bucket(histories.quantity[events], event_cell, cells), cells, shape),
        session=_spread(torch.as_tensor(histories.step_session[steps]).long(), cells, shape),
        profile=torch.as_tensor(_profile(event_cell[row >= 0], row[row >= 0], text, shape)),
        snapshot=_spread(torch.arange(1, len(snapshots) + 1), cells[renewing], shape),
        snapshots=torch.as_tensor(snapshots),
        event_cell=torch.as_tensor(event_cell),
        event_type=torch.as_tensor(histories.event_type[events].astype(np.int64)),
        event_item=torch.as_tensor(np.where(item >= 0, item_row[item], 0)),
        event_text=torch.as_tensor(row + 1),
        steps=steps,
        cells=cells,
    )


def _spread(values: Tensor, cells: Int, shape: tuple[int, int]) -> Tensor:
    flat = torch.zeros(shape[0] * shape[1], dtype=values.dtype)
    flat[torch.as_tensor(cells)] = values
    return flat.view(shape)


def _padded_time(time: npt.NDArray[np.float64], cells: Int, length: Int, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    flat = np.full(shape[0] * shape[1], -np.inf)
    flat[cells] = time
    padded = np.maximum.accumulate(flat.reshape(shape), axis=1)
    padded[length == 0] = 0.0
    return padded


def _quantity_bucket(quantity: npt.NDArray[np.float32], event_cell: Int, cells: Int) -> Tensor:
    """Bucket of the mean absolute quantity of each cell of `cells`."""
    given = ~np.isnan(quantity)
    size = int(cells.max(initial=-1)) + 1
    count = np.bincount(event_cell[given], minlength=size)[cells]
    total = np.bincount(event_cell[given], weights=np.abs(quantity[given]), minlength=size)[cells]
    return torch.where(torch.as_tensor(count > 0), log_bucket(total / np.maximum(count, 1)), NO_QUANTITY)


def _profile(cell: Int, row: Int, text: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    cells = shape[0] * shape[1]
    pooling = sparse.csr_array((np.ones(len(cell), dtype=np.float32), (cell, row)), shape=(cells, len(text)))
    return np.ascontiguousarray(pooling @ text, dtype=np.float32).reshape(*shape, text.shape[1])
