"""Text -> token ids, by the encoder's own fast tokenizer. Neither Spark nor torch here.

Legend: N texts.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.encoding import gguf
from llmrec_pipeline.encoding.batching import Tokens
from llmrec_pipeline.encoding.spec import EncoderSpec
from llmrec_pipeline.errors import ModelError

CHARS_PER_TOKEN = 32  # a text is cut to max_length * this before tokenising: the time for a text is bounded, whatever its size
AT_ONCE = 1_000  # texts; bounds the tokenizer's objects in memory

BLANK, NO_TOKENS = "it is blank", "it has no tokens"
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # Unicode's control, format and space characters


@dataclass(frozen=True)
class Tokenised:
    """Token ids of N texts, and why some have none."""

    tokens: Tokens  # of N texts; none where there is a reason
    reasons: list[str | None]  # [N] None: it has tokens
    unknown: npt.NDArray[np.int32]  # [N] tokens that stand for what the vocabulary lacks
    truncated: npt.NDArray[np.bool_]  # [N] longer than max_length


class Tokenizer:
    """The tokenizer of an encoder's folder, which cuts at max_length on the right and adds no padding.

    Special tokens in the data are plain text: "[SEP]" in a product's title is five characters, not the end of the text.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads it.

        Raises:
            ModelError: the folder has no tokenizer that loads without code of its own, or none with a fast version.
        """
        self._fast: Any
        self._fast, unknown = gguf.tokenizer(Path(spec.folder) / spec.gguf) if spec.gguf else _of_folder(spec.folder)
        self._fast.no_padding()
        self._fast.enable_truncation(spec.max_length, direction="right")
        self._fast.encode_special_tokens = True
        self._special = int(self._fast.num_special_tokens_to_add(False))
        self._unknown_id = -1 if unknown is None else unknown
        self._keeps_unseen = spec.gguf is not None
        self.max_chars = max_chars(spec.max_length)

    def __call__(self, texts: Sequence[str]) -> Tokenised:
        """Tokenises N texts; what is beyond `max_chars` characters of a text cannot reach its vector."""
        rows: list[list[int]] = []
        reasons: list[str | None] = []
        truncated: list[bool] = []
        for start in range(0, len(texts), AT_ONCE):
            cut = [text.strip()[: self.max_chars + 1] for text in texts[start : start + AT_ONCE]]
            found = self._fast.encode_batch_fast([text[: self.max_chars] for text in cut])
            for text, encoding in zip(cut, found, strict=True):
                ids = encoding.ids
                nothing = len(ids) <= self._special or (self._keeps_unseen and _unseen(text))
                reasons.append(BLANK if not text else NO_TOKENS if nothing else None)
                rows.append([] if reasons[-1] else ids)
                truncated.append(len(text) > self.max_chars or len(encoding.overflowing) > 0)
        tokens = Tokens.of(rows)
        up_to = np.concatenate([[0], np.cumsum(tokens.values == self._unknown_id)])  # [offsets[N] + 1]
        unknown = np.diff(up_to[tokens.offsets]).astype(np.int32)
        return Tokenised(tokens, reasons, unknown, np.array(truncated, dtype=np.bool_))


def _of_folder(folder: str) -> tuple[Any, int | None]:
    """A folder's fast tokenizer and the id of its unknown token."""
    from transformers import AutoTokenizer

    try:
        whole = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder}: tokenizer does not load ({error}); expected one that needs no code") from error
    if not whole.is_fast:
        raise ModelError(f"the tokenizer in {folder}, {type(whole).__name__}, has no fast version; add its tokenizer.json")
    return whole.backend_tokenizer, None if whole.unk_token_id is None else int(whole.unk_token_id)


def _unseen(text: str) -> bool:
    """Whether a text has no character that a person or a model could read."""
    return all(unicodedata.category(character) in UNSEEN for character in text)


def max_chars(max_length: int) -> int:
    """Characters of a text that are read, for texts of at most `max_length` tokens."""
    return max_length * CHARS_PER_TOKEN
