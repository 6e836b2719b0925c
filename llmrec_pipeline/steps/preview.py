"""`jobs/ingest.py --dry-run N`: the first records as they would become events and texts, and what would be quarantined and why."""

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Column, Table

from llmrec_pipeline.behaviour.events import REASON, check_mapping, elements_of, parse_elements, parse_events, parse_records
from llmrec_pipeline.behaviour.items import catalogue_items, derive_items, item_dates, met_dates
from llmrec_pipeline.behaviour.reading import BROKEN, HEADER, RAW, read_records
from llmrec_pipeline.behaviour.sequences import item_texts, with_texts
from llmrec_pipeline.behaviour.values import choose_time_format
from llmrec_pipeline.config import Settings
from llmrec_pipeline.steps.catalogue import catalogue_records
from llmrec_pipeline.steps.delivery import source_paths
from llmrec_pipeline.steps.fates import printable
from llmrec_pipeline.warehouse import Warehouse

FAR = "9999-12-31"
EVENT = ("event_time", "user_id", "event_type", "item_id", "quantity", "price", "text")
IMPRESSION = ("shown_at", "user_id", "item_id", "rank")
REFUSED = (REASON, RAW)


def preview(spark: SparkSession, settings: Settings, records: int) -> None:
    """Prints what the first `records` records become; writes nothing."""
    first = first_records(spark, settings, records)
    console = Console(width=160)
    _print(console, "Events, with their texts", first.events, EVENT)
    if settings.domain.lists:
        _print(console, "Impressions that nobody acted on", first.impressions, IMPRESSION)
    _print(console, "Quarantine", first.bad, REFUSED)


def _print(console: Console, title: str, rows: DataFrame, columns: tuple[str, ...]) -> None:
    table = Table(*[Column(name, overflow="fold") for name in columns], title=title, title_justify="left")
    for row in rows.select(*columns).collect():
        table.add_row(*[printable("" if value is None else str(value)) for value in row])
    console.print(table if table.row_count else f"{title}: none of them")


@dataclass(frozen=True)
class FirstRecords:
    """What the first records become."""

    events: DataFrame  # with `text` (null: there is none)
    impressions: DataFrame  # those that were not acted on
    bad: DataFrame  # with reason and _raw


def first_records(spark: SparkSession, settings: Settings, n: int) -> FirstRecords:
    """The first `n` records of the source, as `ingest` would take them."""
    domain = settings.domain
    records = read_records(spark, domain.source, source_paths(settings))
    check_mapping(records, domain)
    time_format = choose_time_format(records.rows, domain)
    rows = records.rows.filter(~F.col(BROKEN).eqNullSafe(HEADER)).limit(n)
    arguments = (rows, domain, records.columns, time_format, FAR)
    tables = Warehouse(spark, settings.root, domain.name, settings.mapping_hash)
    if not domain.lists:
        found = [parse_events(*arguments).localCheckpoint()]
        shown = spark.createDataFrame([], tables.schema("impressions"))
    else:
        whole = parse_records(*arguments).localCheckpoint()
        usable = whole.filter(f"{REASON} IS NULL")
        parts = [
            parse_elements(elements_of(usable, listed), domain, name, time_format, FAR) for name, listed in domain.lists.items()
        ]
        events, impressions = (reduce(DataFrame.unionByName, part) for part in zip(*parts, strict=True))
        found, shown = [events, impressions, whole], impressions.filter(f"{REASON} IS NULL")
    bad = reduce(DataFrame.unionByName, [part.filter(f"{REASON} IS NOT NULL").select(REASON, RAW) for part in found])
    good = found[0].filter(f"{REASON} IS NULL")
    items = derive_items(good, item_dates(met_dates(good)), domain)
    catalogue = catalogue_records(spark, domain)
    if catalogue:
        listed = catalogue.rows.filter(F.col(BROKEN).isNull())
        known = catalogue_items(listed, spark.createDataFrame([], tables.schema("items")), domain, FAR)
        items = known.unionByName(items.join(known.select("item_id"), on="item_id", how="left_anti"))
    return FirstRecords(with_texts(good, item_texts(items, good, domain), domain), shown, bad)
