"""`texts` without a vector to `text_embeddings`, encoded on the executors (DESIGN 1.3)."""

import logging
import math
from typing import Any

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from llmrec_pipeline.encoding import EncoderSpec
from llmrec_pipeline.encoding import spark as executors
from llmrec_pipeline.encoding.encoder import NOT_FINITE
from llmrec_pipeline.encoding.work import Work, work_of
from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.steps.encoders import not_refused, refusal_id, settle_encoder
from llmrec_pipeline.tables import QUARANTINE, TEXT_EMBEDDINGS
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import only_row

log = logging.getLogger("llmrec")
TABLES = ("encoders", "text_embeddings", "quarantine")
TASKS_PER_CORE = 4  # enough for the progress bar to move and for unequal cores to even out
TOKENS_PER_TASK = (1_000, 500_000)  # fewer are mostly done before another task has begun; more are much to lose with an executor
JUDGED_FROM = 100  # new texts: fewer do not tell which language a domain writes


def encode(run: Run) -> None:
    """Encodes what is new, once: an anti-join on keys decides, one insert-only commit writes (laws 2 and 3)."""
    texts = run.read("texts")
    run.warehouse.create(TABLES)
    spec = settle_encoder(run, texts)
    run.versions |= {"encoder_id": spec.encoder_id, "backend": spec.backend, "precision": spec.precision}
    seen = Observation()
    with run.stage("read"):
        new = unencoded(run, texts.observe(seen, F.count("*").alias("texts")), spec.encoder_id)
    tokens = _tokenise(run, spec, new)
    run.counts |= {"texts": seen.get["texts"], "texts_encoded": 0}
    if run.counts["texts_new"]:
        if run.counts["tokens"]:
            _encode(run, spec, tokens)
        with run.stage("write"):
            _quarantine(run, spec.encoder_id, new, tokens)
    tokens.unpersist()
    log.info("encode: %s", ", ".join(f"{name} {count:,}" for name, count in run.counts.items()))
    run.wrote(*TABLES)


def unencoded(run: Run, texts: DataFrame, encoder_id: str) -> DataFrame:
    """Texts with neither a vector nor a quarantine row under this encoder, now and whenever it is computed again."""
    known = run.read("text_embeddings", pinned=True).filter(F.col("encoder_id") == encoder_id).select("text_hash")
    return not_refused(run, texts.join(known, on="text_hash", how="left_anti"), encoder_id)


def _tokenise(run: Run, spec: EncoderSpec, new: DataFrame) -> DataFrame:
    config, counts = run.settings.pipeline.encoder, run.counts
    with run.stage("tokenise"):
        tokens = executors.tokenise(new, spec, config).persist()
        sums = [F.sum(F.col(name).cast("long")).alias(name) for name in ("tokens", "unknown", "truncated")]
        totals = only_row(tokens.agg(F.count("*").alias("texts"), *sums)).asDict()
    counts["texts_new"] = totals["texts"]
    if not totals["texts"]:
        return tokens
    counts |= {"tokens": totals["tokens"], "tokens_unknown": totals["unknown"], "texts_truncated": totals["truncated"]}
    share = totals["unknown"] / max(1, totals["tokens"])
    if totals["texts"] >= JUDGED_FROM and share > config.max_unknown_share:
        worst = (
            tokens.filter("tokens > 0")
            .orderBy(F.desc(F.col("unknown") / F.col("tokens")), "text_hash")
            .select("text_hash")
            .limit(1)
        )
        text = only_row(new.join(worst, on="text_hash").select("text"))["text"]
        raise ModelError(
            f"encoder {spec.source!r} does not know {share:.1%} of the tokens of {totals['texts']:,} texts, such as "
            f"{text[:80]!r}, expected at most {config.max_unknown_share:.0%} (encoder.max_unknown_share); "
            "name an encoder.source that knows their language"
        )
    return tokens


def _encode(run: Run, spec: EncoderSpec, tokens: DataFrame) -> None:
    """Writes vectors as they are computed, and kept for a commit that has to be tried again; observes what the stage did."""
    counts = run.counts
    most, fewest = (math.ceil(max(1, counts["tokens"]) / size) for size in TOKENS_PER_TASK)
    tasks = min(most, max(fewest, TASKS_PER_CORE * run.spark.sparkContext.defaultParallelism), counts["texts_new"])
    done = Observation()
    sums = [F.sum(name).alias(name) for name in ("tokens", "padding", "seconds")]
    sums += [
        F.sum(F.col("tokens") * F.col("tokens").cast("long")).alias("pairs"),
        F.sum(F.col("seconds") * F.col("peak")).alias("peak"),
    ]
    with run.stage("encode", tasks, texts=counts["texts_new"], tokens=counts["tokens"]):
        balanced = executors.balance(tokens.filter("tokens > 0"), tasks)
        vectors = executors.encode(balanced, spec, run.settings.pipeline.encoder).persist()
        observed = vectors.observe(done, F.count("embedding").alias("encoded"), *sums).filter("reason IS NULL")
        rows = observed.withColumn("encoder_id", F.lit(spec.encoder_id)).select(*TEXT_EMBEDDINGS.column_names)
        run.warehouse.insert_new("text_embeddings", rows, f"t.encoder_id = '{spec.encoder_id}'")
        vectors.unpersist()
    totals = done.get
    counts |= {"texts_encoded": totals["encoded"], "tokens_padding": totals["padding"] or 0}
    run.stages["forward all tasks"] = round(totals["seconds"] or 0.0, 3)
    if totals["tokens"]:
        log.info(
            "encode: %.0f tokens/s a task in the forward pass, %.0f in the stage, padding %.1f%%%s",
            totals["tokens"] / totals["seconds"],
            totals["tokens"] / run.stages["encode"],
            100 * totals["padding"] / (totals["tokens"] + totals["padding"]),
            _share_of_peak(run, work_of(spec), totals),
        )


def _share_of_peak(run: Run, work: Work | None, totals: dict[str, Any]) -> str:
    """Notes what was computed for tokens, padding left out, and what the tasks' forward passes would have at the rate of a product of matrices."""
    if work is None or not totals["peak"]:
        return ""
    computed = work.of(totals["tokens"], totals["pairs"])
    run.counts |= {"gflop": round(computed / 1e9), "gflop_at_peak": round(totals["peak"] / 1e9)}
    return f", {computed / totals['peak']:.0%} of the matmul peak"


def _quarantine(run: Run, encoder_id: str, new: DataFrame, tokens: DataFrame) -> None:
    """What has no vector now, and why."""
    run.counts["quarantined"] = 0
    if run.counts["texts_encoded"] == run.counts["texts_new"]:  # to look for nothing takes seconds, too
        return
    vectors = run.warehouse.read("text_embeddings").filter(F.col("encoder_id") == encoder_id)
    refused = tokens.join(vectors, on="text_hash", how="left_anti").select("text_hash", "reason")
    bad = refused.join(new.select("text_hash", "text"), on="text_hash").select(
        refusal_id(encoder_id).alias("quarantine_id"),
        F.lit("encode").alias("stage"),
        F.lit(encoder_id).alias("source"),
        F.coalesce("reason", F.lit(NOT_FINITE)).alias("reason"),
        F.col("text").alias("raw"),
        F.lit(None).cast("string").alias("file"),
        F.lit(None).cast("long").alias("line"),
    )
    run.counts["quarantined"] = run.warehouse.insert_new("quarantine", bad.select(*QUARANTINE.column_names), "t.stage = 'encode'")
