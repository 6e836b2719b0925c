"""Where training computes: on the processor, or on a GPU.

Code that makes tensors by `torch.as_tensor`, `torch.arange` and the like makes them there; what is served is computed on processors.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llmrec_pipeline.errors import ModelError


@contextmanager
def computing_on(device: str) -> Iterator[None]:
    """New tensors stand on `device`; a GPU adds in a fixed order and in whole float32, so that one seed gives one model.

    Raises:
        ModelError: there is no such device.
    """
    if device == "cpu":
        yield
        return
    if not torch.cuda.is_available():
        raise ModelError(
            f"interest.device is {device}, and torch {torch.__version__} finds no GPU here; set interest.device=cpu, or train where "
            "nvidia-smi lists one with a torch built for CUDA"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS and cuDNN may add in any order
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # a pass over new memory that only a search for faults needs
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        with exact, torch.device(device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "RNN module weights")  # they are copied together in each pass: some microseconds
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
