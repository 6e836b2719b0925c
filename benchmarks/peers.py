"""Sides of `bench-encode` that are not the job: each a process of its own that loads once and then answers with seconds.

Run as a process by `Side`, so that no side sees another's threads, environment or memory.
"""

import importlib
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

CODE_BATCHES = (16, 32, 64, 128)  # batch sizes of sentence-transformers, of which the best counts
MFLOP_PER_TOKEN = 21.234  # MiniLM-L6's products with weights: 6 layers * 2 * (4 * 384^2 + 2 * 384 * 1536)
SHAPE = (1024, 384, 1536)  # of the matmuls: a batch of 1,024 tokens through MiniLM's widest layer
_loaded: dict[Any, Any] = {}


class Side:
    """Processes of one side, started before Spark's session; each call runs in all of them at once."""

    def __init__(self, processes: int, threads: int) -> None:
        self._pools = [
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_set_threads, initargs=(threads,))
            for _ in range(processes)
        ]
        for pool in self._pools:
            pool.submit(os.getpid).result()

    def __call__(self, function: Any, *shares: tuple[Any, ...]) -> list[Any]:
        """`function` in each process with its share of arguments, all at once."""
        futures = [pool.submit(function, *share) for pool, share in zip(self._pools, shares, strict=True)]
        return [future.result() for future in futures]


def _set_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def matmul_peak(precision: str, threads: int) -> dict[str, float]:
    """GFLOP/s of the best of several products, by what computes it."""
    import torch

    from llmrec_pipeline.encoding.backends import OPENVINO_TYPES, openvino

    ov = openvino()
    ops = importlib.import_module("openvino.opset13")
    m, k, n = SHAPE
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k)))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    ta, tb = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)
    x = ops.parameter([m, k], np.float32)
    model = ov.Model([ops.matmul(x, ops.constant(b), False, True)], [x])
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": OPENVINO_TYPES[precision], "ENABLE_CPU_PINNING": False}
    request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
    sides = {
        "torch": lambda: torch.nn.functional.linear(ta, tb),
        "openvino": lambda: request.infer([a], share_inputs=True, share_outputs=True),
    }
    if precision == "fp32":
        transposed = np.ascontiguousarray(b.T)
        sides["numpy"] = lambda: a @ transposed
    seconds = dict.fromkeys(sides, float("inf"))
    with threadpool_limits(threads):  # numpy's, which was imported before anything could be set
        for _ in range(30):
            for name, product in sides.items():
                began = time.perf_counter()
                product()
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return {name: 2 * m * k * n / best / 1e9 for name, best in seconds.items()}


def kernel(spec_json: str, rows: list[list[int]], threads: int) -> float:
    """Seconds of the encoder's own forward passes over tokenised texts, loaded and warm."""
    from llmrec_pipeline.encoding import Encoder, EncoderSpec
    from llmrec_pipeline.encoding.batching import Tokens

    if spec_json not in _loaded:
        _loaded[spec_json] = Encoder(EncoderSpec(**json.loads(spec_json)), threads=threads)
        _loaded[spec_json].encode_tokens(Tokens.of(rows[:: max(1, len(rows) // 500)]))
    tokens = Tokens.of(rows)
    began = time.perf_counter()
    _loaded[spec_json].encode_tokens(tokens)
    return time.perf_counter() - began


def with_tokenising(spec_json: str, texts: list[str]) -> float:
    """Seconds of the encoder over texts, tokenising included, on one thread, loaded and warm."""
    from llmrec_pipeline.encoding import Encoder, EncoderSpec

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encoder = Encoder(EncoderSpec(**json.loads(spec_json)), threads=1)
    encoder.encode(texts[:300])
    began = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - began


def sentence_transformers(folder: str, max_length: int, texts: list[str], batch: int) -> float:
    """Seconds of its `encode`, which sorts by length and pads each batch."""
    model = _sentence_transformer(folder, max_length)
    began = time.perf_counter()
    model.encode(texts, batch_size=batch, show_progress_bar=False)
    return time.perf_counter() - began


def row_by_row(folder: str, max_length: int, texts: list[str]) -> float:
    """Seconds of its `encode` called for each text alone."""
    model = _sentence_transformer(folder, max_length)
    began = time.perf_counter()
    for text in texts:
        model.encode(text, show_progress_bar=False)
    return time.perf_counter() - began


def sentence_vectors(folder: str, max_length: int, texts: list[str], file: str) -> None:
    """Saves its vectors [N, D] to a .npy file."""
    np.save(Path(file), _sentence_transformer(folder, max_length).encode(texts, batch_size=64, show_progress_bar=False))


def used_directly(library: str, folder: str, max_length: int, texts: list[str], batch: int) -> float:
    """Seconds of the model in OpenVINO or ONNX Runtime as it comes, behind transformers' tokenizer; texts sorted by length, padded by batch."""
    direct_vectors(library, folder, max_length, texts[:batch])
    began = time.perf_counter()
    ordered = sorted(texts, key=len, reverse=True)
    for start in range(0, len(ordered), batch):
        direct_vectors(library, folder, max_length, ordered[start : start + batch])
    return time.perf_counter() - began


def direct_vectors(library: str, folder: str, max_length: int, texts: list[str]) -> npt.NDArray[np.float32]:
    """Unit vectors [N, D] of one batch."""
    tokenizer, model = _directly(library, folder)
    inputs = dict(tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="np"))
    mask = inputs["attention_mask"][..., None].astype(np.float32)
    pooled = (model(inputs) * mask).sum(axis=1) / mask.sum(axis=1)
    vectors: npt.NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return vectors


def _directly(library: str, folder: str) -> Any:
    if (library, folder) not in _loaded:
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        sample = dict(tokenizer(["warm up", "with two texts"], padding=True, return_tensors="pt"))
        made = {"openvino": _openvino, "onnxruntime": _onnxruntime}[library](model, sample, torch.get_num_threads())
        _loaded[library, folder] = tokenizer, made
    return _loaded[library, folder]


def _openvino(model: Any, sample: dict[str, Any], threads: int) -> Any:
    from llmrec_pipeline.encoding.backends import openvino  # without its telemetry

    ov = openvino()
    compiled = ov.compile_model(ov.convert_model(model, example_input=sample), "CPU", {"INFERENCE_NUM_THREADS": threads})
    return lambda inputs: compiled(inputs)[0]


def _onnxruntime(model: Any, sample: dict[str, Any], threads: int) -> Any:
    import onnxruntime
    import torch

    free = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in sample}
    with TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, kwargs=sample, f=file, dynamo=True, dynamic_shapes=free, external_data=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def _sentence_transformer(folder: str, max_length: int) -> Any:
    if folder not in _loaded:
        from sentence_transformers import SentenceTransformer

        _loaded[folder] = SentenceTransformer(folder, device="cpu")
        _loaded[folder].max_seq_length = max_length
        _loaded[folder].encode(["warm up"] * 8)
    return _loaded[folder]
