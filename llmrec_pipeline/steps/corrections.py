"""A day that is delivered again in a corrected form replaces itself, where the domain says so (`source.redelivery`)."""

import logging
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.steps.delivery import Delivery
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import in_range, kept

log = logging.getLogger("llmrec")
GONE = "_gone"


def outdated_events(run: Run, delivery: Delivery) -> DataFrame | None:
    """Stored events of the delivered dates that the delivery does not hold; null where there is none, or they stay.

    The dates are the run's day where the source's path names it, else all that the delivery has events of. A delivery replaces nothing
    where a file of it cannot be read, as what it lacks may be there, nor where no record of it can be used: it is not trusted that far.
    """
    source = run.settings.domain.source
    if source.redelivery == "add" or "events" in run.warehouse.rebuilding or run.warehouse.version("events") == 0:
        return None
    if delivery.fates.span is None or delivery.records.incomplete:
        why = "a file of the delivery cannot be read" if delivery.records.incomplete else "no record of the delivery can be used"
        log.warning("ingest: %s; nothing that stands is replaced", why)
        return None
    stored = run.warehouse.read("events").alias("t").filter(replaced_span(run, delivery)).filter(F.col("source") == source.name)
    if source.by_day:
        stored = stored.filter(F.col("event_date") == F.lit(run.settings.pipeline.day))
    else:
        stored = stored.join(F.broadcast(delivery.events.select("event_date").distinct()), on="event_date", how="left_semi")
    gone, found = kept(stored.join(delivery.events.select("event_id"), on="event_id", how="left_anti"))
    run.counts["events_replaced"] = found["n"]
    return gone if found["n"] else None


def replaced_span(run: Run, delivery: Delivery) -> str:
    """The predicate of the dates that a delivery with events can change: theirs and, where the path names it, the run's day."""
    assert delivery.fates.span  # callers have looked
    day = [date.fromisoformat(run.settings.pipeline.day or "")] if run.settings.domain.source.by_day else []
    return in_range("event_date", min(*delivery.fates.span, *day), max(*delivery.fates.span, *day))


def replace_events(run: Run, delivery: Delivery, gone: DataFrame) -> int:
    """Removes `gone` and inserts what is new in one commit; returns how many rows were inserted."""
    span = replaced_span(run, delivery)
    stored = run.warehouse.read("events").alias("t").filter(span).select("event_id")
    new = delivery.events.join(stored, on="event_id", how="left_anti").withColumn(GONE, F.lit(False))
    return run.warehouse.upsert("events", new.unionByName(gone.withColumn(GONE, F.lit(True))), span, delete=GONE)
