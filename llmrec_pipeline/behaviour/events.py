"""Records to events: named columns, typed values, a reason where a record cannot be used, an identity.

Rows are flagged, never filtered, until the step splits them: each record keeps exactly one fate (law 1).
"""

import re
from collections.abc import Callable
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.ansi import check_total
from llmrec_pipeline.behaviour.reading import BROKEN, FILE, HEADER, RAW, Records
from llmrec_pipeline.behaviour.values import AMBIGUOUS, LARGEST, hash128, parse_number, parse_whole, text_of, with_time
from llmrec_pipeline.config import DomainConfig, ListConfig, is_naive, unread_letters
from llmrec_pipeline.errors import InputError, nearest
from llmrec_pipeline.tables import EVENTS, IMPRESSIONS, ITEM_FIELDS, QUARANTINE

REASON = "reason"
RECORD, VALUE, PLACE, USER, OWN = "_record_id", "value", "_place", "_user", "_own"
FLAGS = (REASON, RAW, FILE, AMBIGUOUS)
IGNORED = "ignored"
UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT")
CONSTANTS = {"null", "true", "false"}
CONDITION, LIST = "boolean", "array<string>"  # as Spark spells types
EXAMPLES = {
    CONDITION: "a comparison such as status = 'void'",
    LIST: "split(history, ' '), or from_json(history, 'array<string>') where the column is a list",
}
Checks = list[tuple[str | Column, Column]]  # (reason, or the column that holds it; condition)
MAPPED = (
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


def check_mapping(records: Records, domain: DomainConfig) -> None:
    """Raises InputError when an expression of the domain's YAML does not resolve against the file's columns."""
    known = records.columns
    plain = {f"columns.{k}": v for k, v in domain.columns.items()}
    if domain.items.source is None:
        plain |= {f"items.columns.{k}": v for k, v in domain.items.columns.items()}
    for key, expression in plain.items():
        check_expression(records.rows, key, expression, known)
    for reason, condition in domain.quarantine_when.items():
        check_expression(records.rows, f"quarantine_when.{reason}", condition, known, CONDITION)
    for name, listed in domain.lists.items():
        check_expression(records.rows, f"lists.{name}.values", listed.values, known, LIST)
    if domain.lists and VALUE in map(str.lower, known):
        raise InputError(
            f"the file has a column {VALUE!r}, which is what a list's element is called; read it under another name (header: false, or a query)"
        )
    for pattern in domain.time_formats:
        if odd := unread_letters(pattern):
            raise InputError(
                f"time_formats: {pattern!r} has {odd!r}, which names no part of a time that is read; expected a pattern such as "
                "\"yyyy-MM-dd'T'HH:mm:ss[.SSS]\" (what stands for itself in quotes), or epoch_seconds, epoch_millis, epoch_micros"
            )
    time, instants = domain.columns["event_time"], map(str.lower, records.instants)
    if time.strip("`").lower() in instants and domain.zone not in UTC and all(map(is_naive, domain.time_formats)):
        raise InputError(
            f"columns.event_time: {time!r} holds points in time, spelt in UTC, which would be read as the clock of zone {domain.zone}; "
            f"declare event_time: concat({time}, 'Z') and time_formats: [\"yyyy-MM-dd HH:mm:ss[.SSSSSS]X\"], or, where its writer meant "
            f"that clock, event_time: concat({time}, '')"
        )
    elements = records.rows.withColumns({VALUE: F.lit(""), PLACE: F.lit(0)})
    for name, listed in domain.lists.items():
        for key, wanted in {"item_id": None, "acted": CONDITION, "event_time": None}.items():
            if getattr(listed, key):
                check_expression(elements, f"lists.{name}.{key}", getattr(listed, key), [*known, VALUE], wanted)


def check_expression(rows: DataFrame, key: str, expression: str, known: list[str], wanted: str | None = None) -> None:
    """Raises InputError when a piece of the domain's SQL does not resolve against the columns of `rows`, or can raise on some of their values.

    Args:
        rows: what it reads.
        key: where in the YAML it stands.
        expression: the SQL.
        known: columns that it may name.
        wanted: the type that it must give; null: any that can be spelt.
    """
    word = expression.strip("`")
    if expression.isidentifier() or re.fullmatch("`[^`]+`", expression):
        if word in known and wanted is None:
            return
        # Spark has words of its own, and knows no case: `user` is who runs the job
        if expression.lower() not in CONSTANTS and word.lower() not in map(str.lower, known):
            raise InputError(f"{key}: {expression!r} does not fit the file, which has no such column; {nearest(word, known)}")
    try:
        made = rows.select(F.expr(expression))
    except Exception as error:  # Spark raises several unrelated classes here
        raise InputError(
            f"{key}: {expression!r} does not fit the file: {str(error).splitlines()[0]}; the file has {known}"
        ) from None
    if wanted and made.dtypes[0][1] != wanted:
        raise InputError(f"{key}: {expression!r} gives {made.dtypes[0][1]}, expected {wanted}; write {EXAMPLES[wanted]}")
    check_total(key, expression, made)


def parse_events(
    rows: DataFrame, domain: DomainConfig, columns: list[str], time_format: str, last_date: str | Column
) -> DataFrame:
    """Events of records, with `reason` (null when usable), `_raw` of those that are not, `_file` and `_ambiguous`.

    Args:
        rows: as `Records.rows`.
        domain: the mapping.
        columns: the record's own columns.
        time_format: the one convention of the time column.
        last_date: events of later dates are quarantined as future ones; a date, or a column of dates.
    """
    source = F.lit(domain.source.name)
    own = "event_id" in domain.columns
    identity = hash128(source, text_of(domain.columns["event_id"])) if own else _record_identity(source, columns)
    checks = _event_checks(domain) + ([("no event id", F.col("_event_id").isNull())] if own else [])
    return _typed(rows, domain, domain.columns, identity, time_format).transform(_flagged(domain, last_date, checks))


def parse_records(
    rows: DataFrame, domain: DomainConfig, columns: list[str], time_format: str, last_date: str | Column
) -> DataFrame:
    """Records whose lists hold the behaviours: flagged as by `parse_events`, with `_record_id`, `_user` and their own columns as a struct."""
    identity = _record_identity(F.lit(domain.source.name), columns)
    named = {"_event_time": text_of(domain.columns["event_time"])}
    named |= {f"_when_{i}": F.expr(condition) for i, condition in enumerate(domain.quarantine_when.values())}
    named |= {RECORD: identity, USER: text_of(domain.columns["user_id"])}
    own = F.struct(*[f"`{name}`" for name in columns]).alias(OWN)  # the log may have an `event_time` or a `reason` of its own
    typed = with_time(rows.withColumns(named).select("*", own).drop(*columns), "_event_time", time_format, domain.zone)
    checks = [*_first_checks(domain), *_time_checks(last_date), *_user_checks(domain, USER)]
    return typed.withColumn(REASON, _first(checks))


def elements_of(records: DataFrame, listed: ListConfig) -> DataFrame:
    """One row for each element of a list, the record's columns beside `value` and its place, from 0."""
    own = records.select(f"{OWN}.*", RECORD, USER, FILE, BROKEN)
    filled = F.filter(F.expr(listed.values), lambda element: F.trim(element) != "")
    return own.select("*", F.posexplode(filled).alias(PLACE, VALUE))


def parse_elements(
    elements: DataFrame, domain: DomainConfig, name: str, time_format: str, last_date: str | Column
) -> tuple[DataFrame, DataFrame]:
    """Events and impressions of the elements of the list `name`, each with the flags that `parse_events` gives.

    An element of a history is one of a user at a place, whatever record repeats it; one that was shown belongs to its record, and so
    does one of nobody who is named.
    """
    listed, source = domain.lists[name], F.lit(domain.source.name)
    whose = F.coalesce(USER, RECORD) if listed.into == "events" else F.col(RECORD)
    identity = hash128(source, whose, F.lit(name), F.col(PLACE).cast("string"), F.col(VALUE))
    kind = listed.event_type or next(iter(domain.event_types))
    mapping = domain.columns | {"item_id": listed.item_id, "event_type": f"'{kind}'", "position": PLACE}
    if listed.event_time:
        mapping |= {"event_time": listed.event_time}
    typed = _typed(elements, domain, mapping, identity, time_format).withColumns(
        {
            "time_known": F.lit(listed.into == "impressions"),
            "position": F.col(PLACE),
            RAW: F.concat(F.lit(f"{name}: "), F.col(VALUE)),
        }
    )
    acted = F.coalesce(F.expr(listed.acted or "false"), F.lit(False)) & F.lit(listed.event_type is not None)
    flagged = typed.withColumn("_shown", F.lit(listed.into == "impressions") & ~acted)
    flagged = flagged.transform(_flagged(domain, last_date, _event_checks(domain), "_shown"))
    shown = flagged.filter("_shown").select(
        F.col("event_id").alias("impression_id"),
        "user_id",
        "item_id",
        (F.col("position") + 1).alias("rank"),
        F.lit(None).cast("string").alias("list_id"),
        F.col("event_time").alias("shown_at"),
        F.lit(IGNORED).alias("outcome"),
        "source",
        *FLAGS,
    )
    return flagged.filter("NOT _shown").drop("_shown"), shown.select(*IMPRESSIONS.column_names, *FLAGS)


def _record_identity(source: Column, columns: list[str]) -> Column:
    return hash128(source, *[F.col(f"`{name}`") for name in sorted(columns)])


def _typed(rows: DataFrame, domain: DomainConfig, mapping: dict[str, str], identity: Column, time_format: str) -> DataFrame:
    """The columns of `events`, beside the texts that they were read from (`_price`, ...)."""
    own = {f"_when_{i}": F.expr(condition) for i, condition in enumerate(domain.quarantine_when.values())}
    known = rows.columns
    named = rows.withColumns({f"_{name}": _text(mapping.get(name), known) for name in MAPPED} | own)
    numbers = {
        name: parse_number(F.col(f"_{name}"), domain.source.decimal, domain.source.thousands) for name in ("quantity", "price")
    }
    fields = {"event_id": identity, "item_fields": _item_fields(domain, known), "_kind": F.lower(F.trim("_event_type"))}
    timed = with_time(named.withColumns(fields), "_event_time", time_format, domain.zone)
    return timed.withColumns(
        {
            "user_id": F.col("_user_id"),
            "item_id": F.col("_item_id"),
            "event_type": event_type(F.col("_kind"), domain),
            "position": parse_whole(F.col("_position")),
            "time_known": F.lit(True),
            "session_id": F.col("_session_id"),
            **numbers,
            "source": F.lit(domain.source.name),
        }
    )


def _flagged(domain: DomainConfig, last_date: str | Column, checks: Checks, *more: str) -> Callable[[DataFrame], DataFrame]:
    """Adds `reason` and `step_key`, and keeps `_raw` only where there is a reason."""
    step_key = {"step_key": F.col("_step_key"), "time": F.col("event_time").cast("string"), "row": F.col("event_id")}
    every = [
        *_first_checks(domain),
        *checks[:2],
        *_time_checks(last_date),
        *checks[2:],
        *_user_checks(domain, "user_id"),
    ]

    def apply(typed: DataFrame) -> DataFrame:
        found = typed.withColumn(REASON, _first(every)).withColumn("step_key", step_key[domain.step_by])
        kept = F.when(F.col(REASON).isNotNull(), F.col(RAW)).alias(RAW)
        return found.select(*EVENTS.column_names, REASON, kept, FILE, AMBIGUOUS, *more)

    return apply


def event_type(lower: Column, domain: DomainConfig) -> Column:
    """The domain's event type that a text in lower case names, itself or by an alias; null for none of them."""
    names = {alias.lower(): name for name, kind in domain.event_types.items() for alias in (name, *kind.aliases)}
    return F.coalesce(*[F.when(lower == alias, F.lit(name)) for alias, name in names.items()])


def _first(checks: Checks) -> Column:
    """The first reason whose condition holds; null where none does."""
    named = [(reason if isinstance(reason, Column) else F.lit(reason), holds) for reason, holds in checks]
    return reduce(lambda chain, check: chain.when(check[1], check[0]), named[1:], F.when(named[0][1], named[0][0]))


def _first_checks(domain: DomainConfig) -> Checks:
    own: Checks = [(reason, F.col(f"_when_{i}")) for i, reason in enumerate(domain.quarantine_when)]
    return [(F.col(BROKEN), F.col(BROKEN).isNotNull()), *own]


def _user_checks(domain: DomainConfig, user: str) -> Checks:
    return [("no user", F.col(user).isNull())] if domain.anonymous == "quarantine" else []


def _time_checks(last_date: str | Column) -> Checks:
    return [
        ("no time", F.col("_event_time").isNull()),
        ("unparseable time", F.col("event_time").isNull()),
        ("time in the future", F.col("event_date") > F.lit(last_date).cast("date")),
        ("time before 1970", F.col("event_date") < F.lit("1970-01-01").cast("date")),
    ]


def _event_checks(domain: DomainConfig) -> Checks:
    kinds = domain.event_types
    of_type = {
        flag: F.col("event_type").isin([n for n, k in kinds.items() if getattr(k, flag)] or [""])
        for flag in ("needs_item", "positive_price")
    }
    checks: Checks = [
        ("unknown event type", F.col("event_type").isNull()),
        ("no item", of_type["needs_item"] & F.col("item_id").isNull()),
    ]
    for name in ("quantity", "price"):
        value = F.col(name)
        checks.append((f"unparseable {name}", F.col(f"_{name}").isNotNull() & (value.isNull() | F.isnan(value))))
        checks.append((f"{name} out of range", F.abs(value) >= LARGEST))
    checks.append(("unparseable position", F.col("_position").isNotNull() & F.col("position").isNull()))
    checks.append(("negative quantity", F.col("quantity") < 0))
    checks.append(("negative price", ~of_type["positive_price"] & (F.col("price") < 0)))
    checks.append(("non-positive price", of_type["positive_price"] & F.coalesce(F.col("price") <= 0, F.lit(True))))
    if domain.step_by == "step_key":
        checks.append(("no step key", F.col("_step_key").isNull()))
    return checks


def _text(expression: str | None, columns: list[str]) -> Column:
    """As `text_of`; a record's own column has no blanks (`read_records`), and is spared the look."""
    name = (expression or "").strip("`")
    return F.col(f"`{name}`").cast("string") if name in columns else text_of(expression)


def _item_fields(domain: DomainConfig, columns: list[str]) -> Column:
    """What the record says of its item, as delivered; null where the catalogue has a file of its own or nothing is said."""
    mapped = {} if domain.items.source else domain.items.columns
    values = [_text(mapped.get(name), columns) for name in ITEM_FIELDS]
    if not set(mapped) & set(ITEM_FIELDS):
        return F.lit(None).cast(EVENTS.column("item_fields").type)
    said = F.coalesce(*[value for name, value in zip(ITEM_FIELDS, values, strict=True) if name in mapped]).isNotNull()
    return F.when(said, F.struct(*[value.alias(name) for name, value in zip(ITEM_FIELDS, values, strict=True)]))


def quarantine_rows(bad: DataFrame, stage: str, source: str, files: tuple[str, ...]) -> DataFrame:
    """Rows of the quarantine table for records with a reason; equal records are told apart by their occurrence.

    The header line that each file may have is no record: of a file's header lines one is left out, the others are repeated ones.
    """
    header = F.col(REASON) == HEADER
    nth = F.row_number().over(Window.partitionBy(FILE, REASON).orderBy(RAW))
    records = bad.withColumn("_nth", F.when(header, nth)).filter(~header | (F.col("_nth") > 1))
    occurrence = F.row_number().over(Window.partitionBy(RAW).orderBy(REASON, "file"))
    file = F.element_at(F.array(*[F.lit(name) for name in files]), F.col(FILE) + 1)
    numbered = records.withColumn("file", file).withColumns(
        {"stage": F.lit(stage), "source": F.lit(source), "_occurrence": occurrence}
    )
    return numbered.select(
        hash128(F.col("stage"), F.col("source"), F.col(RAW), F.col("_occurrence").cast("string")).alias("quarantine_id"),
        "stage",
        "source",
        F.when(F.col(REASON) == HEADER, F.lit("repeated header")).otherwise(F.col(REASON)).alias(REASON),
        F.col(RAW).alias("raw"),
        "file",
        F.lit(None).cast("long").alias("line"),
    ).select(*QUARANTINE.column_names)
