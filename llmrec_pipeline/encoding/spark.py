"""The encoder on Spark's executors: a function for `DataFrame.mapInArrow`, and partitions of equal work (DESIGN 1.3, 6).

Example:
    balance(texts, tasks).mapInArrow(encode_batches(spec, config), VECTORS_SCHEMA)
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding.encoder import Encoded, Encoder
from llmrec_pipeline.encoding.spec import EncoderSpec, describe, locate
from llmrec_pipeline.errors import ModelError

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import DataFrame, SparkSession

VECTORS_SCHEMA = "text_hash string, embedding array<float>, tokens int, reason string"
WINDOW = 20_000  # texts gathered before they are sorted by length; with 384 dimensions some 70 MB
ROWS_OUT = 1_000  # rows of an Arrow batch given back to Spark: 1.5 MB at 384 dimensions

_ARROW = pa.schema(
    [("text_hash", pa.string()), ("embedding", pa.list_(pa.float32())), ("tokens", pa.int32()), ("reason", pa.string())]
)
_loaded: dict[str, Encoder] = {}  # device -> encoder, of one encoder_id; lives as long as the Python worker


def encode_batches(spec: EncoderSpec, config: EncoderConfig) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function for `mapInArrow`: columns (text_hash, text) in, VECTORS_SCHEMA out.

    A text that has no vector gets a null embedding and its reason; it does not fail the job. The result is pickled by
    name, so that it finds `_loaded` in the worker instead of carrying one.

    Raises (when it runs):
        ModelError: the worker's files are not those of `spec`.
    """
    return partial(_encode_partition, spec, config)


def balance(texts: "DataFrame", partitions: int) -> "DataFrame":
    """Deals rows to partitions so that each gets about equal numbers of characters, a cheap proxy for tokens.

    Texts of one length are dealt in turn, in the order of their hashes, starting at a partition that depends on the
    length: partitions differ by at most one text of each length, and the same rows always go the same way.

    Args:
        texts: columns text_hash (distinct) and text among others.
        partitions: tasks of the stage that encodes.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    chars = F.coalesce(F.length("text"), F.lit(0))
    turn = F.row_number().over(Window.partitionBy(chars).orderBy("text_hash"))
    numbered = texts.withColumn("_partition", F.pmod(turn + F.hash(chars).cast("long"), F.lit(partitions)).cast("int"))
    return numbered.repartitionById(partitions, "_partition").drop("_partition")


def loaded_encoder(spec: EncoderSpec, config: EncoderConfig, device: str) -> Encoder:
    """This worker's encoder on `device`, loaded at first use; another encoder's models are dropped.

    Raises:
        ModelError: the worker's files are not those of `spec`.
    """
    if any(encoder.spec.encoder_id != spec.encoder_id for encoder in _loaded.values()):
        _loaded.clear()
    if device not in _loaded:
        _loaded[device] = Encoder(_verified(spec, config), device, config.token_budget)
    _loaded[device].token_budget = config.token_budget
    return _loaded[device]


def task_device() -> str:
    """The GPU that Spark assigned to this task, as cuda:N; else cpu, with as many torch threads as the task has cores.

    A number of threads set by OMP_NUM_THREADS (Spark sets it to spark.task.cpus for its workers) stands.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    if gpu:
        return f"cuda:{gpu.addresses[0]}"
    if context and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(context.cpus())
    return "cpu"


def gpu_profile(spark: "SparkSession") -> "ResourceProfile | None":
    """One whole GPU a task for the stage that encodes: `mapInArrow(..., profile=gpu_profile(spark))`.

    None, which mapInArrow takes as well, where executors have no GPUs and on local[*], which knows no profiles. The
    profile asks for tasks' resources alone, so that it needs no dynamic allocation (standalone, YARN, Kubernetes).
    """
    context = spark.sparkContext
    if context.getConf().get("spark.executor.resource.gpu.amount", "0") == "0" or re.match(r"local($|\[)", context.master or ""):
        return None
    from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

    cpus = int(context.getConf().get("spark.task.cpus", "1") or 1)
    return ResourceProfileBuilder().require(TaskResourceRequests().cpus(cpus).resource("gpu", 1)).build


def _verified(spec: EncoderSpec, config: EncoderConfig) -> EncoderSpec:
    """The spec with this machine's folder, once its files are known to be the driver's."""
    folder = Path(spec.folder) if Path(spec.folder).is_dir() else locate(config)[0]
    here = describe(folder, spec.revision, config)
    pairs = [(name, spec.files()[name][:12], found[:12]) for name, found in here.files().items()]
    differing = [f"{name} {found}, expected {expected}" for name, expected, found in pairs if found != expected]
    if differing:
        raise ModelError(f"{folder} is not the driver's encoder ({'; '.join(differing)}); install the same model on every worker")
    if here.encoder_id != spec.encoder_id:
        raise ModelError(
            f"encoder_id is {here.encoder_id}, expected {spec.encoder_id}; pass the config that the spec was resolved from, "
            "and install the same llmrec-pipeline on every worker"
        )
    return here


def _encode_partition(spec: EncoderSpec, config: EncoderConfig, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    device = task_device()
    for window in _windows(batches):
        encoder = loaded_encoder(spec, config, device)
        texts = pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(window["text"]), 0, encoder.max_chars + 1)
        encoded = encoder.try_encode([text or "" for text in texts.to_pylist()])
        yield from _to_arrow(window["text_hash"], encoded).to_batches(max_chunksize=ROWS_OUT)


def _windows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of about WINDOW rows; the last one may be shorter, none is empty."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= WINDOW:
            yield pa.Table.from_batches(held)
            held = []
    if sum(map(len, held)):
        yield pa.Table.from_batches(held)


def _to_arrow(hashes: pa.ChunkedArray, encoded: Encoded) -> pa.Table:
    """One row a text; embedding and tokens are null where there is a reason."""
    refused = np.array([reason is not None for reason in encoded.reasons])
    width = np.where(refused, 0, encoded.vectors.shape[1])
    offsets = pa.array(np.concatenate([[0], np.cumsum(width)]), pa.int32())
    values = pa.array(encoded.vectors[~refused].ravel(), pa.float32())
    vectors = pa.ListArray.from_arrays(offsets, values, type=_ARROW.field("embedding").type, mask=pa.array(refused))
    tokens = pa.array(encoded.tokens, pa.int32(), mask=refused)
    table = pa.table([hashes.cast(pa.string()), vectors, tokens, pa.array(encoded.reasons, pa.string())], schema=_ARROW)
    return table.combine_chunks()  # else its batches would be as small as those that came in
