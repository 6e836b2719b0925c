"""Which encoder a warehouse uses: resolved once from a config, with what was measured then, and kept (DESIGN 2, Versions)."""

import logging
from dataclasses import asdict

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.values import hash128
from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import EncoderSpec, resolve
from llmrec_pipeline.encoding.choosing import REFERENCE, SAMPLE, Trial, fastest
from llmrec_pipeline.encoding.spark import measure
from llmrec_pipeline.encoding.spec import Choice, config_hash, named_choice, tier_of
from llmrec_pipeline.errors import ModelError, TableError
from llmrec_pipeline.tables import ENCODERS
from llmrec_pipeline.tracking import Run

log = logging.getLogger("llmrec")


def standing_encoder(run: Run) -> Row:
    """The row of `encoders` that the run's config means.

    Raises:
        TableError: nothing was encoded with it yet.
    """
    row = _standing(run, run.settings.pipeline.encoder)
    if row is None:
        raise TableError(
            f"no text was encoded with encoder {run.settings.pipeline.encoder.source!r} as configured; run jobs/encode.py first"
        )
    return row


def encoder_of(run: Run, encoder_id: str) -> Row:
    """The row of `encoders` of an encoder_id, whatever the config means.

    Raises:
        TableError: this warehouse does not know it.
    """
    row = run.read("encoders").filter(F.col("encoder_id") == encoder_id).first()
    if row is None:
        raise TableError(f"table encoders has no encoder_id {encoder_id}; run jobs/encode.py with the config that it comes from")
    return row


def refusal_id(encoder_id: str) -> Column:
    """The quarantine_id of a text (column text_hash) that this encoder cannot encode."""
    return hash128(F.lit("encode"), F.lit(encoder_id), F.col("text_hash"))


def not_refused(run: Run, texts: DataFrame, encoder_id: str) -> DataFrame:
    """The rows (column text_hash among others) of texts that stand in no quarantine under this encoder."""
    refused = run.warehouse.read("quarantine").filter((F.col("stage") == "encode") & (F.col("source") == encoder_id))
    named = texts.withColumn("quarantine_id", refusal_id(encoder_id))
    return named.join(refused.select("quarantine_id"), on="quarantine_id", how="left_anti").drop("quarantine_id")


def settle_encoder(run: Run, texts: DataFrame) -> EncoderSpec:
    """The encoder of this run and all later ones: as the config names it, or as it was measured when first used.

    Concurrent first runs may measure differently: the first commit wins, and all take what it says.

    Args:
        run: its config is asked.
        texts: columns text_hash and text; a sample of them is timed.

    Raises:
        ModelError: the same config meant another encoder before (a package was upgraded, a folder's files changed), no
            candidate keeps `min_cosine`, or a tier's overlap is below `min_overlap`.
    """
    config = run.settings.pipeline.encoder
    if tier := tier_of(config):
        tier.check_floor(config.min_overlap, config.source)
    stands = _standing(run, config)
    if stands is None:
        choice, trials = named_choice(config), None
        if choice is None:
            with run.stage("choose"):
                trials = measure(texts.orderBy("text_hash").limit(SAMPLE), resolve(config, REFERENCE), config)
            computed = [trial.tokens_per_second for trial in trials if trial.error is None]
            if computed and not any(computed):  # there is no text yet: those to come decide
                return resolve(config, REFERENCE)
            choice = fastest(trials, config.min_cosine)
            log.info("encode: backend %s in %s, the fastest of %s", *choice, _measured(trials))
        _register(run, resolve(config, choice), trials)
        stands = standing_encoder(run)
    spec = resolve(config, Choice(stands["backend"], stands["precision"]))
    if stands["encoder_id"] != spec.encoder_id:
        raise ModelError(
            f"encoder {spec.source!r} resolves to encoder_id {spec.encoder_id}, but meant {stands['encoder_id']} when this warehouse "
            "was encoded: its files, or how this project computes it, have changed; install those of then, or have all encoded anew under "
            "another encoder.source, revision or min_cosine"
        )
    return spec


def _standing(run: Run, config: EncoderConfig) -> Row | None:
    return run.read("encoders").filter(F.col("config_hash") == config_hash(config)).first()


def _register(run: Run, spec: EncoderSpec, trials: list[Trial] | None) -> None:
    of_spec = {name: getattr(spec, name) for name in ENCODERS.column_names if name != "trials"}
    row = of_spec | {"trials": [asdict(trial) for trial in trials] if trials else None}
    run.warehouse.insert_new("encoders", run.spark.createDataFrame([row], run.warehouse.schema("encoders")))


def _measured(trials: list[Trial]) -> str:
    return ", ".join(
        f"{t.backend} {t.precision} ({t.error or f'{t.tokens_per_second:,.0f} tokens/s, cosine {t.cosine:.5f}'})" for t in trials
    )
