import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Encoder, EncoderSpec
from llmrec_pipeline.encoding import spark as bridge
from llmrec_pipeline.errors import ModelError

CONFIG = EncoderConfig()
ROWS = [("a", "white mug"), ("b", " "), ("c", None), ("d", "tea " * 70), ("e", "red retrospot bag")]


SCHEMA = pa.schema([("text_hash", pa.string()), ("text", pa.string())])


@pytest.fixture
def batches() -> Iterator[pa.RecordBatch]:
    return iter([pa.RecordBatch.from_pylist([{"text_hash": key, "text": text}], schema=SCHEMA) for key, text in ROWS])


def test_each_text_comes_back_with_a_vector_or_a_reason(encoder: Encoder, batches: Iterator[pa.RecordBatch]) -> None:
    rows = pa.Table.from_batches(bridge.encode_batches(encoder.spec, CONFIG)(batches)).to_pylist()
    assert [(row["text_hash"], row["tokens"], row["reason"]) for row in rows] == [
        ("a", 4, None),
        ("b", None, "it is blank"),
        ("c", None, "it is blank"),
        ("d", 64, None),
        ("e", 7, None),
    ]
    assert [row["embedding"] is None for row in rows] == [False, True, True, False, False]
    vectors, _ = encoder.encode(["white mug", "tea " * 70, "red retrospot bag"])
    np.testing.assert_allclose([row["embedding"] for row in rows if row["embedding"]], vectors, atol=1e-5)


def test_a_partition_is_read_in_windows_and_given_back_in_small_batches(
    spec: EncoderSpec, batches: Iterator[pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "WINDOW", 3)
    monkeypatch.setattr(bridge, "ROWS_OUT", 2)
    out = bridge.encode_batches(spec, CONFIG)(batches)
    assert next(out)["text_hash"].to_pylist() == ["a", "b"]
    assert next(batches)["text_hash"].to_pylist() == ["d"]  # the second window was not read ahead
    assert [batch["text_hash"].to_pylist() for batch in out] == [["c"], ["e"]]


def test_an_empty_partition_loads_no_model(spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_loaded", {})
    empty = pa.RecordBatch.from_pylist([], schema=SCHEMA)
    assert list(bridge.encode_batches(spec, CONFIG)(iter([empty]))) == []
    assert bridge._loaded == {}


def test_a_worker_finds_the_folder_again_where_the_drivers_is_absent(spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_loaded", {})
    elsewhere = replace(spec, folder="/absent/on/this/worker")
    assert bridge.loaded_encoder(elsewhere, CONFIG, "cpu").spec.folder == spec.folder


@pytest.mark.parametrize("file", ["weights", "tokenizer"])
def test_a_worker_with_other_files_than_the_drivers_says_which(
    spec: EncoderSpec, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "_loaded", {})
    other = replace(spec, **{f"{file}_sha256": "0" * 64})
    with pytest.raises(
        ModelError, match=rf"\({file} {getattr(spec, f'{file}_sha256')[:12]}, expected 000000000000\); install the same model"
    ):
        bridge.loaded_encoder(other, CONFIG, "cpu")


def test_a_config_that_is_not_the_specs_is_refused(spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_loaded", {})
    with pytest.raises(ModelError, match=rf"expected {spec.encoder_id}; pass the config that the spec was resolved from"):
        bridge.loaded_encoder(spec, EncoderConfig(pooling="cls"), "cpu")


@pytest.mark.spark
def test_one_worker_loads_the_model_once_for_all_its_tasks_and_jobs(spark: SparkSession, spec: EncoderSpec) -> None:
    """The encoder's running total after each task tells how long it has lived: it must span tasks and both jobs."""
    texts = spark.createDataFrame([(f"{n:02d}", f"tea towel {n}") for n in range(12)], "text_hash string, text string")

    def encode_then_tell(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = sum(batch.num_rows for batch in bridge.encode_batches(spec, CONFIG)(batches))
        total = bridge.loaded_encoder(spec, CONFIG, "cpu").totals.texts
        yield pa.RecordBatch.from_pylist([{"worker": os.getpid(), "rows": rows, "total": total}])

    told = []
    for _ in range(2):
        told += bridge.balance(texts, 4).mapInArrow(encode_then_tell, "worker long, rows long, total long").collect()
    assert sum(row.rows for row in told) == 24
    for worker in {row.worker for row in told}:
        own = [row for row in told if row.worker == worker]
        assert max(row.total for row in own) >= sum(row.rows for row in own)


@pytest.mark.spark
def test_without_gpus_there_is_no_profile_and_tasks_run_on_their_cores(spark: SparkSession) -> None:
    assert bridge.gpu_profile(spark) is None
    assert bridge.task_device() == "cpu"


@pytest.mark.spark
def test_the_job_gives_the_declared_schema(spark: SparkSession, encoder: Encoder) -> None:
    texts = spark.createDataFrame(ROWS, "text_hash string, text string")
    rows = texts.mapInArrow(bridge.encode_batches(encoder.spec, CONFIG), bridge.VECTORS_SCHEMA).orderBy("text_hash").collect()
    assert [(row.text_hash, row.tokens, row.reason) for row in rows][:2] == [("a", 4, None), ("b", None, "it is blank")]
    np.testing.assert_allclose(rows[0].embedding, encoder.encode(["white mug"])[0][0], atol=1e-5)


@pytest.mark.spark
def test_balanced_partitions_hold_equal_characters_and_the_same_rows_each_time(spark: SparkSession) -> None:
    rows = [(f"{n:04d}", "x" * (1 + n * n % 97)) for n in range(1200)]
    texts = spark.createDataFrame(rows, "text_hash string, text string")

    def parts(order: int) -> list[list[str]]:
        found = bridge.balance(texts.repartition(order), 4).rdd.glom().collect()
        return [sorted(row.text_hash for row in part) for part in found]

    first = parts(3)
    assert first == parts(5)
    assert sorted(key for part in first for key in part) == [key for key, _ in rows]
    length = {key: len(text) for key, text in rows}
    characters = [sum(length[key] for key in part) for part in first]
    assert max(characters) <= 1.03 * min(characters)
