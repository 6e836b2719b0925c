"""What train, recommend and evaluate read: catalogue, text vectors, daily counts, histories, all as of one date.

Tables that grow with users or events pass through Parquet files in `<root>/_scratch`, written by the executors and read back block
by block; only what grows with the catalogue or with days is held by the driver.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import fs
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.profiles import due_snapshots
from llmrec_pipeline.behaviour.sequences import item_texts, own_texts
from llmrec_pipeline.errors import TableError
from llmrec_pipeline.interest.data import Catalogue, DailyCounts, Histories
from llmrec_pipeline.interest.sequences import COLUMNS, PROFILES, to_histories
from llmrec_pipeline.steps.encoders import encoder_of, not_refused, standing_encoder
from llmrec_pipeline.tracking import Run
from llmrec_pipeline.warehouse import kept

EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Dataset:
    """The inputs of the models as of one date."""

    catalogue: Catalogue
    titles: tuple[str | None, ...]  # [N]
    text_hashes: tuple[str, ...]  # [T] ascending
    text_vectors: npt.NDArray[np.float32]  # [T, D]
    daily: DailyCounts
    event_types: tuple[str, ...]
    cancels: tuple[int, ...]  # as `Histories.cancels`
    encoder_id: str

    def histories(self, rows: pa.Table) -> Histories:
        """Histories of rows of `user_sequences` in the order of (user_id, event_date)."""
        ids = pa.array(self.catalogue.item_ids.tolist(), pa.string())
        hashes, dimensions = pa.array(self.text_hashes, pa.string()), self.text_vectors.shape[1]
        return to_histories(rows, ids, hashes, self.event_types, self.cancels, dimensions)


def day_number(day: date) -> int:
    return (day - EPOCH).days


def day_of(number: int) -> date:
    return EPOCH + timedelta(days=number)


def load_dataset(run: Run, until: int, encoder_id: str | None = None) -> Dataset:
    """Catalogue, text vectors and daily counts of what lies before the date `until` (days since 1970-01-01).

    Args:
        run: its tables are read.
        until: what lies before this date is known.
        encoder_id: whose vectors; by default those of the encoder that the config means.

    Raises:
        TableError: there is no item before that date, events name an item that has no row yet, or texts have no vector yet.
    """
    domain, before = run.settings.domain, F.lit(day_of(until))
    # events before items, which are committed after them
    events = run.read("events", pinned=True).filter(F.col("event_date") < before)
    items = run.read("items", pinned=True).filter((F.col("first_seen") < before) & (F.col("valid_from") < before))
    described = item_texts(items, events, domain).persist()
    hashes = described.select("text_hash")
    if domain.itemless:
        hashes = hashes.unionByName(own_texts(events, domain).select("text_hash"))
    encoder = encoder_of(run, encoder_id) if encoder_id else standing_encoder(run)
    text_hashes, text_vectors = _text_vectors(run, hashes, encoder["encoder_id"], encoder["dimensions"])
    target = described.filter((F.col("event_type") == domain.targets[0]) & F.col("valid_to").isNull())
    newest = items.groupBy("item_id").agg(F.max_by("title", "valid_from").alias("title"), F.min("first_seen").alias("first_seen"))
    rows = newest.join(target.select("item_id", "text_hash"), on="item_id", how="left").orderBy("item_id").toArrow()
    described.unpersist()
    if not len(rows):
        raise TableError(f"table items has no item before {day_of(until)}; run ingest for earlier days, or name a later --day")
    position = {text_hash: place for place, text_hash in enumerate(text_hashes)}
    catalogue = Catalogue(
        item_ids=np.array(rows["item_id"].to_pylist(), dtype=np.str_),
        first_day=rows["first_seen"].combine_chunks().cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int32),
        text=np.array([position.get(text_hash, -1) for text_hash in rows["text_hash"].to_pylist()], dtype=np.int32),
    )
    event_types = tuple(domain.event_types)
    daily = _daily_counts(run, events, catalogue, event_types)
    return Dataset(
        catalogue,
        tuple(rows["title"].to_pylist()),
        text_hashes,
        text_vectors,
        daily,
        event_types,
        domain.cancels,
        encoder["encoder_id"],
    )


def _text_vectors(
    run: Run, hashes: DataFrame, encoder_id: str, dimensions: int
) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    known = run.read("text_embeddings").filter(F.col("encoder_id") == encoder_id).select("text_hash", "embedding")
    wanted = hashes.filter(F.col("text_hash").isNotNull()).distinct()
    found = wanted.join(known, on="text_hash", how="left").orderBy("text_hash").toArrow()
    with_vector = found.filter(pa.compute.is_valid(found["embedding"]))
    if len(with_vector) < len(found):
        without = found.filter(pa.compute.is_null(found["embedding"])).select(["text_hash"])
        missing = not_encoded(run, without, encoder_id)
        if missing:
            raise TableError(
                f"{missing} of {len(found)} texts have no vector under encoder {encoder_id}; run jobs/textualise.py, then jobs/encode.py"
            )
    flat = with_vector["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return tuple(with_vector["text_hash"].to_pylist()), flat.reshape(len(with_vector), dimensions).astype(np.float32)


def not_encoded(run: Run, hashes: pa.Table, encoder_id: str) -> int:
    """How many of these texts (column text_hash), which have no vector, the encoder has not refused: it has yet to be asked."""
    return not_refused(run, run.spark.createDataFrame(hashes), encoder_id).count()


def _daily_counts(run: Run, events: DataFrame, catalogue: Catalogue, event_types: tuple[str, ...]) -> DailyCounts:
    counts = (
        events.filter(F.col("item_id").isNotNull())
        .groupBy("event_date", "item_id", "event_type")
        .count()
        .orderBy("event_date", "item_id", "event_type")
    )
    with scratch(run, counts, "daily") as shards:
        rows = shards.to_table()
    ids = rows["item_id"].combine_chunks()
    item = pa.compute.index_in(ids, value_set=pa.array(catalogue.item_ids.tolist(), pa.string()))
    if item.null_count:
        lacking = ids.filter(item.is_null()).unique()
        raise TableError(
            f"table items lacks {len(lacking)} items that events name, such as {lacking[0].as_py()!r}: an ingest is under way, or died "
            "before its end; let it end, or run it again, and then jobs/textualise.py, jobs/encode.py and this job"
        )
    kind = pa.compute.index_in(rows["event_type"].combine_chunks(), value_set=pa.array(event_types))
    return DailyCounts(
        day=rows["event_date"].combine_chunks().cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int32),
        item=item.to_numpy(zero_copy_only=False).astype(np.int32),
        event_type=kind.to_numpy(zero_copy_only=False).astype(np.int8),
        count=rows["count"].to_numpy().astype(np.float64),
    )


def sequences_before(run: Run, until: int) -> DataFrame:
    """COLUMNS and fingerprint of `user_sequences` of dates before `until`, as the table stands now.

    Where the config has profile texts `profiles` says which stand at which step, and the fingerprint takes them in.

    Raises:
        TableError: `user_profiles` is not that of these sequences.
    """
    rows = run.read("user_sequences", pinned=True).filter(F.col("event_date") < F.lit(day_of(until)))
    if not run.settings.pipeline.interest.profile_texts:
        return rows.select(*COLUMNS[:-1], F.lit(None).cast(PROFILES).alias("profiles"), "fingerprint")
    stored = run.read("user_profiles", pinned=True).select("user_id", "renewal", "fingerprint", "step", "text_hash")
    found = due_snapshots(rows).join(stored, on=["user_id", "renewal", "fingerprint"], how="left")
    due, totals = kept(found, F.count_if(F.col("step").isNull()).alias("lacking"))
    if totals["lacking"]:
        raise TableError(
            f"table user_profiles lacks {totals['lacking']} profile texts of user_sequences as they stand: a textualise is under way, or ran without "
            "them; run jobs/textualise.py and jobs/encode.py with --set interest.profile_texts=true"
        )
    profiles = due.groupBy("user_id", "event_date").agg(
        F.array_sort(F.collect_set(F.struct("step", "text_hash"))).alias("profiles"),
        F.bit_xor(F.xxhash64("renewal", "step", "text_hash")).alias("renewed"),
    )
    both = F.col("fingerprint").bitwiseXOR(F.coalesce("renewed", F.lit(0))).alias("fingerprint")
    return rows.join(profiles, on=["user_id", "event_date"], how="left").select(*COLUMNS, both)


def with_profile_vectors(run: Run, sequences: DataFrame, encoder_id: str, until: int | None = None) -> DataFrame:
    """The rows of `sequences_before`, or some of them, with the vectors of their profile texts: these travel with the rows, as they grow with users.

    Args:
        run: its vectors are read.
        sequences: the rows.
        encoder_id: whose vectors.
        until: of dates before this one, by default of all.

    Raises:
        TableError: a profile text has no vector yet.
    """
    if not run.settings.pipeline.interest.profile_texts:
        return sequences
    key = ("user_id", "event_date")
    wanted = sequences if until is None else sequences.filter(F.col("event_date") < F.lit(day_of(until)))
    named = wanted.select(*key, F.inline("profiles")).filter("text_hash IS NOT NULL")
    vectors = run.read("text_embeddings", pinned=True).filter(F.col("encoder_id") == encoder_id).select("text_hash", "embedding")
    without = named.join(vectors.select("text_hash"), on="text_hash", how="left_anti")
    missing = not_refused(run, without, encoder_id).count()
    if missing:
        raise TableError(f"{missing} profile texts have no vector under encoder {encoder_id}; run jobs/encode.py first")
    found = (
        named.join(vectors, on="text_hash")
        .groupBy(*key)
        .agg(F.array_sort(F.collect_list(F.struct("step", "embedding"))).alias("profiles"))
    )
    return sequences.drop("profiles").join(found, on=list(key), how="left").select(*sequences.columns)


@contextmanager
def scratch(run: Run, rows: DataFrame, name: str) -> Iterator[pads.Dataset]:
    """Ordered rows as Parquet files that the driver can read piece by piece; removed at the end."""
    path = f"{run.warehouse.root}/_scratch/{run.run_id}-{name}"
    uri = re.sub("^s3[an]://", "s3://", path)  # Hadoop's names of what Arrow calls s3
    filesystem, folder = fs.FileSystem.from_uri(uri) if "://" in path else (fs.LocalFileSystem(), path)
    try:
        rows.write.mode("overwrite").parquet(path)
        files = sorted(info.path for info in filesystem.get_file_info(fs.FileSelector(folder)) if info.path.endswith(".parquet"))
        yield pads.dataset(files, filesystem=filesystem, format="parquet")
    finally:
        if filesystem.get_file_info(folder).type == fs.FileType.Directory:  # or nothing was written
            filesystem.delete_dir(folder)


def user_blocks(shards: pads.Dataset, dataset: Dataset, users: int) -> Iterator[Histories]:
    """Histories of `users` users at a time, from shards in the order of (user_id, event_date)."""
    held: list[pa.RecordBatch] = []
    for batch in shards.to_batches(columns=list(COLUMNS), batch_size=4096, batch_readahead=1, fragment_readahead=1):
        held.append(batch)
        whole = pa.Table.from_batches(held)
        ids = whole["user_id"].to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, dtype=np.int64)
        if len(starts) > users:  # the last user may go on in the next batch
            cut = int(starts[(len(starts) - 1) // users * users])
            yield from dataset.histories(whole.slice(0, cut)).slices(users)
            held = whole.slice(cut).to_batches()
    pa.default_memory_pool().release_unused()
    if held:
        yield from dataset.histories(pa.Table.from_batches(held)).slices(users)
