"""Files with random dirt in each text format: no record is lost, and the order of rows and files does not matter.

LLMREC_FUZZ_EXAMPLES=300 makes a long run of it; the suite makes a short one.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from llmrec_pipeline.config import load_settings
from llmrec_pipeline.steps.delivery import Delivery, each_record_once, parse_delivery
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import Warehouse

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent
EXAMPLES = int(os.environ.get("LLMREC_FUZZ_EXAMPLES", "6"))
NAMES = ("user", "item", "action", "time", "price")
HEADERS = {"csv": b"user,item,action,time,price", "tsv": b"user\titem\taction\ttime\tprice"}

users = st.sampled_from(["u1", "007", "7", "", " ", "u\x00", "مرحبا", "\u202eu", "😀", "null", "u" * 5_000])
items = st.sampled_from(["i1", "i2", "1e3", "", '5" pipe', "a,b", "tab\there"])
kinds = st.sampled_from(["buy", "BUY", "view", "steal", ""])
times = st.sampled_from(
    ["2024-01-01 10:00:00", "2024-01-01 10:00:01", "1969-01-01 00:00:00", "2999-01-01 00:00:00", "yesterday", ""]
)
prices = st.sampled_from(["1", "1.5", "-2", "0", "NaN", "Infinity", "1e308", "3,99", "", "n/a"])
records = st.tuples(users, items, kinds, times, prices)
dirt = st.one_of(
    st.binary(min_size=1, max_size=30).map(lambda raw: raw.replace(b"\n", b"?").replace(b"\r", b"?")),
    st.sampled_from([b'u1,"never closed', b"{", b'{"user":', b"[1]", b"", b"   ", b"\xef\xbb\xbf", b'"', b",,,,,,,,,", b"#"]),
)


def encoded(record: tuple[str, ...], form: str) -> bytes:
    if form == "json":
        return json.dumps(dict(zip(NAMES, record, strict=True)), ensure_ascii=False).encode()
    separator = "," if form == "csv" else "\t"
    odd = {separator, '"', "\t"}
    cells = [f'"{cell.replace(chr(34), chr(34) * 2)}"' if odd & set(cell) else cell for cell in record]
    return separator.join(cells).encode()


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[str, list[bytes], list[bytes]]:
    """A format, lines, and the same lines in another order."""
    form = draw(st.sampled_from(["csv", "tsv", "json"]))
    good = draw(st.lists(records, min_size=1, max_size=12))
    lines = [encoded(record, form) for record in good]
    lines += draw(st.lists(st.sampled_from(lines), max_size=4)) + draw(st.lists(dirt, max_size=6))
    return form, lines, draw(st.permutations(lines))


def deliver(spark: SparkSession, folder: Path, form: str, files: list[list[bytes]], end: bytes = b"\n") -> Delivery:
    for number, lines in enumerate(files):
        folder.mkdir(parents=True, exist_ok=True)
        head = [HEADERS[form]] if form in HEADERS else []
        (folder / f"{number}.{form}").write_bytes(end.join([*head, *lines, b""]))
    overrides = (
        f"warehouse={folder / 'warehouse'}",
        f"domain.source={json.dumps({'path': str(folder / f'*.{form}'), 'format': form, 'columns': NAMES if form == 'json' else None})}",
        "domain.columns={user_id: user, item_id: item, event_type: action, event_time: time, price: price}",
        "domain.event_types={buy: {target: true, positive_price: true, template: {en: bought}}, view: {template: {en: saw}}}",
        "domain.items={columns: {title: item}}",
        "domain.quarantine_when={}",
        "domain.time_formats=['yyyy-MM-dd HH:mm:ss']",
        "domain.languages=[en]",
    )
    resolved = load_settings(ROOT / "conf/pipeline.yaml", "ecommerce", overrides)
    run = Run("ingest", resolved, spark, Warehouse(spark, resolved.root, resolved.domain.name, resolved.mapping_hash))
    return each_record_once(run, parse_delivery(run))


def outcome(delivery: Delivery) -> tuple[Any, ...]:
    """Everything that must not depend on order."""
    events = sorted(map(str, delivery.events.collect()))
    bad = sorted((row.quarantine_id, row.reason, row.raw) for row in delivery.quarantine("log").collect())
    fates = delivery.fates
    return fates.n_records, fates.distinct, fates.quarantined, events, bad


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example takes seconds: a failing one is shown as it is
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(deliveries())
def test_no_record_is_lost_and_order_does_not_matter(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, delivery: tuple[str, list[bytes], list[bytes]]
) -> None:
    form, lines, shuffled = delivery
    folder = tmp_path_factory.mktemp("fuzz")
    first = deliver(spark, folder / "a", form, [lines])
    expected = sum(1 for line in lines if re.sub(rb"^( |\r|\xef\xbb\xbf)+", b"", line))
    assert first.fates.n_records == expected
    assert first.fates.distinct + sum(first.fates.repeated.values()) + first.fates.quarantined == expected
    half = len(shuffled) // 2
    second = deliver(spark, folder / "b", form, [shuffled[:half], shuffled[half:]], end=b"\r\n")
    assert outcome(second) == outcome(first)
