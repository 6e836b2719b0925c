"""What training minimises: full softmax cross-entropy of the next target-bearing step's items (DESIGN 1.4, 1.5; article 3).

Legend: B users of a batch, T steps of a window, P examples in it, N items, K text dimensions, D item dimensions, G units of the
recurrent state, F counted features, M own items of the examples, E behaviour types, R half-lives of own counts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec_pipeline.interest.data import Catalogue, Histories
from llmrec_pipeline.interest.examples import Examples
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.own import ranges
from llmrec_pipeline.interest.recurrence import Carry, Vectors
from llmrec_pipeline.interest.window import Window

Int = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """All that a batch is cut from."""

    histories: Histories
    text: Float32  # [texts, K]
    item_row: Int  # [N] row in the model's id tables
    item_text: Tensor  # [N] row of the text matrix + 1; 0: no text
    examples: Examples
    popularity: Tensor  # [D, N, F]
    absent: Tensor  # [D, N]


def inputs_of(past: Histories, catalogue: Catalogue, text: Float32, model: InterestModel, examples: Examples) -> Inputs:
    return Inputs(
        histories=past,
        text=text,
        item_row=model.item_rows(catalogue.item_ids),
        item_text=torch.from_numpy(catalogue.text.astype(np.int64) + 1),
        examples=examples,
        popularity=torch.from_numpy(examples.popularity),
        absent=torch.from_numpy(examples.absent),
    )


def window_loss(model: InterestModel, carry: Carry, window: Window, inputs: Inputs) -> tuple[Tensor, Carry, float]:
    """Weighted sum of the losses of the window's examples, the state behind the window (cut off), and the sum of weights."""
    batch, width = window.time.shape
    vectors, outputs = _vectors(model, window, inputs)
    seen = torch.minimum(torch.arange(width + 1).expand(batch, -1), window.length[:, None])  # [B, T + 1]
    states = model.recurrence.scan(carry, window, seen, vectors)
    after = states.at(torch.arange(batch), window.length).detach()
    bearing = inputs.examples.weight[window.steps] > 0
    steps, cells = window.steps[bearing], torch.from_numpy(window.cells[bearing])
    if not len(steps):
        return torch.zeros(()), after, 0.0
    row, column = cells // width, cells % width
    before = states.at(row, column)  # the state before step t is the one after t steps
    logits = _logits(model, before, window.time[row, column], steps, outputs, inputs)
    loss, weight = _cross_entropy(logits, steps, inputs)
    return loss, after, weight


def _vectors(model: InterestModel, window: Window, inputs: Inputs) -> tuple[Vectors, Tensor]:
    """Vectors of the window's behaviours and, tied to them, f [N, D] of all catalogue items."""
    items = model.recurrence.items
    rows = np.union1d(inputs.item_text.numpy(), window.event_text.numpy())
    rows = rows[rows > 0]
    empty = torch.zeros(len(inputs.text) + 1, model.config.item_dim)
    texts = empty.index_copy(0, torch.from_numpy(rows), items.tower(torch.from_numpy(inputs.text[rows - 1])))
    vectors = Vectors(texts, items.id_table(model.config.id_dropout, model.training))
    return vectors, vectors(inputs.item_text, torch.from_numpy(inputs.item_row))


def _logits(model: InterestModel, states: Carry, query_time: Tensor, steps: Int, items: Tensor, inputs: Inputs) -> Tensor:
    """[P, N] p's logit before each example's step; masked items are -inf."""
    head, examples = model.head, inputs.examples
    short, long, gate = head.interest(states, query_time)
    interest = gate[:, None] * short + (1 - gate)[:, None] * long  # [P, G]
    days, day = np.unique(examples.day_row[steps], return_inverse=True)
    bias, log_share = _day_bias(model, torch.from_numpy(days), inputs)
    logits = head.w1(interest) @ items.T + F.embedding(torch.from_numpy(day), bias)  # [P, N]
    rows = examples.own if model.repeats else examples.known
    position, item, decayed = rows.of_steps(steps)
    cell = torch.from_numpy(position * items.shape[0] + item)
    if model.repeats:
        of_item = log_share.flatten().index_select(0, torch.from_numpy(day[position] * items.shape[0] + item))
        counts = torch.from_numpy(decayed).view(len(item), *head.repeat.strength.shape)  # [M, E, R]
        repeat = head.repeat(torch.from_numpy(position), counts, len(steps), of_item)
        changed: Tensor = logits.flatten().index_add(0, cell, repeat)
    else:
        changed = logits.flatten().index_fill(0, cell, -torch.inf)
    return changed.view_as(logits)


def _day_bias(model: InterestModel, days: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """b_i(t) [days, N], -inf where the item is no candidate yet, and log P_t [days, N], its share among candidates."""
    static = F.embedding(torch.from_numpy(inputs.item_row), model.head.bias.weight, padding_idx=0).squeeze(1)  # [N]
    bias = inputs.popularity[days] @ model.head.popularity.flatten() + static
    masked = bias.masked_fill(inputs.absent[days], -torch.inf)
    return masked, bias - torch.logsumexp(masked, dim=1, keepdim=True)


def _cross_entropy(logits: Tensor, steps: Int, inputs: Inputs) -> tuple[Tensor, float]:
    """Sum over examples of their weight times the mean of -log p over the step's target items; and the sum of weights."""
    targets, weight = inputs.examples.targets, inputs.examples.weight[steps]
    lengths = targets.offsets[steps + 1] - targets.offsets[steps]
    position = np.repeat(np.arange(len(steps)), lengths)
    cell = torch.from_numpy(position * logits.shape[1] + targets.item[ranges(targets.offsets[steps], lengths)])
    share = torch.from_numpy((weight / lengths)[position].astype(np.float32))
    total = torch.logsumexp(logits, dim=1) @ torch.from_numpy(weight)
    return total - logits.flatten().index_select(0, cell) @ share, float(weight.sum(dtype=np.float64))
