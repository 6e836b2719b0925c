"""Raw files to `events`, `impressions`, `items` and `quarantine`, each record with one fate."""

import logging
from concurrent.futures import ThreadPoolExecutor

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.items import (
    catalogue_items,
    changed_items,
    dated_back,
    derive_items,
    item_dates,
    items_to_derive,
    met_dates,
    of_a_file,
)
from llmrec_pipeline.behaviour.values import text_of
from llmrec_pipeline.errors import ConservationError, InputError
from llmrec_pipeline.steps.catalogue import Catalogue, read_catalogue
from llmrec_pipeline.steps.corrections import outdated_events, replace_events
from llmrec_pipeline.steps.delivery import Delivery, each_record_once, last_date, parse_delivery
from llmrec_pipeline.steps.fates import print_fates
from llmrec_pipeline.tracking import Run, console
from llmrec_pipeline.warehouse import in_range, kept, only_row

log = logging.getLogger("llmrec")
TABLES = ("events", "quarantine", "items")
WITH_ITEMS = "events_with_items"  # in job_runs.versions
FEW_DATES = 100_000  # rows of an id and two dates that every task can hold


def ingest(run: Run, *, rebuild: bool = False) -> None:
    """Reads the domain's source and commits what is new; or all of it (of all days that are there), in place of what stands.

    Raises:
        InputError: the source is missing, empty or does not fit the mapping, or a rebuild would leave no event; nothing is written.
        ConservationError: records and fates do not add up; nothing more is written.
    """
    warehouse = run.warehouse
    shown = run.settings.domain.lists or (rebuild and warehouse.exists("impressions"))  # those of a mapping of before go
    tables = (*TABLES, "impressions") if shown else TABLES
    with run.stage("parse"):
        parsed, catalogue = parse_delivery(run, every_day=rebuild), read_catalogue(run)
        warehouse.rebuilding.update({*tables} - {"quarantine"} if rebuild else ())
        with ThreadPoolExecutor(2) as beside:
            created, ended = beside.submit(warehouse.create, tables), beside.submit(_events_with_items, run)
            delivery = each_record_once(run, parsed)
        if rebuild and not delivery.fates.distinct:
            raise InputError(f"no record of the source can be used: {delivery.fates.by_reason}; the tables stay as they are")
        fresh = created.result() | warehouse.rebuilding
        gone, before = outdated_events(run, delivery), warehouse.version("events")
        in_step = warehouse.data_version("events") in ended.result()
    with run.stage("write"), ThreadPoolExecutor(1) as beside:
        written = beside.submit(_write_beside, run, delivery, catalogue, rebuild=rebuild)
        after = before + _write_events(run, delivery, gone, first="events" in created.result())
        written.result()
    _count(run, delivery)
    seen = before
    if after > before or catalogue or rebuild or not in_step:
        with run.stage("items"):
            seen = -1
            if "items" in fresh and not catalogue:
                derived_from = warehouse.version("events")
                run.counts["items_changed"] = warehouse.insert_new(
                    "items", _derived(run, item_dates(met_dates(warehouse.read("events"))))
                )
                if rebuild or warehouse.version("items") <= bool(run.counts["items_changed"]):  # nobody else has made first ones
                    seen = derived_from
            # of two runs at once, the last to commit items must have seen all
            while (stands := warehouse.version("events")) != seen:
                seen = stands
                # another run's events, which it may not live to make items of, are this one's too
                _write_items(run, delivery, catalogue, settled=in_step and stands == after and not gone)
    print_fates(console, delivery, catalogue if run.counts.get("catalogue_quarantined") else None)
    run.wrote(*tables)
    if run.outputs["events"] == seen:
        run.versions[WITH_ITEMS] = warehouse.data_version("events")


def _events_with_items(run: Run) -> list[str]:
    """The states of `events` that have made their items, as runs that came to their end have noted."""
    if not run.warehouse.exists("job_runs"):
        return []
    ended = run.warehouse.read("job_runs").filter("job = 'ingest' AND status = 'succeeded'")
    found: list[str] = only_row(ended.agg(F.collect_set(F.col("versions")[WITH_ITEMS])))[0]
    return found


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


def _write_events(run: Run, delivery: Delivery, gone: DataFrame | None, *, first: bool) -> bool:
    """Commits the new events; those that are not inserted were known. False where there is nothing to commit.

    Args:
        first: this run has made the table: unless another commits to it meanwhile, no row is known.

    Raises:
        ConservationError: rows committed are more than were counted, or fewer though none was known.
    """
    fates, warehouse = delivery.fates, run.warehouse
    if fates.span is None and "events" not in warehouse.rebuilding:
        return False
    domain = run.settings.domain
    dated = (
        "event_id" not in domain.columns and not domain.lists
    )  # a record's hash takes its time in; an order line may come again later
    span = in_range("event_date", *fates.span) if dated and fates.span else "true"
    counted = delivery.elements.get("elements_events", fates.distinct)
    inserted = replace_events(run, delivery, gone) if gone else warehouse.insert_new("events", delivery.events, span)
    if inserted > counted or (first and inserted < counted and warehouse.version("events") == bool(inserted)):
        raise ConservationError(
            f"events: {inserted} rows committed, {counted} counted before; this is a defect, please report it"
        )
    if delivery.elements:
        run.counts["events_new"] = inserted
    else:
        fates.known = fates.distinct - inserted
    return bool(inserted or gone)


def _write_beside(run: Run, delivery: Delivery, catalogue: Catalogue | None, *, rebuild: bool) -> None:
    warehouse = run.warehouse
    if delivery.elements.get("elements_impressions") or "impressions" in warehouse.rebuilding:
        run.counts["impressions_new"] = warehouse.insert_new("impressions", delivery.impressions)
    bad = [
        delivery.fates.quarantined,
        delivery.elements.get("elements_quarantined", 0),
        run.counts.get("catalogue_quarantined", 0),
    ]
    if any(bad) or rebuild:
        rows = delivery.quarantine(run.settings.domain.source.name)
        if catalogue:
            rows = rows.unionByName(catalogue.quarantine)
        if rebuild:
            warehouse.overwrite("quarantine", rows.unionByName(warehouse.read("quarantine").filter("stage <> 'ingest'")))
        else:
            run.counts["quarantined_new"] = warehouse.insert_new("quarantine", rows, "t.stage = 'ingest'")


def _derived(run: Run, dates: DataFrame) -> DataFrame:
    """Catalogue rows by the events of these dates; few dates go to the events, which then stay where they are."""
    dates, found = kept(dates)
    return derive_items(
        run.warehouse.read("events"), F.broadcast(dates) if found["n"] <= FEW_DATES else dates, run.settings.domain
    )


def _write_items(run: Run, delivery: Delivery, catalogue: Catalogue | None, *, settled: bool) -> None:
    """Commits what the events, as they stand, make of the items; adds to the run's count.

    Args:
        settled: the known rows hold the dates of all events but this run's, which can change those of few items; else all are derived.
    """
    domain, warehouse = run.settings.domain, run.warehouse
    known = warehouse.read("items")
    met = met_dates(delivery.events if settled else warehouse.read("events")).localCheckpoint()
    touched = items_to_derive(met, known) if settled else met.select("item_id").union(known.select("item_id")).distinct()
    touched, dates = touched.localCheckpoint(), item_dates(met, known if settled else None)

    def derived(ids: DataFrame) -> DataFrame:
        return _derived(run, dates.join(ids, on="item_id", how="left_semi"))

    if catalogue:
        named = catalogue.rows.select(text_of(domain.items.columns["item_id"]).alias("item_id"))
        listed = named.union(known.filter(of_a_file()).select("item_id")).distinct().localCheckpoint()
        delivered = str(delivery.fates.span[1]) if delivery.fates.span else last_date(run)
        standing = dated_back(known.join(listed, on="item_id", how="left_semi"), met)
        said = catalogue_items(catalogue.rows, standing, domain, delivered)
        now = said.unionByName(standing.join(said, on=["item_id", "valid_from"], how="left_anti"))
        rows = derived(touched.join(listed, on="item_id", how="left_anti")).unionByName(now)
        touched = touched.union(listed)
    else:
        rows = derived(touched)
    changed, found = kept(changed_items(rows, known.join(touched, on="item_id", how="left_semi")))
    run.counts["items_changed"] = run.counts.get("items_changed", 0) + found["n"]
    if found["n"] or "items" in warehouse.rebuilding:
        warehouse.upsert("items", changed, delete="_gone")
