"""The head of the interest model: what turns carried states into logits (DESIGN 1.4, and the p side of 1.5).

Legend: P users (or examples) at their queries, N items, K text dimensions, D item dimensions, G units of the recurrent state, Q
attention queries, E behaviour types, H half-lives of the long part, R those of own counts, M own items of the P users.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.recurrence import BUCKETS, Carry, ItemVectors, gap_bucket
from llmrec_pipeline.interest.window import log_bucket

NOTHING = -200.0  # log of a weight that is 0 in float32, and yet a number
REPEAT_UNITS = 16
LOG_SHARE_SCALE = 10.0  # log P_t is of about this size


class Gate(nn.Module):
    """g in [0, 1]: how much the short part counts, from history length and time since the last step, both bucketed; or fixed."""

    def __init__(self, fixed: float | None) -> None:
        super().__init__()
        self.fixed = fixed
        self.length, self.recency = nn.Embedding(BUCKETS, 1), nn.Embedding(BUCKETS, 1)
        nn.init.zeros_(self.length.weight)
        nn.init.zeros_(self.recency.weight)

    def forward(self, steps: Tensor, since: Tensor, shift: float) -> Tensor:
        if self.fixed is not None:
            return torch.full(steps.shape, self.fixed)
        logit = self.length(log_bucket(steps, start=0)) + self.recency(gap_bucket(since, steps))
        return torch.sigmoid(logit + shift).squeeze(-1)


class Repeat(nn.Module):
    """r_{u,i}(t): what a user had before competes with what is popular.

    r = log(1 + sum_e exp(c_e) * (prod_h (1 + own_{u,i,e,h})^w_{e,h} - 1) / prod_h (1 + own_{u,.,e,h})^k_h * exp(m) * P_t(i)^-eta),
    where own_{u,.} sums over the user's items and P_t = softmax of b(t) over the candidates. Without m, and with w, k and eta of 1
    at one half-life and 0 at the others, exp(b + r) is a mixture of popularity and the user's own shares. The product, unlike a sum
    over half-lives, puts what is had both lately and for long before what is either. m, of one hidden layer over the same logarithms,
    is bounded, 0 at the start, and lets the slope of r differ between an item had once and one had weekly
    (docs/adr/0006-repeat-term.md has what each part gives).
    """

    def __init__(self, target: Tensor, half_lives: int) -> None:
        super().__init__()
        counts = len(target) * half_lives
        self.strength = nn.Parameter(2 * target.squeeze(1) - 1.5)  # c_e: 0.5 for targets, -1.5 for other types
        self.log_slope = nn.Parameter(-torch.full((len(target), half_lives), half_lives).log())  # log w_{e,h}, so that w > 0
        self.saturation = nn.Parameter(torch.full((half_lives,), 0.9 / half_lives))  # k_h
        self.rivalry = nn.Parameter(torch.tensor(0.6))  # eta
        self.pair = nn.Linear(counts + 1, REPEAT_UNITS)  # m's hidden layer: what is of the item,
        self.user = nn.Linear(counts, REPEAT_UNITS, bias=False)  # what is of the user,
        self.shape = nn.Linear(REPEAT_UNITS, 1, bias=False)  # and what follows
        nn.init.zeros_(self.shape.weight)

    def forward(self, row: Tensor, decayed: Tensor, n_rows: int, log_share: Tensor) -> Tensor:
        """[M] r of M own items.

        Args:
            row: [M] which of `n_rows` users (or examples) each own item belongs to.
            decayed: [M, E, R] own decayed counts.
            n_rows: number of users.
            log_share: [M] log P_t of the item.
        """
        total = torch.log1p(decayed.new_zeros(n_rows, *decayed.shape[1:]).index_add(0, row, decayed))  # [n_rows, E, R]
        own = torch.log1p(decayed)  # [M, E, R]
        level = self.strength - total @ self.saturation  # [n_rows, E]
        power = (own * self.log_slope.exp()).sum(dim=2)  # [M, E]
        mass = (torch.expm1(power) * F.embedding(row, level.exp())).sum(dim=1)  # [M]
        of_item = torch.cat([own.flatten(1), log_share[:, None] / LOG_SHARE_SCALE], dim=1)  # [M, E * R + 1]
        units = torch.tanh(self.pair(of_item) + F.embedding(row, self.user(total.flatten(1))))  # [M, REPEAT_UNITS]
        return torch.log1p(mass * torch.exp(self.shape(units).squeeze(1) - self.rivalry * log_share))


class Head(nn.Module):
    """All that scores: output-side item vectors, W_1, the long part's read-out, the gate, biases and repeat weights."""

    half_lives: Tensor
    bias_text: Tensor
    total_text: Tensor

    def __init__(
        self, config: InterestConfig, items: ItemVectors, text_dim: int, is_target: Sequence[bool], repeats: bool
    ) -> None:
        super().__init__()
        n_types, lives, dim = len(is_target), len(config.long_half_lives), config.item_dim
        self.items = items
        width = config.long_queries * dim + lives * n_types * (dim + 1) + text_dim * (1 + config.profile_texts) + 1
        self.long = nn.Linear(width, config.hidden_size)
        self.w1 = nn.Linear(config.hidden_size, dim, bias=False)  # W_1
        self.gate = Gate(config.gate)
        self.dropout = nn.Dropout(config.dropout)
        self.bias = nn.Embedding(items.ids.num_embeddings, 1, padding_idx=0)  # b_i
        nn.init.zeros_(self.bias.weight)
        target = torch.tensor(is_target, dtype=torch.float32)[:, None]
        popularity = len(config.popularity_half_lives)
        self.popularity = nn.Parameter(target * torch.full((1, popularity), 1.0 / popularity))  # a_{e,h}
        self.repeat = Repeat(target, len(config.repeat_half_lives)).requires_grad_(repeats)
        if not config.as_of_terms:
            self.popularity.requires_grad_(False).zero_()
            self.repeat.requires_grad_(False).strength.fill_(NOTHING)
        self.register_buffer("half_lives", torch.tensor(config.long_half_lives, dtype=torch.float64))
        self.register_buffer("bias_text", torch.zeros(text_dim + 1))  # ridge of b_i on the standardised text, constant last
        self.register_buffer("total_text", torch.zeros(text_dim + 1))  # the same of b_i(t), as of the end of training
        self.new_level = nn.Parameter(
            torch.zeros(()), requires_grad=False
        )  # what b_i(t) of an item that nobody had is above that

    def text_bias(self, text: Tensor, has_text: Tensor) -> tuple[Tensor, Tensor]:
        """[n] b_i and [n] b_i(t) of items without training, by their text vectors [n, K]; constants where `has_text` [n] is False."""
        known = self.items.tower.standardise(text) * has_text[:, None]
        static, total = (known @ weights[:-1] + weights[-1] for weights in (self.bias_text, self.total_text))
        return static, total + self.new_level

    def interest(self, carry: Carry, query_time: Tensor, gate_shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """short_u [P, G], long_u [P, G] and the gate g [P] as of `query_time` [P]; I_u = g * short_u + (1 - g) * long_u.

        `gate_shift` is added to the logit of a learnt gate.
        """
        since = query_time - carry.time  # [P]
        fade = torch.exp2(-since.clamp(min=0)[:, None] / self.half_lives).to(carry.sums.dtype)  # [P, H]
        counts = fade[:, :, None] * carry.counts  # [P, H, E] as of the query
        means = fade[:, :, None, None] * carry.sums / (1 + counts[..., None])  # shrunk by one behaviour: fades with time
        longest = int(self.half_lives.argmax())
        profile = fade[:, longest, None] * carry.profile / (1 + counts[:, longest].sum(dim=1, keepdim=True))
        attention = carry.numerator / carry.denominator.clamp(min=1)[..., None]  # the maximum alone weighs 1; 0 without steps
        steps = torch.log1p(carry.steps.to(counts.dtype))[:, None]
        parts = [
            attention.flatten(1),
            means.flatten(1),
            torch.log1p(counts).flatten(1),
            profile,
            self._profile_text(carry),
            steps,
        ]
        long = self.long(self.dropout(torch.cat(parts, dim=1).float()))
        return self.dropout(carry.h), long, self.gate(carry.steps, since, gate_shift)

    def _profile_text(self, carry: Carry) -> Tensor:
        """[P, K] of the newest profile text, standardised as all texts are, 0 before the first; [P, 0] without profile texts."""
        vector = carry.snapshot
        if not vector.shape[1]:
            return vector
        return self.items.tower.standardise(vector) * (vector != 0).any(dim=1, keepdim=True)

    def user_vectors(self, carry: Carry, query_time: Tensor) -> Tensor:
        """[P, D] W_1 I_u as of `query_time` [P]."""
        short, long, gate = self.interest(carry, query_time)
        vectors: Tensor = self.w1(gate[:, None] * short + (1 - gate)[:, None] * long)
        return vectors
