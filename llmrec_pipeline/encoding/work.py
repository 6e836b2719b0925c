"""How much a forward pass computes, and how much the same process could: what its share of the matmul peak is made of.

The share is the model FLOPs utilisation of Chowdhery et al. (2022), against the largest rate of a plain product of matrices measured
beside it. Legend: D units of the model, L layers.
"""

import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec_pipeline.encoding.spec import EncoderSpec
from llmrec_pipeline.encoding.tier import PROJECTION

if TYPE_CHECKING:
    import torch

# matrices that no token is multiplied by on its way to its vector: what is looked up in, poolers and heads
BESIDE = ("embed", "wte", "wpe", "pooler", "lm_head", "cls.", "vocab_", "classifier")
UNITS, LAYERS = ("hidden_size", "n_embd", "d_model", "dim"), ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # D, L
SIZE = {"cpu": 1_024, "cuda": 4_096}  # rows and columns of the matrices
ROUNDS = 5  # products; the fastest counts
SLOW = 0.5  # seconds of one product after which one is enough


@dataclass(frozen=True)
class Work:
    """FLOPs of a forward pass (Kaplan et al. 2020, section 2.1); of layers that share their weights, one is counted."""

    token: int  # of each token: two for each weight of a matrix
    pair: int  # of each pair of a text's tokens: 4 L D, of query times key and of weight times value

    def of(self, tokens: int, pairs: int) -> int:
        """FLOPs of texts with so many tokens, and so many pairs of them (the sum of squared lengths)."""
        return self.token * tokens + self.pair * pairs


@cache
def work_of(spec: EncoderSpec) -> Work | None:
    """What a token costs; None where the folder does not tell (no safetensors, another config), or nothing is multiplied (static)."""
    from safetensors import safe_open

    described = Path(spec.folder) / "config.json"
    weights = 0
    for file in sorted(set(Path(spec.folder).glob("*.safetensors")) - {Path(spec.folder) / PROJECTION}):
        with safe_open(file, framework="np") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - not a mapping
        matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2 and not any(word in name for word in BESIDE)}
        weights += sum(a * b for a, b in matrices.values())
    config = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    config = config.get("text_config", config)
    units, layers = (next((config[name] for name in names if name in config), 0) for names in (UNITS, LAYERS))
    return Work(2 * weights, 4 * units * layers) if weights and units and layers else None


@cache
def matmul_peak(precision: str, device: str, threads: int) -> float | None:
    """FLOP/s of torch's product of two square matrices in this process; None for precisions that it does not multiply in."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    if dtype is None:
        return None
    size, before = SIZE[device.split(":")[0]], torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(threads)
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    fastest = _seconds(matrix)  # warms up, too
    if fastest < SLOW:
        fastest = min(_seconds(matrix) for _ in range(ROUNDS))
    torch.set_num_threads(before)
    return 2 * size**3 / fastest


def _seconds(matrix: "torch.Tensor") -> float:
    import torch

    began = time.perf_counter()
    with torch.inference_mode():
        matrix @ matrix
    if matrix.is_cuda:
        torch.cuda.synchronize(matrix.device)
    return time.perf_counter() - began
