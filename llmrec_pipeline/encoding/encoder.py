"""The encoder: texts -> vectors by a transformer, in batches of near-equal length (DESIGN 1.3). No Spark here.

Legend: N texts, B texts of a batch, T tokens of the longest text of a batch, D dimensions of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.encoding.batching import pad, plan
from llmrec_pipeline.encoding.spec import EncoderSpec, resolve
from llmrec_pipeline.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]

__all__ = ["Encoded", "Encoder", "EncoderSpec", "Totals", "pool", "resolve"]

CHARS_PER_TOKEN = 32  # a text is cut to max_length * this before tokenising: the time for a text is bounded, whatever its size
TOKENISED_AT_ONCE = 1_000  # texts; bounds the tokenizer's objects in memory


@dataclass
class Totals:
    """What an encoder has done since it was loaded."""

    texts: int = 0
    tokens: int = 0  # of the texts, special ones included, after truncation
    padding: int = 0  # computed beside `tokens`
    truncated: int = 0  # texts longer than max_length

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


class Encoder:
    """A tokenizer and a model, loaded once, in evaluation mode.

    In fp32 a text's vector does not depend on the texts beside it (to 1e-5); in bf16 that is not promised.
    """

    def __init__(self, spec: EncoderSpec, device: str = "cpu", token_budget: int = 1024) -> None:
        """Loads the model onto `device` ("cpu", "cuda:0").

        Args:
            spec: the encoder as resolved.
            device: where the forward pass runs.
            token_budget: padded tokens of a forward pass, at least `spec.max_length`.

        Raises:
            ModelError: the folder does not load as a transformer with a fast tokenizer, or lacks weights.
        """
        self.spec, self.device, self.token_budget = spec, device, token_budget
        self.totals = Totals()
        self._tokenizer, self._pad_id = _load_tokenizer(spec)
        self._special = int(self._tokenizer.num_special_tokens_to_add(False))
        self._model = _load_model(spec).to(device)

    @property
    def max_chars(self) -> int:
        """Characters of a text that are read; what is beyond cannot reach the vector."""
        return self.spec.max_length * CHARS_PER_TOKEN

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
        rows, reasons = self._tokenise(texts)
        usable = np.array([place for place, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        lengths = np.array([len(rows[place]) for place in usable], dtype=np.int64)
        vectors = np.full((len(texts), self.spec.dimensions), np.nan, dtype=np.float32)
        tokens = np.zeros(len(texts), dtype=np.int64)
        batches = [usable[batch] for batch in plan(lengths, self.token_budget)]
        if batches:
            vectors[np.concatenate(batches)] = self._forward([[rows[place] for place in batch] for batch in batches])
            tokens[usable] = lengths
        for place in usable[~np.isfinite(vectors[usable]).all(axis=1)]:
            reasons[place], vectors[place], tokens[place] = "the model's vector is not finite", np.nan, 0
        return Encoded(vectors, tokens, reasons)

    def _tokenise(self, texts: Sequence[str]) -> tuple[list[list[int]], list[str | None]]:
        """Token ids of each text, truncated, and the reasons of texts without any."""
        rows: list[list[int]] = []
        reasons: list[str | None] = []
        for start in range(0, len(texts), TOKENISED_AT_ONCE):
            cut = [text.strip()[: self.max_chars + 1] for text in texts[start : start + TOKENISED_AT_ONCE]]
            found = self._tokenizer.encode_batch_fast([text[: self.max_chars] for text in cut])
            for text, encoding in zip(cut, found, strict=True):
                ids = encoding.ids
                rows.append(ids)
                reasons.append("it is blank" if not text else "it has no tokens" if len(ids) <= self._special else None)
                self.totals.truncated += len(text) > self.max_chars or len(encoding.overflowing) > 0
        return rows, reasons

    def _forward(self, batches: list[list[list[int]]]) -> Float:
        """Vectors of all rows, batch after batch; results stay on the device until the end, so that it never waits."""
        import torch

        pieces = []
        bf16 = self.spec.precision == "bf16"
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=bf16):
            for batch in batches:
                ids, mask = pad(batch, self._pad_id)
                kept = int(mask.sum())
                self.totals.texts += len(batch)
                self.totals.tokens += kept
                self.totals.padding += mask.size - kept
                pieces.append(self._vectors(torch.from_numpy(ids), torch.from_numpy(mask)))
        vectors: Float = torch.cat(pieces).cpu().numpy()
        return vectors

    def _vectors(self, ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        import torch

        ids, mask = ids.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)
        hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # [B, T, D]
        vectors = pool(hidden.float(), mask, self.spec.pooling)  # [B, D]
        return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True) if self.spec.normalise else vectors


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


def _load_tokenizer(spec: EncoderSpec) -> tuple[Any, int]:
    """The folder's fast tokenizer, cutting at max_length on the right and adding no padding, and a token to pad with."""
    from transformers import AutoTokenizer

    try:
        whole = AutoTokenizer.from_pretrained(spec.folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{spec.folder}: tokenizer does not load ({error}); expected one that needs no code") from error
    if not whole.is_fast:
        raise ModelError(f"the tokenizer in {spec.folder}, {type(whole).__name__}, has no fast version; add its tokenizer.json")
    backend = whole.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(spec.max_length, direction="right")
    backend.encode_special_tokens = True  # "[SEP]" in a product's title is five characters, not the end of the text
    return backend, whole.pad_token_id or 0


def _load_model(spec: EncoderSpec) -> Any:
    """The folder's model in evaluation mode, fp32 weights; refuses weights that would be left random."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model, found = AutoModel.from_pretrained(
            spec.folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{spec.folder}: model does not load ({error}); expected a transformer that needs no code") from error
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ModelError(
            f"{spec.folder} lacks {len(missing)} weights, such as {missing[0]}, and random ones will not do; copy it anew"
        )
    return model.eval().requires_grad_(False)
