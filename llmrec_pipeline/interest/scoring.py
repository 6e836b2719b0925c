"""The parts of p's logit for a block of users: f_i^T W_1 I_u + b_i(t) + r_{u,i}(t) (DESIGN 1.5).

Legend: U users of a block, N items, D item dimensions, E behaviour types, H popularity half-lives.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.data import Catalogue, OwnCounts, Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.recurrence import Carry
from llmrec_pipeline.interest.state import States

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ItemSide:
    """What does not depend on the user, made once per head_version and catalogue."""

    vectors: Float32  # [N, D] output-side f_i
    bias: Float32  # [N] b_i; of an untrained item regressed on its text
    least_bias: Float32  # [N] least b_i(t) of an untrained item, by its text: what it has while nobody has had it; others: -inf


@dataclass(frozen=True)
class Parts:
    """p's logit in parts; `logits` is their sum."""

    short: Float32  # [U, N] f_i^T W_1 (g short_u)
    long: Float32  # [U, N] f_i^T W_1 ((1 - g) long_u)
    bias: Float32  # [N] b_i(t)
    repeat: Float32  # [U, N] r_{u,i}(t)
    gate: Float32  # [U]
    own: OwnCounts  # the counts behind `repeat`, as of the query

    @property
    def logits(self) -> Float32:
        """[U, N]"""
        return self.short + self.long + self.bias + self.repeat


def item_side(model: InterestModel, catalogue: Catalogue, text_vectors: Float32) -> ItemSide:
    """Output-side vectors and static biases of all catalogue items; an untrained item has its text alone."""
    head, items = model.head, model.head.items
    has_text = torch.from_numpy(catalogue.text >= 0)
    text = torch.from_numpy(catalogue.vectors(text_vectors))
    row = torch.from_numpy(model.item_rows(catalogue.item_ids))
    with torch.no_grad():
        vectors = items.tower(text) * has_text[:, None] + items.ids(row)
        regressed, of_new = head.text_bias(text, has_text)
        bias = torch.where(row > 0, head.bias(row).squeeze(1), regressed)
        least = torch.where(row > 0, -torch.inf, of_new)
    return ItemSide(vectors.numpy(), bias.numpy(), least.numpy())


def popularity_bias(model: InterestModel, items: ItemSide, popularity: npt.NDArray[np.float64]) -> Float32:
    """[N] b_i(t) = b_i + sum over types and half-lives of a log(1 + decayed count), at least `least_bias`; `popularity` is [N, E, H].

    Raises:
        ModelError: `popularity` is of other types, half-lives or items.
    """
    weights = model.head.popularity.detach().numpy().astype(np.float64)
    if popularity.shape != (len(items.bias), *weights.shape):
        raise ModelError(
            f"popularity has shape {popularity.shape}, expected {(len(items.bias), *weights.shape)}; see popularity_half_lives"
        )
    counted = items.bias + (np.log1p(popularity) * weights).sum(axis=(1, 2))
    return np.asarray(np.maximum(counted, items.least_bias), dtype=np.float32)


def score_parts(
    model: InterestModel,
    states: States,
    query: Query,
    catalogue: Catalogue,
    items: ItemSide,
    popularity: npt.NDArray[np.float64],
    gate_shift: float = 0.0,
) -> Parts:
    """p's logit of every catalogue item for a block of users; users without steps have their empty state.

    Args:
        model: as trained.
        states: of the block, advanced to before the query.
        query: the moment that the list is for.
        catalogue: N items.
        items: of `item_side` for the same catalogue.
        popularity: [N, E, H] of `popularity.decayed_counts` as of `query.day`.
        gate_shift: see `Head.interest`.

    Raises:
        ModelError: `popularity` does not fit the model.
    """
    model.eval()
    head = model.head
    with torch.no_grad():
        carry = Carry.of(states, model.layout, torch.float64)
        time = torch.from_numpy(np.full(states.n_users, query.time, dtype=np.float64))
        short, long, gate = head.interest(carry, time, gate_shift)
        short, long = head.w1(gate[:, None] * short), head.w1((1 - gate)[:, None] * long)  # [U, D]
        by_item = torch.from_numpy(items.vectors).T  # [D, N]
        parts = ((short @ by_item).numpy(), (long @ by_item).numpy())
    bias = popularity_bias(model, items, popularity)
    own = states.own.as_of(states.last_time, query, catalogue, model.config.repeat_half_lives)
    repeat = _repeat(model, own, log_share(bias, items, catalogue, query))
    return Parts(*parts, bias, repeat, gate.numpy(), own)


def log_share(bias: Float32, items: ItemSide, catalogue: Catalogue, query: Query) -> Float32:
    """[N] log P_t(i): b_i(t) less the log of its sum over the trained items that are candidates as of the query, as in training."""
    candidates = (catalogue.first_day < query.day) & np.isneginf(items.least_bias)
    return bias - np.float32(np.logaddexp.reduce(bias[candidates].astype(np.float64))) if candidates.any() else bias


def _repeat(model: InterestModel, own: OwnCounts, shares: Float32) -> Float32:
    """[U, N] r_{u,i}(t) of the users' own items; 0 elsewhere, and everywhere where items do not repeat."""
    result = np.zeros((len(own.offsets) - 1, len(shares)), dtype=np.float32)
    if model.repeats and len(own.item):
        user = np.repeat(np.arange(len(result)), np.diff(own.offsets))
        with torch.no_grad():
            decayed = torch.from_numpy(own.decayed.astype(np.float32))
            terms = model.head.repeat(torch.from_numpy(user), decayed, len(result), torch.from_numpy(shares[own.item]))
        known = own.item >= 0
        result[user[known], own.item[known]] = terms.numpy()[known]
    return result
