"""Which back-end and precision: the fastest on the machine at hand whose vectors are still torch's in fp32 (processors differ).

Legend: N sample texts, D dimensions of a vector.
"""

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding.backends import openvino
from llmrec_pipeline.encoding.batching import Tokens
from llmrec_pipeline.encoding.encoder import Encoder, Float
from llmrec_pipeline.encoding.spec import Choice, EncoderSpec
from llmrec_pipeline.errors import ModelError

REFERENCE = Choice("torch", "fp32")
CPU_CHOICES = (
    REFERENCE,
    Choice("torch", "bf16"),
    Choice("openvino", "fp32"),
    Choice("openvino", "bf16"),
    Choice("openvino_unfused", "fp32"),
    Choice("openvino_unfused", "bf16"),
)
GPU_CHOICES = (REFERENCE, Choice("torch", "bf16"), Choice("torch", "fp16"))
SAMPLE = 256  # texts
FULL_BATCHES = 4  # at least: a GPU that waits for the host between small ones computes equally fast in every precision
ROUNDS = 2  # timed passes over the sample, candidates in turn; each counts with its fastest


@dataclass(frozen=True)
class Trial:
    """What was measured of one candidate."""

    backend: str
    precision: str
    tokens_per_second: float  # real tokens, the fastest of ROUNDS passes; 0 where it did not run
    cosine: float  # the lowest, of a text's vector to the reference's; 0 where it did not run
    error: str | None
    processor: str  # what it ran on

    @property
    def choice(self) -> Choice:
        return Choice(self.backend, self.precision)  # type: ignore[arg-type]  # Spark gives strings


def candidates(config: EncoderConfig, device: str) -> list[Choice]:
    """The choices that this device can compute in hardware and that the config leaves open."""
    possible = [choice for choice in (CPU_CHOICES if device == "cpu" else GPU_CHOICES) if _in_hardware(choice, device)]
    return [
        choice
        for choice in possible
        if config.backend in ("auto", choice.backend) and config.precision in ("auto", choice.precision)
    ]


def run_trials(reference: EncoderSpec, choices: Sequence[Choice], texts: Sequence[str], device: str, threads: int) -> list[Trial]:
    """Times each choice on the same texts; a busy moment hits all of them.

    Args:
        reference: the encoder in torch fp32.
        choices: the candidates.
        texts: [N] a sample of what is to be encoded.
        device: "cpu" or "cuda:N".
        threads: of a forward pass on a CPU.
    """
    encoders: dict[Choice, Encoder] = {REFERENCE: Encoder(reference, device, threads=threads)}
    errors: dict[Choice, str] = {}
    for choice in choices:
        if choice in encoders:
            continue
        try:
            encoders[choice] = Encoder(
                replace(reference, backend=choice.backend, precision=choice.precision), device, threads=threads
            )
        except ModelError as error:  # one that this model or machine does not have is no candidate
            errors[choice] = str(error)
    tokens = encoders[REFERENCE].tokenise(texts).tokens
    vectors = {choice: encoder.encode_tokens(tokens)[0] for choice, encoder in encoders.items()}  # and warms it up
    timed = tokens.repeated(math.ceil(FULL_BATCHES * encoders[REFERENCE].token_budget / max(1, len(tokens.values))))
    seconds = dict(zip(encoders, fastest_seconds(list(encoders.values()), timed), strict=True))
    total, where = len(timed.values), processor(device)
    return [
        Trial(*choice, 0.0, 0.0, errors[choice], where)
        if choice in errors
        else Trial(*choice, total / seconds[choice], lowest_cosine(vectors[choice], vectors[REFERENCE]), None, where)
        for choice in choices
    ]


def fastest_seconds(encoders: Sequence[Encoder], tokens: Tokens) -> list[float]:
    """Seconds of each encoder's fastest of ROUNDS passes over the same tokens, all in turn."""
    seconds = [float("inf")] * len(encoders)
    for _ in range(ROUNDS):
        for place, encoder in enumerate(encoders):
            began = time.perf_counter()
            encoder.encode_tokens(tokens)
            seconds[place] = min(seconds[place], time.perf_counter() - began)
    return seconds


def fastest(trials: Sequence[Trial], min_cosine: float) -> Choice:
    """The choice with the most tokens a second among those that keep `min_cosine`.

    Raises:
        ModelError: none keeps it.
    """
    kept = [trial for trial in trials if trial.error is None and trial.cosine >= min_cosine]
    if not trials:
        raise ModelError(
            "no back-end computes in the named encoder.precision on this machine; name another one, or set backend and precision to auto"
        )
    if not kept:
        measured = "; ".join(f"{t.backend} {t.precision}: {t.error or f'cosine {t.cosine:.6f}'}" for t in trials)
        raise ModelError(
            f"no back-end keeps encoder.min_cosine {min_cosine} ({measured}); lower it, or set encoder.backend and precision to auto"
        )
    return max(kept, key=lambda trial: trial.tokens_per_second).choice


def lowest_cosine(vectors: Float, reference: Float) -> float:
    """The lowest cosine of two encoders' vectors [N, D] of the same text; 0 where one of them alone is not finite."""
    usable = np.isfinite(reference).all(axis=1)
    a, b = vectors[usable].astype(np.float64), reference[usable].astype(np.float64)
    if not len(a):
        return 1.0
    return float(np.nan_to_num(cosines(a, b), nan=0.0).min())


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of each row [N, D] with the other's: [N]."""
    found: npt.NDArray[Any] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def processor(device: str) -> str:
    """The name of what computes."""
    if device != "cpu":
        import torch

        return str(torch.cuda.get_device_name(device))
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def _in_hardware(choice: Choice, device: str) -> bool:
    if choice.precision != "bf16":
        return True
    if device != "cpu":
        import torch

        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
