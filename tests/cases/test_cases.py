"""Faults that people met in the field, with the outcome that is right; the inputs are invented, and copied here."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import InputError
from llmrec_pipeline.session import java_class
from llmrec_pipeline.tracking import Run

pytestmark = pytest.mark.spark
CASES = Path(__file__).parent
Make, RunJob = Callable[..., Settings], Callable[..., Run]
SENTENCE = {"target": True, "template": {"en": "took {title}"}}


def domain(file: str, names: str, types: str, **more: Any) -> dict[str, Any]:
    """`names`: the file's names of user, item, type and time."""
    mapped = dict(zip(("user_id", "item_id", "event_type", "event_time"), names.split(), strict=True))
    source = {"path": str(CASES / file)} | more.pop("source", {})
    kinds = dict.fromkeys(types.split(), SENTENCE)
    return {"name": "shop", "source": source, "columns": mapped | more.pop("columns", {}), "event_types": kinds} | more


def fates(run: Run) -> tuple[int, int, int, int]:
    """Records, events, duplicates, quarantined."""
    counts = run.counts
    return counts["records"], counts["used"] + counts["duplicates_known"], counts["duplicates_in_delivery"], counts["quarantined"]


def reasons(run: Run) -> dict[str, int]:
    return {name.removeprefix("quarantined: "): count for name, count in run.counts.items() if name.startswith("quarantined: ")}


def run_twice(run_job: RunJob, settings: Settings, *jobs: str) -> Run:
    """Runs ingest and the named jobs, and then ingest again: it must change no row."""
    first = run_job("ingest", settings)
    for job in jobs:
        run_job(job, settings)
    again = run_job("ingest", settings)
    assert fates(again) == fates(first)
    assert again.outputs == first.outputs
    return first


def test_02_day_and_month_are_never_told_apart_row_by_row(make_settings: Make, run_job: RunJob) -> None:
    columns = ("02-day-month.csv", "customer product action when", "buy")
    with pytest.raises(InputError, match=r"time_formats is not declared, and the default .* reads no value of 'when'"):
        run_job("ingest", make_settings(domain(*columns)))
    for name, formats in (("one", ["dd/MM/yyyy HH:mm"]), ("two", ["MM/dd/yyyy HH:mm", "dd/MM/yyyy HH:mm"])):
        run = run_job("ingest", make_settings(domain(*columns, time_formats=formats) | {"name": name}))
        assert fates(run) == (10, 10, 0, 0)
        months = [row[0] for row in run.warehouse.read("events").select(F.month("event_date")).collect()]
        assert (months.count(8), months.count(9)) == (8, 2)


def test_04_the_decimal_comma_stands(make_settings: Make, run_job: RunJob) -> None:
    columns = ("04-decimal-comma.csv", "kunde artikel art zeit", "kauf")
    more = {"columns": {"quantity": "menge", "price": "preis"}, "event_types": {"kauf": SENTENCE | {"positive_price": True}}}
    declared = domain(*columns, source={"delimiter": ";", "decimal": ",", "thousands": "."}, **more)
    run = run_twice(run_job, make_settings(declared))
    assert fates(run) == (9, 7, 0, 2)
    assert reasons(run) == {"non-positive price": 1, "unparseable price": 1}
    prices = [row.price for row in run.warehouse.read("events").collect()]
    assert sorted(prices) == [0.5, 3.99, 3.99, 12.0, 1000.0, 1234.5, 1_000_000.0]


def test_05_007_is_not_7(make_settings: Make, run_job: RunJob) -> None:
    items = {
        "source": {"path": str(CASES / "05-leading-zeros-items.csv")},
        "columns": {"item_id": "plu", "title": "label", "brand": "brand"},
    }
    described = domain("05-leading-zeros.csv", "member plu action time", "view purchase", items=items)
    run = run_twice(run_job, make_settings(described), "textualise")
    assert fates(run) == (9, 9, 0, 0)
    events = run.warehouse.read("events")
    assert {row.user_id for row in events.collect()} == {"0042", "42", "4.2e1"}
    titles = {row.item_id: row.title for row in run.warehouse.read("items").collect()}
    assert len(titles) == 8
    assert (titles["007"], titles["7"], titles["0007"]) == ("Spy novel", "Bananas", "Door number plate")
    told = [row.text for row in run.warehouse.read("user_sequences").filter("user_id = '42'").collect()]
    assert told == ["took Spy novel\ntook Desk lamp\ntook Office chair\ntook Bananas"]


def test_08_marks_and_headers(make_settings: Make, run_job: RunJob) -> None:
    for file, right in (("08-bom", (15, 13, 0, 2)), ("08-bom/d-joined.csv", (5, 4, 0, 1))):
        described = domain(file, "visitor article event at", "read", time_formats=["yyyy-MM-dd'T'HH:mm:ssX"])
        settings = make_settings(described | {"name": f"shop{right[0]}"})
        run = run_twice(run_job, settings)
        assert fates(run) == right
        assert reasons(run) == ({"no user": 1} if right[0] == 15 else {}) | {"repeated header": 1}
        assert not run.warehouse.read("events").filter("contains(user_id, '\ufeff')").count()


def test_12_an_empty_history_is_nobodys(make_settings: Make, run_job: RunJob) -> None:
    source = {"format": "tsv", "quote": None, "header": False, "columns": ["impression", "user", "time", "history", "shown"]}
    listed = {"history": {"values": "split(history, ' ')", "event_type": "click"}}
    described = {
        "name": "shop",
        "source": source | {"path": str(CASES / "12-empty-history.tsv")},
        "columns": {"user_id": "user", "event_time": "time"},
        "time_formats": ["M/d/yyyy h:mm:ss a"],
        "lists": listed,
        "event_types": {"click": SENTENCE},
    }
    run = run_twice(run_job, make_settings(described))
    assert (run.counts["records"], run.counts["quarantined"], run.counts["elements_events"]) == (6, 0, 8)
    by_user = run.warehouse.read("events").groupBy("user_id").count().collect()
    assert {row.user_id: row["count"] for row in by_user} == {"U1": 5, "U3": 2, "U5": 1}
    assert run.warehouse.read("events").filter("trim(item_id) = ''").count() == 0


def test_14_local_times_and_the_two_nights(spark: SparkSession, make_settings: Make, run_job: RunJob) -> None:
    """The zones of the machine and of the session that the run finds are nobody's business."""
    described = domain(
        "14-local-times.csv", "user item action local_time", "click", zone="Europe/Berlin", columns={"session_id": "row"}
    )
    settings = make_settings(described)
    zones = java_class(spark, "java.util.TimeZone")
    machine = zones.getDefault()
    zones.setDefault(zones.getTimeZone("Asia/Tokyo"))
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        run = run_job("ingest", settings)
        rows = run.warehouse.read("events").select("session_id", F.unix_seconds("event_time").alias("at"), "event_date").collect()
    finally:
        zones.setDefault(machine)
    assert run_job("ingest", settings).counts["duplicates_known"] == 9
    assert fates(run) == (10, 9, 0, 1)
    assert reasons(run) == {"unparseable time": 1}
    assert run.counts["ambiguous_times"] == 2
    lines = (CASES / "14-local-times.csv").read_text("utf-8").splitlines()[1:]
    local = {row: time[:10] for row, *_, time in (line.split(",") for line in lines)}
    assert {row.session_id: str(row.event_date) for row in rows}.items() <= local.items()
    instants = {int(row.session_id): f"{datetime.fromtimestamp(row['at'], UTC):%Y-%m-%d %H:%M:%S}" for row in rows}
    assert instants == {
        1: "2024-03-31 00:59:59",
        3: "2024-03-31 01:00:00",
        4: "2024-10-26 23:59:00",
        5: "2024-10-27 00:50:00",
        6: "2024-10-27 00:10:00",
        7: "2024-10-27 02:00:00",
        8: "2024-06-30 22:30:00",
        9: "2024-07-01 21:30:00",
        10: "2024-12-31 22:30:00",
    }


def test_18_braces_in_a_title_stand_letter_by_letter(make_settings: Make, run_job: RunJob) -> None:
    items = {
        "source": {"path": str(CASES / "18-braces-items.csv")},
        "columns": {"item_id": "sku", "title": "title", "brand": "brand"},
    }
    described = domain(
        "18-braces.csv", "client sku action at", "click purchase", items=items, time_formats=["yyyy-MM-dd'T'HH:mm:ssX"]
    )
    run = run_twice(run_job, make_settings(described), "textualise")
    assert fates(run) == (16, 16, 0, 0)
    lines = (CASES / "18-braces-items.csv").read_text("utf-8").splitlines()[1:]
    titles = {line.split(",", 1)[1].rsplit(",", 1)[0] for line in lines}
    assert {row.text for row in run.warehouse.read("texts").collect()} == {f"took {title}" for title in titles}
