"""Raw files to records: all columns strings, with the record as it came and its file.

Text formats are read by lines and parsed by `from_csv` / `from_json`, so that lines and records agree by construction (DESIGN 1.1).
"""

from functools import reduce

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from llmrec_pipeline.config import SourceConfig
from llmrec_pipeline.errors import InputError

RAW, FILE, BROKEN, BLOCK = "_raw", "_file", "_broken", "_block"
TECHNICAL = (RAW, FILE, BROKEN, BLOCK)
REPEATED_HEADER = "repeated header"


def read_records(spark: SparkSession, source: SourceConfig, path: str) -> DataFrame:
    """Records of a source: its columns as strings (missing words as null), `_raw`, `_file`, `_broken` (a reason, or null).

    Raises:
        InputError: the path does not exist, holds no record, or its headers disagree.
    """
    try:
        if source.format == "parquet":
            records = _read_parquet(spark, path)
        elif source.format == "json":
            records = _read_json(spark, source, path)
        else:
            records = _read_csv(spark, source, path)
    except AnalysisException as error:
        if "PATH_NOT_FOUND" in str(error):
            raise InputError(
                f"source path {path!r} does not exist; correct source.path in the domain's YAML, or deliver the file"
            ) from None
        raise InputError(f"source path {path!r} cannot be read as {source.format}: {str(error).splitlines()[0]}") from None
    return _with_missing_as_null(records, source.missing)


def data_columns(records: DataFrame) -> list[str]:
    """The record's own columns, folder values included."""
    return [name for name in records.columns if name not in TECHNICAL]


def _read_parquet(spark: SparkSession, path: str) -> DataFrame:
    raw = spark.read.parquet(path)
    texts = [F.col(f"`{name}`").cast("string").alias(name) for name in raw.columns]
    return raw.select(
        *texts,
        F.to_json(F.struct(*texts)).alias(RAW),
        F.col("_metadata.file_path").alias(FILE),
        F.lit(None).cast("string").alias(BROKEN),
    )


def _read_lines(spark: SparkSession, path: str) -> DataFrame:
    """Non-blank lines without line ending and byte-order mark, folder values as columns."""
    lines = spark.read.option("lineSep", "\n").text(path)
    line = F.regexp_replace(F.regexp_replace("value", "\r$", ""), "^\ufeff", "")
    return (
        lines.withColumns({RAW: line, FILE: F.col("_metadata.file_path"), BLOCK: F.col("_metadata.file_block_start")})
        .drop("value")
        .filter(F.trim(F.col(RAW)) != "")
    )


def _read_json(spark: SparkSession, source: SourceConfig, path: str) -> DataFrame:
    if not source.columns:
        raise InputError(
            "source.columns is empty; JSON lines need the names of the fields to read, e.g. columns: [user, item, time]"
        )
    lines = _read_lines(spark, path)
    parsed = F.from_json(RAW, _string_schema(source.columns), {"columnNameOfCorruptRecord": BROKEN, "mode": "PERMISSIVE"})
    return _flatten(lines, parsed, source.columns)


def _read_csv(spark: SparkSession, source: SourceConfig, path: str) -> DataFrame:
    lines = _read_lines(spark, path)
    if not source.header:
        if not source.columns:
            raise InputError("source.header is false and source.columns is empty; name the columns in the order of the file")
        return _flatten(lines, _from_csv(source, source.columns), source.columns)
    headers = collect_headers(lines)
    names = check_headers(headers, source.delimiter)
    parts = []
    for header in sorted(set(headers.values())):
        files = [file for file, first in headers.items() if first == header]
        own = lines.filter(F.col(FILE).isin(files))
        columns = names[header]
        parts.append(_flatten(own.filter(F.col(RAW) != header), _from_csv(source, columns), columns))
        parts.append(_repeated_headers(own.filter(F.col(RAW) == header), columns))
    return reduce(DataFrame.unionByName, parts)


def collect_headers(lines: DataFrame) -> dict[str, str]:
    """First line of each file (an action; one row per file)."""
    ordered = lines.select(FILE, RAW, F.struct(BLOCK, F.monotonically_increasing_id()).alias("_order"))
    return {row[FILE]: row["header"] for row in ordered.groupBy(FILE).agg(F.min_by(RAW, "_order").alias("header")).collect()}


def check_headers(headers: dict[str, str], delimiter: str) -> dict[str, tuple[str, ...]]:
    """Column names by header line; their order may differ between files, their set may not.

    Raises:
        InputError: no file, or files whose headers name different columns.
    """
    if not headers:
        raise InputError("the source holds no line; expected a header and at least one record")
    names = {header: tuple(name.strip().strip('"') for name in header.split(delimiter)) for header in headers.values()}
    first_file, first = next(iter(sorted(headers.items())))
    for file, header in sorted(headers.items()):
        odd = set(names[header]) ^ set(names[first])
        if odd:
            raise InputError(
                f"headers differ: {file} and {first_file} disagree on columns {sorted(odd)}; deliver them as separate sources"
            )
    return names


def _repeated_headers(equal_lines: DataFrame, columns: tuple[str, ...]) -> DataFrame:
    """Header lines of each file beyond its first, as broken records."""
    extra = (
        equal_lines.drop(BLOCK)
        .groupBy(*[c for c in equal_lines.columns if c != BLOCK])
        .count()
        .withColumn("_n", F.explode(F.expr("sequence(2, CAST(count AS INT))")))
    )
    blanks = {name: F.lit(None).cast("string") for name in columns}
    return extra.filter("count > 1").drop("count", "_n").withColumns({**blanks, BROKEN: F.lit(REPEATED_HEADER)})


def _from_csv(source: SourceConfig, columns: tuple[str, ...]) -> Column:
    options = {
        "sep": source.delimiter,
        "escape": '"',
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": BROKEN,
        "maxCharsPerColumn": "-1",
    }
    return F.from_csv(F.col(RAW), ", ".join(f"`{field.name}` STRING" for field in _string_schema(columns)), options)


def _string_schema(columns: tuple[str, ...]) -> StructType:
    return StructType([StructField(name, StringType()) for name in (*columns, BROKEN)])


def _flatten(lines: DataFrame, parsed: Column, columns: tuple[str, ...]) -> DataFrame:
    record = lines.withColumn("_record", parsed)
    values = [F.col("_record").getField(name).alias(name) for name in columns]
    broken = F.when(F.col("_record").getField(BROKEN).isNotNull(), F.lit("broken row")).alias(BROKEN)
    folders = [name for name in lines.columns if name not in TECHNICAL]
    return record.select(*values, *folders, RAW, FILE, broken)


def _with_missing_as_null(records: DataFrame, missing: tuple[str, ...]) -> DataFrame:
    words = ["", *missing]
    return records.withColumns(
        {
            name: F.when(F.trim(F.col(f"`{name}`")).isin(words), None).otherwise(F.col(f"`{name}`"))
            for name in data_columns(records)
        }
    )
