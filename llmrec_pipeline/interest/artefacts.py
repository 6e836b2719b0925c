"""A trained model on disk: two safetensors files, one per version, and a JSON that names them by hash (DESIGN 2, Versions).

`recurrence.safetensors` is what state_version stands for, `head.safetensors` what head_version stands for; item vectors are in
both, as two arrays. Each set is bound by SHA-256: files of different sets are refused.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.data import Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.training import TrainedModel

RECURRENCE, HEAD, DESCRIPTION = "recurrence.safetensors", "head.safetensors", "model.json"


def save(folder: str | Path, trained: TrainedModel) -> dict[str, str]:
    """Writes the set into `folder`, the description last, and returns the hashes of its files by name.

    Equal models give equal bytes: no clock and no path is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    model = trained.model
    save_file(_tensors(model.recurrence), folder / RECURRENCE)
    hashes = {RECURRENCE: file_hash(folder / RECURRENCE)}
    save_file(_tensors(model.head), folder / HEAD, metadata={RECURRENCE: hashes[RECURRENCE]})
    hashes[HEAD] = file_hash(folder / HEAD)
    description = {
        "files": hashes,
        "config": model.config.model_dump(mode="json"),
        "event_types": model.event_types,
        "target_types": model.target_types,
        "repeats": model.repeats,
        "text_dim": model.layout.text_dim,
        "trained_items": model.trained_items,
        "trained_until": asdict(trained.trained_until),
        "validated_until": asdict(trained.validated_until),
        "seed": trained.seed,
        "epochs": trained.epochs,
        "report": trained.report,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return hashes


def load(folder: str | Path) -> TrainedModel:
    """The model that `save` wrote.

    Raises:
        ModelError: a file is missing or broken, or files do not belong together.
    """
    folder = Path(folder)
    missing = [name for name in (RECURRENCE, HEAD, DESCRIPTION) if not (folder / name).exists()]
    if missing:
        raise ModelError(
            f"model folder {folder} lacks {', '.join(missing)}; expected the three files that train writes; run train again"
        )
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        _check_bound(folder, description["files"])
        model = _model(description)
        model.recurrence.load_state_dict(_read(folder / RECURRENCE))
        before = {"total_text": torch.zeros(model.layout.text_dim + 1), "new_level": torch.tensor(-torch.inf)}  # ADR 14
        model.head.load_state_dict(before | _read(folder / HEAD))
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model folder {folder} cannot be read ({type(error).__name__}: {error}); run train again") from error
    return TrainedModel(
        model=model.eval(),
        trained_until=Query(**description["trained_until"]),
        validated_until=Query(**description["validated_until"]),
        seed=description["seed"],
        epochs=description["epochs"],
        report=description["report"],
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_bound(folder: Path, expected: dict[str, str]) -> None:
    for name in (RECURRENCE, HEAD):
        found = file_hash(folder / name)
        if found != expected[name]:
            raise ModelError(
                f"{name} has hash {found}, {DESCRIPTION} was written for {expected[name]}; use the files of one training run"
            )
    with safe_open(folder / HEAD, framework="pt") as file:
        bound = (file.metadata() or {}).get(RECURRENCE)
    if bound != expected[RECURRENCE]:
        raise ModelError(
            f"{HEAD} was trained with {RECURRENCE} of hash {bound}, found {expected[RECURRENCE]}; use the files of one training run"
        )


def _model(description: dict[str, Any]) -> InterestModel:
    """An untied model of the described sizes: its output side may be learnt on alone."""
    size = description["text_dim"]
    return InterestModel(
        InterestConfig.model_validate(description["config"]),
        trained_items=description["trained_items"],
        event_types=description["event_types"],
        target_types=description["target_types"],
        text_mean=torch.zeros(size),
        text_scale=torch.ones(size),
        repeats=description["repeats"],
        tied=False,
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}


def _read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
