"""Reading and committing the Delta tables of one domain.

Every write is one Delta commit. The steps leave out those that would change no row: running a job again commits nothing.
"""

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from delta.exceptions import (
    ConcurrentAppendException,
    ConcurrentDeleteDeleteException,
    ConcurrentDeleteReadException,
    ConcurrentWriteException,
    MetadataChangedException,
    ProtocolChangedException,
)
from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Observation, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from llmrec_pipeline.errors import TableError
from llmrec_pipeline.session import java_class
from llmrec_pipeline.tables import TABLES, Table

PATIENCE_SECONDS = 3
CONFLICTS = (ConcurrentAppendException, ConcurrentDeleteDeleteException, ConcurrentDeleteReadException, ConcurrentWriteException)
ATTEMPTS, PAUSE = stop_after_attempt(8), wait_random_exponential(multiplier=0.2, max=10)
retry_conflicts = retry(retry=retry_if_exception_type(CONFLICTS), stop=ATTEMPTS, wait=PAUSE, reraise=True)
retry_rebuild = retry(
    retry=retry_if_exception_type((*CONFLICTS, MetadataChangedException)), stop=ATTEMPTS, wait=PAUSE, reraise=True
)
CHANGING = ("WRITE", "MERGE", "DELETE", "UPDATE", "CREATE TABLE AS SELECT", "REPLACE TABLE AS SELECT", "RESTORE")


@dataclass(frozen=True)
class Warehouse:
    """The tables of one domain under one root."""

    spark: SparkSession
    root: str
    domain: str
    mapping_hash: str
    rebuilding: set[str] = field(default_factory=set)  # tables that read as empty, and whose next write replaces them
    own: set[str] = field(default_factory=set)  # tables that were found to be of this domain and mapping

    def path(self, name: str) -> str:
        return f"{self.root}/{TABLES[name].name}"

    def exists(self, name: str) -> bool:
        """True where the table has a commit; a job that was killed while it made the table leaves a log without one."""
        log, system = self._log(name)
        if not system.exists(log):
            return False
        return any(str(status.getPath().getName()).endswith((".json", ".parquet")) for status in system.listStatus(log))

    def _log(self, name: str) -> tuple[Any, Any]:
        """The folder of the table's commits and its file system, as Hadoop's classes."""
        log = java_class(self.spark, "org.apache.hadoop.fs.Path")(f"{self.path(name)}/_delta_log")
        return log, log.getFileSystem(self.spark.sparkContext._jsc.hadoopConfiguration())

    def schema(self, name: str) -> StructType:
        table = TABLES[name]
        columns = ", ".join(f"`{c.name}` {c.type}{' NOT NULL' if c.required else ''}" for c in table.columns)
        parsed = StructType.fromDDL(columns)
        assert isinstance(parsed, StructType)  # the DDL of several columns is always one
        return parsed

    def create(self, names: Sequence[str]) -> set[str]:
        """Creates the missing ones of the named tables, and checks that the others are this domain's; returns those it created.

        Raises:
            TableError: a table belongs to another domain, or was made by another mapping.
        """
        with ThreadPoolExecutor(len(names)) as pool:  # the driver waits for the file system most of the time
            return {name for name, created in zip(names, pool.map(self._make_ready, names), strict=True) if created}

    def _make_ready(self, name: str) -> bool:
        missing = not self.exists(name)
        if missing:
            self._create(TABLES[name])
            self._check_owner(TABLES[name])  # another job may have made it meanwhile
        else:
            self.read(name)  # checks its owner and its columns
        return missing

    def _create(self, table: Table) -> None:
        builder = DeltaTable.createIfNotExists(self.spark).location(self.path(table.name)).addColumns(self.schema(table.name))
        builder = builder.comment(f"One row is {table.row}.").property("llmrec.domain", self.domain)
        if table.mapped:
            builder = builder.property("llmrec.mapping", self.mapping_hash)
        for rule, condition in table.constraints.items():
            builder = builder.property(f"delta.constraints.{rule}", condition)
        if table.cluster_by:  # statistics of other columns would skip no file, and cost a quarter of a write
            builder = builder.clusterBy(*table.cluster_by).property("delta.dataSkippingStatsColumns", ",".join(table.cluster_by))
        with suppress(ProtocolChangedException):  # another job created it meanwhile
            try:
                builder.execute()
            except AnalysisException as error:
                if not re.search("DELTA_TABLE_NOT_FOUND|DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION", str(error)):
                    raise
                self._remove_beginnings(table.name)
                builder.execute()

    def _remove_beginnings(self, name: str) -> None:
        """Removes a log without commit, which Delta takes for a table; a job that is about to commit there is given time."""
        time.sleep(PATIENCE_SECONDS)
        if not self.exists(name):
            log, system = self._log(name)
            system.delete(log, True)

    def _check_owner(self, table: Table) -> None:
        as_java = java_class(self.spark, "scala.jdk.javaapi.CollectionConverters").asJava
        properties = as_java(self._snapshot(table.name).metadata().configuration())
        owner = properties.get("llmrec.domain")
        if owner != self.domain:
            raise TableError(
                f"table {self.path(table.name)} belongs to domain {owner!r}, this run is for {self.domain!r}; name another --set warehouse=..."
            )
        mapping = properties.get("llmrec.mapping", self.mapping_hash)
        if table.mapped and table.name not in self.rebuilding and mapping != self.mapping_hash:
            raise TableError(
                f"table {self.path(table.name)} was made by another mapping or template of domain {self.domain!r} "
                f"(hash {mapping}, now {self.mapping_hash}); run jobs/{table.writers[0]}.py with --rebuild to make it anew, or undo the change in the YAML"
            )
        if table.name not in self.rebuilding:
            self.own.add(table.name)

    def _snapshot(self, name: str) -> Any:
        """The table as its log stands: Delta's own class, of a pinned version, as a query for any part of it takes three times as long or more."""
        log = java_class(self.spark, "org.apache.spark.sql.delta.DeltaLog")
        with _readable(self.path(name)):
            return log.forTableWithSnapshot(self.spark._jsparkSession, self.path(name))._2()

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The table as it stands whenever it is looked at, or at one version.

        Raises:
            TableError: it does not exist, is another domain's or of another mapping, its columns are not the contract's (all discrepancies
                are named), or Delta is too old for it.
        """
        if not self.exists(name):
            job = f"jobs/{TABLES[name].writers[0]}.py"
            raise TableError(f"table {self.path(name)} does not exist yet; run {job} for domain {self.domain!r} first")
        if name not in self.own:
            self._check_owner(TABLES[name])
        if name in self.rebuilding:
            return self.spark.createDataFrame([], self.schema(name))
        with _readable(self.path(name)):
            at = {} if version is None else {"versionAsOf": version}
            df = self.spark.read.format("delta").options(**at).load(self.path(name))
        self._check_columns(name, df)
        return df

    def _check_columns(self, name: str, df: DataFrame) -> None:
        expected = {field.name: field.dataType for field in self.schema(name)}
        found = {field.name: field.dataType for field in df.schema}
        problems = [f"lacks {column}" for column in expected if column not in found]
        problems += [f"has unknown {column}" for column in found if column not in expected]
        problems += [
            f"{column} is {found[column].simpleString()}, expected {kind.simpleString()}"
            for column, kind in expected.items()
            if column in found and found[column].simpleString() != kind.simpleString()
        ]
        if problems:
            raise TableError(
                f"table {self.path(name)}: {'; '.join(problems)}; it was written by another version of this project, or by hand: "
                "use that version, or name another --set warehouse=..."
            )

    def version(self, name: str) -> int:
        """The Delta version of the table; -1 when it does not exist."""
        if not self.exists(name):
            return -1
        return int(self._snapshot(name).version())

    def table_id(self, name: str) -> str:
        """Delta's id of the table, which stays when its folder moves.

        Raises:
            TableError: it does not exist.
        """
        self.read(name)
        return str(self._snapshot(name).metadata().id())

    def data_version(self, name: str) -> str:
        """Table id and last version that changed rows: what a hash of inputs takes (DESIGN 2, Versions).

        Raises:
            TableError: the table does not exist.
        """
        table_id, log = self.table_id(name), self._snapshot(name).deltaLog()
        versions = range(self.version(name), -1, -1)
        return f"{name}:{table_id}@{next((version for version in versions if self._operation(log, version) in CHANGING), None)}"

    def _operation(self, log: Any, version: int) -> str | None:
        """What the commit of a version did, from its first lines: `history()` is a Spark job. None where the log keeps it no more."""
        commit = java_class(self.spark, "org.apache.spark.sql.delta.util.FileNames").unsafeDeltaFile(log.logPath(), version)
        hadoop = self.spark.sparkContext._jsc.hadoopConfiguration()
        if not commit.getFileSystem(hadoop).exists(commit):
            return None
        info = java_class(self.spark, "org.apache.spark.sql.delta.DeltaHistoryManager").getCommitInfoOpt(
            log.store(), commit, hadoop
        )
        return str(info.get().operation()) if info.isDefined() else None

    @retry_conflicts
    def insert_new(self, name: str, rows: DataFrame, predicate: str = "true") -> int:
        """Inserts the rows whose key is unknown, in one commit (none: no commit); returns how many.

        Delta notes what is read of a table in the course of a write to it: a commit that another writer's rows have overtaken fails
        as a MERGE would, and is tried again. Of a million rows it took a fifth less time than a MERGE that only inserts.

        Args:
            name: the table.
            rows: rows of the table's columns, distinct in its key.
            predicate: a literal condition on the target `t` that holds for all possible matches; spares the scan of the rest.
        """
        self._check_columns(name, rows)
        if name in self.rebuilding:
            return self._replace(name, rows)
        key, inserted = list(TABLES[name].key), Observation()
        known = self.read(name).alias("t").filter(predicate).select(*key)
        new = rows.join(known, on=key, how="left_anti").observe(inserted, F.count(F.lit(1)).alias("n"))
        self.append(name, new)
        return int(inserted.get["n"])

    @retry_conflicts
    def upsert(
        self, name: str, rows: DataFrame, predicate: str = "true", delete: str | None = None, update_if: str = "true"
    ) -> int:
        """Replaces rows of equal key and inserts the others, in one commit; returns how many were inserted.

        Args:
            name: the table.
            rows: its columns, distinct in its key; other columns are not written.
            predicate: as for `insert_new`.
            delete: name of a boolean column of `rows`; where true the target's row is removed.
            update_if: a condition on the target `t` and the row `s` that would replace it; elsewhere the target's row stands.
        """
        if name in self.rebuilding:
            return self._replace(name, rows.filter(f"NOT {delete}").drop(delete) if delete else rows)
        condition = " AND ".join([f"({predicate})", *(f"t.{key} = s.{key}" for key in TABLES[name].key)])
        values: dict[str, str | Column] = {column: f"s.{column}" for column in TABLES[name].column_names}
        held = rows.localCheckpoint()  # this merge reads its source twice, and must read the same
        merge = DeltaTable.forPath(self.spark, self.path(name)).alias("t").merge(held.alias("s"), condition)
        if delete:
            merge = merge.whenMatchedDelete(f"s.{delete}")
        condition = f"NOT s.{delete}" if delete else "true"
        metrics = merge.whenMatchedUpdate(update_if, set=values).whenNotMatchedInsert(condition, values=values).execute()
        return int(only_row(metrics)["num_inserted_rows"])

    @retry_rebuild
    def _replace(self, name: str, rows: DataFrame) -> int:
        """Replaces a table that is being rebuilt; the new mapping is noted last, so that a killed rebuild is asked for again."""
        self.overwrite(name, rows)
        if TABLES[name].mapped:
            self.spark.sql(f"ALTER TABLE delta.`{self.path(name)}` SET TBLPROPERTIES ('llmrec.mapping' = '{self.mapping_hash}')")
        self.rebuilding.discard(name)  # last: where another rebuild came first, all of it is tried again
        return self.read(name).count()

    @retry_conflicts
    def overwrite(self, name: str, rows: DataFrame, unless: Column | None = None) -> None:
        """Replaces all rows in one commit.

        Args:
            name: the table.
            rows: what it is to hold.
            unless: a condition on rows of the table; where one meets it at the time of the commit, those stay and `rows` are not written.
        """
        self._check_columns(name, rows)
        if unless is not None:  # Delta notes what a write reads of its own table: a commit that is overtaken is tried again
            standing = self.read(name).filter(unless)
            rows = rows.join(standing.limit(1), how="left_anti").unionByName(standing)
        rows.select(*TABLES[name].column_names).write.format("delta").mode("overwrite").save(self.path(name))

    def append(self, name: str, rows: DataFrame) -> None:
        self._check_columns(name, rows)
        rows.select(*TABLES[name].column_names).write.format("delta").mode("append").save(self.path(name))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Says in one line that Delta is too old for a table; it raises several unrelated classes then.

    A protocol beyond those that it knows of fails already where Delta decodes the table's log.
    """
    try:
        yield
    except Exception as error:
        if not re.search("(?i)protocol|unsupported.?(table)?.?feature|expression_decoding_failed", str(error)):
            raise
        raise TableError(
            f"table {path} was written by a newer Delta than this one: {str(error).splitlines()[0]}; "
            "use the version that wrote it, or name another --set warehouse=..."
        ) from None


def in_range(column: str, low: object, high: object) -> str:
    """A literal predicate on the target, for `insert_new` and `upsert`."""
    return f"t.{column} BETWEEN '{low}' AND '{high}'"


def kept(rows: DataFrame, *measures: Column) -> tuple[DataFrame, dict[str, Any]]:
    """The rows, held by a local checkpoint, and what the same action counted: `n`, how many they are, and the given aggregates."""
    counted = Observation()
    return rows.observe(counted, F.count(F.lit(1)).alias("n"), *measures).localCheckpoint(), counted.get


def only_row(aggregated: DataFrame) -> Row:
    """The row of an aggregate without groups."""
    (row,) = aggregated.collect()
    return row
