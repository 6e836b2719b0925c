"""`jobs/ingest.py --dry-run N`: the first records as they would become events and texts, and what would be quarantined and why."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Column, Table

from llmrec_pipeline.behaviour.events import REASON, check_mapping, elements_of, parse_elements, parse_events, parse_records
from llmrec_pipeline.behaviour.items import catalogue_items, derive_items
from llmrec_pipeline.behaviour.reading import BROKEN, HEADER, RAW, read_records
from llmrec_pipeline.behaviour.sequences import item_texts, with_texts
from llmrec_pipeline.behaviour.values import choose_time_format
from llmrec_pipeline.config import Settings
from llmrec_pipeline.steps.fates import printable
from llmrec_pipeline.warehouse import Warehouse

FAR = "9999-12-31"
SHOWN = ("event_time", "user_id", "event_type", "item_id", "quantity", "price", "text")


def preview(spark: SparkSession, settings: Settings, records: int) -> None:
    """Prints what the first `records` records become; writes nothing."""
    good, bad = first_events(spark, settings, records)
    console = Console(width=160)
    table = Table(*SHOWN, title="Events, with their texts", title_justify="left")
    for row in good.select(*SHOWN).collect():
        table.add_row(*[printable("" if value is None else str(value)) for value in row])
    console.print(table)
    refused = Table(REASON, Column("record", overflow="fold"), title="Quarantine", title_justify="left")
    for row in bad.select(REASON, RAW).collect():
        refused.add_row(row[0], printable(row[1]))
    console.print(refused if refused.row_count else "Quarantine: none of them")


def first_events(spark: SparkSession, settings: Settings, n: int) -> tuple[DataFrame, DataFrame]:
    """Events of the first `n` records with `text` (null: there is none), and the records that have a reason."""
    domain = settings.domain
    records = read_records(spark, domain.source, domain.source.paths)
    check_mapping(records, domain)
    time_format = choose_time_format(records.rows, domain)
    rows = records.rows.filter(~F.col(BROKEN).eqNullSafe(HEADER)).limit(n)
    arguments = (rows, domain, records.columns, time_format, FAR)
    if not domain.lists:
        parsed = parse_events(*arguments).localCheckpoint()
    else:
        whole = parse_records(*arguments).localCheckpoint()
        usable = whole.filter(f"{REASON} IS NULL").drop(REASON, RAW)
        first, *others = [
            parse_elements(elements_of(usable, listed), domain, name, time_format, FAR)[0]
            for name, listed in domain.lists.items()
        ]
        for other in others:
            first = first.unionByName(other)
        parsed = first.unionByName(whole.filter(f"{REASON} IS NOT NULL").select(REASON, RAW), allowMissingColumns=True)
    good, bad = parsed.filter(f"{REASON} IS NULL"), parsed.filter(f"{REASON} IS NOT NULL")
    items = derive_items(good, domain)
    if domain.items.source:
        listed = read_records(spark, domain.items.source, domain.items.source.paths).rows.filter(F.col(BROKEN).isNull())
        nothing = spark.createDataFrame([], Warehouse(spark, settings.root, domain.name, settings.mapping_hash).schema("items"))
        known = catalogue_items(listed, nothing, domain, FAR)
        items = known.unionByName(items.join(known.select("item_id"), on="item_id", how="left_anti"))
    return with_texts(good, item_texts(items, good, domain), domain), bad
