"""`texts` without a vector to `text_embeddings`, encoded on the executors (DESIGN 1.3)."""

import logging

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.values import hash128
from llmrec_pipeline.encoding import EncoderSpec, resolve
from llmrec_pipeline.encoding.spark import VECTORS_SCHEMA, balance, encode_batches, gpu_profile
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.tables import ENCODERS, QUARANTINE, TEXT_EMBEDDINGS
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import only_row

log = logging.getLogger("llmrec")
TABLES = ("encoders", "text_embeddings", "quarantine")
TASKS_PER_CORE = 4  # enough for the progress bar to move and for unequal cores to even out


def encode(run: Run) -> None:
    """Encodes what is new, once: an anti-join on keys decides, one insert-only commit writes (laws 2 and 3)."""
    warehouse = run.warehouse
    texts = run.read("texts")
    spec = resolve(run.settings.pipeline.encoder)
    warehouse.create(TABLES)
    run.versions["encoder_id"] = spec.encoder_id
    register_encoder(run, spec)
    with run.stage("find new"):
        new = unencoded(run, texts, spec.encoder_id).persist()
        run.counts |= {"texts": texts.count(), "texts_new": new.count()}
    if run.counts["texts_new"]:
        with run.stage("encode"):
            tasks = TASKS_PER_CORE * run.spark.sparkContext.defaultParallelism
            balanced = balance(new.select("text_hash", "text"), min(tasks, run.counts["texts_new"]))
            task = encode_batches(spec, run.settings.pipeline.encoder)
            vectors = balanced.mapInArrow(task, VECTORS_SCHEMA, profile=gpu_profile(run.spark)).persist()
            totals = only_row(vectors.agg(F.count("embedding").alias("encoded"), F.sum("tokens").alias("tokens")))
            run.counts |= {"texts_encoded": totals["encoded"], "tokens": totals["tokens"] or 0}
        with run.stage("write"):
            _write(run, spec.encoder_id, new, vectors)
        vectors.unpersist()
    new.unpersist()
    log.info("encode: %s", ", ".join(f"{name} {count:,}" for name, count in run.counts.items()))
    run.wrote(*TABLES)


def unencoded(run: Run, texts: DataFrame, encoder_id: str) -> DataFrame:
    """Texts with neither a vector nor a quarantine row under this encoder."""
    known = run.read("text_embeddings").filter(F.col("encoder_id") == encoder_id).select("text_hash")
    refused = run.warehouse.read("quarantine").filter((F.col("stage") == "encode") & (F.col("source") == encoder_id))
    without = texts.join(known, on="text_hash", how="left_anti").withColumn("quarantine_id", _quarantine_id(encoder_id))
    return without.join(refused.select("quarantine_id"), on="quarantine_id", how="left_anti").drop("quarantine_id")


def register_encoder(run: Run, spec: EncoderSpec) -> None:
    """Notes what the config resolved to; the first commit wins.

    Raises:
        ModelError: the same config meant another encoder before (a package was upgraded, a folder's files changed).
    """
    row = {name: getattr(spec, name) for name in ENCODERS.column_names}
    run.warehouse.insert_new("encoders", run.spark.createDataFrame([row], run.warehouse.schema("encoders")))
    stands = only_row(run.read("encoders").filter(F.col("config_hash") == spec.config_hash))["encoder_id"]
    if stands != spec.encoder_id:
        raise ModelError(
            f"encoder {spec.source!r} resolves to encoder_id {spec.encoder_id}, but meant {stands} when this warehouse was encoded; "
            "install the files of then, or name the new ones by another encoder.source or revision"
        )


def _quarantine_id(encoder_id: str) -> Column:
    return hash128(F.lit("encode"), F.lit(encoder_id), F.col("text_hash"))


def _write(run: Run, encoder_id: str, new: DataFrame, vectors: DataFrame) -> None:
    rows = vectors.filter("reason IS NULL").withColumn("encoder_id", F.lit(encoder_id)).select(*TEXT_EMBEDDINGS.column_names)
    run.warehouse.insert_new("text_embeddings", rows, f"t.encoder_id = '{encoder_id}'")
    refused = vectors.filter("reason IS NOT NULL").join(new.select("text_hash", "text"), on="text_hash", how="inner")
    bad = refused.select(
        _quarantine_id(encoder_id).alias("quarantine_id"),
        F.lit("encode").alias("stage"),
        F.lit(encoder_id).alias("source"),
        "reason",
        F.col("text").alias("raw"),
        F.lit(None).cast("string").alias("file"),
        F.lit(None).cast("long").alias("line"),
    )
    run.counts["quarantined"] = run.warehouse.insert_new("quarantine", bad.select(*QUARANTINE.column_names), "t.stage = 'encode'")
