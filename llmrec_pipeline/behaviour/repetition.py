"""Rows that share an identity: found by a hash of 64 bits, told apart by the identity itself, so that the many others are not moved."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from llmrec_pipeline.warehouse import kept

NTH, CONFLICT = "_nth", "_conflict"
WHOLE = "yyyy-MM-dd HH:mm:ss.SSSSSS"  # JSON's own spelling of a time ends with its milliseconds
SMALL = 1_000_000  # numbers of 8 bytes that every task can hold


def split_repeated(rows: DataFrame, key: str, file: str) -> tuple[DataFrame, DataFrame | None]:
    """Rows whose key no other row has, and the others (none: null) with `_nth` (1: the one that stays) and `_conflict`.

    `_conflict` is true for a row whose content no row of its key before it has.

    Which of them stays does not depend on the order of rows: the first by content, then by file. (A hash of 64 bits may bring a
    row too many among the others; it is the first of its key.) Looking for repeated keys is an action.

    Args:
        rows: rows, read several times: persist them.
        key: column of the identity.
        file: column of the file's number; no part of the content.
    """
    number = F.xxhash64(key)
    numbers = rows.select(number.alias("_often")).repartition("_often")  # nearly all differ: counts before a shuffle save nothing
    often, found = kept(numbers.groupBy("_often").count().filter("count > 1").select("_often"))
    if not found["n"]:
        return rows, None
    if found["n"] <= SMALL:
        often = F.broadcast(often)
    hit = number == F.col("_often")
    content = F.to_json(F.struct(*[name for name in rows.columns if name != file]), {"timestampFormat": WHOLE})
    order = Window.partitionBy(key).orderBy("_content", file)
    numbered = {NTH: F.row_number().over(order), CONFLICT: F.lag("_content").over(order) != F.col("_content")}
    shared = rows.join(often, on=hit, how="left_semi").withColumn("_content", content).withColumns(numbered).drop("_content")
    return rows.join(often, on=hit, how="left_anti"), shared.localCheckpoint()


def each_once(single: DataFrame, shared: DataFrame | None) -> DataFrame:
    """One row for each key."""
    if shared is None:
        return single
    return single.unionByName(shared.filter(F.col(NTH) == 1).drop(NTH, CONFLICT))
