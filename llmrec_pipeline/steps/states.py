"""Advancing `interest_states`: only users with new steps, from their carried state; from the start where a step came late."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from pyspark.core.broadcast import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.errors import TableError
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.sequences import COLUMNS
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.steps.dataset import Dataset, with_profile_vectors
from llmrec_pipeline.tables import INTEREST_STATES
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import kept

USERS_PER_BUCKET = 512  # users whose histories a task holds at once
CARRIED = tuple(name for name in INTEREST_STATES.column_names if name not in ("state_version", "fingerprint"))


@dataclass(frozen=True)
class Advancer:
    """What a task needs to advance states; broadcast once."""

    model: InterestModel
    dataset: Dataset

    def __call__(self, sequences: pa.Table, states: pa.Table) -> pa.Table:
        """States after the rows of `sequences`, which are of the users of one bucket in any order."""
        rows = sequences.select(list(COLUMNS)).sort_by([("user_id", "ascending"), ("event_date", "ascending")])
        histories = self.dataset.histories(rows)
        layout = self.model.layout
        before = States.from_arrow(states, layout).for_users(histories.user_ids, layout)
        return advance(self.model, before, histories, self.dataset.catalogue, self.dataset.text_vectors).to_arrow()


def advance_states(
    run: Run, model: InterestModel, dataset: Dataset, state_version: str, until: int, sequences: DataFrame
) -> DataFrame:
    """Brings the states of a version to the start of the date `until`, and returns them all.

    Other runs may write states of the same version meanwhile, of other days. This run goes by what it found: its states are carried
    from the table's version of its first look, and it returns those of its own. In the table a state that has seen `until` or later stays.

    Args:
        run: its table of states is written.
        model: that of the version.
        dataset: as of `until`.
        state_version: whose states.
        until: days since 1970-01-01.
        sequences: what lies before it, the same whenever it is looked at.

    Returns:
        Rows of `interest_states` without its version and fingerprint, of this version's users with and without rows in `sequences`.
    """
    run.warehouse.create(["interest_states"])
    states = run.read("interest_states", pinned=True).filter(F.col("state_version") == state_version)
    counts = F.count("since").alias("advanced"), F.count("seen").alias("known")
    changed, totals = kept(changed_users(sequences, states), *counts)
    run.counts |= {
        "users_changed": totals["n"],
        "users_advanced": totals["advanced"],
        "users_replayed": totals["n"] - totals["advanced"],
    }
    if not totals["n"]:
        run.wrote("interest_states")
        return states.select(*CARRIED)
    rows = _advanced(run, Advancer(model, dataset), sequences, states, changed, totals["n"])
    versioned = rows.join(changed.select("user_id", "fingerprint"), on="user_id", how="inner")
    final, made = kept(versioned.withColumn("state_version", F.lit(state_version)).select(*INTEREST_STATES.column_names))
    if made["n"] != totals["n"]:
        raise TableError(
            f"{made['n']} states came of {totals['n']} changed users; nothing was written, this is a defect, please report it"
        )
    of_version = f"t.state_version = '{state_version}'"
    # first states of the click example: 3.2 s where a MERGE took 5.4
    inserted = 0 if totals["known"] else run.warehouse.insert_new("interest_states", final, of_version)
    if inserted < totals["n"]:  # there are states to replace, or another run has written some meanwhile
        run.warehouse.upsert("interest_states", final, of_version, update_if=f"t.last_day < {until}")
    run.wrote("interest_states")
    unchanged = states.select(*CARRIED).join(changed.select("user_id"), on="user_id", how="left_anti")
    return unchanged.unionByName(final.select(*CARRIED))


def changed_users(sequences: DataFrame, states: DataFrame) -> DataFrame:
    """Users whose state is not that of `sequences`: user_id, fingerprint, seen, since.

    `seen` is the fingerprint of what the state has seen, null where there is none. `since` is the last date that it has seen, when all
    of that stands; null: replay from the start. Only keys and fingerprints are read (law 4).
    """
    known = states.select("user_id", F.date_from_unix_date("last_day").alias("last_date"), F.col("fingerprint").alias("seen"))
    rows = sequences.select("user_id", "event_date", "fingerprint").join(known, on="user_id", how="left")
    old = F.bit_xor(F.when(F.col("event_date") <= F.col("last_date"), F.col("fingerprint")))
    users = rows.groupBy("user_id").agg(
        F.bit_xor("fingerprint").alias("fingerprint"),
        old.alias("old"),
        F.first("seen").alias("seen"),
        F.first("last_date").alias("last_date"),
    )
    since = F.when(F.col("old") == F.col("seen"), F.col("last_date"))
    changed = users.filter(~F.col("fingerprint").eqNullSafe(F.col("seen")))
    return changed.select("user_id", "fingerprint", "seen", since.alias("since"))


def _advanced(
    run: Run, advancer: Advancer, sequences: DataFrame, states: DataFrame, changed: DataFrame, n_users: int
) -> DataFrame:
    buckets = -(-n_users // USERS_PER_BUCKET)
    rows = sequences.select(*COLUMNS)
    if (
        run.settings.pipeline.interest.profile_texts
    ):  # Spark takes a semi-join below the one with profile texts, which would move all histories
        rows = rows.join(changed.select("user_id"), on="user_id", how="left_semi")
    new = rows.join(changed.select("user_id", "since"), on="user_id", how="inner")
    new = new.filter(F.col("since").isNull() | (F.col("event_date") > F.col("since"))).drop("since")
    new = with_profile_vectors(run, new, advancer.dataset.encoder_id)
    carried = states.select(*CARRIED).join(changed.filter("since IS NOT NULL").select("user_id"), on="user_id", how="left_semi")
    shared = run.spark.sparkContext.broadcast(advancer)
    schema = run.warehouse.schema("interest_states")
    by_bucket = [with_bucket(df, buckets).groupBy("bucket") for df in (new, carried)]
    return (
        by_bucket[0].cogroup(by_bucket[1]).applyInArrow(_in_task(shared), schema=type(schema)([schema[name] for name in CARRIED]))
    )


def with_bucket(rows: DataFrame, buckets: int) -> DataFrame:
    """Users in groups of bounded size whose members depend on user_id and the number of groups alone."""
    return rows.withColumn("bucket", F.pmod(F.xxhash64("user_id"), F.lit(buckets)))


def _in_task(shared: "Broadcast[Advancer]") -> Callable[[pa.Table, pa.Table], pa.Table]:
    return lambda sequences, states: shared.value(sequences, states)
