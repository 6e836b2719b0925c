"""Files with random dirt in each format: no record is lost, the order of rows and files does not matter, and what came counts once.

LLMREC_FUZZ_EXAMPLES=100 makes a long run of it; the suite makes a short one.
"""

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from llmrec_pipeline.cli import run_step
from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.steps.delivery import Delivery, each_record_once, parse_delivery
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent
EXAMPLES = int(os.environ.get("LLMREC_FUZZ_EXAMPLES", "2"))
NAMES = ("user", "item", "action", "time", "price")
FORMS: dict[str, dict[str, Any]] = {
    "csv": {},
    "csv.gz": {},
    "tsv": {"format": "tsv"},
    "json": {"format": "json", "columns": NAMES},
    "gbk": {"charset": "gbk"},
    "utf-16": {"charset": "utf-16"},
    "multiline": {"multiline": True, "max_record_lines": 4},
    "parquet": {"format": "parquet"},
    "lists": {},
}
COLUMNS = "domain.columns={user_id: user, item_id: item, event_type: action, event_time: time, price: price}"
LISTED = (
    "domain.columns={user_id: user, event_time: time, price: price}",
    "domain.lists={seen: {values: \"split(item, ' ')\", event_type: view}, shown: {values: \"split(item, ' ')\", into: impressions, "
    "acted: \"value LIKE 'i1%'\", event_type: buy}}",
)

users = st.sampled_from(["u1", "007", "7", "", " ", "u\x00", "茶", "مرحبا", "\u202eu", "😀", "null", "u" * 5_000])
items = st.sampled_from(["i1", "i2", "1e3", "", '5" pipe', "a,b", "tab\there", "i1 i2 i1", "i2 i1"])
kinds = st.sampled_from(["buy", "BUY", "view", "View", "steal", ""])
good_times = ["2024-01-01 10:00:00", "2024-01-01 10:00:01"]
times = st.sampled_from([*good_times * 3, "1969-01-01 00:00:00", "2999-01-01 00:00:00", "yesterday", ""])
prices = st.sampled_from(["1", "1.5", "-2", "0", "NaN", "Infinity", "1e308", "3,99", "", "n/a"])
records = st.tuples(users, items, kinds, times, prices)
noise = st.binary(min_size=1, max_size=30).map(lambda raw: raw.replace(b"\n", b"?").replace(b"\r", b"?"))
OPEN = b'u1,"never closed'
DIRT = [OPEN, b"{", b'{"user":', b"[1]", b"", b"   ", b"\xef\xbb\xbf", b'"', b",,,,,,,,,", b"#"]
FUZZED: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "phases": [Phase.generate],  # an example takes seconds: a failing one is shown as it is
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}


def encoded(record: tuple[str, ...], form: str) -> bytes:
    """A record's line; in a file whose fields may hold line breaks, words of an item stand on lines of their own."""
    if form in ("json", "parquet"):
        return json.dumps(dict(zip(NAMES, record, strict=True)), ensure_ascii=False).encode()
    user, item, *more = record
    cells = [user, item.replace(" ", "\n") if form == "multiline" else item, *more]
    separator = "\t" if form == "tsv" else ","
    odd = {separator, '"', "\t", "\n"}
    quoted = [f'"{cell.replace(chr(34), chr(34) * 2)}"' if odd & set(cell) else cell for cell in cells]
    return separator.join(quoted).encode("gbk" if form == "gbk" else "utf-8", "replace")


@st.composite
def deliveries(draw: st.DrawFn, form: str) -> tuple[list[bytes], list[bytes], int]:
    """Lines, the same lines in another order, and how many elements the lists of their records hold."""
    good = draw(st.lists(records, min_size=24, max_size=48))
    lines = [encoded(record, form) for record in good]
    lines += draw(st.lists(st.sampled_from(lines), min_size=6, max_size=10))
    lines += draw(st.lists(st.sampled_from(DIRT), min_size=8, unique=True)) + draw(st.lists(noise, max_size=8))
    if form == "multiline":  # a quote that comes by chance may rightly close what another line has left open
        lines = [line for line in lines if b'"' not in line or line == OPEN or line.count(b",") >= 4]
    assume(len(set(good)) > 8)  # hypothesis begins with the simplest ones, all equal
    usable = [item for user, item, _, time, _ in set(good) if user.strip() and item and time in good_times]
    return lines, draw(st.permutations(lines)), 2 * sum(len(item.split(" ")) for item in usable)


def content(form: str, lines: list[bytes], end: bytes) -> bytes:
    if form == "parquet":
        made = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist([row_of(line) for line in lines], pa.schema([(name, pa.string()) for name in NAMES])), made
        )
        return made.getvalue()
    head = [] if form == "json" else [("\t" if form == "tsv" else ",").join(NAMES).encode()]
    whole = b"".join(line.replace(b"\n", end) + end for line in [*head, *lines])
    if form == "utf-16":
        return whole.decode("utf-8", "surrogateescape").encode("utf-16", "surrogatepass")
    return gzip.compress(whole, mtime=0) if form == "csv.gz" else whole


def row_of(line: bytes) -> dict[str, str]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    return row if isinstance(row, dict) else {"user": line.decode("latin-1")}


def count(form: str, lines: list[bytes]) -> int:
    """Records among the lines: those with content, by no parser of ours."""
    if form == "parquet":
        return len(lines)
    return sum(1 for line in lines if line.decode("gbk" if form == "gbk" else "utf-8", "replace").lstrip(" \r\ufeff"))


def described(folder: Path, form: str, files: list[list[bytes]], end: bytes = b"\n") -> Settings:
    """Writes the files, and says how they are read."""
    folder.mkdir()
    for number, lines in enumerate(files):
        (folder / f"{number}.{form}").write_bytes(content(form, lines, end))
    source = {"path": str(folder / f"*.{form}")} | FORMS[form]
    overrides = (
        f"warehouse={folder.parent / 'warehouse'}",
        f"domain.source={json.dumps(source)}",
        *(LISTED if form == "lists" else [COLUMNS]),
        "domain.event_types={buy: {target: true, positive_price: true, template: {en: bought}}, view: {template: {en: saw}}}",
        "domain.items={columns: {title: item}}",
        "domain.quarantine_when={}",
        "domain.time_formats=['yyyy-MM-dd HH:mm:ss']",
        "domain.languages=[en]",
    )
    return load_settings(ROOT / "conf/pipeline.yaml", "ecommerce", overrides)


def both_orders(folder: Path, form: str, lines: list[bytes], shuffled: list[bytes]) -> tuple[Settings, Settings]:
    half = len(shuffled) // 2
    return (
        described(folder / "a", form, [lines]),
        described(folder / "b", form, [shuffled[:half], shuffled[half:]], end=b"\r\n"),
    )


def outcome(spark: SparkSession, given: Settings) -> tuple[Delivery, tuple[Any, ...]]:
    """A delivery, and everything of it that must not depend on order."""
    run = Run("ingest", given, spark, Warehouse(spark, given.root, given.domain.name, given.mapping_hash))
    delivery = each_record_once(run, parse_delivery(run))
    made = [sorted(map(str, rows.collect())) for rows in (delivery.events, delivery.impressions)]
    bad = sorted((row.quarantine_id, row.reason, row.raw) for row in delivery.quarantine("log").collect())
    fates = delivery.fates
    return delivery, (fates.n_records, fates.distinct, fates.by_reason, delivery.elements, made, bad)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=EXAMPLES, **FUZZED)
@given(data=st.data())
def test_no_record_is_lost_and_order_does_not_matter(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    lines, shuffled, n_elements = data.draw(deliveries(form))
    one, other = both_orders(tmp_path_factory.mktemp("fuzz"), form, lines, shuffled)
    delivery, first = outcome(spark, one)
    fates, elements = delivery.fates, delivery.elements
    *_, (events, shown), bad = first
    assert fates.n_records == count(form, lines)
    assert fates.distinct + sum(fates.repeated.values()) + fates.quarantined == fates.n_records
    assert len({quarantine_id for quarantine_id, *_ in bad}) == fates.quarantined + elements.get("elements_quarantined", 0)
    if form == "lists":
        assert elements["elements"] == n_elements
        assert len(events) + len(shown) + elements["elements_duplicates"] + elements["elements_quarantined"] == n_elements
    else:
        assert len(events) == fates.distinct
    _, second = outcome(spark, other)
    assert second == first


@pytest.mark.parametrize("form", ["csv", "lists"])
@settings(max_examples=max(1, EXAMPLES // 2), **FUZZED)
@given(data=st.data())
def test_what_came_before_changes_no_table_in_whatever_order_it_comes(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    lines, shuffled, _ = data.draw(deliveries(form))
    one, other = both_orders(tmp_path_factory.mktemp("fuzz"), form, lines, shuffled)
    first = run_step("ingest", one)
    for again in (one, other):
        run = run_step("ingest", again)
        assert run.outputs == first.outputs
        assert run.counts["used" if form == "csv" else "events_new"] == 0
