"""Writers at once lose and repeat nothing; tables that this version must not touch get one clear line each, and no row."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from delta.exceptions import MetadataChangedException
from pyspark.sql import SparkSession

from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import TableError
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

pytestmark = pytest.mark.spark
Make, RunJob = Callable[..., Settings], Callable[..., Run]


@pytest.fixture
def shop(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "log.csv").write_text("user,item,time\nu1,i1,2024-01-01 10:00:00\n")
    return {
        "name": "shop",
        "source": {"path": str(tmp_path / "log.csv")},
        "columns": {"user_id": "user", "item_id": "item", "event_type": "'buy'", "event_time": "time"},
        "event_types": {"buy": {"target": True, "template": {"en": "bought {item_id}"}}},
    }


def test_writers_at_once_insert_each_key_once(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path), "shop", "mapping")
    warehouse.create(["texts"])

    def insert(first: int) -> int:
        keys = spark.range(first, first + 40).selectExpr("CAST(id AS string) AS text_hash")
        return warehouse.insert_new("texts", keys.selectExpr("text_hash", "'tea' AS text", "'en' AS language"))

    for turn in (0, 1_000):  # into an empty table, and into one that has rows
        with ThreadPoolExecutor(3) as pool:
            inserted = list(pool.map(insert, range(turn, turn + 60, 20)))
        assert sum(inserted) == 80
    keys = [row["text_hash"] for row in warehouse.read("texts").collect()]
    assert sorted(map(int, keys)) == [*range(80), *range(1_000, 1_080)]
    version = warehouse.version("texts")
    assert insert(0) == 0
    assert warehouse.version("texts") == version


def test_a_rebuild_that_another_one_overtakes_is_tried_again_as_a_whole(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Warehouse(spark, str(tmp_path), "shop", "mapping")
    before.create(["texts"])
    before.insert_new("texts", spark.createDataFrame([("1", "old", "en")], before.schema("texts")))
    warehouse, sql, overtaken = Warehouse(spark, str(tmp_path), "shop", "another", {"texts"}), type(spark).sql, []

    def overtaken_once(session: SparkSession, text: str, *more: Any, **named: Any) -> Any:
        if "llmrec.mapping" in text and not overtaken:
            overtaken.append(text)
            raise MetadataChangedException("another rebuild came first")
        return sql(session, text, *more, **named)

    monkeypatch.setattr(type(spark), "sql", overtaken_once)
    assert warehouse.insert_new("texts", spark.createDataFrame([("2", "new", "en")], warehouse.schema("texts"))) == 1
    assert len(overtaken) == 1
    Warehouse(spark, str(tmp_path), "shop", "another").create(["texts"])  # the new mapping is noted
    assert [row["text"] for row in warehouse.read("texts").collect()] == ["new"]


def files(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.suffix in (".json", ".parquet")
    }


@pytest.mark.parametrize("table", ["items", "job_runs"])
def test_a_table_of_a_newer_schema_is_refused(
    spark: SparkSession, tmp_path: Path, shop: dict[str, Any], make_settings: Make, run_job: RunJob, table: str
) -> None:
    run = run_job("ingest", make_settings(shop))
    path = run.warehouse.path(table)
    spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMN (colour STRING)")
    (tmp_path / "log.csv").write_text("user,item,time\nu2,i2,2024-01-02 10:00:00\n")
    before = {name: files(Path(run.warehouse.path(name))) for name in ("events", "items", "quarantine")}
    with pytest.raises(
        TableError, match=rf"{table}: has unknown colour; it was written by another version .* name another --set warehouse"
    ):
        run_job("ingest", make_settings(shop))
    assert {name: files(Path(run.warehouse.path(name))) for name in before} == before


NEWER = {
    "version": {"minReaderVersion": 99, "minWriterVersion": 99},
    "feature": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["ofOurDay"], "writerFeatures": ["ofOurDay"]},
}


@pytest.mark.parametrize("job", ["ingest", "textualise"])  # one writes the table, one reads it
@pytest.mark.parametrize("protocol", NEWER)
def test_a_table_of_a_newer_delta_is_refused(
    shop: dict[str, Any], make_settings: Make, run_job: RunJob, protocol: str, job: str
) -> None:
    run = run_job("ingest", make_settings(shop))
    log = Path(run.warehouse.path("events")) / "_delta_log"
    last = max(int(file.stem) for file in log.glob("*.json"))
    (log / f"{last + 1:020}.json").write_text(json.dumps({"protocol": NEWER[protocol]}) + "\n")
    before = files(Path(run.warehouse.root))
    with pytest.raises(TableError, match=r"events was written by a newer Delta than this one: .*; use the version that wrote it"):
        run_job(job, make_settings(shop))
    now = files(Path(run.warehouse.root))
    assert {name for name in before.keys() ^ now.keys() if "job_runs" not in name} == set()


def test_a_table_of_another_domain_is_refused(tmp_path: Path, shop: dict[str, Any], make_settings: Make, run_job: RunJob) -> None:
    run = run_job("ingest", make_settings(shop))
    before = files(Path(run.warehouse.root))
    Path(run.warehouse.root).rename(Path(run.warehouse.root).with_name("bookshop"))
    with pytest.raises(TableError, match=r"belongs to domain 'shop', this run is for 'bookshop'; name another --set warehouse"):
        run_job("ingest", make_settings(shop | {"name": "bookshop"}))
    now = files(Path(run.warehouse.root).with_name("bookshop"))
    assert {name: size for name, size in now.items() if "job_runs" not in name} == {
        name: size for name, size in before.items() if "job_runs" not in name
    }


def test_every_job_stops_where_a_table_that_it_reads_is_of_another_mapping(
    shop: dict[str, Any], make_settings: Make, run_job: RunJob
) -> None:
    for job in ("ingest", "textualise"):
        run_job(job, make_settings(shop))
    changed = make_settings(shop, "seed=18")
    for job in ("textualise", "encode", "train", "recommend", "evaluate", "promote", "rollback"):
        table, writer = ("texts", "textualise") if job == "encode" else ("events", "ingest")
        with pytest.raises(
            TableError, match=rf"/{table} was made by another mapping .* run jobs/{writer}\.py with --rebuild .* undo the change"
        ):
            run_job(job, changed)
    run_job("ingest", changed, rebuild=True)
    with pytest.raises(TableError, match=r"/(texts|user_sequences) was made by another mapping .* run jobs/textualise\.py"):
        run_job("textualise", changed)
    run_job("textualise", changed, rebuild=True)
    run = run_job("textualise", changed)
    assert run.counts == {"texts_new": 0, "sequences_changed": 0}
    assert [row["text"] for row in run.warehouse.read("texts").collect()] == ["bought i1"]


def test_a_table_that_a_killed_job_began_to_make_is_made(shop: dict[str, Any], make_settings: Make, run_job: RunJob) -> None:
    settings = make_settings(shop)
    (Path(settings.root) / "events/_delta_log").mkdir(parents=True)
    (Path(settings.root) / "items/_delta_log/.tmp").mkdir(parents=True)
    run = run_job("ingest", settings)
    assert (run.counts["used"], run.warehouse.read("events").count(), run.warehouse.read("items").count()) == (1, 1, 1)
