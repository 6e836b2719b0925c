"""The catalogue: derived from the log's own fields, or read from a file of its own (DESIGN 1.2, 'Item texts stand still')."""

from itertools import pairwise

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.values import LARGEST, clean_text, has_text, parse_number
from llmrec_pipeline.config import DomainConfig
from llmrec_pipeline.tables import ITEM_FIELDS, ITEMS

ALWAYS = "1970-01-01"  # valid_from of a catalogue row that was there from the start
SERIES = (1, 2, 5)


def price_band(price: Column, edges: tuple[float, ...]) -> Column:
    """The fixed-edge band of a price: `<1`, `2-5`, `>=500`; the 1-2-5 series where the domain names no edges."""
    bounds = edges or tuple(round(step * 10.0**power, 2) for power in range(-1, 6) for step in SERIES)
    label = F.when(price < bounds[0], F.lit(f"<{bounds[0]:g}"))
    for low, high in pairwise(bounds):
        label = label.when(price < high, F.lit(f"{low:g}-{high:g}"))
    return F.when(price > 0, label.otherwise(F.lit(f">={bounds[-1]:g}")))


def met_dates(events: DataFrame) -> DataFrame:
    """By item_id the first date of its events and, `titled`, the first on which somebody named it (null: none)."""
    titled = F.when(has_text(F.col("item_fields.title")), F.col("event_date"))
    return _with_item(events).groupBy("item_id").agg(F.min("event_date").alias("first_seen"), F.min(titled).alias("titled"))


def item_dates(met: DataFrame, known: DataFrame | None = None) -> DataFrame:
    """The dates whose events make the catalogue rows of each item: item_id, first_seen, valid_from.

    The item's first date and, where nobody named it that day, the first date that has a title.

    Args:
        met: `met_dates` of all events, or of those that came after `known`.
        known: rows of the catalogue, which hold the dates of all earlier events.
    """
    if known is not None:
        stood = known.select("item_id", "first_seen", F.when(F.col("title").isNotNull(), F.col("valid_from")).alias("titled"))
        met = met.unionByName(stood).groupBy("item_id").agg(*[F.min(name).alias(name) for name in ("first_seen", "titled")])
    starts = F.array_distinct(F.array_compact(F.array("first_seen", "titled")))
    return met.select("item_id", "first_seen", F.explode(starts).alias("valid_from"))


def derive_items(events: DataFrame, dates: DataFrame, domain: DomainConfig) -> DataFrame:
    """Catalogue rows by the events of `item_dates`; a row holds from its date on. `events` must hold every event of each item.

    A title is the most frequent spelling of its date, ties going to the first in order of spelling.
    """
    behaviours = _with_item(events).withColumnRenamed("event_date", "valid_from")
    described = behaviours.join(dates, on=["item_id", "valid_from"], how="inner").withColumns(
        {name: clean_text(F.col("item_fields").getField(name)) for name in ITEM_FIELDS}
    )
    modes = [F.mode(name, deterministic=True).alias(name) for name in ITEM_FIELDS]
    price = F.median(F.when(F.col("price") > 0, F.col("price"))).alias("price")
    grouped = described.groupBy("item_id", "valid_from").agg(*modes, price, F.first("first_seen").alias("first_seen"))
    return _as_items(grouped, domain)


def _with_item(events: DataFrame) -> DataFrame:
    return events.filter(F.col("item_id").isNotNull()).select("item_id", "event_date", "price", "item_fields")


def items_to_derive(met: DataFrame, known: DataFrame) -> DataFrame:
    """Ids of the items whose catalogue rows new events can change: unknown, still without title, or met on an earlier date.

    Args:
        met: `met_dates` of the new events.
        known: rows of the catalogue.
    """
    settled = known.groupBy("item_id").agg(F.max("valid_from").alias("settled"), F.max_by("title", "valid_from").alias("title"))
    open_ones = F.col("settled").isNull() | F.col("title").isNull() | (F.col("first_seen") <= F.col("settled"))
    return met.join(settled, on="item_id", how="left").filter(open_ones).select("item_id")


def of_a_file() -> Column:
    """True for a row that the catalogue's own file made: where there is one, events make a row for an item's first date alone, without a text."""
    from_start = F.col("first_seen") == F.lit(ALWAYS).cast("date")
    return F.coalesce(*ITEM_FIELDS).isNotNull() | from_start | (F.col("valid_from") > F.col("first_seen"))


def dated_back(known: DataFrame, met: DataFrame) -> DataFrame:
    """Catalogue rows of items that events named before a file listed them, from the first of their events on, should it have come late.

    Args:
        known: rows of the catalogue.
        met: `met_dates` of new events, or of all.
    """
    late = (F.col("first_seen") > F.lit(ALWAYS).cast("date")) & (F.col("_met") < F.col("first_seen"))
    from_start = (F.col("valid_from") == F.col("first_seen")) & ~of_a_file()
    moved = {
        "valid_from": F.when(late & from_start, F.col("_met")).otherwise(F.col("valid_from")),
        "first_seen": F.when(late, F.col("_met")).otherwise(F.col("first_seen")),
    }
    first = met.select("item_id", F.col("first_seen").alias("_met"))
    return known.join(first, on="item_id", how="left").withColumns(moved).select(*ITEMS.column_names)


def catalogue_items(records: DataFrame, known: DataFrame, domain: DomainConfig, delivered: str) -> DataFrame:
    """Catalogue rows that a file of its own adds to `known`: new items from the start, changed texts from `delivered` on.

    A file that comes after its time says what holds from the newest known row's date on: what was said last stands.
    """
    mapped = domain.items.columns
    texts = [
        clean_text(F.expr(mapped[n]).cast("string")).alias(n) if n in mapped else F.lit(None).cast("string").alias(n)
        for n in ITEM_FIELDS
    ]
    decimal, thousands = (domain.items.source or domain.source).decimal, (domain.items.source or domain.source).thousands
    price = parse_number(F.expr(mapped.get("price", "NULL")).cast("string"), decimal, thousands)
    item_id = F.expr(mapped["item_id"]).cast("string").alias("item_id")
    listed = records.select(item_id, *texts, F.when(price < LARGEST, price).alias("price")).filter(F.trim("item_id") != "")
    spelling = Window.partitionBy("item_id").orderBy(*[F.col(name).asc_nulls_last() for name in (*ITEM_FIELDS, "price")])
    distinct = listed.withColumn("_n", F.row_number().over(spelling)).filter("_n = 1").drop("_n")
    newest = Window.partitionBy("item_id").orderBy(F.col("valid_from").desc())
    current = known.withColumn("_n", F.row_number().over(newest)).filter("_n = 1")
    current = current.select(
        "item_id",
        "first_seen",
        F.col("valid_from").alias("_since"),
        *[F.col(n).alias(f"_{n}") for n in (*ITEM_FIELDS, "price_band")],
    )
    joined = distinct.withColumn("price_band", price_band(F.col("price"), domain.items.price_edges)).join(
        current, on="item_id", how="left"
    )
    changed = F.lit(False)
    for name in (*ITEM_FIELDS, "price_band"):
        changed = changed | ~F.col(name).eqNullSafe(F.col(f"_{name}"))
    new = F.col("first_seen").isNull()
    rows = joined.filter(new | changed).withColumn(
        "valid_from",
        F.when(new, F.lit(ALWAYS).cast("date")).otherwise(F.greatest(F.lit(delivered).cast("date"), F.col("_since"))),
    )
    return _as_items(rows.withColumn("first_seen", F.coalesce("first_seen", F.lit(ALWAYS).cast("date"))), domain)


def _as_items(rows: DataFrame, domain: DomainConfig) -> DataFrame:
    band = price_band(F.col("price"), domain.items.price_edges)
    return rows.withColumns({"price_band": band, "attributes": F.lit(None).cast("map<string,string>")}).select(
        *ITEMS.column_names
    )


def changed_items(derived: DataFrame, known: DataFrame) -> DataFrame:
    """What turns the known rows of the derived items into the derived ones; `_gone` marks rows to remove."""
    names, keys = ITEMS.column_names, ["item_id", "valid_from"]
    row = F.struct(*names)
    digest = F.to_json(F.struct(*[name for name in names if name != "attributes"]))
    now = derived.select(*keys, row.alias("_new"), digest.alias("_now"))
    before = known.select(*keys, row.alias("_old"), digest.alias("_before"))
    differing = now.join(before, on=keys, how="full").filter(~F.col("_now").eqNullSafe(F.col("_before")))
    chosen = differing.select(F.coalesce("_new", "_old").alias("_row"), F.col("_new").isNull().alias("_gone"))
    return chosen.select("_row.*", "_gone")


def with_validity(items: DataFrame) -> DataFrame:
    """Items with `valid_to`, the first date that the row no longer describes (null: still valid); the first row reaches back for ever."""
    window = Window.partitionBy("item_id").orderBy("valid_from")
    first = F.row_number().over(window) == 1
    since = F.when(first, F.lit("0001-01-01").cast("date")).otherwise(F.col("valid_from"))
    return items.withColumns({"valid_to": F.lead("valid_from").over(window), "_since": since})


def valid_on(date: Column, described: str) -> Column:
    """Whether a row of `with_validity`, under this alias, describes its item on a date."""
    until = F.col(f"{described}.valid_to")
    return (date >= F.col(f"{described}._since")) & (until.isNull() | (date < until))
