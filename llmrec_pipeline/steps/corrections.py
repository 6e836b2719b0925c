"""A day that is delivered again in a corrected form replaces itself, where the domain says so (`source.redelivery`)."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.steps.delivery import Delivery
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import in_range, kept

GONE = "_gone"


def outdated_events(run: Run, delivery: Delivery) -> DataFrame | None:
    """Stored events of the delivered dates that the delivery does not hold; null where there is none, or they stay.

    The dates are the run's day where the source's path names it, else all that the delivery has events of. A delivery with a
    damaged file replaces nothing: what it lacks may be in that file.
    """
    source, span = run.settings.domain.source, delivery.fates.span
    new_table = not run.warehouse.exists("events") or "events" in run.warehouse.rebuilding
    if source.redelivery == "add" or span is None or new_table or delivery.records.damaged:
        return None
    dates = delivery.events.select("event_date").distinct()
    if source.by_day:
        dates = dates.filter(F.col("event_date") == F.lit(run.settings.pipeline.day))
    stored = run.warehouse.read("events").alias("t").filter(in_range("event_date", *span)).filter(F.col("source") == source.name)
    gone = stored.join(F.broadcast(dates), on="event_date", how="left_semi")
    gone, found = kept(gone.join(delivery.events.select("event_id"), on="event_id", how="left_anti"))
    run.counts["events_replaced"] = found["n"]
    return gone if found["n"] else None


def replace_events(run: Run, delivery: Delivery, gone: DataFrame, span: str) -> int:
    """Removes `gone` and inserts what is new in one commit; returns how many rows were inserted."""
    stored = run.warehouse.read("events").alias("t").filter(span).select("event_id")
    new = delivery.events.join(stored, on="event_id", how="left_anti").withColumn(GONE, F.lit(False))
    return run.warehouse.upsert("events", new.unionByName(gone.withColumn(GONE, F.lit(True))), span, delete=GONE)
