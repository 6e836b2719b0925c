import gc
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Encoder, EncoderSpec
from llmrec_pipeline.encoding import spark as executors
from llmrec_pipeline.errors import ModelError

CONFIG = EncoderConfig()
ROWS = [("a", "white mug"), ("b", " "), ("c", None), ("d", "tea " * 70), ("e", "red retrospot bag"), ("f", "\u200b")]
TOKENS = pa.schema([("text_hash", pa.string()), ("ids", pa.list_(pa.int32()))])


@pytest.fixture
def texts(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, "text_hash string, text string")


def token_batches(encoder: Encoder, *texts: str) -> Iterator[pa.RecordBatch]:
    """One Arrow batch a text."""
    for place, text in enumerate(texts):
        ids = encoder.tokenise([text]).tokens.values
        yield pa.RecordBatch.from_pylist([{"text_hash": str(place), "ids": ids.tolist()}], schema=TOKENS)


@pytest.mark.spark
def test_each_text_becomes_tokens_or_a_reason(texts: DataFrame, spec: EncoderSpec, encoder: Encoder) -> None:
    rows = executors.tokenise(texts, spec, CONFIG).orderBy("text_hash").collect()
    assert [(row.text_hash, row.tokens, row.truncated, row.reason) for row in rows] == [
        ("a", 4, False, None),
        ("b", 0, False, "it is blank"),
        ("c", 0, False, "it is blank"),
        ("d", 64, True, None),
        ("e", 7, False, None),
        ("f", 0, False, "it has no tokens"),
    ]
    assert rows[0].ids == encoder.tokenise(["white mug"]).tokens.values.tolist()
    assert [row.ids for row in rows if row.reason] == [[], [], []]


@pytest.mark.spark
def test_unknown_tokens_are_counted(spark: SparkSession, spec: EncoderSpec) -> None:
    texts = spark.createDataFrame([("a", "mug 乒乓球拍 ☕"), ("b", "mug")], "text_hash string, text string")
    rows = executors.tokenise(texts, spec, CONFIG).orderBy("text_hash").collect()
    assert rows[0].unknown >= 1
    assert rows[0].unknown < rows[0].tokens
    assert rows[1].unknown == 0


@pytest.mark.spark
def test_a_text_of_many_megabytes_is_cut_before_it_leaves_the_jvm(spark: SparkSession, spec: EncoderSpec) -> None:
    text = F.concat(F.repeat(F.lit(" "), 10_000), F.repeat(F.lit("tea "), F.col("id").cast("int") + 2**22))
    texts = spark.range(1).select(F.lit("a").alias("text_hash"), text.alias("text"))
    plan = executors.tokenise(texts, spec, CONFIG)
    (row,) = plan.collect()
    assert (row.tokens, row.truncated, row.reason) == (64, True, None)
    assert "substring" in str(plan._jdf.queryExecution().optimizedPlan())


@pytest.mark.spark
def test_tokens_become_the_vectors_of_their_texts(texts: DataFrame, spec: EncoderSpec, encoder: Encoder) -> None:
    tokens = executors.tokenise(texts, spec, CONFIG).filter("tokens > 0")
    rows = executors.encode(executors.balance(tokens, 2), spec, CONFIG).orderBy("text_hash").collect()
    assert [(row.text_hash, row.tokens, row.padding, row.reason) for row in rows] == [
        ("a", 4, 0, None),
        ("d", 64, 0, None),
        ("e", 7, 0, None),
    ]
    assert all(row.seconds > 0 for row in rows)
    vectors, _ = encoder.encode(["white mug", "tea " * 70, "red retrospot bag"])
    np.testing.assert_allclose([row.embedding for row in rows], vectors, atol=1e-5)


@pytest.mark.spark
def test_equal_texts_are_dealt_out_evenly_and_one_partition_may_hold_them_all(
    spark: SparkSession, spec: EncoderSpec, encoder: Encoder
) -> None:
    texts = spark.createDataFrame([(f"{n:02d}", "tea towel") for n in range(40)], "text_hash string, text string")
    together = executors.tokenise(texts.repartition(4, "text"), spec, CONFIG).persist()
    for tokens, sizes in ((together, [0, 0, 0, 40]), (executors.balance(together, 4), [10, 10, 10, 10])):
        assert sorted(map(len, tokens.rdd.glom().collect())) == sizes
        rows = executors.encode(tokens, spec, CONFIG).orderBy("text_hash").collect()
        assert [(row.text_hash, row.reason) for row in rows] == [(f"{n:02d}", None) for n in range(40)]
        np.testing.assert_allclose([row.embedding for row in rows], encoder.encode(["tea towel"] * 40)[0], atol=1e-5)


def test_an_arrow_batch_is_given_back_in_small_ones_after_the_next_was_started(
    encoder: Encoder, spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "ROWS_OUT", 1)
    batches = token_batches(encoder, "white mug", "tea", "red bag")
    out = executors.encode_batches(spec, CONFIG)(batches)
    assert next(out)["text_hash"].to_pylist() == ["0"]
    assert next(batches)["text_hash"].to_pylist() == ["2"]  # a GPU works on the second meanwhile; the third was not read yet
    assert [batch["text_hash"].to_pylist() for batch in out] == [["1"]]


def test_a_vector_that_is_not_finite_is_a_reason(encoder: Encoder, spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Encoder(spec)
    forward = broken._forward
    monkeypatch.setattr(broken, "_forward", lambda ids, mask: forward(ids, mask) * (float("nan") if ids.shape[1] == 3 else 1.0))
    monkeypatch.setattr(executors, "_encoders", {"cpu": broken})
    out = executors.encode_batches(spec, CONFIG)(token_batches(encoder, "white mug", "tea"))
    rows = pa.Table.from_batches(out).to_pylist()
    assert [(row["tokens"], row["embedding"] is None, row["reason"]) for row in rows] == [
        (4, False, None),
        (3, True, "the model's vector is not finite"),
    ]


def test_an_empty_partition_loads_no_model(spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_encoders", {})
    empty = pa.RecordBatch.from_pylist([], schema=TOKENS)
    assert list(executors.encode_batches(spec, CONFIG)(iter([empty]))) == []
    assert executors._encoders == {}


def test_a_worker_finds_the_folder_again_where_the_drivers_is_absent(spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_encoders", {})
    elsewhere = replace(spec, folder="/absent/on/this/worker")
    assert executors.loaded_encoder(elsewhere, CONFIG, "cpu").spec.folder == spec.folder


def test_a_loaded_encoder_takes_each_jobs_token_budget(spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_encoders", {})
    loaded = executors.loaded_encoder(spec, CONFIG, "cpu")
    budgets = [loaded.token_budget]
    for wanted in (128, None):
        assert executors.loaded_encoder(spec, EncoderConfig(token_budget=wanted), "cpu") is loaded
        budgets.append(loaded.token_budget)
    assert budgets == [1024, 128, 1024]


@pytest.mark.parametrize("file", ["weights", "tokenizer"])
def test_a_worker_with_other_files_than_the_drivers_says_which(
    spec: EncoderSpec, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_encoders", {})
    other = replace(spec, **{f"{file}_sha256": "0" * 64})
    with pytest.raises(
        ModelError, match=rf"\({file} {getattr(spec, f'{file}_sha256')[:12]}, expected 000000000000\); install the same model"
    ):
        executors.loaded_encoder(other, CONFIG, "cpu")


def test_a_config_that_is_not_the_specs_is_refused(spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_encoders", {})
    with pytest.raises(ModelError, match=rf"expected {spec.encoder_id}; pass the config that the spec was resolved from"):
        executors.loaded_encoder(spec, EncoderConfig(pooling="cls"), "cpu")


@pytest.mark.spark
def test_one_worker_loads_the_model_once_for_all_its_tasks_and_jobs(spark: SparkSession, spec: EncoderSpec) -> None:
    """The encoder's running total after each task tells how long it has lived: it must span tasks and both jobs."""
    texts = spark.createDataFrame([(f"{n:02d}", f"tea towel {n}") for n in range(12)], "text_hash string, text string")
    tokens = executors.balance(executors.tokenise(texts, spec, CONFIG), 4).select("text_hash", "ids")

    def encode_then_tell(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = sum(batch.num_rows for batch in executors.encode_batches(spec, CONFIG)(batches))
        total, kept = executors.loaded_encoder(spec, CONFIG, "cpu").totals.texts, gc.get_freeze_count()
        yield pa.RecordBatch.from_pylist([{"worker": os.getpid(), "rows": rows, "total": total, "kept": kept}])

    told = []
    for _ in range(2):
        told += tokens.mapInArrow(encode_then_tell, "worker long, rows long, total long, kept long").collect()
    assert sum(row.rows for row in told) == 24
    assert min(row.kept for row in told) > 10_000, "Spark's collection after each task goes through all that the model brought"
    for worker in {row.worker for row in told}:
        own = [row for row in told if row.worker == worker]
        assert max(row.total for row in own) >= sum(row.rows for row in own)


@pytest.mark.spark
def test_without_gpus_there_is_no_profile_and_tasks_run_on_their_cores(spark: SparkSession) -> None:
    assert executors.gpu_profile(spark) is None
    assert executors.task_device() == "cpu"


@pytest.mark.spark
def test_balanced_partitions_hold_equal_tokens_longest_first_and_the_same_rows_each_time(spark: SparkSession) -> None:
    rows = [(f"{n:04d}", 3 + n * n % 61) for n in range(1200)]
    tokens = spark.createDataFrame(rows, "text_hash string, tokens int")

    def parts(order: int) -> list[list[tuple[str, int]]]:
        found = executors.balance(tokens.repartition(order), 4).rdd.glom().collect()
        return [[(row.text_hash, row.tokens) for row in part] for part in found]

    first = parts(3)
    assert first == parts(5)
    assert sorted(row for part in first for row in part) == rows
    for part in first:
        assert part == sorted(part, key=lambda row: (-row[1], row[0]))
    sums = [sum(count for _, count in part) for part in first]
    assert max(sums) <= 1.03 * min(sums)
