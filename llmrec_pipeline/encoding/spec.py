"""Which encoder is meant, exactly: from a configured source to a folder of files and their hashes (DESIGN 1.3, 2)."""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llmrec_pipeline.config import BackendName, EncoderConfig, PrecisionName, hash_json
from llmrec_pipeline.encoding import gguf
from llmrec_pipeline.encoding.tier import INT8_MODEL, Kind, Tier
from llmrec_pipeline.errors import ConfigError, ModelError

PACKAGE, HUB = "package:", "hub:"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
DOWNLOADED = ("config.json", "modules.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)
POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
COMPUTED_MODULES = {"Transformer", "Pooling", "Normalize"}  # of sentence-transformers' modules.json
CODE = 2  # raised by whoever changes what comes out of Encoder for the same files and settings
CAST_CODE = 3  # the same, of torch in bf16 and fp16

log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """What computes the vectors, and how exactly."""

    backend: BackendName | Literal["static"]
    precision: PrecisionName | Literal["int8"]


FIXED: dict[Kind, Choice] = {"static": Choice("static", "fp32"), "int8": Choice("openvino", "int8")}  # tiers that leave no choice


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder as resolved: its files, by hash, and all settings that a vector depends on."""

    source: str  # as configured
    revision: str | None  # hub commit, or the package's version
    folder: str  # where the files lie on this machine
    weights_sha256: str  # of the safetensors or GGUF file; of the list of their hashes where there are several
    architecture_sha256: str  # of config.json, or of the GGUF file
    tokenizer_sha256: str  # of the list of the tokenizer files' hashes, or of the GGUF file
    pooling: Literal["mean", "cls", "last"]
    normalise: bool
    dimensions: int
    max_length: int  # tokens, special ones included
    backend: BackendName | Literal["static"]
    precision: PrecisionName | Literal["int8"]
    config_hash: str  # of what `EncoderConfig` asks for, less what moves no vector
    gguf: str | None = None  # name of the folder's GGUF file, which is then weights, architecture and tokenizer in one
    tier: Kind | None = None  # of a folder that `compress` made
    round_to: Literal["float16"] | None = None  # what vectors are rounded to

    @property
    def encoder_id(self) -> str:
        """128-bit hash of what determines a vector; not of where the files came from or lie, nor of batch sizes."""
        apart = {"source", "revision", "folder", "config_hash", "gguf"}
        apart |= {name for name in ("tier", "round_to") if getattr(self, name) is None}
        code = CAST_CODE if self.backend == "torch" and self.precision in ("bf16", "fp16") else CODE
        return hash_json({key: value for key, value in vars(self).items() if key not in apart} | {"code": code})

    @property
    def choice(self) -> Choice:
        return Choice(self.backend, self.precision)

    def files(self) -> dict[str, str]:
        """Hashes by the name of what they cover; equal on all machines that compute the same vectors."""
        return {"weights": self.weights_sha256, "config.json": self.architecture_sha256, "tokenizer": self.tokenizer_sha256}


def tier_of(config: EncoderConfig) -> Tier | None:
    """What is known of the tier that `config.source` names; None: it is no folder that `compress` made."""
    return None if config.source.startswith((PACKAGE, HUB)) else Tier.of(locate(config)[0])


def named_choice(config: EncoderConfig) -> Choice | None:
    """Back-end and precision as the tier's kind or the config names them; None where both leave either to a measurement.

    Raises:
        ConfigError: the config names others than the tier has.
    """
    tier = tier_of(config)
    fixed = FIXED.get(tier.kind) if tier else None
    if tier and fixed:
        if (config.backend, config.precision) != ("auto", "auto"):
            raise ConfigError(
                f"encoder.backend {config.backend} and precision {config.precision} mean nothing for {config.source}, a tier of "
                f"kind {tier.kind}, which {fixed.backend} computes in {fixed.precision}; set both to auto"
            )
        return fixed
    if config.backend == "auto" or config.precision == "auto":
        return None
    return Choice(config.backend, config.precision)


def resolve(config: EncoderConfig, choice: Choice) -> EncoderSpec:
    """Finds the files that `config.source` names (downloads a hub revision) and hashes them.

    Raises:
        ConfigError: the source does not exist, or a setting does not fit the model.
        ModelError: the folder lacks safetensors weights, a config or a tokenizer, holds another GGUF file than the pinned one,
            or the hub could not be read.
    """
    folder, revision = locate(config)
    return describe(folder, revision, config, choice)


def locate(config: EncoderConfig) -> tuple[Path, str | None]:
    """The model's folder on this machine, and its revision.

    Raises:
        ConfigError: the source does not exist, or its revision is not what was asked for.
        ModelError: the hub could not be read.
    """
    if config.source.startswith(PACKAGE):
        return _package_folder(config.source.removeprefix(PACKAGE), config)
    if config.source.startswith(HUB) and config.gguf_sha256:
        raise ConfigError(
            f"encoder.gguf_sha256 is set for {config.source!r}, but a GGUF file is read from package:<module> or a folder; "
            "download it and give its folder"
        )
    if config.source.startswith(HUB):
        return _download(config.source.removeprefix(HUB), config.revision), config.revision
    folder = Path(config.source).resolve()
    if not folder.is_dir():
        raise ConfigError(f"encoder.source {config.source!r} is no folder; expected package:<module>, hub:<id> or a folder")
    if config.revision is not None:
        raise ConfigError(f"encoder.revision {config.revision!r} means nothing for the folder {config.source!r}; remove it")
    return folder, None


def describe(folder: Path, revision: str | None, config: EncoderConfig, choice: Choice) -> EncoderSpec:
    """The spec of the model in `folder` under `config`, computed as `choice` says.

    Raises:
        ConfigError: `config.max_length` is longer than the model's longest input, a GGUF file has no pinned hash, or a tier was
            made under other settings.
        ModelError: a needed file is missing, a GGUF file is not the pinned one, or the model has parts that this encoder does
            not compute.
    """
    file, tier = _pinned(folder, config), Tier.of(folder)
    if tier:
        _check_tier(tier, config)
    if file:
        weights, described, tokenizer = [file], [file], [file]
        architecture = gguf.architecture(file)
    else:
        weights, described, tokenizer = _weights(folder, tier), [folder / "config.json"], _tokenizer(folder)
        architecture = _json(folder / "config.json")
    _check_modules(folder, config)
    _check_length(folder, architecture, config)
    return EncoderSpec(
        source=config.source,
        revision=revision,
        folder=str(folder),
        weights_sha256=_hash_files(weights),
        architecture_sha256=_hash_files(described),
        tokenizer_sha256=_hash_files(tokenizer),
        pooling=config.pooling,
        normalise=config.normalise,
        dimensions=tier.dimensions if tier else _dimensions(folder, architecture),
        max_length=config.max_length,
        backend=choice.backend,
        precision=choice.precision,
        config_hash=config_hash(config),
        gguf=file.name if file else None,
        tier=tier.kind if tier else None,
        round_to=config.round_to,
    )


def config_hash(config: EncoderConfig) -> str:
    """Hash of what the config asks for; of two configs that mean the same vectors it is the same."""
    unasked = {"token_budget", "max_unknown_share", "min_overlap"}
    unasked |= {name for name in ("gguf_sha256", "round_to") if getattr(config, name) is None}
    return hash_json(config.model_dump(mode="json", exclude=unasked))


def _package_folder(name: str, config: EncoderConfig) -> tuple[Path, str | None]:
    """The model/ folder of an installed module, which is found but not imported; else the folder of what it assembles."""
    found = importlib.util.find_spec(name) if re.fullmatch(r"\w+", name) else None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"encoder.source names the package {name!r}, which is not installed; pip install it, or give a folder")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    if config.revision not in (None, version):
        raise ConfigError(
            f"encoder.revision is {config.revision!r}, but {name!r} is installed as {version!r}; install that or remove it"
        )
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    if folder.is_dir():
        return folder, version
    if config.gguf_sha256 is None:
        raise ModelError(
            f"package {name!r} has no model/ folder ({folder}); encoder.source needs a package that carries a model, "
            "or one that assembles a GGUF file and encoder.gguf_sha256, the hash of that file"
        )
    return gguf.assembled(name, config.gguf_sha256), version


def _download(name: str, revision: str | None) -> Path:
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ConfigError(
            f"encoder.revision is {revision!r}, expected the 40 hexadecimal digits of a commit of {name}: "
            "a branch may move, and a version must name its weights; copy it from the hub's page 'Files and versions'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(DOWNLOADED), ignore_patterns=["*/*"]))
    except Exception as error:  # the hub client raises its own, the HTTP library's and the file system's errors
        cause = " ".join(str(error).split())[:300]
        raise ModelError(
            f"hub:{name} at {revision} could not be downloaded ({type(error).__name__}: {cause}); "
            "check id, revision and network, or give encoder.source a local folder"
        ) from error


def _pinned(folder: Path, config: EncoderConfig) -> Path | None:
    """The folder's GGUF file, if it is the one that `config` pins; None where safetensors are asked for.

    Raises:
        ConfigError: there is a GGUF file alone, but no pin; or a pin, but not one file.
        ModelError: the file has another hash.
    """
    files = sorted(folder.glob("*.gguf"))
    if config.gguf_sha256 is None:
        if files and not any(folder.glob("*.safetensors")):
            raise ConfigError(
                f"{files[0]} is a GGUF file, which is read under a pinned hash alone; set encoder.gguf_sha256 to the one that its "
                f"publisher names (this file's is {_hash_files(files[:1])})"
            )
        return None
    if len(files) != 1:
        raise ConfigError(
            f"encoder.gguf_sha256 is set, but {folder} holds {len(files)} GGUF files, expected 1; unset it or move them"
        )
    found = _hash_files(files)
    if found != config.gguf_sha256:
        raise ModelError(
            f"{files[0]} has the SHA-256 {found}, but encoder.gguf_sha256 is {config.gguf_sha256}; "
            "remove the file and get it anew, or pin the hash that its publisher names"
        )
    return files[0]


def _tokenizer(folder: Path) -> list[Path]:
    files = sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)})
    if not files:
        raise ModelError(f"{folder} has no tokenizer (expected one of {', '.join(TOKENIZER_FILES)}); copy it beside the weights")
    return files


def _weights(folder: Path, tier: Tier | None) -> list[Path]:
    patterns = INT8_MODEL if tier and tier.kind == "int8" else ("*.safetensors",)
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    if files:
        return files
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
    if pickled:
        found, step = f"{', '.join(pickled)}, pickles, which can run code when read", "convert the weights with safetensors"
    else:
        found, step = "no weights", "copy the model's folder whole, or name another encoder.source"
    raise ModelError(f"{folder} has no model.safetensors (found {found}); {step}")


def _check_modules(folder: Path, config: EncoderConfig) -> None:
    """Refuses models with further layers after pooling; warns where the model's own pooling is another."""
    if not (folder / "modules.json").exists():
        return
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in _json(folder / "modules.json")]
    for kind in kinds:
        if kind not in COMPUTED_MODULES:
            raise ModelError(
                f"{folder}/modules.json has the layer {kind!r}, expected {sorted(COMPUTED_MODULES)}; choose another model"
            )
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.exists() and not _json(pooling).get(POOLING_KEYS[config.pooling], False):
        log.warning("encoder.pooling is %s, but the model was trained with another pooling (%s)", config.pooling, pooling)


def _check_tier(tier: Tier, config: EncoderConfig) -> None:
    """Refuses settings under which the tier was neither made nor judged."""
    for name in ("pooling", "normalise", "max_length"):
        asked, made = getattr(config, name), getattr(tier, name)
        if asked != made:
            raise ConfigError(
                f"encoder.{name} is {asked}, but the {tier.kind} tier {config.source} was made under {made}; set it to that, or make "
                "a tier under your setting with jobs/compress.py"
            )


def _check_length(folder: Path, architecture: dict[str, Any], config: EncoderConfig) -> None:
    tokenizer = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    limits = [value for value in (architecture.get("max_position_embeddings"), tokenizer.get("model_max_length")) if value]
    if limits and config.max_length > min(limits):
        raise ConfigError(
            f"encoder.max_length {config.max_length} is more than the {min(limits)} tokens that {config.source} reads"
        )


def _dimensions(folder: Path, architecture: dict[str, Any]) -> int:
    inner = architecture.get("text_config", {})
    for key in ("hidden_size", "d_model", "dim", "n_embd"):
        if key in architecture or key in inner:
            return int(architecture.get(key, inner.get(key)))
    raise ModelError(f"{folder}/config.json does not say how long a vector is (hidden_size); is this a transformer's folder?")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} could not be read as JSON ({error}); copy the model's folder anew") from error


def _hash_files(files: list[Path]) -> str:
    """One file's sha256 as any tool prints it; of several, the sha256 of the lines `<name> <sha256>`."""
    hashes = [(file.name, _sha256(str(file), file.stat().st_size, file.stat().st_mtime_ns)) for file in files]
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in hashes).encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """A file's sha256; size and time are parameters so that a changed file is read again."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
