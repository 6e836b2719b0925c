"""A day that is delivered again in a corrected form (`source.redelivery`). Names, ids and figures are invented."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions as F

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import ConfigError, InputError
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


def test_a_correction_whose_path_names_no_day_replaces_the_dates_that_it_has_events_of(
    tmp_path: Path, make_settings: Make, run_job: RunJob, deliver: Callable[..., Run]
) -> None:
    deliver(FIRST, "undated", day="2024-01-01")
    deliver(["u2,i3,Hat,2024-01-03 11:00:00"], "undated", day="2024-01-03")
    before = deliver(WRONG, "undated")
    corrected = tmp_path / "corrected.csv"
    corrected.write_text("\n".join([HEADER, "u9,i1,Tea,2024-01-01 08:00:00", "u9,i2,Jam,2024-01-03 08:00:00", ""]))
    settings = before.settings.domain.model_dump(mode="json", exclude_defaults=True)
    settings["source"]["path"] = str(corrected)
    run = run_job("ingest", make_settings(settings, f"warehouse={tmp_path / 'undated/tables'}"))
    assert run.counts["events_replaced"] == 2
    told = sorted((str(row.event_date), row.user_id, row.item_id) for row in run.warehouse.read("events").collect())
    stands = [("2024-01-02", "u1", "i1"), ("2024-01-02", "u1", "i2"), ("2024-01-02", "u2", "i3")]
    assert told == [("2024-01-01", "u9", "i1"), *stands, ("2024-01-03", "u9", "i2")]


def test_without_the_word_of_the_domain_a_correction_is_added(deliver: Callable[..., Run]) -> None:
    deliver(WRONG, "added", redelivery="add")
    run = deliver(RIGHT, "added", redelivery="add")
    assert (run.counts["used"], run.counts.get("events_replaced")) == (2, None)
    assert run.warehouse.read("events").count() == 5


def test_a_correction_that_was_killed_before_its_items_is_ended_by_the_next_run(
    deliver: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(WRONG, "killed")

    def killed(*_: Any, **__: Any) -> None:
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


def test_a_correction_without_events_of_its_day_leaves_none_of_it(deliver: Callable[..., Run]) -> None:
    deliver(WRONG, "moved")
    run = deliver(RIGHT[-1:], "moved")  # an event of 1 January
    assert run.counts["events_replaced"] == 3
    assert [(row.user_id, str(row.event_date)) for row in run.warehouse.read("events").collect()] == [("u3", "2024-01-01")]


def test_a_correction_of_which_nothing_can_be_used_replaces_nothing(
    deliver: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    deliver(WRONG, "useless")
    with caplog.at_level("WARNING", logger="llmrec"):
        run = deliver([",i2,Jam,2024-01-02 10:00:00"], "useless")
    assert run.warehouse.read("events").count() == 3
    assert "no record of the delivery can be used; nothing that stands is replaced" in caplog.text


def test_a_part_that_cannot_be_unpacked_is_not_taken_for_nothing(
    tmp_path: Path, make_settings: Make, run_job: RunJob, deliver: Callable[..., Run]
) -> None:
    before = deliver(WRONG, "packed")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/a.csv").write_text("\n".join([HEADER, RIGHT[0], ""]))
    (tmp_path / "parts/b.zip").write_bytes(b"PK\x03\x04")
    settings = before.settings.domain.model_dump(mode="json", exclude_defaults=True)
    settings["source"]["path"] = str(tmp_path / "parts")
    run = run_job("ingest", make_settings(settings, f"warehouse={tmp_path / 'packed/tables'}"))
    assert (run.counts["used"], run.counts.get("events_replaced")) == (1, None)


def test_a_rebuild_reads_every_day_and_keeps_what_encode_refused(deliver: Callable[..., Run], make_settings: Make) -> None:
    deliver([*FIRST, "u9,i9,Early,2024-06-01 10:00:00"], "rebuilt", day="2024-01-01")
    before = deliver([*WRONG, ",i2,Jam,2024-01-02 10:00:00"], "rebuilt")
    refused = before.warehouse.read("quarantine").limit(1).withColumns({"quarantine_id": F.lit("0"), "stage": F.lit("encode")})
    before.warehouse.append("quarantine", refused)
    domain = before.settings.domain.model_dump(mode="json", exclude_defaults=True)
    domain["event_types"]["buy"]["template"] = {"en": "took {title}"}
    root = f"warehouse={before.settings.pipeline.warehouse}"
    for _ in range(2):
        run = run_step("ingest", make_settings(domain, root), rebuild=True)
        assert run.warehouse.read("events").count() == 4
        assert {row.item_id for row in run.warehouse.read("items").collect()} == {"i1", "i2", "i3"}
        rows = run.warehouse.read("quarantine").filter("stage = 'ingest'").collect()
        assert sorted(row.reason for row in rows) == ["no user", "time in the future"]  # of the day that its file is of
        assert run.warehouse.read("quarantine").count() == 3
    with pytest.raises(ConfigError, match="a rebuild reads the files of all days, but the run names 2024-01-01; leave out --day"):
        run_step("ingest", make_settings(domain, root, "day='2024-01-01'"), rebuild=True)


def test_a_rebuild_that_would_leave_no_event_changes_nothing(deliver: Callable[..., Run], make_settings: Make) -> None:
    before = deliver(FIRST, "kept", day="2024-01-01")
    domain = before.settings.domain.model_dump(mode="json", exclude_defaults=True)
    domain["quarantine_when"] = {"no good": "true"}
    with pytest.raises(InputError, match=r"no record of the source can be used: \{'no good': 1\}; the tables stay as they are"):
        run_step("ingest", make_settings(domain, f"warehouse={before.settings.pipeline.warehouse}"), rebuild=True)
    assert before.warehouse.read("events").count() == 1


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
