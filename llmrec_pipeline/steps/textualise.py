"""`events` and `items` to `texts` and `user_sequences`: only the users and dates that changed."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.profiles import due_snapshots, snapshots
from llmrec_pipeline.behaviour.sequences import (
    distinct_texts,
    fingerprints,
    item_texts,
    own_texts,
    user_sequences,
    with_texts,
)
from llmrec_pipeline.tables import USER_PROFILES
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import in_range, kept

TABLES = ("texts", "user_sequences")
GONE = "_gone"


def textualise(run: Run, *, rebuild: bool = False) -> None:
    """Writes the sentences of items under every event type and of behaviours without item, and the sequences that changed.

    What changed is found by comparing fingerprints: history enters only as a scan of keys (law 4).
    """
    domain, warehouse = run.settings.domain, run.warehouse
    events, items = run.read("events", pinned=True), run.read("items", pinned=True)  # items come after the events that name them
    profile_texts = run.settings.pipeline.interest.profile_texts
    tables = (*TABLES, "user_profiles") if profile_texts or (rebuild and warehouse.exists("user_profiles")) else TABLES
    warehouse.rebuilding.update(tables if rebuild else ())
    fresh = warehouse.create(tables) | warehouse.rebuilding
    if "user_profiles" in warehouse.rebuilding:  # before the texts that its rows name
        warehouse.insert_new("user_profiles", run.spark.createDataFrame([], warehouse.schema("user_profiles")))
    with run.stage("texts"):
        described = item_texts(items, events, domain, profile_texts).persist()
        found = distinct_texts(described, domain)
        if domain.itemless:
            found = found.unionByName(distinct_texts(own_texts(events, domain), domain)).dropDuplicates(["text_hash"])
        run.counts["texts_new"] = warehouse.insert_new("texts", found)
    with run.stage("sequences"):
        textual = with_texts(events.filter(F.col("user_id").isNotNull()), described, domain)
        if "user_sequences" in fresh:
            sequences = user_sequences(textual, run.settings.pipeline.seed)
            run.counts["sequences_changed"] = warehouse.insert_new("user_sequences", sequences)
        else:
            _write_changed(run, textual)
    described.unpersist()
    if profile_texts:
        with run.stage("profiles"):
            _write_profiles(run, items)
    run.wrote(*tables)


def _write_changed(run: Run, textual: DataFrame) -> None:
    warehouse = run.warehouse
    ends = F.min("event_date").alias("low"), F.max("event_date").alias("high")
    changed, span = kept(_changed(textual, warehouse.read("user_sequences")), *ends)
    run.counts["sequences_changed"] = span["n"]
    if span["n"]:
        whole = textual.join(changed.filter(~F.col(GONE)), on=["user_id", "event_date"], how="left_semi")
        rows = user_sequences(whole, run.settings.pipeline.seed).withColumn(GONE, F.lit(False))
        rows = rows.unionByName(changed.filter(GONE), allowMissingColumns=True)
        warehouse.upsert("user_sequences", rows, in_range("event_date", span["low"], span["high"]), delete=GONE)


def _changed(textual: DataFrame, sequences: DataFrame) -> DataFrame:
    """Users and dates whose fingerprint is not the stored one; `_gone` where no event is left (a corrected day)."""
    stored = sequences.select("user_id", "event_date", F.col("fingerprint").alias("stored"))
    compared = fingerprints(textual).join(stored, on=["user_id", "event_date"], how="full")
    changed = compared.filter(~F.col("fingerprint").eqNullSafe(F.col("stored")))
    return changed.select("user_id", "event_date", F.col("fingerprint").isNull().alias(GONE))


def _write_profiles(run: Run, items: DataFrame) -> None:
    """Snapshots that are due and not the stored ones, and their texts; those that nothing asks for any more go."""
    warehouse, domain = run.warehouse, run.settings.domain
    sequences = run.read("user_sequences", pinned=True)
    stored = warehouse.read("user_profiles").select("user_id", "renewal", F.col("fingerprint").alias("stored"))
    compared = due_snapshots(sequences).join(stored, on=["user_id", "renewal"], how="full")
    differing = compared.filter(~F.col("fingerprint").eqNullSafe(F.col("stored")))
    changed, totals = kept(differing.withColumn(GONE, F.col("fingerprint").isNull()).drop("stored", "event_date"))
    run.counts["profiles_changed"] = totals["n"]
    if not totals["n"]:
        return
    whole = sequences.join(changed.filter(~F.col(GONE)).select("user_id").distinct(), on="user_id", how="left_semi")
    made = snapshots(whole, warehouse.read("texts"), items, domain)
    rows, _ = kept(changed.join(made, on=["user_id", "renewal"], how="left"))
    run.counts["texts_new"] += warehouse.insert_new("texts", distinct_texts(rows, domain))
    warehouse.upsert("user_profiles", rows.select(*USER_PROFILES.column_names, GONE), delete=GONE)
