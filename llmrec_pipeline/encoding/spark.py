"""The encoder on Spark's executors: texts to tokens, tasks of equal numbers of tokens, tokens to vectors (DESIGN 1.3, 6).

Example:
    tokens = tokenise(texts, spec, config).persist()
    vectors = encode(balance(tokens, tasks), spec, config)
"""

import atexit
import gc
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding.batching import Tokens
from llmrec_pipeline.encoding.choosing import Trial, candidates, run_trials
from llmrec_pipeline.encoding.encoder import NOT_FINITE, Encoder, Launched
from llmrec_pipeline.encoding.spec import EncoderSpec, describe, locate
from llmrec_pipeline.encoding.tokenizer import Tokenizer, max_chars
from llmrec_pipeline.encoding.work import matmul_peak, work_of
from llmrec_pipeline.errors import ModelError

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import Column, DataFrame, SparkSession

ROWS_OUT = 1_000  # rows of an Arrow batch given back to Spark: 1.5 MB at 384 dimensions

TOKENS = pa.schema(
    [
        ("text_hash", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("tokens", pa.int32()),
        ("unknown", pa.int32()),
        ("truncated", pa.bool_()),
        ("reason", pa.string()),
    ]
)
VECTORS = pa.schema(
    [
        ("text_hash", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("tokens", pa.int32()),
        ("padding", pa.int32()),
        ("seconds", pa.float64()),
        ("peak", pa.float64()),
        ("reason", pa.string()),
    ]
)
TRIALS = pa.schema(
    [
        ("backend", pa.string()),
        ("precision", pa.string()),
        ("tokens_per_second", pa.float64()),
        ("cosine", pa.float64()),
        ("error", pa.string()),
        ("processor", pa.string()),
    ]
)
SPARK_TYPES = {"int32": "int", "float": "float", "double": "double", "bool": "boolean", "string": "string"}
Batches = Iterator[pa.RecordBatch]
# what a Python worker keeps for as long as it lives, of one encoder_id
_tokenizers: dict[str, Tokenizer] = {}  # encoder_id ->
_encoders: dict[str, Encoder] = {}  # device ->
# without Spark's daemon a process comes to an orderly end, where libraries complain of what is left uncollected
atexit.register(gc.unfreeze)


def tokenise(texts: "DataFrame", spec: EncoderSpec, config: EncoderConfig) -> "DataFrame":
    """Columns (text_hash, text) to TOKENS: `ids` are the text's tokens, none where there is a reason why not.

    Texts are cut before they leave the JVM: one of many megabytes costs no more than a page.

    Raises (when it runs):
        ModelError: the worker's files are not those of `spec`.
    """
    return texts.select("text_hash", _cut(spec)).mapInArrow(partial(_tokenise_partition, spec, config), _ddl(TOKENS))


def balance(tokens: "DataFrame", partitions: int) -> "DataFrame":
    """Deals rows to partitions of about equal numbers of tokens, each sorted by length, the longest first.

    Texts of one length are dealt in turn, in the order of their hashes, starting at a partition that depends on the
    length: partitions differ by at most one text of each length, and the same rows always go the same way.

    Args:
        tokens: columns text_hash (distinct) and tokens among others.
        partitions: tasks of the stage that encodes.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    turn = F.row_number().over(Window.partitionBy("tokens").orderBy("text_hash"))
    numbered = tokens.withColumn("_partition", F.pmod(turn + F.hash("tokens").cast("long"), F.lit(partitions)).cast("int"))
    dealt = numbered.repartitionById(partitions, "_partition").drop("_partition")
    return dealt.sortWithinPartitions(F.desc("tokens"), "text_hash")


def encode(tokens: "DataFrame", spec: EncoderSpec, config: EncoderConfig) -> "DataFrame":
    """Columns (text_hash, ids) to VECTORS, on the executors' GPUs where Spark assigns any.

    A text whose vector is not finite gets a null embedding and the reason; it does not fail the job. `seconds` is the row's
    share of the time that its task spent computing, so that its sum is the time of all tasks; `peak` is what its process reached in
    a product of matrices, in FLOP/s (null where `work_of` tells nothing, and in int8).

    Raises (when it runs):
        ModelError: the worker's files are not those of `spec`, or it does not compute in the spec's precision.
    """
    rows = tokens.select("text_hash", "ids")
    return rows.mapInArrow(encode_batches(spec, config), _ddl(VECTORS), profile=gpu_profile(tokens.sparkSession))


def measure(texts: "DataFrame", spec: EncoderSpec, config: EncoderConfig) -> list[Trial]:
    """Times the candidates that `config` leaves open, in one task, on a sample of texts (column text); `spec` is in torch fp32."""
    cut = texts.select(_cut(spec)).coalesce(1)
    rows = cut.mapInArrow(
        partial(_trial_partition, spec, config), _ddl(TRIALS), profile=gpu_profile(texts.sparkSession)
    ).collect()
    return [Trial(**row.asDict()) for row in rows]


# Functions for `mapInArrow` are partials of module functions: pickled by name, they find what the worker has loaded.


def encode_batches(spec: EncoderSpec, config: EncoderConfig) -> Callable[[Batches], Batches]:
    """The function behind `encode`: what `balance` has sorted is packed into batches of equal length, one Arrow batch at a time."""
    return partial(_encode_partition, spec, config)


def loaded_encoder(spec: EncoderSpec, config: EncoderConfig, device: str) -> Encoder:
    """This worker's encoder on `device`, loaded at first use; another encoder's models are dropped.

    Raises:
        ModelError: the worker's files are not those of `spec`.
    """
    if any(encoder.spec.encoder_id != spec.encoder_id for encoder in _encoders.values()):
        _drop(_encoders)
    if device not in _encoders:
        _encoders[device] = Encoder(_verified(spec, config), device, threads=task_threads())
        _keep()
    _encoders[device].set_budget(config.token_budget)
    return _encoders[device]


def _drop(loaded: dict[str, Any]) -> None:
    """Forgets what the worker has loaded, before it loads another."""
    gc.unfreeze()
    loaded.clear()
    gc.collect()


def _keep() -> None:
    """Leaves what the worker has loaded out of garbage collection: Spark collects after each task, .1 s with a model and its libraries."""
    gc.collect()
    gc.freeze()


def task_device() -> str:
    """The GPU that Spark assigned to this task, as cuda:N; else cpu."""
    from pyspark import TaskContext

    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context else None
    return f"cuda:{gpu.addresses[0]}" if gpu else "cpu"


def task_threads() -> int:
    """Threads of a forward pass: OMP_NUM_THREADS (Spark sets it to spark.task.cpus for its workers), else the task's cores."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return int(os.environ.get("OMP_NUM_THREADS") or (context.cpus() if context else 1))


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


def _cut(spec: EncoderSpec) -> "Column":
    """Of the column text, what can reach a vector, and one character that tells that there was more."""
    from pyspark.sql import functions as F

    start = F.regexp_replace(F.coalesce("text", F.lit("")), r"(?U)^\s+", "")
    return F.substring(start, 1, max_chars(spec.max_length) + 1).alias("text")


def _ddl(schema: pa.Schema) -> str:
    """The schema as Spark writes it."""
    return ", ".join(f"{field.name} {_spark_type(field.type)}" for field in schema)


def _spark_type(kind: pa.DataType) -> str:
    return f"array<{_spark_type(kind.value_type)}>" if pa.types.is_list(kind) else SPARK_TYPES[str(kind)]


def _verified(spec: EncoderSpec, config: EncoderConfig) -> EncoderSpec:
    """The spec with this machine's folder, once its files are known to be the driver's."""
    folder = Path(spec.folder) if Path(spec.folder).is_dir() else locate(config)[0]
    here = describe(folder, spec.revision, config, spec.choice)
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


def _tokenise_partition(spec: EncoderSpec, config: EncoderConfig, batches: Batches) -> Batches:
    for batch in batches:
        if not batch.num_rows:
            continue
        if spec.encoder_id not in _tokenizers:
            _drop(_tokenizers)
            _tokenizers[spec.encoder_id] = Tokenizer(_verified(spec, config))
            _keep()
        found = _tokenizers[spec.encoder_id]([text or "" for text in batch["text"].to_pylist()])
        tokens = found.tokens
        ids = pa.ListArray.from_arrays(
            pa.array(tokens.offsets, pa.int32()), pa.array(tokens.values), type=TOKENS.field("ids").type
        )
        columns = [
            batch["text_hash"].cast(pa.string()),
            ids,
            pa.array(tokens.lengths, pa.int32()),
            pa.array(found.unknown),
            pa.array(found.truncated),
            pa.array(found.reasons, pa.string()),
        ]
        yield from pa.table(columns, schema=TOKENS).to_batches(max_chunksize=ROWS_OUT)


def _encode_partition(spec: EncoderSpec, config: EncoderConfig, batches: Batches) -> Batches:
    """A GPU computes the next Arrow batch while this one's vectors go back to Spark."""
    device, before = task_device(), None
    for batch in batches:
        if not batch.num_rows:
            continue
        encoder = loaded_encoder(spec, config, device)
        peak = matmul_peak(spec.precision, device, task_threads()) if work_of(encoder.spec) else None
        tokens = Tokens.from_arrow(batch["ids"])
        began = time.perf_counter()
        launched = encoder.launch(tokens)
        now = (batch["text_hash"].cast(pa.string()), tokens, launched, time.perf_counter() - began, peak)
        if before:
            yield from _vectors(*before)
        before = now
    if before:
        yield from _vectors(*before)


def _vectors(hashes: pa.Array, tokens: Tokens, launched: Launched, seconds: float, peak: float | None) -> Batches:
    """One row a text; the embedding is null where it is not finite."""
    began = time.perf_counter()
    vectors, padding = launched.result()
    seconds += time.perf_counter() - began
    bad = np.asarray(~np.isfinite(vectors).all(axis=1))
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.where(bad, 0, vectors.shape[1]))]), pa.int32())
    embedding = pa.ListArray.from_arrays(
        offsets, pa.array(vectors[~bad].ravel()), type=VECTORS.field("embedding").type, mask=pa.array(bad)
    )
    lengths = tokens.lengths
    columns = [
        hashes,
        embedding,
        pa.array(lengths, pa.int32()),
        pa.array(padding, pa.int32()),
        pa.array(seconds * (lengths + padding) / max(1, int((lengths + padding).sum()))),
        pa.array([peak] * len(lengths), pa.float64()),
        pa.array([NOT_FINITE if is_bad else None for is_bad in bad], pa.string()),
    ]
    yield from pa.table(columns, schema=VECTORS).to_batches(max_chunksize=ROWS_OUT)


def _trial_partition(spec: EncoderSpec, config: EncoderConfig, batches: Batches) -> Batches:
    texts = [text for batch in batches for text in batch["text"].to_pylist() if text]
    device = task_device()
    trials = run_trials(_verified(spec, config), candidates(config, device), texts, device, task_threads())
    yield pa.RecordBatch.from_pylist([asdict(trial) for trial in trials], schema=TRIALS)
