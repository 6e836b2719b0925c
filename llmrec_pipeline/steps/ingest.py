"""Raw files to `events`, `items` and `quarantine`, each record with one fate."""

import logging
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.events import check_mapping, choose_time_format, parse_events, quarantine_rows
from llmrec_pipeline.behaviour.items import catalogue_items, changed_items, derive_items, items_to_derive
from llmrec_pipeline.behaviour.reading import FILE, RAW, read_records
from llmrec_pipeline.errors import ConfigError, ConservationError, InputError
from llmrec_pipeline.tables import EVENTS
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import in_range, only_row

log = logging.getLogger("llmrec")
TABLES = ("events", "quarantine", "items")


def ingest(run: Run, *, rebuild: bool = False) -> None:
    """Reads the domain's source and commits what is new.

    Raises:
        InputError: the source is missing, empty or does not fit the mapping; nothing is written.
        ConservationError: records and fates do not add up; nothing more is written.
    """
    domain, warehouse = run.settings.domain, run.warehouse
    records = read_records(run.spark, domain.source, source_path(run))
    check_mapping(records, domain)
    warehouse.rebuilding.update(TABLES if rebuild else ())
    warehouse.create(TABLES)
    with run.stage("parse"):
        parsed = parse_events(records, domain, choose_time_format(records, domain), last_date(run)).persist()
        events = parsed.filter("reason IS NULL").select(*EVENTS.column_names).dropDuplicates(["event_id"]).persist()
        fates = count_fates(run, records, parsed, events)
    with run.stage("write"):
        _write_events(run, events, fates)
        if fates["quarantined"] or "quarantine" in warehouse.rebuilding:
            bad = parsed.filter("reason IS NOT NULL").select("reason", RAW, FILE)
            run.counts["quarantined_new"] = warehouse.insert_new(
                "quarantine", quarantine_rows(bad, "ingest", domain.source.name), "t.stage = 'ingest'"
            )
    with run.stage("items"):
        _write_items(run, events)
    parsed.unpersist()
    events.unpersist()
    run.wrote(*TABLES)


def source_path(run: Run) -> str:
    """The path to read: `{day}` in it stands for the day that the run names."""
    path, day = run.settings.domain.source.path, run.settings.pipeline.day
    if "{day}" in path and not day:
        raise ConfigError(f"source.path {path!r} holds {{day}}, but the run names no day; pass --day YYYY-MM-DD")
    return path.replace("{day}", day or "")


def last_date(run: Run) -> str:
    """The last date that is not in the future: the delivered day, or else tomorrow by the clock (zones ahead of it)."""
    day = run.settings.pipeline.day
    if day and "{day}" in run.settings.domain.source.path:
        return day
    return (date.today() + timedelta(days=1)).isoformat()


def count_fates(run: Run, records: DataFrame, parsed: DataFrame, events: DataFrame) -> dict[str, int]:
    """Counts the fate of every record before anything is committed.

    Raises:
        InputError: there is no record.
        ConservationError: used + duplicates + quarantined is not the number of records read.
    """
    n_records = records.select(RAW).count()
    if not n_records:
        raise InputError(f"source {source_path(run)!r} holds no record; expected at least one")
    reasons = {row["reason"]: row["count"] for row in parsed.groupBy("reason").count().collect()}
    usable = reasons.pop(None, 0)
    span = only_row(events.agg(F.count(F.lit(1)).alias("n"), F.min("event_date").alias("low"), F.max("event_date").alias("high")))
    known = 0
    if span["n"]:
        stored = run.warehouse.read("events").filter(F.col("event_date").between(span["low"], span["high"])).select("event_id")
        known = stored.join(events.select("event_id"), on="event_id", how="left_semi").count()
    fates = {
        "records": n_records,
        "used": span["n"] - known,
        "duplicates_in_delivery": usable - span["n"],
        "duplicates_known": known,
        "quarantined": sum(reasons.values()),
    }
    if span["n"] > usable or fates["used"] + usable - span["n"] + known + fates["quarantined"] != n_records:
        raise ConservationError(
            f"records do not add up, nothing was committed: {fates}; this is a defect, please report it with the domain's YAML"
        )
    run.counts |= fates | {f"quarantined: {reason}": count for reason, count in sorted(reasons.items())}
    log.info("ingest: %s", ", ".join(f"{name} {count:,}" for name, count in run.counts.items()))
    run.versions["first_date"], run.versions["last_date"] = str(span["low"]), str(span["high"])
    return fates


def _write_events(run: Run, events: DataFrame, fates: dict[str, int]) -> None:
    if not fates["used"] and "events" not in run.warehouse.rebuilding:
        return
    inserted = run.warehouse.insert_new(
        "events", events, in_range("event_date", run.versions["first_date"], run.versions["last_date"])
    )
    if inserted > fates["used"]:
        raise ConservationError(
            f"events: {inserted} rows committed, {fates['used']} counted before; this is a defect, please report it"
        )
    if inserted < fates["used"]:  # another run delivered the same records meanwhile
        late = fates["used"] - inserted
        run.counts |= {"used": inserted, "duplicates_known": fates["duplicates_known"] + late}


def _write_items(run: Run, events: DataFrame) -> None:
    domain, warehouse = run.settings.domain, run.warehouse
    known = warehouse.read("items")
    touched = items_to_derive(events, known)
    listed = None
    if domain.items.source:
        records = read_records(run.spark, domain.items.source, domain.items.source.path)
        listed = catalogue_items(records, known, domain, run.versions["last_date"]).withColumn("_gone", F.lit(False))
        ids = records.select(F.expr(domain.items.columns["item_id"]).cast("string").alias("item_id"))
        touched = touched.join(ids, on="item_id", how="left_anti")
    touched = touched.persist()
    whole = warehouse.read("events").join(touched, on="item_id", how="left_semi")
    derived = changed_items(derive_items(whole, domain), known.join(touched, on="item_id", how="left_semi"))
    changed = (listed.unionByName(derived) if listed else derived).persist()
    run.counts["items_changed"] = changed.count()
    if run.counts["items_changed"] or "items" in warehouse.rebuilding:
        warehouse.upsert("items", changed, delete="_gone")
    changed.unpersist()
    touched.unpersist()
