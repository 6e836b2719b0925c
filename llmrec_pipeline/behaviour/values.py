"""Texts to typed values: times, numbers, one-line titles, and the hashes that identify rows. Column in, Column out."""

import re
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.config import DEFAULT_TIME_FORMAT, EPOCHS, DomainConfig, is_naive
from llmrec_pipeline.errors import InputError

# what has no place in a line of text: control characters, line and paragraph separators, marks that turn the direction of what follows
UNSEEN = "\\s\\p{Cntrl}\u0080-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069"
DEFAULT_TIME = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"  # how DEFAULT_TIME_FORMAT looks
AMBIGUOUS = "_ambiguous"
TITLE_CHARS = 2_000
JAVAS_OWN = r"[xX]|[\d.][dDfF]\s*$"  # 0x1p3 and 3d, which Spark's cast takes for numbers
LARGEST = 1e15  # of a quantity or price: beyond it doubles no longer tell cents apart
HOUR = 3_600_000_000  # microseconds
LENGTHS = " ".join(f"{length}:" for length in range(256))


def text_of(expression: str | None) -> Column:
    """An expression of the domain's YAML as a string; null where it is blank."""
    value = F.expr(expression).cast("string") if expression else F.lit(None).cast("string")
    return F.when(F.trim(value) != "", value)


def clean_text(text: Column) -> Column:
    """One line without unseen characters, at most TITLE_CHARS long; null when nothing is left."""
    flat = F.trim(F.regexp_replace(F.substring(text, 1, TITLE_CHARS), f"[{UNSEEN}]+", " "))
    return F.when(flat != "", flat)


def has_text(text: Column) -> Column:
    """True where `clean_text` leaves something, at a fraction of its cost: most texts tell by their first character."""
    visible = F.substring(text, 1, 1).between("!", "~")
    return F.coalesce(visible | F.substring(text, 1, TITLE_CHARS).rlike(f"[^{UNSEEN}]"), F.lit(False))


def hash128(*values: Column) -> Column:
    """128 bits of SHA-256 over an unambiguous form of the values (length, colon, text; a dash for null), as 32 hex digits."""
    spelt = F.split(F.lit(LENGTHS), " ")  # a constant: to look a length up costs less than to spell it
    parts = []
    for value in values:
        length = F.octet_length(value)
        prefix = F.coalesce(F.get(spelt, length), F.concat(length.cast("string"), F.lit(":")), F.lit("-:"))
        parts += [prefix, F.coalesce(value, F.lit(""))]
    return F.substring(F.sha2(F.concat(*parts), 256), 1, 32)


def parse_number(text: Column, decimal: str = ".", thousands: str = "") -> Column:
    """The number that `text` spells with the declared separators; null where it spells none (`1.23,4` is no number)."""
    if (decimal, thousands) == (".", ""):
        return F.when(~text.rlike(JAVAS_OWN), text.try_cast("double"))
    point, group = re.escape(decimal), re.escape(thousands)
    whole = rf"(\d{{1,3}}({group}\d{{3}})+|\d+)" if thousands else r"\d+"
    plain = F.replace(text, F.lit(thousands), F.lit("")) if thousands else text
    spelt = text.rlike(rf"^\s*[+-]?({whole}({point}\d*)?|{point}\d+)\s*$")
    return F.when(spelt, F.replace(plain, F.lit(decimal), F.lit(".")).try_cast("double"))


def parse_whole(text: Column) -> Column:
    """The whole number that `text` spells, `3.0` too; null where it spells none, or one beyond 32 bits."""
    number = parse_number(text)
    return F.when(number == F.floor(number), number.try_cast("int"))


def parse_time(text: Column, time_format: str, zone: str) -> Column:
    """The instant that `text` names, null where it names none; see `with_time`."""
    spelt = _spelt_time(text, time_format)
    return _instant(spelt, zone) if is_naive(time_format) else spelt


def with_time(rows: DataFrame, text: str, time_format: str, zone: str) -> DataFrame:
    """Adds the instant `event_time` that the column `text` names (null where it names none), `event_date` and `_ambiguous`.

    Naive times are the wall clock of `zone`. Times that the clock skips in spring name no instant; of the two that it
    repeats in autumn the first (summer time) is meant, and `_ambiguous` is true. Each step stands on the one before it, so
    that no value is worked out twice.
    """
    spelt = rows.withColumn("_spelt", _spelt_time(F.col(text), time_format))
    if is_naive(time_format) and zone != "UTC":
        timed = spelt.withColumn("_instant", F.to_utc_timestamp("_spelt", zone))
        exists = F.from_utc_timestamp("_instant", zone) == F.col("_spelt")
        hour_later = F.timestamp_micros(F.unix_micros("_instant") + HOUR)  # to add an interval asks for the calendar of a zone
        columns = {
            "event_time": F.when(exists, F.col("_instant")),
            "event_date": F.when(exists, F.to_date("_spelt")),
            AMBIGUOUS: F.coalesce(F.from_utc_timestamp(hour_later, zone) == F.col("_spelt"), F.lit(False)),
        }
        return timed.withColumns(columns).drop("_spelt", "_instant")
    date = F.to_date(F.from_utc_timestamp("_spelt", zone)) if zone != "UTC" else F.to_date("_spelt")
    return spelt.withColumns({"event_time": F.col("_spelt"), "event_date": date, AMBIGUOUS: F.lit(False)}).drop("_spelt")


def _spelt_time(text: Column, time_format: str) -> Column:
    if time_format in EPOCHS:
        seconds = F.try_divide(text.try_cast("decimal(38,6)"), F.lit(EPOCHS[time_format]))
        return F.timestamp_micros(F.try_multiply(seconds, F.lit(1_000_000)).try_cast("bigint"))
    if time_format == DEFAULT_TIME_FORMAT:  # Spark's own cast takes a third of the time, but also other spellings
        return F.when(text.rlike(DEFAULT_TIME), text.try_cast("timestamp"))
    return F.try_to_timestamp(text, F.lit(time_format))


def _instant(clock: Column, zone: str) -> Column:
    instant = F.to_utc_timestamp(clock, zone)
    return F.when(F.from_utc_timestamp(instant, zone) == clock, instant)


def choose_time_format(records: DataFrame, domain: DomainConfig) -> str:
    """The one format of the time column (an action, unless a single one is declared).

    Raises:
        InputError: no format is declared and the default one reads nothing, or two declared ones read the column equally well,
            but differently.
    """
    formats, column = domain.time_formats, domain.columns["event_time"]
    declared = "time_formats" in domain.model_fields_set
    if declared and len(formats) == 1:
        return formats[0]
    text = text_of(column)
    parsed = [parse_time(text, pattern, domain.zone) for pattern in formats]
    counts = [F.count(found).alias(str(i)) for i, found in enumerate(parsed)]
    (row,) = records.select(*counts, F.max(text).alias("example")).collect()
    best = max(row[i] for i in range(len(formats)))
    if not best and row["example"] is not None and not declared:
        raise InputError(
            f"time_formats is not declared, and the default {DEFAULT_TIME_FORMAT!r} reads no value of {column!r} (such as {row['example']!r}); "
            "declare the pattern of the column, e.g. time_formats: [dd/MM/yyyy HH:mm]"
        )
    winners = [i for i in range(len(formats)) if row[i] == best]
    if len(winners) > 1:
        differ = reduce(lambda a, b: a | b, [~parsed[winners[0]].eqNullSafe(parsed[i]) for i in winners[1:]])
        if not records.filter(differ).isEmpty():
            raise InputError(
                f"time_formats {[formats[i] for i in winners]} each read {best} values of {column!r}, with different results; "
                "keep the one that is true of this file"
            )
    return formats[winners[0]]
