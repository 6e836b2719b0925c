"""What a run of ingest is given: its source read and parsed once, and the fate of each record, counted before anything is committed."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.events import (
    REASON,
    RECORD,
    check_mapping,
    elements_of,
    parse_elements,
    parse_events,
    parse_records,
    quarantine_rows,
)
from llmrec_pipeline.behaviour.reading import FILE, HEADER, RAW, Records, read_records
from llmrec_pipeline.behaviour.repetition import CONFLICT, NTH, each_once, split_repeated
from llmrec_pipeline.behaviour.values import AMBIGUOUS, choose_time_format
from llmrec_pipeline.config import Settings
from llmrec_pipeline.errors import ConfigError, ConservationError, InputError
from llmrec_pipeline.tables import EVENTS, IMPRESSIONS
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import only_row

log = logging.getLogger("llmrec")
ANY_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"  # as a glob


@dataclass
class Fates:
    """How many records of each file came to what (law 1)."""

    records: dict[int, int]  # file -> records, by the count that knows nothing of parsing
    usable: dict[int, int] = field(default_factory=dict)  # file -> records that can be used, repeated ones among them
    repeated: dict[int, int] = field(default_factory=dict)  # file -> of these, such as another record already is
    reasons: dict[tuple[int, str], int] = field(default_factory=dict)  # (file, reason) -> records in quarantine
    conflicts: int = 0  # repeated records that share a declared identity and say something else
    ambiguous: int = 0  # times that the clock showed twice
    known: int = 0  # usable, each once, that the table held already (0 where lists hold the behaviours)
    span: tuple[date, date] | None = None  # first and last event_date

    @property
    def n_records(self) -> int:
        return sum(self.records.values())

    @property
    def distinct(self) -> int:
        return sum(self.usable.values()) - sum(self.repeated.values())

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    @property
    def by_reason(self) -> dict[str, int]:
        """Records in quarantine by reason, over all files, in order of the reasons' names."""
        counts: dict[str, int] = {}
        for (_, reason), count in sorted(self.reasons.items(), key=lambda item: item[0][1]):
            counts[reason] = counts.get(reason, 0) + count
        return counts


@dataclass
class Delivery:
    """A source, read: what each of its records became. `events` and the rest are views on rows that were parsed once."""

    records: Records
    events: DataFrame  # rows of `events`, each identity once
    impressions: DataFrame  # rows of `impressions`, each identity once
    bad: DataFrame  # reason, _raw, _file
    fates: Fates
    elements: dict[str, int]  # counts of list elements by fate; empty without lists

    def quarantine(self, source: str) -> DataFrame:
        return quarantine_rows(self.bad, "ingest", source, self.records.files)


def source_paths(settings: Settings, *, every_day: bool = False) -> tuple[str, ...]:
    """The paths to read: `{day}` in one stands for the day that the run names, or for each day that is there."""
    source, day = settings.domain.source, settings.pipeline.day
    if every_day and source.by_day:
        if day:
            raise ConfigError(f"a rebuild reads the files of all days, but the run names {day}; leave out --day")
        if source.format == "delta":
            raise ConfigError(
                f"a rebuild cannot tell which tables {source.path!r} means; name them: --set 'domain.source.path=[...]'"
            )
        day = ANY_DAY
    if source.by_day and not day:
        raise ConfigError(f"source.path {source.path!r} holds {{day}}, but the run names no day; pass --day YYYY-MM-DD")
    return tuple(path.replace("{day}", day or "") for path in source.paths)


def last_dates(run: Run, files: tuple[str, ...]) -> str | Column:
    """As `last_date`; where a rebuild reads the files of many days, that of each record's file, as when each day was delivered."""
    if not run.settings.domain.source.by_day or run.settings.pipeline.day:
        return last_date(run)
    days = [re.findall(r"\d{4}-\d\d-\d\d", file)[-1] for file in files]
    return F.element_at(F.array(*map(F.lit, days)), F.col(FILE) + 1)


def last_date(run: Run) -> str:
    """The last date that is not in the future: the delivered day, or else tomorrow by the clock (zones ahead of it)."""
    day = run.settings.pipeline.day
    if day and run.settings.domain.source.by_day:
        return day
    return (date.today() + timedelta(days=1)).isoformat()


@dataclass(frozen=True)
class Parsed:
    """Records of a source, each with a reason or without, and the fates that are known so far."""

    records: Records
    rows: DataFrame  # as parse_events, or parse_records, gives them
    time_format: str
    last_date: str | Column  # as `last_dates`
    fates: Fates


def parse_delivery(run: Run, *, every_day: bool = False) -> Parsed:
    """Reads and parses the source once, and counts reasons.

    Parsed rows are kept by a local checkpoint: what is planned on them then knows nothing of the parsing. (Trade-off: an
    executor that is lost with them fails the run, which can be started again.)

    Raises:
        InputError: the source is missing, empty or does not fit the mapping.
        ConservationError: usable + quarantined is not the number of records.
    """
    domain = run.settings.domain
    records = read_records(run.spark, domain.source, source_paths(run.settings, every_day=every_day))
    with ThreadPoolExecutor(1) as beside:  # Spark counts while the driver plans the parsing
        units = beside.submit(count_units, records)
        check_mapping(records, domain)
        if "zone" not in domain.model_fields_set:
            log.info("ingest: the domain names no zone; times without one are read as UTC")
        time_format = choose_time_format(records.rows, domain)
        parse = parse_records if domain.lists else parse_events
        last = last_dates(run, records.files)
        rows = parse(records.rows, domain, records.columns, time_format, last).localCheckpoint()
    return Parsed(records, rows, time_format, last, count_fates(records, rows, units.result()))


def each_record_once(run: Run, parsed: Parsed) -> Delivery:
    """Finds records that repeat another one; where lists hold the behaviours, goes on to their elements."""
    if run.settings.domain.lists:
        return _with_lists(run, parsed)
    single, shared = split_repeated(parsed.rows.filter(f"{REASON} IS NULL"), "event_id", FILE)
    _count_repeated(parsed.fates, shared)
    nothing = run.spark.createDataFrame([], run.warehouse.schema("impressions"))
    bad = parsed.rows.filter(f"{REASON} IS NOT NULL").select(REASON, RAW, FILE)
    return Delivery(parsed.records, each_once(single, shared).select(*EVENTS.column_names), nothing, bad, parsed.fates, {})


def _with_lists(run: Run, parsed: Parsed) -> Delivery:
    """Each record once, each of its elements an event or an impression, once."""
    domain, fates = run.settings.domain, parsed.fates
    single, shared = split_repeated(parsed.rows.filter(f"{REASON} IS NULL"), RECORD, FILE)
    _count_repeated(fates, shared)
    first = each_once(single, shared)
    parts = [
        parse_elements(elements_of(first, listed), domain, name, parsed.time_format, parsed.last_date)
        for name, listed in domain.lists.items()
    ]
    events, shown = (reduce(DataFrame.unionByName, part).localCheckpoint() for part in zip(*parts, strict=True))
    usable = [rows.filter(f"{REASON} IS NULL") for rows in (events, shown)]
    keys = ("event_id", "impression_id")
    once = [each_once(*split_repeated(rows, key, FILE)) for rows, key in zip(usable, keys, strict=True)]
    bad = [rows.filter(f"{REASON} IS NOT NULL").select(REASON, RAW, FILE) for rows in (parsed.rows, events, shown)]
    every, good, distinct = (sum(rows.count() for rows in pair) for pair in ((events, shown), usable, once))
    elements = {
        "elements": every,
        "elements_events": once[0].count(),
        "elements_impressions": once[1].count(),
        "elements_duplicates": good - distinct,
        "elements_quarantined": every - good,
    }
    span = only_row(once[0].agg(F.min("event_date"), F.max("event_date")))
    fates.span = (span[0], span[1]) if span[0] else None
    return Delivery(
        parsed.records,
        once[0].select(*EVENTS.column_names),
        once[1].select(*IMPRESSIONS.column_names),
        reduce(DataFrame.unionByName, bad),
        fates,
        elements,
    )


def count_units(records: Records) -> dict[int, int]:
    """Records of each file, header lines among them, by the count that knows nothing of parsing (an action)."""
    return {row[FILE]: row["count"] for row in records.units.groupBy(FILE).count().collect()}


def count_fates(records: Records, parsed: DataFrame, units: dict[int, int]) -> Fates:
    """Counts usable records and reasons, beside the `count_units` of the records (an action).

    Raises:
        InputError: there is no record, or a file's lines end in a way that hides them.
        ConservationError: the counts disagree.
    """
    date = F.when(F.col(REASON).isNull(), F.col("event_date"))  # another's may lie beyond the years that Python knows
    measures = [F.count(F.lit(1)).alias("n"), F.min(date).alias("low"), F.max(date).alias("high")]
    rows = parsed.groupBy(FILE, REASON).agg(*measures, F.count_if(AMBIGUOUS).alias("ambiguous")).collect()
    headers = sum(row["n"] for row in rows if row[REASON] == HEADER)
    if headers < records.headers:
        raise InputError(
            f"{records.headers - headers} of {len(records.files)} files have a header that is not a line of its own (such as {records.files[0]}); "
            "expected lines that end in a line feed"
        )
    fates = Fates(units)
    for row in rows:
        if row[REASON] is None:
            fates.usable[row[FILE]] = row["n"]
            fates.ambiguous += row["ambiguous"]
            low, high = fates.span or (row["low"], row["high"])
            fates.span = (min(low, row["low"]), max(high, row["high"]))
        else:
            fates.reasons[row[FILE], row[REASON]] = row["n"]
    _leave_headers_out(fates, records)
    if not fates.n_records:
        raise InputError(f"source {', '.join(records.files)!r} holds no record; expected at least one")
    if sum(fates.usable.values()) + fates.quarantined != fates.n_records:
        raise ConservationError(
            f"records do not add up, nothing was committed: {fates}; this is a defect, please report it with the domain's YAML"
        )
    return fates


def _count_repeated(fates: Fates, shared: DataFrame | None) -> None:
    if shared is None:
        return
    for row in shared.groupBy(FILE).agg(F.count_if(F.col(NTH) > 1).alias("n"), F.count_if(CONFLICT).alias("conflicts")).collect():
        fates.repeated[row[FILE]] = row["n"]
        fates.conflicts += row["conflicts"]


def _leave_headers_out(fates: Fates, records: Records) -> None:
    """A file's header is no record; further lines that are equal to it are, and stay counted as repeated headers."""
    for number in [file for file, reason in fates.reasons if reason == HEADER]:
        more = fates.reasons.pop((number, HEADER)) - 1
        fates.records[number] -= 1
        if more:
            fates.reasons[number, "repeated header"] = more
