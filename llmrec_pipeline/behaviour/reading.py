"""Raw files to records: all columns strings, with the record as it came and the number of its file.

Text formats are read by lines and parsed by `from_csv` / `from_json`, so that lines and records agree by construction (DESIGN 1.1).
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce

import pyarrow as pa
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegerType, StringType, StructField, StructType, TimestampType

from llmrec_pipeline.behaviour.ansi import check_total
from llmrec_pipeline.behaviour.decoding import INVALID, OPENERS, decoded_lines, joined_records
from llmrec_pipeline.behaviour.files import COMPRESSED, THREADS, File, Listing, first_line, list_files, literal_paths, sha256
from llmrec_pipeline.config import FilesConfig, SourceConfig
from llmrec_pipeline.errors import InputError
from llmrec_pipeline.warehouse import only_row

RAW, FILE, BROKEN = "_raw", "_file", "_broken"
TECHNICAL = (RAW, FILE, BROKEN)
HEADER = "\0header"  # a mark, which no reason of a domain's YAML is called
TEXT_FORMATS = ("csv", "tsv", "json")
LINES_SCHEMA = f"{RAW} string, _uri string, {BROKEN} string"
QUERY = "query"  # what stands for the file of a record that a query made
BATCH = 10_000
SQL_ON_FILES = "spark.sql.runSQLOnFiles"
FOOTER_FAULT = "CANNOT_READ_FILE_FOOTER"  # of Parquet and ORC
NO_FOOTER = "damaged file: no footer"


@dataclass(frozen=True)
class Records:
    """What a source holds.

    Attributes:
        rows: the records' columns as strings (missing words as null), `_raw`, `_file` (a number), `_broken` (a reason, or null).
        units: one row per record, header lines and damaged files included, not parsed: `_file` alone; the second, independent count.
        files: what the numbers in `_file` stand for.
        headers: header lines that belong to no record, one for each file that has one.
        skipped: files that were found and not read, with the reason.
        incomplete: a file could not be read, or not to its end: records of the delivery are missing.
        instants: columns that are points in time of their own, spelt in UTC.
    """

    rows: DataFrame
    units: DataFrame
    files: tuple[str, ...]
    headers: int
    skipped: dict[str, str]
    incomplete: bool = False
    instants: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The record's own columns, folder values included."""
        return [name for name in self.rows.columns if name not in TECHNICAL]


def read_records(spark: SparkSession, source: FilesConfig, paths: tuple[str, ...]) -> Records:
    """Records of a source.

    Raises:
        InputError: a path does not exist, nothing in it can be read, or headers disagree.
    """
    if isinstance(source, SourceConfig) and source.query:
        return _read_query(spark, source)
    try:
        records = _read_delta(spark, paths) if source.format == "delta" else _read_files(spark, source, paths)
    except AnalysisException as error:
        hint = (
            f"; start with spark-submit --packages org.apache.spark:spark-avro_2.13:{spark.version}"
            if source.format == "avro" and "find data source" in str(error)
            else ""
        )
        raise InputError(
            f"source path {', '.join(paths)!r} cannot be read as {source.format}: {str(error).splitlines()[0]}{hint}"
        ) from None
    words = ["", *source.missing]
    present = {name: F.when(~F.trim(F.col(f"`{name}`")).isin(words), F.col(f"`{name}`")) for name in records.columns}
    return replace(records, rows=records.rows.withColumns(present))


def _read_files(spark: SparkSession, source: FilesConfig, paths: tuple[str, ...]) -> Records:
    text = source.format in TEXT_FORMATS
    listing = list_files(spark, paths, text=text)
    schemas = {} if text else _schemas(spark, source, listing.files)
    listing = listing.without({file: fault for file, fault in schemas.items() if isinstance(fault, str)})
    whole = _damaged_rows(spark, listing)
    files = (*listing.files, *listing.damaged)
    _check_agreement("folders", {file.path: file.folders for file in files})
    instants: tuple[str, ...] = ()
    if not text:
        found = {file: schema for file, schema in schemas.items() if isinstance(schema, StructType)}
        rows, instants = _with_file(spark, _structured(spark, source, found), files), _instants(*found.values())
        units, headers = rows.select(FILE), 0
    else:
        lines = _lines(spark, source, listing.files)
        names = _headers(spark, source, listing.files or files)  # damaged ones are asked where there are no others
        rows = _with_file(spark, _parsed(source, lines, names, listing.files), files)
        units, headers = (
            _with_file(spark, lines.select("_uri"), files).select(FILE),
            sum(file.uri in names for file in listing.files),
        )
    if whole is not None:
        whole = _with_file(spark, whole, files)
        rows, units = rows.unionByName(whole, allowMissingColumns=True), units.unionByName(whole.select(FILE))
    return Records(rows, units, tuple(file.path for file in files), headers, listing.skipped, listing.incomplete, instants)


def _damaged_rows(spark: SparkSession, listing: Listing) -> DataFrame | None:
    """One broken record for each file that cannot be read to its end."""
    if not listing.damaged:
        return None
    rows = [
        (f"whole file, {file.size} bytes, sha256 {sha256(spark, file)}", file.uri, why) for file, why in listing.damaged.items()
    ]
    return spark.createDataFrame(rows, LINES_SCHEMA)


def _with_file(spark: SparkSession, rows: DataFrame, files: tuple[File, ...]) -> DataFrame:
    """Replaces `_uri` by the file's number, and adds the values of its folders, where the record has no column of that name."""
    own = set(map(str.lower, rows.columns))
    folders = sorted({name for file in files for name in file.folders if name.lower() not in own})
    if len(files) == 1 and not folders:
        return rows.withColumn(FILE, F.lit(0)).drop("_uri")
    schema = StructType([StructField(name, StringType()) for name in ("_uri", *folders)]).add(FILE, IntegerType())
    known = [(file.uri, *[file.folders.get(name) for name in folders], number) for number, file in enumerate(files)]
    return rows.join(F.broadcast(spark.createDataFrame(known, schema)), on="_uri", how="inner").drop("_uri")


def _schemas(spark: SparkSession, source: FilesConfig, files: tuple[File, ...]) -> dict[File, StructType | str]:
    """Each file's own schema; or why it has none: a file that was half written breaks off before its footer.

    Raises:
        InputError: none has one, so nothing tells their columns.
    """

    def schema(file: File) -> StructType | str:
        try:
            return _loaded(spark, source, (file,)).schema
        except Py4JJavaError as error:  # PySpark has no class for it
            if FOOTER_FAULT not in str(error.java_exception.getMessage()):
                raise
            return NO_FOOTER

    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(files, pool.map(schema, files), strict=True))
    if all(isinstance(fault, str) for fault in found.values()):
        raise InputError(
            f"no file can be read as {source.format}: {files[0].path} ({found[files[0]]}); deliver it whole, or correct source.format"
        )
    return found


def _loaded(spark: SparkSession, source: FilesConfig, files: tuple[File, ...], schema: StructType | None = None) -> DataFrame:
    reader = spark.read.format(source.format).option("recursiveFileLookup", "true")
    return (reader.schema(schema) if schema else reader).load(literal_paths(files))


def _structured(spark: SparkSession, source: FilesConfig, schemas: dict[File, StructType]) -> DataFrame:
    """Parquet, ORC and Avro, each file by its own schema: typed columns become strings, nested ones JSON."""
    _check_agreement("columns", {file.path: schema.names for file, schema in schemas.items()})
    alike: dict[str, list[File]] = {}
    for file, schema in schemas.items():
        alike.setdefault(schema.json(), []).append(file)
    parts = [
        _as_strings(_loaded(spark, source, tuple(own), schemas[own[0]]), F.col("_metadata.file_path")) for own in alike.values()
    ]
    return reduce(DataFrame.unionByName, parts)


def _instants(*schemas: StructType) -> tuple[str, ...]:
    """Columns that hold points in time, not a clock's; as strings they are spelt in the session's zone, UTC."""
    return tuple(sorted({field.name for schema in schemas for field in schema if isinstance(field.dataType, TimestampType)}))


def _as_strings(raw: DataFrame, uri: Column) -> DataFrame:
    nested = ("struct", "array", "map")
    texts = [
        (F.to_json(F.col(f"`{name}`")) if kind.startswith(nested) else F.col(f"`{name}`").cast("string")).alias(name)
        for name, kind in raw.dtypes
    ]
    return raw.select(*texts, F.to_json(F.struct(*texts)).alias(RAW), uri.alias("_uri"), F.lit(None).cast("string").alias(BROKEN))


def _read_delta(spark: SparkSession, paths: tuple[str, ...]) -> Records:
    """Delta tables, each at the version that it has now: another job may be writing to it."""
    versions = {path: only_row(DeltaTable.forPath(spark, path).history(1))["version"] for path in paths}
    tables = {path: spark.read.format("delta").load(path, versionAsOf=version) for path, version in versions.items()}
    _check_agreement("columns", {path: table.columns for path, table in tables.items()})
    files = tuple(File(path, path, 0, "") for path in paths)
    rows = _with_file(
        spark, reduce(DataFrame.unionByName, [_as_strings(raw, F.lit(path)) for path, raw in tables.items()]), files
    )
    return Records(rows, rows.select(FILE), paths, 0, {}, instants=_instants(*(table.schema for table in tables.values())))


def _read_query(spark: SparkSession, source: SourceConfig) -> Records:
    """The rows of a query over several kinds of files; lines of theirs that are broken are records beside them."""
    parts = {name: read_records(spark, files, files.paths) for name, files in source.tables.items()}
    for name, part in parts.items():
        part.rows.filter(F.col(BROKEN).isNull()).drop(*TECHNICAL).createOrReplaceTempView(name)
    try:
        answer = _answer(spark, source.query or "")
        made = _as_strings(answer, F.lit(None).cast("string"))
    except Exception as error:  # Spark raises several unrelated classes here
        known = {name: part.columns for name, part in parts.items()}
        raise InputError(f"source.query does not fit its tables: {str(error).splitlines()[0]}; they have {known}") from None
    check_total("source.query", source.query or "", answer, query=True)
    rows = made.withColumn(FILE, F.lit(0)).drop("_uri")
    units, headers = rows.select(FILE), 0
    files: tuple[str, ...] = (QUERY,)
    skipped: dict[str, str] = {}
    for part in parts.values():
        broken = part.rows.filter(F.col(BROKEN).isNotNull()).select(RAW, BROKEN, (F.col(FILE) + len(files)).alias(FILE))
        rows = rows.unionByName(broken, allowMissingColumns=True)
        units = units.unionByName(broken.select(FILE))
        files, headers, skipped = (*files, *part.files), headers + part.headers, skipped | part.skipped
    return Records(
        rows, units, files, headers, skipped, any(part.incomplete for part in parts.values()), _instants(answer.schema)
    )


def _answer(spark: SparkSession, query: str) -> DataFrame:
    """What a query gives that reads no file by its path, which nobody would have checked or counted."""
    before = str(spark.conf.get(SQL_ON_FILES))
    spark.conf.set(SQL_ON_FILES, "false")
    try:
        return spark.sql(query)
    finally:
        spark.conf.set(SQL_ON_FILES, before)


def _lines(spark: SparkSession, source: FilesConfig, files: tuple[File, ...]) -> DataFrame:
    """Lines with content, without line ending and byte-order mark: `_raw`, `_uri`, `_broken` (null, or why it is unreadable)."""
    if not files:
        return spark.createDataFrame([], LINES_SCHEMA)
    if source.charset.lower().replace("_", "-") not in ("utf-8", "utf8") or source.multiline:
        return _decoded(spark, source, files).filter(_has_content(RAW))
    valid, whole = F.is_valid_utf8("value"), F.col("whole")
    line = F.when(whole.endswith("\r"), F.expr("left(whole, length(whole) - 1)")).otherwise(whole)
    line = F.when(whole.startswith("\ufeff"), F.substring(line, 2, 2**30)).otherwise(line)
    raw = spark.read.option("lineSep", "\n").option("recursiveFileLookup", "true").text(literal_paths(files))
    uri = F.lit(files[0].uri) if len(files) == 1 else F.col("_metadata.file_path")  # Spark fills in every field of it, row by row
    filled = raw.filter(_has_content("value")).select(
        F.when(valid, F.col("value")).otherwise(F.make_valid_utf8("value")).alias("whole"),
        uri.alias("_uri"),
        F.when(~valid, F.lit("not utf-8")).alias(BROKEN),
    )
    return filled.select(line.alias(RAW), "_uri", BROKEN)


def _has_content(line: str) -> Column:
    """True where a line holds more than spaces, carriage returns and byte-order marks."""
    return F.ltrim(F.col(line), F.lit(" \r\ufeff")) != ""


def _decoded(spark: SparkSession, source: FilesConfig, files: tuple[File, ...]) -> DataFrame:
    """Files decoded whole by Python: what Spark's own lines cannot do.

    Raises:
        InputError: one of them is packed in a way that Python does not read.
    """
    sealed = next(
        (file.path for file in files if file.path.endswith(COMPRESSED) and not file.path.endswith(tuple(OPENERS))), None
    )
    if sealed:
        raise InputError(
            f"{sealed}: files of another charset, or with line breaks in fields, are read as they are or from gzip or bzip2"
        )
    content = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(literal_paths(files))
    charset, separator, quote = source.charset, source.separator, source.quote
    longest = source.max_record_lines if source.multiline else 0

    def decode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for uri, held in zip(batch["_uri"].to_pylist(), batch["content"], strict=True):
                lines = decoded_lines(held.as_py(), uri, charset)
                records = joined_records(lines, separator, quote, longest) if longest and quote else lines
                yield from _in_batches(records, uri)

    chosen = content.select(F.col("_metadata.file_path").alias("_uri"), "content").repartition(len(files))
    return chosen.mapInArrow(decode, LINES_SCHEMA)


def _in_batches(records: Iterator[tuple[str, str | None]], uri: str) -> Iterator[pa.RecordBatch]:
    held: list[tuple[str, str, str | None]] = []
    for text, reason in records:
        held.append((text, uri, reason))
        if len(held) == BATCH:
            yield _batch(held)
            held = []
    if held:
        yield _batch(held)


def _batch(rows: list[tuple[str, str, str | None]]) -> pa.RecordBatch:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.RecordBatch.from_arrays(columns, [RAW, "_uri", BROKEN])


Headers = dict[str, tuple[str, tuple[str, ...]]]  # file's uri -> (its header line, the columns that it names)


def _headers(spark: SparkSession, source: FilesConfig, files: tuple[File, ...]) -> Headers:
    """The header of each file; their order may differ, their names may not.

    Raises:
        InputError: two columns share a name, or two files name different columns.
    """
    if not source.has_header:
        return {}
    found: Headers = {}
    for file in files:
        line = first_line(spark, file, source.charset)
        if line is not None and INVALID in line:
            raise InputError(
                f"the header of {file.path} is not {source.charset}: {line.replace(INVALID, '?')[:200]!r}; declare source.charset (gbk, utf-16, latin-1 ...)"
            )
        if line is not None:
            found[file.uri] = (line, _column_names(line, source, file.path))
    if not found:
        raise InputError(
            f"none of the files has a header line that can be read, {files[0].path} first; deliver them whole, or declare header: false and columns"
        )
    _check_agreement("headers", {uri: names for uri, (_, names) in found.items()})
    return found


def _check_agreement(what: str, columns: Mapping[str, Iterable[str]]) -> None:
    """Raises InputError where two files name different columns: what a record is would depend on the files beside its own."""
    first = next(iter(columns), "")
    for file, names in columns.items():
        odd = set(names) ^ set(columns[first])
        if odd:
            raise InputError(
                f"{what} differ: {file} and {first} disagree on columns {sorted(odd)}; deliver them as separate sources"
            )


def _column_names(line: str, source: FilesConfig, path: str) -> tuple[str, ...]:
    quoting = {"quotechar": source.quote} if source.quote else {"quoting": csv.QUOTE_NONE}
    cells = next(csv.reader([line], delimiter=source.separator, **quoting))
    names = tuple(name.strip() or f"_c{place}" for place, name in enumerate(cells))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the header of {path} names {twice} twice; rename a column, or declare header: false and columns")
    return names


def _parsed(source: FilesConfig, lines: DataFrame, headers: Headers, files: tuple[File, ...]) -> DataFrame:
    """Lines with their columns; header lines are marked as such."""
    if source.format == "json":
        return _from_json(source, lines)
    if not headers:
        return _from_csv(source, lines, source.columns or ())
    parts = []
    for header, columns in sorted(set(headers.values())):
        own = [uri for uri, found in headers.items() if found[0] == header]
        part = lines if len(own) == len(headers) else lines.filter(F.col("_uri").isin(own))
        broken = F.coalesce(BROKEN, F.when(F.col(RAW) == header, F.lit(HEADER)))
        parts.append(_from_csv(source, part.withColumn(BROKEN, broken), columns))
    return reduce(DataFrame.unionByName, parts)


def _from_csv(source: FilesConfig, lines: DataFrame, columns: tuple[str, ...]) -> DataFrame:
    """Lines without a quote are split, the others parsed, which costs more and would give the same."""
    options = {
        "sep": source.separator,
        "quote": source.quote or "\u0000",
        "escape": source.quote or "\u0000",
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_corrupt",
        "maxCharsPerColumn": "-1",
        "maxColumns": str(max(20_480, len(columns))),
        "multiLine": str(source.multiline).lower(),
    }
    ddl = ", ".join(f"`{name}` STRING" for name in (*columns, "_corrupt"))
    quoted = F.contains(F.col(RAW), F.lit(source.quote)) if source.quote else F.lit(False)
    record = lines.withColumn("_quoted", quoted).withColumns(
        {
            "_cells": F.when(~F.col("_quoted"), F.split(RAW, re.escape(source.separator), -1)),
            "_record": F.when(F.col("_quoted"), F.from_csv(F.col(RAW), ddl, options)),
        }
    )
    broken = F.col("_record._corrupt").isNotNull() | (F.size("_cells") != len(columns))
    reason = F.when(broken, F.lit("broken row"))
    if source.quote:
        reason = F.coalesce(F.when(_unclosed(source), F.lit("unclosed quote")), reason)
    cells = {name: F.get("_cells", F.lit(place)) for place, name in enumerate(columns)}
    return _flat(record, {name: F.coalesce(cell, F.col("_record").getField(name)) for name, cell in cells.items()}, reason)


def _unclosed(source: FilesConfig) -> Column:
    """True where a field opens a quote that the record does not close; a quote inside an unquoted field (5" pipe) opens none."""
    quote, separator = f"\\x{ord(source.quote or chr(0)):02x}", f"\\x{{{ord(source.separator):x}}}"
    bare, closed = f"(?:[^{quote}{separator}][^{separator}]*)?", f"{quote}(?:[^{quote}]|{quote}{quote})*+{quote}[^{separator}]*"
    whole = f"(?s)^(?:{closed}|{bare})(?:{separator}(?:{closed}|{bare}))*$"
    odd = (F.length(RAW) - F.length(F.replace(F.col(RAW), F.lit(source.quote), F.lit("")))) % 2 == 1
    return F.when(F.col("_quoted"), F.when(odd, ~F.col(RAW).rlike(whole)))


def _from_json(source: FilesConfig, lines: DataFrame) -> DataFrame:
    """JSON objects: strings and whole numbers as spelt, other numbers as doubles, nested values as JSON.

    A dotted column is the path of a nested field.
    """
    columns = source.columns or ()
    schema = _nested_schema(columns).add("_corrupt", StringType())
    options = {"columnNameOfCorruptRecord": "_corrupt", "mode": "PERMISSIVE"}
    record = lines.withColumn("_record", F.from_json(RAW, schema, options))
    # Spark reads one object and leaves what follows it on the line; in most lines the first brace that closes is the last character
    object_ = F.regexp_replace(RAW, r",\s*$", "")  # of an array that was written one element a line
    listed = F.from_json(F.concat(F.lit("["), object_, F.lit(",0]")), ArrayType(StringType()))
    alone = (F.instr(F.rtrim(RAW), "}") == F.length(F.rtrim(RAW))) | (F.size(listed) == 2)
    whole = F.col("_record._corrupt").isNull() & F.ltrim(RAW).startswith("{") & alone
    values = {name: reduce(lambda value, part: value.getField(part), name.split("."), F.col("_record")) for name in columns}
    return _flat(record, values, F.when(~F.coalesce(whole, F.lit(False)), F.lit("broken row")))


def _nested_schema(paths: tuple[str, ...]) -> StructType:
    schema = StructType()
    for head in dict.fromkeys(path.split(".")[0] for path in paths):
        inner = tuple(path.removeprefix(f"{head}.") for path in paths if path.startswith(f"{head}."))
        schema = schema.add(head, _nested_schema(inner) if inner else StringType())
    return schema


def _flat(record: DataFrame, values: dict[str, Column], broken: Column) -> DataFrame:
    columns = [value.alias(name) for name, value in values.items()]
    return record.select(*columns, RAW, "_uri", F.coalesce(F.col(BROKEN), broken).alias(BROKEN))
