"""Making cheaper tiers of an encoder: each is a folder that `encoder.source` may name, judged before it is handed over.

Legend: N texts, V tokens of the vocabulary, L tokens that are learnt, D dimensions of the base's vectors, d of the tier's.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding.backends import load_model, load_projection, save_int8
from llmrec_pipeline.encoding.batching import Int, Tokens
from llmrec_pipeline.encoding.choosing import REFERENCE, cosines, fastest_seconds, processor
from llmrec_pipeline.encoding.encoder import Encoder, Float
from llmrec_pipeline.encoding.spec import FIXED, TOKENIZER_FILES, EncoderSpec, describe, resolve, tier_of
from llmrec_pipeline.encoding.tier import PROJECTION, TOP, Judgement, Kind, Tier
from llmrec_pipeline.errors import ConfigError, InputError

TEXTS = 50_000  # at most: they are encoded by the base on this machine (a few minutes)
LEAST = 1_000  # texts: among fewer, a text's 100 nearest are no choice
QUERIES, CORPUS = 2_000, 10_000  # at most
HELD_OUT = 0.2  # of the texts, up to QUERIES: the queries, which nothing is learnt from
LEARNT_TOKENS = 8_000  # at most, the most frequent: the matrix of the least squares has their number squared (0.5 GB)
RIDGE = 0.01  # in squared shares: a text of ten tokens that holds one once adds as much
MAP_RIDGE = 0.1  # in texts

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Base:
    """The encoder that a tier is made from, and what it makes of the texts."""

    spec: EncoderSpec
    tokens: Tokens  # of N texts, all with a vector
    vectors: Float  # [N, D]
    queries: int  # the first ones, which nothing may be learnt from
    folder: Path  # that the tier is written to

    @property
    def learnt(self) -> tuple[Tokens, Matrix]:
        """Tokens and vectors of the texts to learn from."""
        return self.tokens.take(np.arange(self.queries, len(self.vectors))), self.vectors[self.queries :].astype(np.float64)


def compress(
    kind: Kind,
    config: EncoderConfig,
    texts: Sequence[str],
    out: Path,
    *,
    layers: int | None = None,
    dimensions: int | None = None,
    seed: int = 17,
) -> Tier:
    """Makes the folder `out`, whole or not at all.

    Args:
        kind: of the tier.
        config: names the base; its pooling, normalise and max_length are the tier's as well.
        texts: [N] distinct ones of the domain.
        out: a folder that does not exist.
        layers: of a pruned tier.
        dimensions: of a tier of kind pca or matryoshka.
        seed: deals the texts to those that are learnt from and those that it is judged on.

    Raises:
        ConfigError: a number is missing or out of range, `out` exists, or the base is itself a tier or a GGUF file.
        InputError: there are too few texts.
        ModelError: the base does not load, or OpenVINO cannot export it.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; name another folder with --out, or remove it")
    if config.gguf_sha256 or tier_of(config):
        raise ConfigError(
            f"encoder.source {config.source!r} is {'a GGUF file' if config.gguf_sha256 else 'a tier already'}; name the folder, "
            "package or hub id of safetensors that a tier is to be made from"
        )
    spec = resolve(config, REFERENCE)
    number = _number(kind, spec, layers, dimensions)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        base = _base(spec, texts, seed, folder)
        _copy(Path(spec.folder), folder, "config.json", *TOKENIZER_FILES)
        kept = _make(kind, base, number)
        tier = Tier(
            kind=kind,
            base=spec.encoder_id,
            pooling=spec.pooling,
            normalise=spec.normalise,
            max_length=spec.max_length,
            dimensions=number if kind in ("pca", "matryoshka") else spec.dimensions,
            layers=kept,
            seed=seed,
            learnt=0 if kind in ("matryoshka", "int8") else len(base.vectors) - base.queries,
        )
        tier.write(folder)
        tier = tier.model_copy(
            update={"judgement": judge(base, describe(folder, None, config, FIXED.get(kind, REFERENCE)), seed)}
        )
        tier.write(folder)
        folder.chmod(0o755)  # mkdtemp's is the maker's alone, and executors may run as others
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tier


def _number(kind: Kind, spec: EncoderSpec, layers: int | None, dimensions: int | None) -> int:
    """The layers of a pruned tier, the dimensions of one that has fewer, else 0.

    Raises:
        ConfigError: it is missing, out of range, or of no meaning for the kind.
    """
    if kind == "pruned":
        asked, given, most = "--layers", layers, int(load_model(spec).config.get_text_config().num_hidden_layers) - 1
    else:
        asked, given, most = "--dimensions", dimensions, spec.dimensions
    other = dimensions if kind == "pruned" else layers
    if kind in ("static", "int8"):
        if (layers, dimensions) != (None, None):
            raise ConfigError(f"--layers and --dimensions mean nothing for a tier of kind {kind}; leave them out")
        return 0
    if other is not None or given is None or not 1 <= given <= most:
        raise ConfigError(f"{asked} is {given} for a tier of kind {kind}, expected 1 to {most}, and no other number beside it")
    return given


def _base(spec: EncoderSpec, texts: Sequence[str], seed: int, folder: Path) -> Base:
    encoder = Encoder(spec, threads=_threads())
    tokens = encoder.tokenise(texts).tokens
    vectors, _ = encoder.encode_tokens(tokens)
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(usable) < LEAST:
        raise InputError(f"{len(usable):,} texts to learn from and judge by, expected at least {LEAST:,}; textualise more first")
    order = np.random.default_rng(seed).permutation(usable)
    return Base(spec, tokens.take(order), vectors[order], min(QUERIES, int(HELD_OUT * len(order))), folder)


def _make(kind: Kind, base: Base, number: int) -> tuple[int, ...] | None:
    """Writes the tier's own files; the layers that were kept, where some were not."""
    if kind == "pruned":
        return prune(base, number)
    if kind == "static":
        _save(base.folder / "model.safetensors", embeddings=token_vectors(base))
    elif kind == "int8":
        save_int8(base.spec, base.folder)
    else:
        _copy(Path(base.spec.folder), base.folder, "*.safetensors", "*.safetensors.index.json")
        projection = principal(base.learnt[1], number) if kind == "pca" else np.eye(base.spec.dimensions, number)
        _save(base.folder / PROJECTION, projection=projection)
    return None


def token_vectors(base: Base) -> Matrix:
    """One vector for each token of the vocabulary, of which a text's mean comes near the base's vector of it: [V, D].

    Two ridge regressions. With A [N, V] each token's share of each text, E [V, D] the base's own input embeddings and Y [N, D] its
    vectors of the texts: a map M for all tokens, by which A E M is near Y; then for each of the L most frequent ones what it
    differs by, X = argmin |A X - (Y - A E M)|^2 + RIDGE |X|^2. A token that no learnt text holds has E M alone.
    """
    import scipy.linalg
    from scipy import sparse

    tokens, wanted = base.learnt
    embeddings = load_model(base.spec).get_input_embeddings().weight.numpy().astype(np.float64)
    lengths = tokens.lengths
    shape = (len(lengths), len(embeddings))
    shares = sparse.csr_matrix((np.repeat(1 / lengths, lengths), tokens.values, tokens.offsets), shape=shape)
    found: Matrix = np.asarray(embeddings @ ridge(shares @ embeddings, wanted, MAP_RIDGE), dtype=np.float64)
    counts = np.bincount(tokens.values, minlength=len(embeddings))
    frequent = np.argsort(-counts, kind="stable")[: min(LEARNT_TOKENS, np.count_nonzero(counts))]
    own = shares[:, frequent]  # [N, L]
    squares = (own.T @ own).toarray() + RIDGE * np.eye(len(frequent))
    found[frequent] += scipy.linalg.solve(squares, own.T @ (wanted - shares @ found), assume_a="pos", overwrite_a=True)
    return found


def prune(base: Base, layers: int) -> tuple[int, ...]:
    """Writes the model with some of its layers, the first and the last among them, and a linear map that mends what that breaks.

    Both were measured (docs/encoding.md): without the last layer the vectors are far off, and the map, a ridge regression of the
    base's vectors on the pruned model's, brings those of any choice nearer.

    Returns:
        The layers that were kept.
    """
    import torch

    model = load_model(base.spec)
    settings = model.config.get_text_config()
    name, stack = next(
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == settings.num_hidden_layers
    )
    kept = tuple(int(place) for place in np.linspace(0, len(stack) - 1, layers).round())
    model.set_submodule(name, torch.nn.ModuleList([stack[place] for place in kept]))
    settings.num_hidden_layers = layers
    model.save_pretrained(base.folder)
    tokens, wanted = base.learnt
    pruned = Encoder(replace(base.spec, folder=str(base.folder)), threads=_threads())
    vectors, _ = pruned.encode_tokens(tokens)
    _save(base.folder / PROJECTION, projection=ridge(vectors.astype(np.float64), wanted, MAP_RIDGE))
    return kept


def ridge(given: Matrix, wanted: Matrix, weight: float) -> Matrix:
    """The M [K, D] of least |given M - wanted|^2 + weight |M|^2, of `given` [N, K] and `wanted` [N, D]."""
    squares = given.T @ given + weight * np.eye(given.shape[1])
    return np.asarray(np.linalg.solve(squares, given.T @ wanted), dtype=np.float64)


def principal(vectors: Matrix, dimensions: int) -> Matrix:
    """The directions that keep most of the vectors' dot products: [D, d], orthonormal.

    Those of the vectors themselves, not of their distance from the mean, which would change every cosine.
    """
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    return directions[:, ::-1][:, :dimensions]


def judge(base: Base, spec: EncoderSpec, seed: int) -> Judgement:
    """Compares a tier's vectors with the base's, and times both on the queries, one thread each."""
    count = min(CORPUS, len(base.vectors))
    tokens, reference = base.tokens.take(np.arange(count)), base.vectors[:count]
    encoders = [Encoder(one, threads=1) for one in (base.spec, spec)]
    vectors, _ = encoders[1].encode_tokens(tokens)
    projection = load_projection(spec, "cpu")
    same = vectors if projection is None or projection.shape[0] == projection.shape[1] else vectors @ projection.numpy().T
    near = cosines(same[: base.queries], reference[: base.queries])
    asked = tokens.take(np.arange(base.queries))
    seconds = fastest_seconds(encoders, asked)
    control = np.random.default_rng(seed).standard_normal(reference.shape, dtype=np.float32)
    return Judgement(
        overlap=overlap(vectors, reference, base.queries),
        random_overlap=overlap(control, reference, base.queries),
        mean_cosine=float(near.mean()),
        lowest_cosine=float(near.min()),
        queries=base.queries,
        corpus=count,
        base_tokens_per_second=len(asked.values) / seconds[0],
        tokens_per_second=len(asked.values) / seconds[1],
        processor=processor("cpu"),
    )


def overlap(vectors: Float, reference: Float, queries: int) -> float:
    """Share of the TOP nearest texts by cosine, the text itself left out, that two encoders have in common: mean over the first texts."""
    own, other = nearest(vectors, queries), nearest(reference, queries)
    return float(np.mean([len(np.intersect1d(a, b)) / TOP for a, b in zip(own, other, strict=True)]))


def nearest(vectors: Float, queries: int) -> Int:
    """The TOP texts [queries, TOP] nearest to each of the first ones, itself left out, in no order."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit[:queries] @ unit.T
    np.fill_diagonal(scores, -np.inf)
    found: Int = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
    return found


def _threads() -> int:
    """Of the base's forward pass: OMP_NUM_THREADS if set, else the machine's cores, as no other task runs."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def _save(file: Path, **tensors: npt.NDArray[Any]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}, file, {"format": "pt"})


def _copy(source: Path, folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
