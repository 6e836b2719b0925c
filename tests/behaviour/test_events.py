"""Faults from the field: literal files in, literal events and quarantine out. Names, ids and figures are invented."""

import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from rich.console import Console

from llmrec_pipeline.behaviour.values import TITLE_CHARS
from llmrec_pipeline.config import Settings, is_naive
from llmrec_pipeline.errors import ConfigError, ConservationError, InputError
from llmrec_pipeline.steps import delivery as delivery_step
from llmrec_pipeline.steps import ingest as ingest_step
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

pytestmark = pytest.mark.spark
BUY = {"buy": {"target": True, "template": {"en": "bought {title}"}}}
Make, RunJob = Callable[..., Settings], Callable[..., Run]


def domain(path: Path, columns: dict[str, str], **more: Any) -> dict[str, Any]:
    source = {"path": str(path), "format": "csv"} | more.pop("source", {})
    return {"name": "shop", "source": source, "columns": columns, "event_types": BUY} | more


def fates(run: Run) -> tuple[int, int, int, int]:
    names = ("records", "used", "duplicates_in_delivery", "quarantined")
    return tuple(run.counts[name] for name in names)  # type: ignore[return-value]


def reasons(run: Run) -> dict[str, int]:
    return {name.removeprefix("quarantined: "): count for name, count in run.counts.items() if name.startswith("quarantined: ")}


PLAIN = {"user_id": "user", "item_id": "item", "event_type": "action", "event_time": "time"}


def write(path: Path, *lines: str, end: str = "\n", bom: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + end.join([*lines, ""]).encode())
    return path


def test_day_first_dates_are_read_as_declared(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    rows = [
        "u1,tea,03/08/2024 10:15,buy",
        "u1,mug,12/08/2024 12:00,buy",
        "u2,jam,31/08/2024 23:59,buy",
        "u2,tea,01/09/2024 00:01,buy",
    ]
    file = write(tmp_path / "log.csv", "user,item,time,action", *rows)
    run = run_job("ingest", make_settings(domain(file, PLAIN, time_formats=["dd/MM/yyyy HH:mm"])))
    months = [row[0].month for row in run.warehouse.read("events").select("event_time").collect()]
    assert sorted(months) == [8, 8, 8, 9]
    assert fates(run) == (4, 4, 0, 0)


def test_of_two_declared_formats_the_column_takes_one(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    rows = ["u1,tea,03/08/2024 10:15,buy", "u1,mug,26/08/2024 12:00,buy", "u2,jam,01/09/2024 23:59,buy"]
    file = write(tmp_path / "log.csv", "user,item,time,action", *rows)
    formats = ["MM/dd/yyyy HH:mm", "dd/MM/yyyy HH:mm"]
    run = run_job("ingest", make_settings(domain(file, PLAIN, time_formats=formats)))
    assert sorted(row[0].month for row in run.warehouse.read("events").select("event_time").collect()) == [8, 8, 9]


def test_formats_that_the_column_cannot_settle_are_refused(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    file = write(tmp_path / "log.csv", "user,item,time,action", "u1,tea,03/08/2024 10:15,buy")
    with pytest.raises(InputError, match="each read 1 values"):
        run_job("ingest", make_settings(domain(file, PLAIN, time_formats=["MM/dd/yyyy HH:mm", "dd/MM/yyyy HH:mm"])))


def test_ids_that_differ_in_zeros_stay_apart(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    log = [
        "0042,7,2024-04-02 09:00:00,buy",
        "42,007,2024-04-02 09:01:00,buy",
        "4.2e1,12e3,2024-04-02 09:02:00,buy",
        "42,12000,2024-04-02 09:03:00,buy",
    ]
    file = write(tmp_path / "log" / "shop=007" / "log.csv", "user,item,time,action", *log)
    items = write(tmp_path / "items.csv", "plu,label", "7,Bananas", "007,Spy novel", "12e3,Desk lamp", "12000,Office chair")
    catalogue = {"source": {"path": str(items), "format": "csv"}, "columns": {"item_id": "plu", "title": "label"}}
    columns = PLAIN | {"session_id": "shop"}
    run = run_job("ingest", make_settings(domain(file.parent.parent, columns, items=catalogue)))
    events = {(row.user_id, row.item_id, row.session_id) for row in run.warehouse.read("events").collect()}
    assert events == {("0042", "7", "007"), ("42", "007", "007"), ("4.2e1", "12e3", "007"), ("42", "12000", "007")}
    titles = {row.item_id: row.title for row in run.warehouse.read("items").collect()}
    assert titles == {"7": "Bananas", "007": "Spy novel", "12e3": "Desk lamp", "12000": "Office chair"}


def test_marks_and_headers_in_the_middle(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    header = "user,item,time,action"
    write(tmp_path / "log/a.csv", header, "u1,tea,2024-01-01 10:00:00,buy", "u2,tea,2024-01-01 10:01:00,buy")
    write(tmp_path / "log/b.csv", header, "u3,tea,2024-01-01 10:02:00,buy", end="\r\n", bom=True)
    glued = ["u4,tea,2024-01-01 10:03:00,buy", "\ufeff" + header, "", "u5,tea,2024-01-01 10:04:00,buy"]
    write(tmp_path / "log/c.csv", header, *glued, bom=True)
    run = run_job("ingest", make_settings(domain(tmp_path / "log", PLAIN)))
    assert fates(run) == (6, 5, 0, 1)
    assert reasons(run) == {"repeated header": 1}
    users = {row.user_id for row in run.warehouse.read("events").collect()}
    assert users == {"u1", "u2", "u3", "u4", "u5"}


def test_headers_may_come_in_another_order_but_not_with_other_names(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    write(tmp_path / "log/a.csv", "user,item,time,action", "u1,tea,2024-01-01 10:00:00,buy")
    write(tmp_path / "log/b.csv", "action,time,item,user", "buy,2024-01-01 10:00:00,mug,u2")
    run = run_job("ingest", make_settings(domain(tmp_path / "log", PLAIN)))
    assert {(row.user_id, row.item_id) for row in run.warehouse.read("events").collect()} == {("u1", "tea"), ("u2", "mug")}
    write(tmp_path / "log/c.csv", "user,item,when,action", "u3,tea,2024-01-01 10:00:00,buy")
    with pytest.raises(InputError, match=r"headers differ.*\['time', 'when'\]"):
        run_job("ingest", make_settings(domain(tmp_path / "log", PLAIN)))


def test_the_two_nights_of_the_year(spark: SparkSession, tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    local = [
        "2024-03-31 01:59:59",
        "2024-03-31 02:30:00",
        "2024-03-31 03:00:00",
        "2024-10-27 01:59:00",
        "2024-10-27 02:50:00",
        "2024-07-01 00:30:00",
    ]
    file = write(tmp_path / "log.csv", "user,item,time,action", *[f"u1,i{n},{time},buy" for n, time in enumerate(local)])
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    run = run_job("ingest", make_settings(domain(file, PLAIN, zone="Europe/Berlin")))
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    rows = (
        run.warehouse.read("events")
        .selectExpr("item_id", "date_format(event_time, 'yyyy-MM-dd HH:mm:ss') AS t", "string(event_date) AS d")
        .collect()
    )
    assert {row.item_id: (row.t, row.d) for row in rows} == {
        "i0": ("2024-03-31 00:59:59", "2024-03-31"),
        "i2": ("2024-03-31 01:00:00", "2024-03-31"),
        "i3": ("2024-10-26 23:59:00", "2024-10-27"),
        "i4": ("2024-10-27 00:50:00", "2024-10-27"),  # of the two 02:50 the first, in summer time
        "i5": ("2024-06-30 22:30:00", "2024-07-01"),
    }
    assert reasons(run) == {"unparseable time": 1}  # 02:30 on 31 March does not exist


def test_every_kind_of_dirt_gets_its_reason(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    rows = [
        "u1,tea,2024-01-01 10:00:00,buy,1,2.50",
        "u1,tea,2024-01-01 10:00:00,buy,1,2.50",  # an equal record
        "u1,,2024-01-01 10:00:00,buy,1,2.50",
        "u1,tea,yesterday,buy,1,2.50",
        "u1,tea,2999-01-01 10:00:00,buy,1,2.50",
        "u1,tea,2024-01-01 10:00:00,steal,1,2.50",
        "u1,tea,2024-01-01 10:00:00,buy,1,0",
        "u1,tea,2024-01-01 10:00:00,buy,1,NaN",
        "u1,tea,2024-01-01 10:00:00,buy,-1,2.50",
        "u1,tea,2024-01-01 10:00:00,buy,one,2.50",
        ",tea,2024-01-01 10:00:00,buy,1,2.50",
        "u1,tea,2024-01-01 10:00:00",
        "u1,test,2024-01-01 10:00:00,buy,1,2.50",
        "u1,tea,2024-01-01 10:00:00,buy,1,3d ",  # numbers to Java alone
        "u1,tea,2024-01-01 10:00:00,buy,0x1p3,2.50",
        "u1,tea,2024-01-01 10:00:00,buy,Infinity,2.50",
        "u1,tea,2024-01-01 10:00:00,buy,1,2.50,1.5",
    ]
    rows = [row if row.count(",") in (2, 6) else f"{row},3.0" for row in rows]
    file = write(tmp_path / "log.csv", "user,item,time,action,n,price,place", *rows)
    types = {"buy": {"target": True, "positive_price": True, "template": {"en": "{title}"}}}
    columns = PLAIN | {"quantity": "n", "price": "price", "position": "place"}
    settings = make_settings(domain(file, columns, event_types=types, quarantine_when={"a test": "item = 'test'"}))
    run = run_job("ingest", settings)
    assert fates(run) == (17, 1, 1, 15)
    assert reasons(run) == {
        "no item": 1, "unparseable time": 1, "time in the future": 1, "unknown event type": 1, "non-positive price": 1, "unparseable price": 2,
        "negative quantity": 1, "unparseable quantity": 2, "quantity out of range": 1, "unparseable position": 1, "no user": 1, "broken row": 1, "a test": 1,
    }  # fmt: skip
    raw = {row.reason: row.raw for row in run.warehouse.read("quarantine").collect()}
    assert raw["unparseable time"] == rows[3]
    assert [row.position for row in run.warehouse.read("events").collect()] == [3]
    versions = dict(run.outputs)
    again = run_job("ingest", settings)
    assert again.outputs == versions
    assert (again.counts["used"], again.counts["duplicates_known"]) == (0, 1)


def test_anonymous_rows_are_kept_where_the_domain_says_so(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    file = write(
        tmp_path / "log.csv",
        "user,item,time,action",
        ",tea,2024-01-01 10:00:00,buy",
        "n/a,mug,2024-01-01 10:00:00,buy",
        "u1,jam,2024-01-01 10:00:00,buy",
    )
    run = run_job("ingest", make_settings(domain(file, PLAIN, anonymous="keep", source={"missing": ["n/a"]})))
    assert sorted((row.user_id or "", row.item_id) for row in run.warehouse.read("events").collect()) == [
        ("", "mug"),
        ("", "tea"),
        ("u1", "jam"),
    ]


def test_json_lines_with_a_broken_one(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    good = '{"user": "u1", "item": "007", "time": "2024-01-01T10:00:00Z", "action": "buy"}'
    file = write(tmp_path / "log.jsonl", good, '{"user": "u1", "item', bom=True)
    source = {"format": "json", "columns": ["user", "item", "time", "action"]}
    run = run_job("ingest", make_settings(domain(file, PLAIN, source=source, time_formats=["yyyy-MM-dd'T'HH:mm:ssX"])))
    assert fates(run) == (2, 1, 0, 1)
    event = run.warehouse.read("events").collect()[0]
    assert (event.user_id, event.item_id, event.event_time) == ("u1", "007", datetime(2024, 1, 1, 10))
    assert reasons(run) == {"broken row": 1}


def test_late_and_repeated_deliveries_end_in_the_same_tables(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    header = "user,item,label,time,action"
    days = {
        "2024-01-01": ["u1,i1,OLD NAME,2024-01-01 10:00:00,buy"],
        "2024-01-02": [
            "u1,i1,NEW NAME,2024-01-02 10:00:00,buy",
            "u1,i1,NEW NAME,2024-01-02 11:00:00,buy",
            "u2,i2,Jam,2024-01-02 10:00:00,buy",
        ],
    }
    for day, rows in days.items():
        write(tmp_path / "in" / f"{day}.csv", header, *rows)
    tables = []
    for name, order in (
        ("once", [["2024-01-01", "2024-01-02"]]),
        ("late", [["2024-01-02"], ["2024-01-02"], ["2024-01-01"], ["2024-01-01"]]),
    ):
        for delivery in order:
            path = tmp_path / "in" / ("*.csv" if len(delivery) > 1 else f"{delivery[0]}.csv")
            settings = make_settings(domain(path, PLAIN, items={"columns": {"title": "label"}}), f"warehouse={tmp_path / name}")
            run = run_job("ingest", settings)
            run_job("textualise", settings)
        read = run.warehouse.read
        tables.append(
            [sorted(map(str, read(table).collect())) for table in ("events", "items", "texts", "user_sequences", "quarantine")]
        )
        assert {row.item_id: row.title for row in read("items").collect()} == {"i1": "OLD NAME", "i2": "Jam"}
        assert [row.text for row in read("user_sequences").orderBy("user_id", "event_date").collect()] == [
            "bought OLD NAME",
            "bought OLD NAME\nbought OLD NAME",
            "bought Jam",
        ]
    once, late = tables
    assert late[:2] == once[:2]
    assert late[3:] == once[3:]
    assert set(once[2]) < set(late[2])  # texts are insert-only: the one that the late day outdated stays


def test_a_lost_row_fails_the_job_before_anything_is_committed(
    tmp_path: Path, make_settings: Make, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "log.csv", "user,item,time,action", "u1,tea,2024-01-01 10:00:00,buy", "u2,tea,2024-01-01 10:00:00,buy"
    )
    settings = make_settings(domain(file, PLAIN))
    whole = delivery_step.parse_events
    with monkeypatch.context() as patch:
        patch.setattr(delivery_step, "parse_events", lambda *args: whole(*args).filter("user_id <> 'u2'"))
        with pytest.raises(ConservationError, match="do not add up"):
            run_job("ingest", settings)
    run = run_job("ingest", settings)  # the control: nothing was half-written, and all is there
    assert fates(run) == (2, 2, 0, 0)
    assert run.outputs["events"] == 1


def test_two_first_ingests_of_one_delivery_at_once(
    tmp_path: Path, make_settings: Make, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find no table; the other has committed all when this one writes."""
    file = write(tmp_path / "log.csv", "user,item,time,action", "u1,tea,2024-01-01 10:00:00,buy")
    settings, write_events = make_settings(domain(file, PLAIN)), ingest_step._write_events

    def overtaken(*given: Any, **named: Any) -> bool:
        monkeypatch.setattr(ingest_step, "_write_events", write_events)
        assert run_job("ingest", settings).counts["used"] == 1
        return write_events(*given, **named)

    monkeypatch.setattr(ingest_step, "_write_events", overtaken)
    run = run_job("ingest", settings)
    assert (run.counts["used"], run.counts["duplicates_known"]) == (0, 1)
    assert run.warehouse.read("items").count() == run.warehouse.read("events").count() == 1


def test_a_row_that_is_lost_on_its_way_to_the_table_fails_the_job(
    tmp_path: Path, make_settings: Make, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "log.csv", "user,item,time,action", "u1,tea,2024-01-01 10:00:00,buy", "u2,tea,2024-01-01 10:00:00,buy"
    )
    settings, insert_new = make_settings(domain(file, PLAIN)), Warehouse.insert_new

    def losing(warehouse: Warehouse, name: str, rows: DataFrame, *more: str) -> int:
        return insert_new(warehouse, name, rows.filter("user_id <> 'u2'") if name == "events" else rows, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "insert_new", losing)
        with pytest.raises(ConservationError, match="1 rows committed, 2 counted before"):
            run_job("ingest", settings)
    run = run_job("ingest", settings)
    assert (fates(run), run.counts["duplicates_known"]) == ((2, 1, 0, 0), 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": {"path": "nowhere/*.csv", "format": "csv"}}, InputError, "'nowhere/\\*.csv' does not exist"),
        ({"columns": PLAIN | {"item_id": "itm"}}, InputError, "columns.item_id: 'itm' does not fit.*did you mean 'item'"),
        ({"columns": PLAIN | {"user_id": "session_user"}}, InputError, "no such column; .*user"),
        ({"columns": PLAIN | {"event_time": "current_date"}}, InputError, "no such column; "),
        ({"columns": PLAIN | {"event_time": "string(unix_timestamp())"}}, InputError, "which another run would answer otherwise"),
        (
            {"columns": PLAIN | {"user_id": "concat(current_user(), user)"}},
            InputError,
            "which another run would answer otherwise",
        ),
        ({"zone": "Europe/Berln"}, ConfigError, "zone = 'Europe/Berln': .*no IANA time zone; did you mean 'Europe/Berlin'"),
        ({"columns": PLAIN | {"colour": "item"}}, ConfigError, "unknown event field 'colour'"),
        ({"step_by": "basket"}, ConfigError, "step_by = 'basket'"),
        ({"items": {"columns": {"price": "item"}}}, ConfigError, r"items.columns names \['price'\], but items has no source"),
        ({"time_formats": ["yyyy-MM-dd HH:mm:ss[XXX]"]}, ConfigError, "leaves open whether a time has a zone"),
        (
            {"columns": PLAIN | {"event_id": "line"}, "lists": {"history": {"values": "split(item, ' ')", "event_type": "buy"}}},
            ConfigError,
            "columns declares event_id, but lists hold the behaviours",
        ),
        ({"time_formats": ["YYYY-MM-ddTHH:mm"]}, InputError, "'YYYY-MM-ddTHH:mm' has 'TY', which names no part of a time"),
        (
            {"quarantine_when": {"a test": "item"}},
            InputError,
            r"quarantine_when\.a test: 'item' gives string, expected boolean; write a comparison",
        ),
        (
            {"lists": {"history": {"values": "item", "event_type": "buy"}}},
            InputError,
            r"lists\.history\.values: 'item' gives string, expected array<string>; write split",
        ),
        ({"reapeats": True}, ConfigError, "unknown key 'reapeats'; did you mean 'repeats'"),
        (
            {"items": {"price_edges": [5, 2]}},
            ConfigError,
            r"price_edges = \[5, 2\]: .*expected ascending numbers, each once",
        ),
        (
            {"event_types": BUY | {"View": BUY["buy"] | {"aliases": ["BUY"]}}},
            ConfigError,
            "'buy' and 'View' are both spelt 'BUY'",
        ),
    ],
)
def test_what_the_user_can_mend_is_said_in_one_line(
    tmp_path: Path, make_settings: Make, run_job: RunJob, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    file = write(tmp_path / "log.csv", "user,item,time,action", "u1,tea,2024-01-01 10:00:00,buy")
    with pytest.raises(error, match=message):
        run_job("ingest", make_settings(domain(file, PLAIN) | change))
    assert not (tmp_path / "warehouse/shop/events").exists()


def test_columns_are_named_as_sql_names_them(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    file = write(tmp_path / "log.csv", "user id,item,time,action", "u1,tea,2024-01-01 10:00:00,buy")
    columns = PLAIN | {"user_id": "`User ID`", "item_id": "`user id` || '-' || `item`", "session_id": "NULL"}
    (event,) = run_job("ingest", make_settings(domain(file, columns))).warehouse.read("events").collect()
    assert (event.user_id, event.item_id, event.session_id) == ("u1", "u1-tea", None)


def test_a_reason_may_have_any_name(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    rows = ["u1,tea,2024-01-01 10:00:00,buy", "u2,item,2024-01-01 10:00:00,buy", "u3,item,2024-01-01 10:00:00,buy"]
    file = write(tmp_path / "log.csv", "user,item,time,action", *rows)
    run = run_job("ingest", make_settings(domain(file, PLAIN, quarantine_when={"header": "item = 'item'"})))
    assert fates(run) == (3, 1, 0, 2)
    assert run.warehouse.read("quarantine").count() == 2


def test_another_mapping_on_the_same_tables_asks_for_a_rebuild(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    from llmrec_pipeline.errors import TableError

    file = write(tmp_path / "log.csv", "user,item,time,action", "u1,tea,2024-01-01 10:00:00,buy")
    run_job("ingest", make_settings(domain(file, PLAIN)))
    changed = make_settings(domain(file, PLAIN | {"item_id": "upper(item)"}))
    with pytest.raises(TableError, match="--rebuild"):
        run_job("ingest", changed)
    run = run_job("ingest", changed, rebuild=True)
    assert [row.item_id for row in run.warehouse.read("events").collect()] == ["TEA"]
    assert [row.item_id for row in run.warehouse.read("items").collect()] == ["TEA"]
    other = make_settings(domain(file, PLAIN) | {"name": "other"})
    run.warehouse.spark.sql(f"ALTER TABLE delta.`{run.warehouse.path('events')}` SET TBLPROPERTIES ('llmrec.domain' = 'theirs')")
    with pytest.raises(TableError, match="belongs to domain 'theirs'"):
        run_job("ingest", changed)
    assert other.root.endswith("/other")


LINES = PLAIN | {"event_id": "line"}


def test_a_declared_identity_that_comes_again_on_another_date_is_known(
    tmp_path: Path, make_settings: Make, run_job: RunJob
) -> None:
    header = "line,user,item,time,action"
    first = write(tmp_path / "first.csv", header, "17,u1,tea,2024-11-01 10:00:00,buy")
    again = write(tmp_path / "again.csv", header, "17,u1,tea,2024-11-02 09:00:00,buy", "18,u1,mug,2024-11-02 09:00:00,buy")
    run_job("ingest", make_settings(domain(first, LINES)))
    run = run_job("ingest", make_settings(domain(again, LINES)))
    assert (run.counts["used"], run.counts["duplicates_known"]) == (1, 1)
    rows = run.warehouse.read("events").select("item_id", "event_date").orderBy("item_id").collect()
    assert [(row["item_id"], str(row["event_date"])) for row in rows] == [("mug", "2024-11-02"), ("tea", "2024-11-01")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("u1,tea,2024-11-01 10:00:00.000001,buy", "u1,mug,2024-11-01 10:00:00.000001,buy"),
        ("u1,tea,2024-11-01 10:00:00.000001,buy", "u1,tea,2024-11-01 10:00:00.000002,buy"),
    ],
    ids=["in their item", "in a microsecond"],
)
def test_of_records_with_one_declared_identity_that_differ_one_stays_whatever_their_order(
    tmp_path: Path, make_settings: Make, run_job: RunJob, one: str, other: str
) -> None:
    stays = []
    for name, rows in {"first": (one, other), "last": (other, one)}.items():
        lines = [f"17,{row}" for row in rows] + [f"18,{one}", f"18,{one}"]  # the latter are equal, and do not conflict
        file = write(tmp_path / f"{name}.csv", "line,user,item,time,action", *lines)
        described = domain(file, LINES, time_formats=["yyyy-MM-dd HH:mm:ss.SSSSSS"])
        run = run_job("ingest", make_settings(described, f"warehouse={tmp_path / name}"))
        assert fates(run) == (4, 2, 2, 0)
        events = sorted(map(str, run.warehouse.read("events").collect()))
        stays.append((events, run.counts.get("duplicates_conflicting")))
    assert stays[0] == stays[1]
    assert stays[0][1] == 1


def test_a_title_of_a_million_characters_is_cut_and_takes_no_neighbour_along(
    tmp_path: Path, make_settings: Make, run_job: RunJob
) -> None:
    bare, quoted = "tea " * 250_000, "tea, " * 200_000
    labels = {"mug": "Mug", "bare": bare, "jam": "Jam", "quoted": f'"{quoted}"', "pot": "Pot"}
    rows = [f"u1,{item},{label},2024-01-01 10:00:00,buy" for item, label in labels.items()]
    file = write(tmp_path / "log.csv", "user,item,label,time,action", *rows)
    run = run_job("ingest", make_settings(domain(file, PLAIN, items={"columns": {"title": "label"}})))
    assert (len(bare), len(quoted), fates(run)) == (1_000_000, 1_000_000, (5, 5, 0, 0))
    titles = {row.item_id: row.title for row in run.warehouse.read("items").collect()}
    cut = {"bare": bare[:TITLE_CHARS].strip(), "quoted": quoted[:TITLE_CHARS].strip()}
    assert titles == {"mug": "Mug", "jam": "Jam", "pot": "Pot"} | cut


def test_records_without_the_declared_identity_go_to_quarantine(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    rows = ["17,u1,tea,2024-11-01 10:00:00,buy", ",u1,mug,2024-11-01 10:00:00,buy", " ,u2,jam,2024-11-01 10:00:00,buy"]
    file = write(tmp_path / "log.csv", "line,user,item,time,action", *rows)
    run = run_job("ingest", make_settings(domain(file, LINES)))
    assert fates(run) == (3, 1, 0, 2)
    assert reasons(run) == {"no event id": 2}


def test_times_of_absurd_size_are_quarantined_and_end_nothing(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    times = ["1572566400", "1572566400000", "1" * 28, "-99999999999999"]
    file = write(tmp_path / "log.csv", "user,item,time,action", *[f"u1,i{n},{time},buy" for n, time in enumerate(times)])
    run = run_job("ingest", make_settings(domain(file, PLAIN, time_formats=["epoch_seconds"])))
    assert fates(run) == (4, 1, 0, 3)
    assert [row["item_id"] for row in run.warehouse.read("events").collect()] == ["i0"]


def test_the_closing_table_says_what_may_help_against_each_reason(
    tmp_path: Path, make_settings: Make, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "line,user,item,time,action,basket,quantity,price,place"
    good = dict(zip(header.split(","), ("1", "u1", "tea", "2024-11-01 10:00:00", "buy", "b1", "1", "2.5", "1"), strict=True))
    bad = {
        "line": ("", "no event id"),
        "user": ("", "no user"),
        "item": ("", "no item"),
        "time": ("", "no time"),
        "action": ("stroll", "unknown event type"),
        "basket": ("", "no step key"),
        "quantity": ("-1", "negative quantity"),
        "price": ("0", "non-positive price"),
        "place": ("first", "unparseable position"),
    }
    more = {
        "time": (
            ("soon", "unparseable time"),
            ("2999-01-01 10:00:00", "time in the future"),
            ("1900-01-01 00:00:00", "time before 1970"),
        ),
        "quantity": (("two", "unparseable quantity"), ("1e300", "quantity out of range")),
        "price": (("two", "unparseable price"), ("1e300", "price out of range")),
    }
    wrong = [(name, *one) for name, one in bad.items()] + [(name, *one) for name, several in more.items() for one in several]
    rows = [",".join((good | {name: value}).values()) for name, value, _ in wrong]
    file = write(tmp_path / "log.csv", header, ",".join(good.values()), *rows, "broken", 'u1,"unclosed,,,,,,,')
    columns = LINES | {"step_key": "basket", "quantity": "quantity", "price": "price", "position": "place"}
    kinds = {"buy": BUY["buy"] | {"positive_price": True}}
    told = io.StringIO()
    monkeypatch.setattr(ingest_step, "console", Console(file=told, width=400))
    run = run_job("ingest", make_settings(domain(file, columns, step_by="step_key") | {"event_types": kinds}))
    found = {reason for *_, reason in wrong} | {"broken row", "unclosed quote"}
    assert set(reasons(run)) == found
    cells = cells_of(told.getvalue())
    assert {reason: bool(help_) for reason, *_, help_ in cells} == dict.fromkeys(found, True)
    assert {n for _, n, _, _ in cells} == {"1"}  # of one file nothing is told that the table before does not say


def cells_of(told: str) -> list[list[str]]:
    """The rows of the table of reasons."""
    lines = told.partition("Quarantine")[2].splitlines()
    return [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines if line.count("│") > 4]


def test_the_closing_table_names_files_elements_and_the_catalogue_s_records(
    tmp_path: Path, make_settings: Make, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, users in {"a": ["u1", "", ""], "b": [""], "c": [""], "d": [""]}.items():
        write(tmp_path / f"log/{name}.csv", "user,time,seen", *[f"{user},2024-01-01 10:00:00,tea -" for user in users])
    write(tmp_path / "log/e.csv", *["user,time,seen"] * 2)
    write(tmp_path / "items.csv", "sku,label", "tea,Green tea", ",nothing")
    catalogue = {"source": {"path": str(tmp_path / "items.csv")}, "columns": {"item_id": "sku", "title": "label"}}
    listed = {"seen": {"values": "split(seen, ' ')", "item_id": "nullif(value, '-')", "event_type": "buy"}}
    columns = {"user_id": "user", "event_time": "time"}
    told = io.StringIO()
    monkeypatch.setattr(ingest_step, "console", Console(file=told, width=2_000))
    run = run_job("ingest", make_settings(domain(tmp_path / "log", columns, lists=listed, items=catalogue)))
    assert (run.counts["elements_quarantined"], run.counts["catalogue_quarantined"]) == (1, 1)
    log = f"file:{tmp_path / 'log'}"
    cells = cells_of(told.getvalue())
    assert [row[:4] for row in cells] == [
        ["no user", "5", f"{log}/a.csv (2), {log}/b.csv (1), {log}/c.csv (1), and 1 more", ",2024-01-01 10:00:00,tea -"],
        ["catalogue: no item", "1", f"file:{tmp_path / 'items.csv'} (1)", ",nothing"],
        ["no item", "1", f"{log}/a.csv (1)", "seen: -"],
        ["repeated header", "1", f"{log}/e.csv (1)", "user,time,seen"],
    ]
    assert [row[4].split(":")[0] for row in cells[1:3]] == ["items.columns.item_id", "needs_item"]


def test_a_file_without_any_record_stops_nothing(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    write(tmp_path / "logs/a.csv", "user,item,time,action", "u1,tea,2024-11-01 10:00:00,buy")
    (tmp_path / "logs/b.csv").write_bytes(b"\xef\xbb\xbf\n")
    run = run_job("ingest", make_settings(domain(tmp_path / "logs", PLAIN)))
    assert fates(run) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("pattern", "zone"),
    [
        ("yyyy-MM-dd HH:mm:ss '[Z]'", "none"),
        ("yyyy-MM-dd'T'HH:mm:ss[.SSS][.SS]XXX", "one"),
        ("[yyyy-MM-ddXXX[ HH:mm]]", "one"),
        ("yyyy-MM-dd HH:mm:ss[XXX]", "open"),
        ("yyyy-MM-dd[ HH:mm[:ss]XXX]", "open"),
        ("[yyyy-MM-dd HH:mmXXX][dd/MM/yyyy HH:mm]", "open"),
    ],
)
def test_only_a_pattern_that_leaves_the_zone_open_is_refused(
    tmp_path: Path, make_settings: Make, pattern: str, zone: str
) -> None:
    described = domain(tmp_path / "none.csv", PLAIN, time_formats=[pattern])
    if zone == "open":
        with pytest.raises(ConfigError, match="leaves open whether a time has a zone"):
            make_settings(described)
    else:
        assert is_naive(make_settings(described).domain.time_formats[0]) == (zone == "none")


def test_times_of_several_formats_that_all_name_a_zone_are_read(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    times = ["2024-11-01 10:00:00+01:00", "02/11/2024 10:00:00+00:00", "2024-11-03 10:00:00"]
    file = write(tmp_path / "log.csv", "user,item,time,action", *[f"u1,i{n},{time},buy" for n, time in enumerate(times)])
    formats = ["[yyyy-MM-dd HH:mm:ssXXX][dd/MM/yyyy HH:mm:ssXXX]"]
    run = run_job("ingest", make_settings(domain(file, PLAIN, time_formats=formats)))
    rows = run.warehouse.read("events").selectExpr("CAST(event_time AS string) AS time").orderBy("time").collect()
    assert [row["time"] for row in rows] == ["2024-11-01 09:00:00", "2024-11-02 10:00:00"]
    assert reasons(run) == {"unparseable time": 1}


def test_a_date_that_yaml_reads_as_one_is_a_day_and_what_is_no_yaml_is_told_in_one_line(
    tmp_path: Path, make_settings: Make
) -> None:
    described = domain(tmp_path / "none.csv", PLAIN)
    assert make_settings(described, "day=2011-11-30").pipeline.day == "2011-11-30"
    with pytest.raises(ConfigError, match=r"^--set 'interest.max_epochs=\[3': the value is not valid YAML: .*$"):
        make_settings(described, "interest.max_epochs=[3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.ks=[10, 10]", r"evaluation\.ks = \[10, 10\]: .*expected ascending numbers, each once"),
        ("evaluation.ks=[]", r"evaluation\.ks"),
        (
            "interest.repeat_half_lives=[30, 120]",
            r"collaborative\.own_half_life = 240 is none of interest\.repeat_half_lives \[30\.0, 120\.0\]",
        ),
    ],
)
def test_what_a_job_would_find_wrong_after_its_work_is_refused_before(
    tmp_path: Path, make_settings: Make, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_settings(domain(tmp_path / "none.csv", PLAIN), override)


def test_a_day_that_no_calendar_has_is_refused_before_anything_is_read(tmp_path: Path, make_settings: Make) -> None:
    with pytest.raises(ConfigError, match=r"day = '2011-02-30': .*; expected a date such as"):
        make_settings(domain(tmp_path / "none.csv", PLAIN), "day='2011-02-30'")
    with pytest.raises(ConfigError, match=r"^--set 'day=2011-02-30': .*day is out of range for month"):
        make_settings(domain(tmp_path / "none.csv", PLAIN), "day=2011-02-30")
