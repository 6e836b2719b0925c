"""What training minimises: softmax cross-entropy of the next target-bearing step's items (DESIGN 1.4, 1.5; article 3).

The softmax runs over all items, or, of a large catalogue, over the batch's own items and a sample of the others, each drawn or not
by itself, the more often a target the likelier, and weighed by the inverse of that probability (log-Q correction, Bengio and Senecal
2008; Horvitz and Thompson 1952).

Legend: B users of a batch, T steps of a window, P examples in it, N items, C of them in the softmax, K text dimensions, D item
dimensions, G units of the recurrent state, F counted features, M own items of the examples, E behaviour types, R half-lives of own
counts.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec_pipeline.interest.contrast import contrast
from llmrec_pipeline.interest.data import Catalogue, Histories, vectors_at
from llmrec_pipeline.interest.examples import Examples
from llmrec_pipeline.interest.exposure import popularity_groups, unevenness
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.ragged import ranges
from llmrec_pipeline.interest.recurrence import Carry, Vectors
from llmrec_pipeline.interest.window import Window

Int = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """All that a batch is cut from."""

    histories: Histories
    text: Float32  # [texts, K]
    vectors: Tensor  # [texts, K] the same, where the model computes
    item_row: Int  # [N] row in the model's id tables
    item_text: Tensor  # [N] row of the text matrix + 1; 0: no text
    examples: Examples
    popularity: Tensor  # [D, N, F]
    absent: Tensor  # [D, N] True: no candidate yet, or of the items without training, which stand in no softmax of it
    draw_probability: Float32  # [N] of being in the softmax of an update whose examples do not point to the item; 0: untrained
    groups: Tensor  # [N] group of each item whose exposure is evened; -1: none
    n_groups: int

    def texts_of(self, item: Tensor) -> tuple[Tensor, Tensor]:
        """[n, K] text vectors of items [n], zeros of those without text, and [n] which have one."""
        row = self.item_text[item]
        return torch.as_tensor(vectors_at(row.numpy(force=True) - 1, self.text)), row > 0


def inputs_of(
    past: Histories, catalogue: Catalogue, text: Float32, model: InterestModel, examples: Examples, groups: Int | None = None
) -> Inputs:
    """What batches of `past` are cut from; `groups` [N] as for `train`."""
    rows = model.item_rows(catalogue.item_ids)
    if groups is None:
        groups = popularity_groups(examples.of_item)
    return Inputs(
        histories=past,
        text=text,
        vectors=torch.as_tensor(text),
        item_row=rows,
        item_text=torch.as_tensor(catalogue.text.astype(np.int64) + 1),
        examples=examples,
        popularity=torch.as_tensor(examples.popularity),
        absent=torch.as_tensor(examples.absent | (rows == 0)),
        draw_probability=_draw_probability(examples.of_item + 1.0, rows > 0, model.config.softmax_items),
        groups=torch.as_tensor(groups),
        n_groups=int(groups.max()) + 1,
    )


def _draw_probability(often: npt.NDArray[np.floating], trained: npt.NDArray[np.bool_], most: int) -> Float32:
    """Of the trained items, in proportion to `often`, at most 1, with the sum `most`; 0 of the others."""
    found = np.zeros(len(often), dtype=np.float32)
    found[trained] = _in_proportion(often[trained], most)
    return found


def _in_proportion(often: npt.NDArray[np.floating], most: int) -> Float32:
    """Probabilities in proportion to `often`, at most 1, whose sum is `most`."""
    order = np.argsort(-often)
    left = np.cumsum(often[order][::-1])[::-1]  # of the items from this place on
    certain = int(np.argmax((most - np.arange(len(order))) * often[order] < left)) if most < len(order) else len(order)
    found = np.ones(len(order), dtype=np.float32)
    found[order[certain:]] = (most - certain) * often[order[certain:]] / left[min(certain, len(order) - 1)]
    return found


@dataclass(frozen=True)
class Candidates:
    """The items that the softmax of one update runs over."""

    item: Int  # [C] ascending
    column: Int  # [N] place of an item in `item`; -1: it has none
    log_weight: Tensor  # [C] log of how many items each stands for: 0 of those that had to be there


def window_loss(
    model: InterestModel, carry: Carry, window: Window, inputs: Inputs, new: Tensor | None = None
) -> tuple[Tensor, Carry, float]:
    """Weighted sum of the losses of the window's examples, the state behind the window (cut off), and the sum of weights.

    The optional terms are added, each times the sum of weights, so that loss / weights holds them once; not where `new` is given.
    Items of the rows that `new` [trained + 1] names are treated as if nobody had had them: a vector by text alone, and b_i(t) too.
    (Who has one keeps own counts of it: where items repeat it is among the user's targets because of them.)
    """
    batch, width = window.time.shape
    if not width:  # none of these users has a step here
        return torch.zeros(()), carry, 0.0
    bearing = inputs.examples.weight[window.steps] > 0
    steps, cells = window.steps[bearing], torch.as_tensor(window.cells[bearing])
    candidates = _candidates(model, steps, inputs)
    window, vectors, outputs = _with_vectors(model, window, candidates, new, inputs)
    seen = torch.minimum(torch.arange(width + 1).expand(batch, -1), window.length[:, None])  # [B, T + 1]
    states = model.recurrence.scan(carry, window, seen, vectors)
    after = states.at(torch.arange(batch), window.length).detach()
    if not len(steps):
        return torch.zeros(()), after, 0.0
    row, column = cells // width, cells % width
    before = states.at(row, column)  # the state before step t is the one after t steps
    days, day = np.unique(inputs.examples.day_rows(inputs.histories.step_day[steps]), return_inverse=True)
    bias = _day_bias(model, torch.as_tensor(days), new, inputs)
    logits = _logits(model, before, window.time[row, column], (steps, day), candidates, (outputs, *bias), inputs)
    loss, weight = _cross_entropy(logits, steps, candidates, inputs)
    if new is None:
        of_softmax = (logits, torch.as_tensor(inputs.examples.weight[steps]), candidates)
        loss = loss + weight * _optional_terms(model, (carry, window, vectors), of_softmax, inputs)
    return loss, after, weight


def _optional_terms(
    model: InterestModel, history: tuple[Carry, Window, Vectors], softmax: tuple[Tensor, Tensor, Candidates], inputs: Inputs
) -> Tensor | float:
    """The terms beside the cross-entropy, each times its weight in the config."""
    config, (logits, weight, candidates) = model.config, softmax
    terms: Tensor | float = 0.0
    if config.exposure_weight:
        groups = inputs.groups[torch.as_tensor(candidates.item)]
        found = unevenness(logits, candidates.log_weight, weight, groups, inputs.n_groups)
        terms = terms + config.exposure_weight * found
    if config.contrastive_weight:
        terms = terms + config.contrastive_weight * contrast(model, *history)
    return terms


def _candidates(model: InterestModel, steps: Int, inputs: Inputs) -> Candidates:
    """Those that the examples point to, and other trained items by the draw; all of them where there are at most `softmax_items`."""
    examples, probability = inputs.examples, inputs.draw_probability.copy()
    for rows in (examples.targets, examples.own) if model.repeats else (examples.targets,):
        probability[rows.item[ranges(rows.offsets[steps], rows.offsets[steps + 1] - rows.offsets[steps])]] = 1
    if np.isin(probability, (0, 1)).all():  # nothing to draw
        item = np.flatnonzero(probability)
    else:
        item = np.flatnonzero(torch.rand(len(probability)).numpy(force=True) < probability)
    column = np.full(len(probability), -1)
    column[item] = np.arange(len(item))
    return Candidates(item, column, -torch.log(torch.as_tensor(probability[item])))


def _with_vectors(
    model: InterestModel, window: Window, candidates: Candidates, new: Tensor | None, inputs: Inputs
) -> tuple[Window, Vectors, Tensor]:
    """The window, pointing into the vectors of the texts that it or the candidates have; these; and, tied to them, f [C, D]."""
    items = model.recurrence.items
    item_text, event_text = inputs.item_text[torch.as_tensor(candidates.item)], window.event_text
    # ascending, with 0 for 'no text' always the first, as in the vectors
    rows, place = torch.unique(torch.cat([event_text.new_zeros(1), item_text, event_text]), return_inverse=True)
    _, place_of_item, place_of_event = place.split([1, len(item_text), len(event_text)])
    texts = items.texts(F.embedding(rows[1:] - 1, inputs.vectors))
    ids = items.id_table(model.config.id_dropout, model.training)
    vectors = Vectors(texts, ids if new is None else ids * ~new[:, None])
    outputs = vectors(place_of_item, torch.as_tensor(inputs.item_row[candidates.item]))
    return replace(window, event_text=place_of_event), vectors, outputs


def _logits(
    model: InterestModel,
    states: Carry,
    query_time: Tensor,
    examples: tuple[Int, Int],
    candidates: Candidates,
    items: tuple[Tensor, Tensor, Tensor],
    inputs: Inputs,
) -> Tensor:
    """[P, C] p's logit before each example's step, plus the log of how many items it stands for; masked items are -inf.

    Args:
        model: H and its head.
        states: [P] before the examples' steps.
        query_time: [P]
        examples: [P] their steps, and the place of each one's date among those of the batch.
        candidates: of the softmax.
        items: f [C, D] of the candidates, and what `_day_bias` gives for the batch's dates.
        inputs: what the batch was cut from.
    """
    head, (steps, day), (vectors, bias, log_share) = model.head, examples, items
    of_day = bias.index_select(1, torch.as_tensor(candidates.item)) + candidates.log_weight  # [days, C]
    logits = head.user_vectors(states, query_time) @ vectors.T + F.embedding(torch.as_tensor(day), of_day)  # [P, C]
    rows = inputs.examples.own if model.repeats else inputs.examples.known
    position, item, decayed = rows.of_steps(steps)
    there = candidates.column[item] >= 0  # all own items are, of those that are masked the drawn
    position, item, decayed = position[there], item[there], decayed[there]
    cell = torch.as_tensor(position * logits.shape[1] + candidates.column[item])
    if model.repeats:
        of_item = log_share.flatten().index_select(0, torch.as_tensor(day[position] * log_share.shape[1] + item))
        counts = torch.as_tensor(decayed).view(len(item), *head.repeat.log_slope.shape)  # [M, E, R]
        repeat = head.repeat(torch.as_tensor(position), counts, len(steps), of_item)
        changed: Tensor = logits.flatten().index_add(0, cell, repeat)
    else:
        changed = logits.flatten().index_fill(0, cell, -torch.inf)
    return changed.view_as(logits)


def _day_bias(model: InterestModel, days: Tensor, new: Tensor | None, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """b_i(t) [days, N], -inf of items that are no candidates yet or untrained, and log P_t [days, N], the share among the others."""
    head, rows = model.head, torch.as_tensor(inputs.item_row)
    static = F.embedding(rows, head.bias.weight, padding_idx=0).squeeze(1)  # [N]
    bias = inputs.popularity[days] @ head.popularity.flatten() + static
    if new is not None:
        item = torch.nonzero(new[rows]).squeeze(1)
        _, of_new = head.text_bias(*inputs.texts_of(item))
        bias = bias.index_copy(1, item, of_new.expand(len(days), -1))
    masked = bias.masked_fill(inputs.absent[days], -torch.inf)
    return masked, bias - torch.logsumexp(masked, dim=1, keepdim=True)


def _cross_entropy(logits: Tensor, steps: Int, candidates: Candidates, inputs: Inputs) -> tuple[Tensor, float]:
    """Sum over examples of their weight times the mean of -log p over the step's target items; and the sum of weights."""
    targets, weight = inputs.examples.targets, inputs.examples.weight[steps]
    lengths = targets.offsets[steps + 1] - targets.offsets[steps]
    position = np.repeat(np.arange(len(steps)), lengths)
    column = candidates.column[targets.item[ranges(targets.offsets[steps], lengths)]]
    cell = torch.as_tensor(position * logits.shape[1] + column)
    share = torch.as_tensor((weight / lengths)[position].astype(np.float32))
    total = torch.logsumexp(logits, dim=1) @ torch.as_tensor(weight)
    return total - logits.flatten().index_select(0, cell) @ share, float(weight.sum(dtype=np.float64))
