"""The encoder on one GPU, without Spark: `python benchmarks/gpu_encode.py MODEL_FOLDER TEXTS.json RESULT.json`.

Measures each precision and token budget, what the hand-over of Arrow batches adds, sentence-transformers on the same texts, and the
matmul peak in the same process. TEXTS.json is a list of distinct texts.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from peers import MFLOP_PER_TOKEN

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Encoder, resolve
from llmrec_pipeline.encoding.batching import Tokens
from llmrec_pipeline.encoding.choosing import REFERENCE, SAMPLE, candidates, run_trials
from llmrec_pipeline.encoding.spark import _vectors

DEVICE = "cuda:0"
BUDGETS = (8_192, 16_384, 65_536, 262_144)
ARROW_ROWS = 10_000


def main(folder: str, texts_file: str, result: str) -> None:
    texts = json.loads(Path(texts_file).read_text())
    many = [f"{n} {text}" for n in range(20) for text in texts]
    config = EncoderConfig(source=folder)
    spec = resolve(config, REFERENCE)
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(DEVICE), "torch": torch.__version__}
    found["trials"] = [asdict(trial) for trial in run_trials(spec, candidates(config, DEVICE), texts[:SAMPLE], DEVICE, 1)]
    show("trials", found)
    found["matmul_tflops"] = {name: matmul(getattr(torch, name)) for name in ("float32", "bfloat16", "float16")}
    encoder = Encoder(spec, DEVICE)
    began = time.perf_counter()
    tokens = encoder.tokenise(many).tokens
    total = int(tokens.lengths.sum())
    found |= {"texts": len(many), "tokens": total, "tokenise_tokens_per_s": total / (time.perf_counter() - began)}
    show("tokenise_tokens_per_s", found)
    found["budgets"] = {}
    for precision in ("fp32", "bf16", "fp16"):
        encoder = Encoder(replace(spec, precision=precision), DEVICE)
        for budget in BUDGETS:
            encoder.token_budget = budget
            rate = total / best_of(lambda: encoder.encode_tokens(tokens))  # noqa: B023
            found["budgets"][f"{precision} {budget}"] = {"tokens_per_s": rate, "tflops": rate * MFLOP_PER_TOKEN / 1e6}
            show(f"{precision} {budget}", found["budgets"])
    found["arrow"] = {
        "at once": total / best_of(lambda: hand_over(encoder, tokens, 0)),
        "one ahead": total / best_of(lambda: hand_over(encoder, tokens, 1)),
    }
    show("arrow", found)
    encoder.token_budget = 65_536
    found["peak_gpu_gib"] = torch.cuda.max_memory_allocated(DEVICE) / 2**30
    found["sentence_transformers"] = peer(folder, spec.max_length, many[:40_000], int(tokens.lengths[:40_000].sum()))
    show("sentence_transformers", found)
    Path(result).write_text(json.dumps(found, indent=1))
    found["compiled"] = compiled(encoder, tokens, total)
    show("compiled", found)
    Path(result).write_text(json.dumps(found, indent=1))


def show(name: str, found: dict[str, Any]) -> None:
    print(name, json.dumps(found[name]), flush=True)


def best_of(work: Callable[[], Any], rounds: int = 4) -> float:
    """Seconds of the fastest round but the first."""
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def matmul(dtype: torch.dtype, n: int = 8192) -> float:
    a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
    return 2 * n**3 / best_of(lambda: a @ b, 8) / 1e12


def hand_over(encoder: Encoder, tokens: Tokens, ahead: int) -> int:
    """The rows as Arrow batches there and back, as on Spark's executors, with `ahead` batches computed meanwhile."""
    order, held, rows = np.argsort(-tokens.lengths, kind="stable"), [], 0
    for start in range(0, len(order), ARROW_ROWS):
        batch = [tokens.values[tokens.offsets[n] : tokens.offsets[n + 1]] for n in order[start : start + ARROW_ROWS]]
        part = Tokens(np.concatenate(batch), np.concatenate([[0], np.cumsum([len(row) for row in batch])]))
        held.append((pa.array([""] * len(batch)), part, encoder.launch(part), 0.0))
        if len(held) > ahead:
            rows += sum(out.num_rows for out in _vectors(*held.pop(0)))
    return rows + sum(out.num_rows for rest in held for out in _vectors(*rest))


def peer(folder: str, max_length: int, texts: list[str], tokens: int) -> dict[str, float]:
    from sentence_transformers import SentenceTransformer

    found = {}
    for name in ("float32", "bfloat16", "float16"):
        model = SentenceTransformer(folder, device=DEVICE, model_kwargs={"dtype": getattr(torch, name)})
        model.max_seq_length = max_length
        for batch in (128, 512, 2048):
            seconds = best_of(lambda: model.encode(texts, batch_size=batch, show_progress_bar=False), 3)  # noqa: B023
            found[f"{name} {batch}"] = tokens / seconds
    return found


def compiled(encoder: Encoder, tokens: Tokens, total: int) -> dict[str, Any]:
    """The same with torch.compile: what it gains a second, and what compiling costs."""
    backend: Any = encoder._forward
    backend._model = torch.compile(backend._model, dynamic=True)
    began = time.perf_counter()
    encoder.encode_tokens(tokens)
    torch.cuda.synchronize()
    return {"compile_s": time.perf_counter() - began, "tokens_per_s": total / best_of(lambda: encoder.encode_tokens(tokens))}


if __name__ == "__main__":
    main(*sys.argv[1:])
