"""The encoder: texts -> vectors by a transformer, in batches of near-equal length (DESIGN 1.3). No Spark here.

Legend: N texts, B texts of a batch, T tokens of the longest text of a batch, D dimensions of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.encoding.backends import StaticBackend, load_backend, load_projection
from llmrec_pipeline.encoding.batching import Tokens, pad, plan
from llmrec_pipeline.encoding.spec import EncoderSpec
from llmrec_pipeline.encoding.tokenizer import Tokenizer
from llmrec_pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]

CPU_BUDGET, GPU_BUDGET = 1_024, 65_536  # padded tokens of a forward pass, measured (docs/encoding.md)
NOT_FINITE = "the model's vector is not finite"


@dataclass
class Totals:
    """What an encoder has done since it was loaded."""

    texts: int = 0
    tokens: int = 0  # of the texts, special ones included, after truncation
    padding: int = 0  # computed beside `tokens`

    @property
    def padding_share(self) -> float:
        """Share of computed tokens that were padding."""
        return self.padding / max(1, self.tokens + self.padding)


@dataclass(frozen=True)
class Encoded:
    """Vectors of N texts, and why some have none."""

    vectors: Float  # [N, D]; NaN where there is a reason
    tokens: Int  # [N] after truncation; 0 where there is a reason
    reasons: list[str | None] = field(default_factory=list)  # [N] None: encoded


@dataclass(frozen=True)
class Launched:
    """Vectors that a device may still be computing."""

    batches: list[Int]  # each [B], positions among the N texts
    pieces: "list[torch.Tensor]"  # vectors of each batch: [B, D]
    padding: Int  # [N]
    dimensions: int

    def result(self) -> tuple[Float, Int]:
        """Vectors [N, D], NaN for a text without tokens, and the padding [N]; waits for the device."""
        import torch

        vectors = np.full((len(self.padding), self.dimensions), np.nan, dtype=np.float32)
        if self.pieces:
            vectors[np.concatenate(self.batches)] = torch.cat(self.pieces).cpu().numpy()
        return vectors, self.padding


class Encoder:
    """A tokenizer and a model, loaded once.

    In fp32 a text's vector does not depend on the texts beside it (to 1e-5); in bf16 and fp16 that is not promised.
    """

    def __init__(self, spec: EncoderSpec, device: str = "cpu", token_budget: int | None = None, threads: int = 1) -> None:
        """Loads the model onto `device` ("cpu", "cuda:0").

        Args:
            spec: the encoder as resolved.
            device: where the forward pass runs.
            token_budget: padded tokens of a forward pass, at least `spec.max_length`; None: what suits the device.
            threads: of a forward pass on a CPU.

        Raises:
            ModelError: the folder does not load as a transformer, lacks weights, or this machine does not compute in the spec's
                precision.
        """
        self.spec, self.device = spec, device
        self.set_budget(token_budget)
        self.totals = Totals()
        self._forward = load_backend(spec, device, threads)
        self._projection = load_projection(spec, device)

    def set_budget(self, token_budget: int | None) -> None:
        """Padded tokens of a forward pass from now on; None: what suits the device."""
        suits = GPU_BUDGET if self.device.startswith("cuda") else CPU_BUDGET
        self.token_budget = token_budget or max(self.spec.max_length, suits)

    def encode(self, texts: Sequence[str]) -> tuple[Float, Int]:
        """Vectors [N, D] of the texts, in their order, and their numbers of tokens [N].

        Raises:
            InputError: a text is empty, blank, or made of characters that the tokenizer drops.
        """
        encoded = self.try_encode(texts)
        for place, reason in enumerate(encoded.reasons):
            if reason:
                raise InputError(f"text {place} of {len(texts)}, {texts[place][:80]!r}, has no vector: {reason}; leave it out")
        return encoded.vectors, encoded.tokens

    def try_encode(self, texts: Sequence[str]) -> Encoded:
        """As `encode`, with a reason instead of an error for each text that has no vector."""
        tokenised = self.tokenise(texts)
        vectors, _ = self.encode_tokens(tokenised.tokens)
        finite = np.asarray(np.isfinite(vectors).all(axis=1))
        reasons = [reason or (None if good else NOT_FINITE) for reason, good in zip(tokenised.reasons, finite, strict=True)]
        return Encoded(vectors, np.where(finite, tokenised.tokens.lengths, 0), reasons)

    @cached_property
    def tokenise(self) -> Tokenizer:
        """The encoder's tokenizer, loaded at first use: where texts come as tokens there is none."""
        return Tokenizer(self.spec)

    def encode_tokens(self, tokens: Tokens) -> tuple[Float, Int]:
        """Vectors [N, D] of tokenised texts, NaN for one without tokens, and the padding [N] computed beside each."""
        return self.launch(tokens).result()

    def launch(self, tokens: Tokens) -> "Launched":
        """Starts on `encode_tokens`. A GPU computes while the caller goes on; a CPU has computed all when this returns."""
        lengths = tokens.lengths
        usable = np.flatnonzero(lengths)
        self.totals.texts += len(usable)
        self.totals.tokens += int(lengths.sum())
        if isinstance(self._forward, StaticBackend):
            pieces = [self._scaled(self._forward.pooled(tokens, usable))] if len(usable) else []
            return Launched([usable], pieces, np.zeros_like(lengths), self.spec.dimensions)
        batches = [usable[batch] for batch in plan(lengths[usable], self.token_budget)]
        padding = np.zeros(len(lengths), dtype=np.int64)
        pieces = []
        for batch in batches:
            ids, mask = pad(tokens, batch)
            padding[batch] = ids.shape[1] - lengths[batch]
            pieces.append(self._vectors(self._forward(ids, mask), mask))
        self.totals.padding += int(padding.sum())
        return Launched(batches, pieces, padding, self.spec.dimensions)

    def _vectors(self, hidden: "torch.Tensor", mask: npt.NDArray[np.bool_]) -> "torch.Tensor":
        """Pooled and scaled in fp32, whatever the precision of `hidden` [B, T, D]."""
        import torch

        with torch.inference_mode():
            kept = torch.from_numpy(mask).to(hidden.device, non_blocking=True)
            vectors = pool(hidden.float(), kept, self.spec.pooling)  # [B, D]
            return self._scaled(vectors if self._projection is None else vectors @ self._projection)

    def _scaled(self, vectors: "torch.Tensor") -> "torch.Tensor":
        """Vectors [B, D] at unit length and rounded, where the spec says so."""
        import torch

        if self.spec.normalise:
            vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        return vectors.half().float() if self.spec.round_to == "float16" else vectors


def pool(hidden: "torch.Tensor", mask: "torch.Tensor", how: Literal["mean", "cls", "last"]) -> "torch.Tensor":
    """One vector of each text's token vectors; left and right padding give the same.

    Mean is Sentence-BERT's (arXiv 1908.10084, section 3), last the one for decoders (arXiv 2401.00368, section 3).

    Args:
        hidden: [B, T, D].
        mask: [B, T], True: a token of the text; at least one a row.
        how: mean of the text's tokens, its first one (cls) or its last one.

    Returns:
        [B, D]
    """
    if how == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)  # [B, T, 1]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    first = mask.long().argmax(dim=1)  # [B]
    place = first if how == "cls" else mask.shape[1] - 1 - mask.flip(1).long().argmax(dim=1)
    index = place[:, None, None].expand(-1, 1, hidden.shape[2])  # [B, 1, D]
    return hidden.gather(1, index).squeeze(1)
