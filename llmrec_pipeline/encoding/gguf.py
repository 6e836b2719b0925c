"""GGUF files: what an encoder needs to know of one, and the tokenizer that its pieces and scores define.

The format: github.com/ggml-org/ggml, docs/gguf.md. Weights are read by transformers (`backends`), the rest here: its reader takes
ten seconds for a vocabulary of 262,144, and the tokenizer that it makes splits "capital" into c, ap, it, al.
"""

import hashlib
import importlib
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec_pipeline.encoding.cache import cached
from llmrec_pipeline.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 had shorter counts
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # value type -> struct's
STRING, ARRAY = 8, 9  # value types
NORMAL, USER_DEFINED, BYTE = 1, 4, 6  # piece types
SPACE = "\u2581"  # what SentencePiece writes for a space


def metadata(file: Path) -> dict[str, Any]:
    """All key-value pairs in front of a file's tensors.

    Raises:
        ModelError: it is no GGUF file, or cut off within them.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(data).pairs()
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ModelError(f"{file} could not be read as a GGUF file ({error}); copy it anew") from error


def architecture(file: Path) -> dict[str, Any]:
    """Of a file's metadata, under the names of config.json: the length of a vector and the longest input in tokens."""
    pairs = metadata(file)
    name = pairs.get("general.architecture")
    keys = {"hidden_size": f"{name}.embedding_length", "max_position_embeddings": f"{name}.context_length"}
    missing = [key for key in keys.values() if key not in pairs]
    if missing:
        raise ModelError(f"{file} lacks {', '.join(missing)}; expected the GGUF file of a language model")
    return {key: pairs[value] for key, value in keys.items()}


def assembled(package: str, sha256: str) -> Path:
    """A folder in the user's cache with the file that `assemble()` of an installed package joins from its parts.

    The package is imported, for this once: it alone knows its parts.

    Raises:
        ModelError: the package does not assemble a file, or one with another hash.
    """

    def make(folder: Path) -> None:
        file = folder / "model.gguf"
        try:
            importlib.import_module(package).assemble(file)
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except Exception as error:  # whatever the package's code raises
            cause = " ".join(str(error).split())[:200]
            raise ModelError(
                f"package {package!r} has neither a model/ folder nor an assemble() that gives a GGUF file ({cause}); "
                "encoder.source needs a package that carries a model, whole"
            ) from error
        if found != sha256:
            raise ModelError(
                f"package {package!r} assembles a file with the SHA-256 {found}, but encoder.gguf_sha256 is {sha256}; "
                "install the package that gives that file, or pin the hash that its publisher names"
            )

    return cached("gguf", sha256, make)


def tokenizer(file: Path) -> tuple["Tokenizer", int | None]:
    """The fast tokenizer that a file's pieces and scores define, and the id of its unknown token.

    SentencePiece's BPE: of all neighbours that together are a piece, those with the highest score are joined first. Each way to
    split a piece into two others becomes a merge, in the order of the scores. What no piece covers becomes bytes. Runs of white
    space are kept whole, as the file's user-defined pieces. No other piece is: control tokens in data are plain text.

    Raises:
        ModelError: the file's tokenizer is of another kind.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    pairs = metadata(file)
    kind, lists = pairs.get("tokenizer.ggml.model"), [f"tokenizer.ggml.{key}" for key in ("tokens", "scores", "token_type")]
    if kind != "llama" or not set(lists) <= set(pairs):
        raise ModelError(
            f"{file} has a tokenizer of the kind {kind!r}, expected 'llama', pieces with scores; take the same model as safetensors"
        )
    pieces, scores, kinds = (pairs[key] for key in lists)
    unknown = pairs.get("tokenizer.ggml.unknown_token_id")
    fast = Tokenizer(
        models.BPE(
            {piece: place for place, piece in enumerate(pieces)},
            _merges(pieces, scores, kinds),
            byte_fallback=BYTE in kinds,
            unk_token=None if unknown is None else pieces[unknown],
        )
    )
    prefix = "first" if pairs.get("tokenizer.ggml.add_space_prefix", True) else "never"
    fast.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=prefix, split=False)
    runs = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == USER_DEFINED and piece.isspace()]
    fast.add_tokens([AddedToken(piece, normalized=False) for piece in runs])
    first, last = _added(pairs, "bos", default=True), _added(pairs, "eos", default=False)
    fast.post_processor = processors.TemplateProcessing(
        single=[*(pieces[token] for token in first), "$A", *(pieces[token] for token in last)],
        special_tokens=[(pieces[token], token) for token in {*first, *last}],
    )
    return fast, unknown


def _added(pairs: dict[str, Any], name: str, default: bool) -> list[int]:
    """The id of a token that the file wants around each text; `default` where it does not say, as llama.cpp has it."""
    return [pairs[f"tokenizer.ggml.{name}_token_id"]] if pairs.get(f"tokenizer.ggml.add_{name}_token", default) else []


def _merges(pieces: list[str], scores: list[float], kinds: list[int]) -> list[tuple[str, str]]:
    """Each way to put a normal piece together from two others, by the score of the whole, highest first."""
    normal = [place for place, kind in enumerate(kinds) if kind == NORMAL]
    known = {pieces[place] for place in normal}
    wholes = [pieces[place] for place in sorted(normal, key=lambda place: -scores[place])]
    splits = ((whole[:cut], whole[cut:]) for whole in wholes for cut in range(1, len(whole)))
    return [(left, right) for left, right in splits if left in known and right in known]


class _Header:
    """Reads the key-value pairs one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._place = data, len(MAGIC)

    def pairs(self) -> dict[str, Any]:
        if self._data[: len(MAGIC)] != MAGIC:
            raise ValueError(f"it begins with {self._data[: len(MAGIC)]!r}, expected {MAGIC!r}")
        version, _, count = self._numbers("IQQ")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, expected one of {VERSIONS}")
        return {self._string(): self._value(self._numbers("I")[0]) for _ in range(count)}

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            of, count = self._numbers("IQ")
            return (
                [self._value(of) for _ in range(count)] if of in (STRING, ARRAY) else list(self._numbers(f"{count}{NUMBERS[of]}"))
            )
        return self._numbers(NUMBERS[kind])[0]

    def _string(self) -> str:
        (length,) = self._numbers("Q")
        self._place += length
        return self._data[self._place - length : self._place].decode()

    def _numbers(self, form: str) -> tuple[Any, ...]:
        read = struct.unpack_from(f"<{form}", self._data, self._place)
        self._place += struct.calcsize(f"<{form}")
        return read
