"""Training on one GPU beside one thread of its machine's processor: `python benchmarks/gpu_train.py RESULT.json DOMAIN...`.

On the tasks of `bench_quality.py`, one epoch of each in turn: seconds of the updates, and of validation, which a processor computes either
way. The first round is warm-up. With both dropouts off, so that both sides compute the same and their losses can be compared.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from bench_quality import settings_of, task_of
from protocol import learn
from report import machine

ROUNDS = 2
EXACT = ("interest.dropout=0", "interest.id_dropout=0", "interest.max_epochs=1")


def main(result: str, *domains: str) -> None:
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "machine": machine()}
    for domain in domains:
        rounds: dict[str, list[list[dict[str, float]]]] = {"cuda": [], "cpu": []}  # device -> round -> epoch -> figures
        for _ in range(ROUNDS):
            for device, of_device in rounds.items():
                settings = settings_of(domain, (*EXACT, f"interest.device={device}"))
                of_device.append(learn(task_of(domain, settings, 0), 17)[1])
        found[domain] = {"rounds": rounds, "largest_difference": _largest_difference(*rounds.values())}
        for name in ("train_s", "seconds"):
            found[domain][name] = {device: of_device[-1][0][name] for device, of_device in rounds.items()}
        print(domain, json.dumps({name: value for name, value in found[domain].items() if name != "rounds"}), flush=True)
        Path(result).write_text(json.dumps(found, indent=1) + "\n")


def _largest_difference(one: list[list[dict[str, float]]], other: list[list[dict[str, float]]]) -> float:
    """Of losses and cross-entropies, relative."""
    pairs = [
        (a[name], b[name])
        for of_one, of_other in zip(one, other, strict=True)
        for a, b in zip(of_one, of_other, strict=True)
        for name in ("loss", "cross_entropy")
    ]
    return max(abs(a / b - 1) for a, b in pairs)


if __name__ == "__main__":
    main(*sys.argv[1:])
