"""Records to events: named columns, typed values, a reason where a record cannot be used, an identity.

Rows are flagged, never filtered, until the step splits them: each record keeps exactly one fate (law 1).
"""

from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.reading import BROKEN, FILE, RAW, data_columns
from llmrec_pipeline.config import DomainConfig
from llmrec_pipeline.errors import InputError, nearest
from llmrec_pipeline.tables import EVENTS, QUARANTINE

ZONED_LETTERS = set("XxZzVO")
EPOCH_FORMATS = {"epoch_seconds": 1, "epoch_millis": 1_000}
CLEAN_FIELDS = ("title", "summary", "description", "brand", "category")


def check_mapping(records: DataFrame, domain: DomainConfig) -> None:
    """Raises InputError when an expression of the domain's YAML does not resolve against the file's columns."""
    known = data_columns(records)
    expressions = {f"columns.{k}": v for k, v in domain.columns.items()}
    if domain.items.source is None:
        expressions |= {f"items.columns.{k}": v for k, v in domain.items.columns.items()}
    expressions |= {f"quarantine_when.{k}": v for k, v in domain.quarantine_when.items()}
    for key, expression in expressions.items():
        try:
            records.select(F.expr(expression))
        except Exception as error:  # Spark raises several unrelated classes here
            word = expression.strip("`")
            hint = f"; {nearest(word, known)}" if word.replace("_", "").isalnum() else f"; the file has {known}"
            raise InputError(f"{key}: {expression!r} does not fit the file: {str(error).splitlines()[0]}{hint}") from None


def parse_events(records: DataFrame, domain: DomainConfig, time_format: str, last_date: str) -> DataFrame:
    """Events of `records`, with `reason` (null when usable), `_raw` and `_file`.

    Args:
        records: as `reading.read_records` gives them.
        domain: the mapping.
        time_format: the one convention of the time column.
        last_date: events of later dates are quarantined as future ones.
    """
    source = F.lit(domain.source.name)
    named = records.select("*", *[_text(domain.columns.get(name)).alias(f"_{name}") for name in _MAPPED])
    time = parse_time(F.col("_event_time"), time_format, domain.zone)
    typed = named.withColumns(
        {
            "event_id": _identity(domain, data_columns(records)),
            "user_id": F.col("_user_id"),
            "item_id": F.col("_item_id"),
            "event_type": F.col("_event_type"),
            "event_time": time,
            "event_date": F.to_date(F.from_utc_timestamp(time, domain.zone)),
            "position": F.col("_position").try_cast("int"),
            "time_known": F.lit(True),
            "session_id": F.col("_session_id"),
            "quantity": F.col("_quantity").try_cast("double"),
            "price": F.col("_price").try_cast("double"),
            "source": source,
            "item_fields": _item_fields(domain),
        }
    )
    step_key = {"step_key": F.col("_step_key"), "time": F.col("event_time").cast("string"), "row": F.col("event_id")}[
        domain.step_by
    ]
    flagged = typed.withColumn("reason", first_reason(domain, last_date)).withColumn("step_key", step_key)
    return flagged.select(*EVENTS.column_names, "reason", RAW, FILE)


_MAPPED = (
    "event_id",
    "user_id",
    "item_id",
    "event_type",
    "event_time",
    "step_key",
    "session_id",
    "position",
    "quantity",
    "price",
)


def _text(expression: str | None) -> Column:
    value = F.expr(expression).cast("string") if expression else F.lit(None).cast("string")
    return F.when(F.trim(value) != "", value)


def hash128(*values: Column) -> Column:
    """128 bits of SHA-256 over an unambiguous (JSON) form of the values, as 32 hex digits."""
    return F.substring(F.sha2(F.to_json(F.struct(*values)), 256), 1, 32)


def _identity(domain: DomainConfig, columns: list[str]) -> Column:
    source = F.lit(domain.source.name).alias("_source")
    if "event_id" in domain.columns:
        return hash128(source, F.col("_event_id").alias("event_id"))
    return hash128(source, *[F.col(f"`{name}`") for name in sorted(columns)])


def parse_time(text: Column, time_format: str, zone: str) -> Column:
    """The instant that `text` names, null where it names none.

    Naive times are the wall clock of `zone`. Times that the clock skips in spring name no instant; of the two that it
    repeats in autumn the first (summer time) is meant.
    """
    if time_format in EPOCH_FORMATS:
        return F.timestamp_micros((text.try_cast("decimal(38,6)") / EPOCH_FORMATS[time_format] * 1_000_000).try_cast("bigint"))
    parsed = F.try_to_timestamp(text, F.lit(time_format))
    if set(_unquoted(time_format)) & ZONED_LETTERS:
        return parsed
    instant = F.to_utc_timestamp(parsed, zone)
    return F.when(F.from_utc_timestamp(instant, zone) == parsed, instant)


def _unquoted(pattern: str) -> str:
    return "".join(pattern.split("'")[::2])


def choose_time_format(records: DataFrame, domain: DomainConfig) -> str:
    """The one format of the time column (an action where several are declared).

    Raises:
        InputError: two declared formats read the column equally well, but differently.
    """
    formats = domain.time_formats
    if len(formats) == 1:
        return formats[0]
    text = _text(domain.columns["event_time"])
    parsed = [parse_time(text, pattern, domain.zone) for pattern in formats]
    (row,) = records.select(*[F.count(column).alias(str(i)) for i, column in enumerate(parsed)]).collect()
    best = max(row)
    winners = [i for i in range(len(formats)) if row[i] == best]
    if len(winners) > 1:
        differ = reduce(lambda a, b: a | b, [~parsed[winners[0]].eqNullSafe(parsed[i]) for i in winners[1:]])
        if not records.filter(differ).isEmpty():
            raise InputError(
                f"time_formats {[formats[i] for i in winners]} each read {best} values of {domain.columns['event_time']!r}, with different "
                "results; keep the one that is true of this file"
            )
    return formats[winners[0]]


def first_reason(domain: DomainConfig, last_date: str) -> Column:
    """The first reason why a typed record cannot be used; null when it can."""
    kinds = domain.event_types
    of_type = {
        flag: F.col("event_type").isin([n for n, k in kinds.items() if getattr(k, flag)] or [""])
        for flag in ("needs_item", "positive_price")
    }
    checks: list[tuple[str | Column, Column]] = [(F.col(BROKEN), F.col(BROKEN).isNotNull())]
    checks += [(reason, F.expr(condition)) for reason, condition in domain.quarantine_when.items()]
    checks += [
        ("unknown event type", ~F.coalesce(F.col("event_type").isin(list(kinds)), F.lit(False))),
        ("no item", of_type["needs_item"] & F.col("item_id").isNull()),
        ("no time", F.col("_event_time").isNull()),
        ("unparseable time", F.col("event_time").isNull()),
        ("time in the future", F.col("event_date") > F.lit(last_date).cast("date")),
        ("time before 1970", F.col("event_date") < F.lit("1970-01-01").cast("date")),
    ]
    for name in ("quantity", "price"):
        value = F.col(name)
        finite = F.abs(value) < F.lit(1e15)  # false for NaN and infinity, which Spark orders above all numbers
        checks.append((f"unparseable {name}", F.col(f"_{name}").isNotNull() & ~F.coalesce(finite, F.lit(False))))
    checks.append(("negative quantity", F.col("quantity") < 0))
    checks.append(("non-positive price", of_type["positive_price"] & F.coalesce(F.col("price") <= 0, F.lit(True))))
    if domain.step_by == "step_key":
        checks.append(("no step key", F.col("_step_key").isNull()))
    if domain.anonymous == "quarantine":
        checks.append(("no user", F.col("user_id").isNull()))
    return F.coalesce(
        *[F.when(condition, reason if isinstance(reason, Column) else F.lit(reason)) for reason, condition in checks]
    )


def clean_text(text: Column) -> Column:
    """One line without control characters; null when nothing is left."""
    flat = F.trim(F.regexp_replace(text, r"[\s\p{Cntrl}]+", " "))
    return F.when(flat != "", flat)


def _item_fields(domain: DomainConfig) -> Column:
    mapped = {} if domain.items.source else {k: v for k, v in domain.items.columns.items() if k in CLEAN_FIELDS}
    if not mapped:
        return F.lit(None).cast("map<string,string>")
    pairs = [part for name, expression in mapped.items() for part in (F.lit(name), clean_text(F.expr(expression).cast("string")))]
    filled = F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull())
    return F.when(F.size(filled) > 0, filled)


def quarantine_rows(bad: DataFrame, stage: str, source: str) -> DataFrame:
    """Rows of the quarantine table for records with a reason; equal records are told apart by their occurrence."""
    occurrence = F.row_number().over(Window.partitionBy(RAW).orderBy(FILE, "reason"))
    numbered = bad.withColumns({"stage": F.lit(stage), "source": F.lit(source), "_occurrence": occurrence})
    return numbered.select(
        hash128(F.col("stage"), F.col("source"), F.col(RAW), F.col("_occurrence")).alias("quarantine_id"),
        "stage",
        "source",
        "reason",
        F.col(RAW).alias("raw"),
        F.col(FILE).alias("file"),
        F.lit(None).cast("long").alias("line"),
    ).select(*QUARANTINE.column_names)
