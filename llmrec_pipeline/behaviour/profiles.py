"""Profile texts: what a user is like, in one line, renewed when the number of their behaviours passes 16 * 2^k (DESIGN 1.3).

A *snapshot* is such a line as of the end of the step in which the number passes; `renewal` is its k. It is a function of the user's
behaviours up to there and of nothing later.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.items import valid_on, with_validity
from llmrec_pipeline.behaviour.sequences import PROFILED, text_hash
from llmrec_pipeline.config import DomainConfig

FIRST = 16  # behaviours at which the first snapshot is due; the later ones are due at its doubles
FREQUENT = 3  # categories, and brands, that are named
LATEST = 64  # behaviours that are remembered for the line's end; more than ever fit
CHARACTERS = {"zh": 64}  # of a line, so that it has about 64 tokens: a Chinese one is a character
ELSEWHERE = 256  # in other languages a token has about four
SNAPSHOTS_AT_ONCE = 4096  # in an Arrow batch
SNAPSHOT_TYPE = "user_id string, renewal int, event_date date, step int, text string"
SNAPSHOT_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("renewal", pa.int32()),
        ("event_date", pa.date32()),
        ("step", pa.int32()),
        ("text", pa.string()),
    ]
)
Row = dict[str, Any]


def due_snapshots(sequences: DataFrame) -> DataFrame:
    """The snapshots that rows of `user_sequences` ask for: user_id, renewal, event_date, fingerprint of all that the user did by then.

    Of each row only its keys, its fingerprint and the number of its behaviours are read (law 4).
    """
    by_date = Window.partitionBy("user_id").orderBy("event_date")
    dates = sequences.select("user_id", "event_date", "fingerprint", F.size("steps.step").alias("n"))
    so_far = dates.withColumns({"after": F.sum("n").over(by_date), "fingerprint": F.bit_xor("fingerprint").over(by_date)})
    first, end = _renewals(F.col("after") - F.col("n")), _renewals(F.col("after"))
    renewal = F.explode(F.sequence(first, end - 1)).alias("renewal")
    return so_far.filter(end > first).select("user_id", renewal, "event_date", "fingerprint")


def _renewals(behaviours: Column) -> Column:
    """How many snapshots are due by a number of behaviours; as `renewals`."""
    return F.when(behaviours < FIRST, 0).otherwise(F.length(F.bin(F.floor(behaviours / FIRST))))


def renewals(behaviours: int) -> int:
    """How many k >= 0 there are with 16 * 2^k <= `behaviours`."""
    return (behaviours // FIRST).bit_length()


def snapshots(sequences: DataFrame, texts: DataFrame, items: DataFrame, domain: DomainConfig) -> DataFrame:
    """Every snapshot of the users in `sequences`, which must hold all of their rows: user_id, renewal, event_date, step, text, text_hash.

    `text_hash` is null where there is nothing to say.
    """
    fields = {name: F.col("steps")[name] for name in ("step", "item_id", "text_hash")}
    told = sequences.withColumns(fields).select("user_id", "event_date", F.posexplode(F.arrays_zip(*fields)).alias("place", "of"))
    behaviours = told.select("user_id", "event_date", "place", *[F.col("of")[name].alias(name) for name in fields])
    known = with_validity(items).select("item_id", "_since", "valid_to", *PROFILED)
    b, i = behaviours.alias("b"), known.alias("i")
    match = (F.col("b.item_id") == F.col("i.item_id")) & valid_on(F.col("b.event_date"), "i")
    rows = b.join(i, on=match, how="left").select("b.*", *[f"i.{name}" for name in PROFILED])
    said = rows.join(texts.select("text_hash", "text"), on="text_hash", how="left").drop("text_hash", "item_id")
    ordered = said.repartition("user_id").sortWithinPartitions("user_id", "event_date", "place")
    made = ordered.mapInArrow(partial(_in_batches, room=CHARACTERS.get(domain.language, ELSEWHERE)), SNAPSHOT_TYPE)
    return made.withColumn("text_hash", text_hash(domain))


def _in_batches(batches: Iterable[pa.RecordBatch], room: int) -> Iterator[pa.RecordBatch]:
    found = snapshots_of((row for batch in batches for row in batch.to_pylist()), room)
    while some := list(islice(found, SNAPSHOTS_AT_ONCE)):
        yield pa.RecordBatch.from_pylist(some, schema=SNAPSHOT_SCHEMA)


def snapshots_of(behaviours: Iterable[Row], room: int) -> Iterator[Row]:
    """Snapshots of whole users, lines of at most `room` characters.

    Args:
        behaviours: user_id, event_date, step, category, brand and text of each, by user and in their order.
        room: characters.
    """
    for user, of_user in groupby(behaviours, key=itemgetter("user_id")):
        profile = _Profile()
        for (day, step), of_step in groupby(of_user, key=itemgetter("event_date", "step")):
            before = profile.behaviours
            for behaviour in of_step:
                profile.add(behaviour)
            due = range(renewals(before), renewals(profile.behaviours))
            line = profile.line(room) if due else None
            for renewal in due:
                yield {"user_id": user, "renewal": renewal, "event_date": day, "step": step, "text": line}


class _Profile:
    """What a profile text is made of."""

    def __init__(self) -> None:
        self.behaviours = 0
        self._named: dict[str, Counter[str]] = {name: Counter() for name in PROFILED}
        self._latest: deque[str] = deque(maxlen=LATEST)

    def add(self, behaviour: Row) -> None:
        self.behaviours += 1
        for name, counts in self._named.items():
            if behaviour[name] is not None:
                counts[behaviour[name]] += 1
        if behaviour["text"] is not None:
            self._latest.append(behaviour["text"])

    def line(self, room: int) -> str | None:
        """Frequent categories, frequent brands, then distinct behaviours from the latest one back, as many as `room` characters hold."""
        named = [", ".join(_frequent(counts)) for counts in self._named.values()]
        line = "; ".join(part for part in named if part)
        for text in dict.fromkeys(reversed(self._latest)):
            longer = f"{line}; {text}" if line else text
            if line and len(longer) > room:
                break
            line = longer
        return line[:room] or None


def _frequent(counts: Counter[str]) -> list[str]:
    """Names from the most frequent one on; equally frequent ones by name."""
    return sorted(counts, key=lambda name: (-counts[name], name))[:FREQUENT]
