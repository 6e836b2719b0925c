"""Raw files to `events`, `impressions`, `items` and `quarantine`, each record with one fate."""

import logging
from concurrent.futures import ThreadPoolExecutor

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.items import catalogue_items, changed_items, derive_items, item_dates, items_to_derive
from llmrec_pipeline.behaviour.values import text_of
from llmrec_pipeline.errors import ConservationError
from llmrec_pipeline.steps.catalogue import Catalogue, read_catalogue
from llmrec_pipeline.steps.corrections import outdated_events, replace_events
from llmrec_pipeline.steps.delivery import Delivery, each_record_once, last_date, parse_delivery
from llmrec_pipeline.steps.fates import print_fates
from llmrec_pipeline.tracking import Run, console
from llmrec_pipeline.warehouse import in_range, kept

log = logging.getLogger("llmrec")
TABLES = ("events", "quarantine", "items")
FEW_DATES = 100_000  # rows of an id and two dates that every task can hold


def ingest(run: Run, *, rebuild: bool = False) -> None:
    """Reads the domain's source and commits what is new.

    Raises:
        InputError: the source is missing, empty or does not fit the mapping; nothing is written.
        ConservationError: records and fates do not add up; nothing more is written.
    """
    warehouse = run.warehouse
    tables = (*TABLES, "impressions") if run.settings.domain.lists else TABLES
    with run.stage("parse"):
        parsed, catalogue = parse_delivery(run), read_catalogue(run)
        warehouse.rebuilding.update(tables if rebuild else ())
        with ThreadPoolExecutor(1) as beside:
            created = beside.submit(warehouse.create, tables)
            delivery = each_record_once(run, parsed)
        fresh = created.result() | warehouse.rebuilding
        gone, before = outdated_events(run, delivery), warehouse.version("events")
    with run.stage("write"), ThreadPoolExecutor(1) as beside:
        written = beside.submit(_write_beside, run, delivery, catalogue)
        _write_events(run, delivery, gone)
        written.result()
    _count(run, delivery)
    moved = bool(run.counts["used"] or gone or delivery.elements or catalogue or rebuild)
    looked_up = not moved or run.settings.domain.source.redelivery == "replace"
    in_step = _items_in_step(run, before, nothing_new=not moved) if looked_up else True
    if moved or not in_step:
        with run.stage("items"):
            seen = None
            if "items" in fresh and not catalogue:
                derived_from = warehouse.version("events")
                run.counts["items_changed"] = warehouse.insert_new("items", _derived(run))
                if rebuild or warehouse.version("items") <= bool(run.counts["items_changed"]):  # nobody else has made first ones
                    seen = derived_from
            # of two runs at once, the last to commit items must have seen all
            while (stands := warehouse.version("events")) != seen:
                seen = stands
                _write_items(run, delivery, catalogue, touched_items(run, delivery, gone, in_step=in_step))
    print_fates(console, delivery)
    run.wrote(*tables)


def _items_in_step(run: Run, before: int, *, nothing_new: bool) -> bool:
    """True where known events have made their items: the last run that came to its end saw the events of version `before`.

    False, as nobody knows, for a day with files of its own that brings nothing new: an earlier run of it may have been killed between events
    and items, which leaves no trace, and another day may have ended since.
    """
    if nothing_new and run.settings.domain.source.by_day:
        return False
    if not run.warehouse.exists("job_runs"):
        return False
    ended = run.warehouse.read("job_runs").filter("job = 'ingest' AND status = 'succeeded'")
    last = ended.orderBy(F.desc("started_at")).select(F.col("outputs")["events"].alias("events")).first()
    return last is not None and last["events"] == before


def _count(run: Run, delivery: Delivery) -> None:
    fates = delivery.fates
    counts = {
        "records": fates.n_records,
        "used": fates.distinct - fates.known,
        "duplicates_in_delivery": sum(fates.repeated.values()),
        "duplicates_known": fates.known,
        "quarantined": fates.quarantined,
    }
    extra = {"duplicates_conflicting": fates.conflicts, "ambiguous_times": fates.ambiguous}
    counts |= {name: count for name, count in extra.items() if count} | delivery.elements
    counts |= {f"quarantined: {reason}": count for reason, count in fates.by_reason.items()}
    run.counts = counts | run.counts
    run.versions |= {f"skipped: {file}": reason for file, reason in sorted(delivery.records.skipped.items())}
    log.info("ingest: %s", ", ".join(f"{name} {count:,}" for name, count in run.counts.items()))
    for file, reason in sorted(delivery.records.skipped.items()):
        log.info("ingest: skipped %s (%s)", file, reason)


def _write_events(run: Run, delivery: Delivery, gone: DataFrame | None) -> None:
    """Commits the new events; those that are not inserted were known."""
    fates = delivery.fates
    if fates.span is None:
        return
    domain = run.settings.domain
    dated = (
        "event_id" not in domain.columns and not domain.lists
    )  # a record's hash takes its time in; an order line may come again later
    span = in_range("event_date", *fates.span) if dated else "true"
    insert = run.warehouse.insert_new
    inserted = replace_events(run, delivery, gone, span) if gone else insert("events", delivery.events, span)
    if delivery.elements:
        run.counts["events_new"] = inserted
    elif inserted > fates.distinct:
        raise ConservationError(
            f"events: {inserted} rows committed, {fates.distinct} counted before; this is a defect, please report it"
        )
    else:
        fates.known = fates.distinct - inserted


def _write_beside(run: Run, delivery: Delivery, catalogue: Catalogue | None) -> None:
    warehouse = run.warehouse
    if delivery.elements.get("elements_impressions") or "impressions" in warehouse.rebuilding:
        run.counts["impressions_new"] = warehouse.insert_new("impressions", delivery.impressions)
    bad = [
        delivery.fates.quarantined,
        delivery.elements.get("elements_quarantined", 0),
        run.counts.get("catalogue_quarantined", 0),
    ]
    if any(bad) or "quarantine" in warehouse.rebuilding:
        rows = delivery.quarantine(run.settings.domain.source.name)
        if catalogue:
            rows = rows.unionByName(catalogue.quarantine)
        run.counts["quarantined_new"] = warehouse.insert_new("quarantine", rows, "t.stage = 'ingest'")


def touched_items(run: Run, delivery: Delivery, gone: DataFrame | None, *, in_step: bool) -> DataFrame:
    """Ids, some of them several times, of the items whose catalogue rows this run can change; all where a run that removed events may not have ended."""
    known = run.warehouse.read("items")
    touched = items_to_derive(delivery.events, known)
    if gone:
        touched = touched.union(gone.filter("item_id IS NOT NULL").select("item_id"))
    if run.settings.domain.source.redelivery == "replace" and not in_step:
        touched = touched.union(known.select("item_id"))
    return touched


def _derived(run: Run, only: DataFrame | None = None) -> DataFrame:
    """Catalogue rows of all items, or of those in `only`; few dates go to the events, which then stay where they are."""
    events = run.warehouse.read("events")
    dates, found = kept(item_dates(events, only))
    return derive_items(events, F.broadcast(dates) if found["n"] <= FEW_DATES else dates, run.settings.domain)


def _write_items(run: Run, delivery: Delivery, catalogue: Catalogue | None, touched: DataFrame) -> None:
    """Commits what the events, as they stand, make of the touched items; adds to the run's count."""
    domain, warehouse = run.settings.domain, run.warehouse
    known = warehouse.read("items")
    listed = None
    if catalogue:
        delivered = str(delivery.fates.span[1]) if delivery.fates.span else last_date(run)
        listed = catalogue_items(catalogue.rows, known, domain, delivered).withColumn("_gone", F.lit(False))
        touched = touched.join(
            catalogue.rows.select(text_of(domain.items.columns["item_id"]).alias("item_id")), on="item_id", how="left_anti"
        )
    touched = touched.localCheckpoint()
    changes = changed_items(_derived(run, touched), known.join(touched, on="item_id", how="left_semi"))
    changed, found = kept(listed.unionByName(changes) if listed else changes)
    run.counts["items_changed"] = run.counts.get("items_changed", 0) + found["n"]
    if found["n"] or "items" in warehouse.rebuilding:
        warehouse.upsert("items", changed, delete="_gone")
