"""A day that is delivered again in a corrected form (`source.redelivery`). Names, ids and figures are invented."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import ConfigError
from llmrec_pipeline.steps import ingest
from llmrec_pipeline.tracking import Run

pytestmark = pytest.mark.spark
HEADER = "user,item,label,time"
FIRST = ["u1,i1,Tea,2024-01-01 10:00:00"]
WRONG = ["u1,i2,Jam,2024-01-02 10:00:00", "u2,i3,Hat,2024-01-02 11:00:00", "u1,i1,Tea,2024-01-02 12:00:00"]
RIGHT = ["u1,i2,Plum jam,2024-01-02 10:00:00", "u1,i1,Tea,2024-01-02 12:00:00", "u3,i1,Tea,2024-01-01 23:00:00"]
Make, RunJob = Callable[..., Settings], Callable[..., Run]
TABLES = ("events", "items", "user_sequences", "quarantine")


@pytest.fixture
def deliver(tmp_path: Path, make_settings: Make, run_job: RunJob) -> Callable[..., Run]:
    """Ingests the lines as the file of 2 January, or another day's, and textualises."""

    def run(lines: list[str], warehouse: str, redelivery: str = "replace", day: str = "2024-01-02") -> Run:
        source = {"path": str(tmp_path / warehouse / "{day}.csv"), "redelivery": redelivery}
        columns = {"user_id": "user", "item_id": "item", "event_type": "'buy'", "event_time": "time"}
        kinds = {"buy": {"target": True, "template": {"en": "bought {title}"}}}
        domain = {"name": "shop", "source": source, "columns": columns, "items": {"columns": {"title": "label"}}}
        file = tmp_path / warehouse / f"{day}.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join([HEADER, *lines, ""]))
        overrides = (f"warehouse={tmp_path / warehouse / 'tables'}", f"day='{day}'")
        settings = make_settings(domain | {"event_types": kinds}, *overrides)
        done = run_job("ingest", settings)
        run_job("textualise", settings)
        return done

    return run


def tables_of(run: Run) -> list[list[str]]:
    return [sorted(str(row) for row in run.warehouse.read(name).drop("file").collect()) for name in TABLES]


def test_a_corrected_day_replaces_itself_and_nothing_else(deliver: Callable[..., Run]) -> None:
    deliver(FIRST, "corrected", day="2024-01-01")
    deliver(WRONG, "corrected")
    run = deliver(RIGHT, "corrected")
    assert (run.counts["records"], run.counts["used"], run.counts["duplicates_known"]) == (3, 2, 1)
    assert run.counts["events_replaced"] == 2  # the jam of another name and the hat; 1 January stands
    told = {(row.user_id, str(row.event_date)): row.text for row in run.warehouse.read("user_sequences").collect()}
    assert told == {
        ("u1", "2024-01-01"): "bought Tea",
        ("u1", "2024-01-02"): "bought Plum jam\nbought Tea",
        ("u3", "2024-01-01"): "bought Tea",
    }
    assert {row.item_id: row.title for row in run.warehouse.read("items").collect()} == {"i1": "Tea", "i2": "Plum jam"}
    again = deliver(RIGHT, "corrected")
    assert again.outputs == run.outputs
    deliver(FIRST, "right", day="2024-01-01")
    assert tables_of(deliver(RIGHT, "right")) == tables_of(again)


def test_without_the_word_of_the_domain_a_correction_is_added(deliver: Callable[..., Run]) -> None:
    deliver(WRONG, "added", redelivery="add")
    run = deliver(RIGHT, "added", redelivery="add")
    assert (run.counts["used"], run.counts.get("events_replaced")) == (2, None)
    assert run.warehouse.read("events").count() == 5


def test_a_correction_that_was_killed_before_its_items_is_ended_by_the_next_run(
    deliver: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(WRONG, "killed")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ingest, "_write_items", killed)
        with pytest.raises(KeyboardInterrupt):
            deliver(RIGHT, "killed")
    assert tables_of(deliver(RIGHT, "killed")) == tables_of(deliver(RIGHT, "undisturbed"))


def test_a_damaged_correction_replaces_nothing(
    tmp_path: Path, make_settings: Make, run_job: RunJob, deliver: Callable[..., Run]
) -> None:
    before = deliver(WRONG, "damaged")
    content = gzip.compress("\n".join([HEADER, *RIGHT, ""]).encode())
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.csv").write_text("\n".join([HEADER, RIGHT[0], ""]))
    (tmp_path / "more/b.csv.gz").write_bytes(content[:-9])
    settings = before.settings.domain.model_dump(mode="json", exclude_defaults=True)
    settings["source"]["path"] = str(tmp_path / "more")
    run = run_job("ingest", make_settings(settings, f"warehouse={tmp_path / 'damaged/tables'}"))
    assert (run.counts["used"], run.counts["quarantined"], run.counts.get("events_replaced")) == (1, 1, None)
    assert run.warehouse.read("events").count() == 4


def test_a_declared_identity_cannot_be_replaced(make_settings: Make) -> None:
    columns = {"user_id": "user", "item_id": "item", "event_type": "'buy'", "event_time": "time", "event_id": "line"}
    domain: dict[str, Any] = {
        "name": "shop",
        "source": {"path": "log.csv", "redelivery": "replace"},
        "columns": columns,
        "event_types": {"buy": {"target": True, "template": {"en": "bought"}}},
    }
    with pytest.raises(ConfigError, match=r"source\.redelivery is replace, but columns declares event_id"):
        make_settings(domain)


def test_lists_can_only_be_added(make_settings: Make) -> None:
    domain: dict[str, Any] = {
        "name": "shop",
        "source": {"path": "log.tsv", "redelivery": "replace"},
        "columns": {"user_id": "user", "event_time": "time"},
        "lists": {"history": {"values": "split(history, ' ')", "event_type": "buy"}},
        "event_types": {"buy": {"target": True, "template": {"en": "bought"}}},
    }
    with pytest.raises(ConfigError, match=r"source\.redelivery is replace, but lists hold the behaviours"):
        make_settings(domain)
