"""The recurrence of the interest model: step inputs, the recurrent cell and the long part's accumulators (DESIGN 1.4).

Legend: B users, T steps of a window, W behaviours in it, P moments ("seen") at which a state is wanted, K text dimensions, D
item dimensions, G units of the recurrent state, Q attention queries, E behaviour types, H half-lives. Leading dimensions of a
`Carry` are free: [B] for carried states, [B, P] inside a window.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.state import Layout, States
from llmrec_pipeline.interest.window import LAST_BUCKET, Window, log_bucket

MINUTES = 1440.0  # in a day: time gaps are bucketed by the logarithm of their minutes
BUCKETS = LAST_BUCKET + 1


@dataclass(frozen=True)
class Carry:
    """Carried state as tensors; accumulators in the precision that they are summed in (float64 when served)."""

    h: Tensor  # [..., G] float32
    c: Tensor  # [..., G] float32; [..., 0] for a GRU
    peak: Tensor  # [..., Q] running maximum of attention logits
    numerator: Tensor  # [..., Q, D]
    denominator: Tensor  # [..., Q]
    sums: Tensor  # [..., H, E, D] decayed sums of behaviour vectors, as of `time`
    counts: Tensor  # [..., H, E] decayed numbers of behaviours, as of `time`
    profile: Tensor  # [..., K] text vectors summed, decayed by the longest half-life, as of `time`
    snapshot: Tensor  # [..., K] vector of the newest profile text, 0 before the first; [..., 0] without profile texts
    steps: Tensor  # [...] int64
    time: Tensor  # [...] float64, instant of the last step; 0 without steps

    @staticmethod
    def of(states: States, layout: Layout, dtype: torch.dtype) -> "Carry":
        sizes = [int(np.prod(shape)) for shape in layout.blocks.values()]
        parts = torch.as_tensor(states.accumulators).to(dtype)
        blocks = {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(layout.blocks.items(), torch.split(parts, sizes, dim=1), strict=True)
        }
        plain = {"h": states.h, "c": states.c, "steps": states.steps, "time": states.last_time}
        return Carry(**{name: torch.as_tensor(values) for name, values in plain.items()}, **blocks)

    def accumulators(self, layout: Layout) -> npt.NDArray[np.float64]:
        """[U, A] as `States` keeps them."""
        return torch.cat([getattr(self, name).flatten(1).double() for name in layout.blocks], dim=1).numpy()

    def at(self, *index: Tensor) -> "Carry":
        """The states at the given positions of the leading dimensions."""
        return Carry(**{field.name: getattr(self, field.name)[index] for field in fields(Carry)})

    def detach(self) -> "Carry":
        return Carry(**{field.name: getattr(self, field.name).detach() for field in fields(Carry)})


class TextTower(nn.Module):
    """Text vector -> item space: frozen standardisation, then a small MLP."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, item_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.mlp = nn.Sequential(nn.Linear(len(mean), item_dim), nn.GELU(), nn.Linear(item_dim, item_dim))

    def standardise(self, text: Tensor) -> Tensor:
        return (text - self.mean) / self.scale

    def forward(self, text: Tensor) -> Tensor:
        vectors: Tensor = self.mlp(self.standardise(text))  # [n, K] -> [n, D]
        return vectors


class ItemVectors(nn.Module):
    """f = text tower + id embedding; row 0 of the ids is zero and stands for every item without one of its own."""

    def __init__(self, config: InterestConfig, mean: Tensor, scale: Tensor, n_trained: int) -> None:
        super().__init__()
        self.tower = TextTower(mean, scale, config.item_dim)
        self.ids = nn.Embedding(n_trained + 1, config.item_dim, padding_idx=0)
        nn.init.normal_(self.ids.weight, std=0.05 if config.id_dropout < 1 else 0.0)
        with torch.no_grad():
            self.ids.weight[0] = 0

    def texts(self, text: Tensor) -> Tensor:
        """[n + 1, D] tower output behind a zero row 0, which stands for 'no text'."""
        return torch.cat([text.new_zeros(1, self.ids.embedding_dim), self.tower(text)])

    def id_table(self, drop: float, training: bool) -> Tensor:
        """[trained + 1, D]; in training a share `drop` of the items loses its id whole, so that text alone must do."""
        if not (training and drop):
            return self.ids.weight
        keep = torch.rand(self.ids.num_embeddings, 1) >= drop
        return self.ids.weight * keep


@dataclass(frozen=True)
class Vectors:
    """What item vectors are looked up from during one pass."""

    texts: Tensor  # [n + 1, D], row 0 zero
    ids: Tensor  # [trained + 1, D], row 0 zero

    def __call__(self, text_row: Tensor, id_row: Tensor) -> Tensor:
        return F.embedding(text_row, self.texts) + F.embedding(id_row, self.ids)


class StepInput(nn.Module):
    """Pools a step's behaviours and adds what is known of the step itself."""

    def __init__(self, item_dim: int, n_types: int, dropout: float) -> None:
        super().__init__()
        self.n_types = n_types
        self.type_vector = nn.Embedding(n_types, item_dim)
        self.gap, self.size, self.quantity = (nn.Embedding(BUCKETS, item_dim) for _ in range(3))
        self.session = nn.Embedding(2, item_dim)
        self.norm = nn.LayerNorm(item_dim)
        self.dropout = nn.Dropout(dropout)
        for table in (self.type_vector, self.gap, self.size, self.quantity, self.session):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, window: Window, gap: Tensor, vectors: Vectors) -> tuple[Tensor, Tensor, Tensor]:
        """Step inputs [B, T, D], sums of behaviour vectors by type [B, T, E, D] and their numbers [B, T, E]."""
        shape = (*window.size.shape, self.n_types)
        slot = window.event_cell * self.n_types + window.event_type  # [W]
        behaviour = vectors(window.event_text, window.event_item)  # [W, D]
        empty = behaviour.new_zeros(shape[0] * shape[1] * shape[2], behaviour.shape[1])
        by_type = empty.index_add(0, slot, behaviour).view(*shape, -1)  # [B, T, E, D]
        number = torch.bincount(slot, minlength=len(empty)).view(shape).to(behaviour.dtype)  # [B, T, E]
        total = number.sum(dim=2, keepdim=True).clamp(min=1)
        mean = by_type.sum(dim=2) / total + (number / total) @ self.type_vector.weight  # [B, T, D]
        context = self.gap(gap) + self.size(window.size) + self.quantity(window.quantity) + self.session(window.session)
        return self.dropout(self.norm(mean + context)), by_type, number


class Recurrence(nn.Module):
    """All that is carried: the recurrent cell and the accumulators of the long part."""

    half_lives: Tensor

    def __init__(self, config: InterestConfig, mean: Tensor, scale: Tensor, n_trained: int, n_types: int) -> None:
        super().__init__()
        dim = config.item_dim
        self.items = ItemVectors(config, mean, scale, n_trained)
        self.step_input = StepInput(dim, n_types, config.dropout)
        self.cell = (nn.LSTMCell if config.cell == "lstm" else nn.GRUCell)(dim, config.hidden_size)
        self.attention = nn.Linear(dim, config.long_queries, bias=False)  # the fixed learnt queries
        self.register_buffer("half_lives", torch.tensor(config.long_half_lives, dtype=torch.float64))

    def scan(self, carry: Carry, window: Window, seen: Tensor, vectors: Vectors) -> Carry:
        """States after the first `seen` [B, P] steps of the window, from the states before it.

        The accumulators are computed in parallel over steps: a lower-triangular matrix of decays (or softmax weights) inside
        the window, merged with the carried state; equal to one step at a time (law 5).
        """
        steps_before = torch.cat([carry.steps[:, None], carry.steps[:, None] + torch.arange(1, window.time.shape[1] + 1)], dim=1)
        times = torch.cat([carry.time[:, None], window.time], dim=1)  # [B, T + 1]
        x, by_type, number = self.step_input(window, gap_bucket(times[:, 1:] - times[:, :-1], steps_before[:, :-1]), vectors)
        h, c = (self._recur_at_once if self.training else self._recur)(carry, window, x)
        included = torch.arange(window.time.shape[1]) < seen[:, :, None]  # [B, P, T] True: the step is part of the state
        now = times.gather(1, seen)  # [B, P]
        peak, numerator, denominator = self._attend(carry, x, included)
        sums, counts, profile = self._decay(carry, window, (by_type, number), included, now)
        return Carry(
            h=_gather_steps(h, seen),
            c=_gather_steps(c, seen),
            peak=peak,
            numerator=numerator,
            denominator=denominator,
            sums=sums,
            counts=counts,
            profile=profile,
            snapshot=_newest_snapshot(carry, window, seen),
            steps=carry.steps[:, None] + seen,
            time=now,
        )

    def _recur(self, carry: Carry, window: Window, x: Tensor) -> tuple[Tensor, Tensor]:
        """h and c [B, T + 1, G] before the window and after each step; padding leaves them as they are."""
        h, c = [carry.h], [carry.c]
        for t in range(x.shape[1]):
            there = (window.length > t)[:, None]
            if isinstance(self.cell, nn.LSTMCell):
                new_h, new_c = self.cell(x[:, t], (h[-1], c[-1]))
                c.append(torch.where(there, new_c, c[-1]))
            else:
                new_h = self.cell(x[:, t], h[-1])
                c.append(c[-1])
            h.append(torch.where(there, new_h, h[-1]))
        return torch.stack(h, dim=1), torch.stack(c, dim=1)

    def _recur_at_once(self, carry: Carry, window: Window, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same in one fused pass, a sixth of the time with its gradients; but the fused pass tells c after its last step only.

        So c is right where it is asked in training, behind a whole window: a row that ends inside has no window after it.
        """
        cell = self.cell
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        if isinstance(cell, nn.LSTMCell):
            after, _, last = torch.lstm(x, [carry.h[None], carry.c[None]], weights, True, 1, 0.0, self.training, False, True)
            c = last[0]
        else:
            after, _ = torch.gru(x, carry.h[None], weights, True, 1, 0.0, self.training, False, True)
            c = carry.c
        h = torch.cat([carry.h[:, None], after], dim=1)  # [B, T + 1, G]
        return h, c[:, None].expand(-1, h.shape[1], -1)

    def _attend(self, carry: Carry, x: Tensor, included: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Softmax attention over all steps so far as (running max, numerator, denominator) (Milakov and Gimelshein 2018)."""
        values = x.to(carry.numerator.dtype)  # [B, T, D]
        logits = (self.attention(x) / x.shape[2] ** 0.5).to(values.dtype).transpose(1, 2)[:, None]  # [B, 1, Q, T]
        masked = logits.masked_fill(~included[:, :, None], -torch.inf)  # [B, P, Q, T]
        peak = torch.maximum(masked.amax(dim=3), carry.peak[:, None])  # [B, P, Q]
        weight = torch.exp(masked - peak[..., None])
        fade = torch.exp(carry.peak[:, None] - peak)  # [B, P, Q]
        inside = (weight.flatten(1, 2) @ values).view(*weight.shape[:3], -1)  # [B, P, Q, D]
        return (
            peak,
            fade[..., None] * carry.numerator[:, None] + inside,
            fade * carry.denominator[:, None] + weight.sum(dim=3),
        )

    def _decay(
        self, carry: Carry, window: Window, behaviours: tuple[Tensor, Tensor], included: Tensor, now: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over behaviours of 2^(-age / half_life) times (vector, 1, text vector), as of the last step seen."""
        dtype = carry.sums.dtype
        by_type, number = behaviours
        batch, moments = now.shape
        age = (now[:, :, None] - window.time[:, None]).clamp(min=0)  # [B, P, T]
        lives = self.half_lives[:, None]
        weight = torch.where(included[:, :, None], torch.exp2(-age[:, :, None] / lives), 0.0).to(dtype)  # [B, P, H, T]
        fade = torch.exp2(-(now - carry.time[:, None]).clamp(min=0)[..., None] / self.half_lives).to(dtype)  # [B, P, H]
        flat = weight.flatten(1, 2)  # [B, P * H, T]
        sums = (flat @ by_type.flatten(2).to(dtype)).view(batch, moments, *carry.sums.shape[1:])  # [B, P, H, E, D]
        counts = (flat @ number.to(dtype)).view(batch, moments, *carry.counts.shape[1:])  # [B, P, H, E]
        longest = int(self.half_lives.argmax())
        profile = weight[:, :, longest] @ window.profile.to(dtype)  # [B, P, K]
        return (
            fade[..., None, None] * carry.sums[:, None] + sums,
            fade[..., None] * carry.counts[:, None] + counts,
            fade[..., longest, None] * carry.profile[:, None] + profile,
        )


def gap_bucket(gap: Tensor, steps_before: Tensor) -> Tensor:
    """Bucket of a time gap in days by its minutes; 0 where there is no step before."""
    return torch.where(steps_before > 0, log_bucket(gap * MINUTES), 0)


def _newest_snapshot(carry: Carry, window: Window, seen: Tensor) -> Tensor:
    """[B, P, K] vector of the profile text that was renewed last by then: within the window, or before it."""
    before = carry.snapshot[:, None].expand(-1, seen.shape[1], -1)
    if not (before.shape[2] and len(window.snapshots)):
        return before
    none_yet = window.snapshot.new_zeros(len(seen), 1)
    row = torch.cat([none_yet, window.snapshot.cummax(dim=1).values], dim=1).gather(1, seen)  # [B, P]
    inside = window.snapshots.to(before.dtype)[(row - 1).clamp(min=0)]
    return torch.where(row[..., None] > 0, inside, before)


def _gather_steps(values: Tensor, seen: Tensor) -> Tensor:
    """[B, T + 1, G] at `seen` [B, P] -> [B, P, G]."""
    return values.gather(1, seen[:, :, None].expand(-1, -1, values.shape[2]))
