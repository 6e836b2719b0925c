"""The catalogue's own file: its bad records are told of like the log's. Names, ids and figures are invented."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import InputError
from llmrec_pipeline.tracking import Run

pytestmark = pytest.mark.spark
Make, RunJob = Callable[..., Settings], Callable[..., Run]
CATALOGUE = 'sku,label\ni1,Tea\n,Nameless\ni2,"never closed\ni3,Hat\nsku,label\n'


@pytest.fixture
def domain(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "log.csv").write_text("user,item,time\nu1,i1,2024-01-01 10:00:00\nu1,i3,2024-01-02 10:00:00\n")
    (tmp_path / "items.csv").write_text(CATALOGUE)
    return {
        "name": "shop",
        "source": {"path": str(tmp_path / "log.csv")},
        "columns": {"user_id": "user", "item_id": "item", "event_type": "'buy'", "event_time": "time"},
        "items": {"source": {"path": str(tmp_path / "items.csv")}, "columns": {"item_id": "sku", "title": "label"}},
        "event_types": {"buy": {"target": True, "template": {"en": "bought {title}"}}},
    }


def test_records_of_the_catalogue_that_name_no_item_go_to_quarantine(
    domain: dict[str, Any], make_settings: Make, run_job: RunJob
) -> None:
    run = run_job("ingest", make_settings(domain))
    assert (run.counts["records"], run.counts["quarantined"]) == (2, 0)
    assert (run.counts["catalogue_records"], run.counts["catalogue_quarantined"]) == (5, 3)
    refused = {(row.source, row.reason, row.raw) for row in run.warehouse.read("quarantine").collect()}
    assert refused == {
        ("log.items", "no item", ",Nameless"),
        ("log.items", "unclosed quote", 'i2,"never closed'),
        ("log.items", "repeated header", "sku,label"),
    }
    assert {row.item_id: row.title for row in run.warehouse.read("items").collect()} == {"i1": "Tea", "i3": "Hat"}
    assert run_job("ingest", make_settings(domain)).outputs == run.outputs


def test_a_column_that_the_catalogue_lacks_is_named(domain: dict[str, Any], make_settings: Make, run_job: RunJob) -> None:
    domain["items"]["columns"]["title"] = "lable"
    with pytest.raises(InputError, match=r"items\.columns\.title: 'lable' does not fit the file, .*did you mean 'label'"):
        run_job("ingest", make_settings(domain))


def test_what_the_catalogue_says_last_stands_whatever_day_is_run(
    domain: dict[str, Any], tmp_path: Path, make_settings: Make, run_job: RunJob
) -> None:
    """The older day is run again when the catalogue says something new: its text is current, and running it once more changes nothing."""
    log, catalogue = tmp_path / "log.csv", tmp_path / "items.csv"
    titles = {1: "Tea", 3: "Green tea", 2: "Greenest tea"}
    for day, title in titles.items():
        log.write_text(f"user,item,time\nu1,i1,2024-01-0{day} 10:00:00\n")
        catalogue.write_text(f"sku,label\ni1,{title}\n")
        run = run_job("ingest", make_settings(domain))
    rows = run.warehouse.read("items").orderBy("valid_from").collect()
    assert [(str(row["valid_from"]), row["title"]) for row in rows] == [("1970-01-01", "Tea"), ("2024-01-03", "Greenest tea")]
    version = run.warehouse.version("items")
    assert run_job("ingest", make_settings(domain)).warehouse.version("items") == version


def test_a_late_event_dates_a_listed_item_back(
    domain: dict[str, Any], tmp_path: Path, make_settings: Make, run_job: RunJob
) -> None:
    """Events named the item before the catalogue did, which no longer lists it when one of an earlier day comes."""
    log, catalogue = tmp_path / "log.csv", tmp_path / "items.csv"
    for day, item in (("30", "i1"), ("31", "i0"), ("10", "i1")):
        log.write_text(f"user,item,time\nu1,i0,2024-01-{day} 10:00:00\n")
        catalogue.write_text(f"sku,label\n{item},Tea\n")
        run = run_job("ingest", make_settings(domain))
    rows = run.warehouse.read("items").orderBy("item_id", "valid_from").collect()
    assert [(row.item_id, str(row.valid_from), str(row.first_seen), row.title) for row in rows] == [
        ("i0", "2024-01-10", "2024-01-10", None),
        ("i0", "2024-01-31", "2024-01-10", "Tea"),
        ("i1", "1970-01-01", "1970-01-01", "Tea"),
    ]


def test_a_price_that_is_no_amount_is_none(domain: dict[str, Any], tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    (tmp_path / "items.csv").write_text("sku,label,price\ni1,Tea,NaN\ni2,Mug,Infinity\ni3,Hat,2.5\n")
    domain["items"]["columns"]["price"] = "price"
    rows = run_job("ingest", make_settings(domain)).warehouse.read("items").orderBy("item_id").collect()
    assert [(row["item_id"], row["price"], row["price_band"]) for row in rows] == [
        ("i1", None, None),
        ("i2", None, None),
        ("i3", 2.5, "2-5"),
    ]
