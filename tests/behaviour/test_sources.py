"""Every way in which a log may be written: literal files in, literal records out. All names are invented."""

import bz2
import gzip
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.reading import BROKEN, HEADER, RAW, read_records
from llmrec_pipeline.behaviour.values import parse_number, with_time
from llmrec_pipeline.config import FilesConfig, Settings, SourceConfig, load_settings
from llmrec_pipeline.errors import ConfigError, InputError
from llmrec_pipeline.steps.preview import preview
from llmrec_pipeline.tracking import Run

pytestmark = pytest.mark.spark
ROOT = Path(__file__).parent.parent.parent
Make, RunJob = Callable[..., Settings], Callable[..., Run]
DOMAIN = {
    "name": "shop",
    "columns": {"user_id": "user", "item_id": "item", "event_type": "action", "event_time": "time"},
    "event_types": {"buy": {"target": True, "aliases": ["kauf", "购买"], "template": {"en": "bought {title}"}}},
}


def rows_of(spark: SparkSession, source: FilesConfig) -> list[tuple[Any, ...]]:
    """Records without header lines: their values, and why they are broken."""
    records = read_records(spark, source, source.paths)
    values = records.rows.select(*[F.col(f"`{name}`") for name in records.columns], BROKEN)
    assert records.units.count() == records.rows.count()
    return sorted((tuple(row) for row in values.collect() if row[-1] != HEADER), key=str)


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("plain.csv", "user,item\nu1,茶\nu2,\n".encode(), {}),
        ("gbk.csv", "user,item\nu1,茶\nu2,\n".encode("gbk"), {"charset": "gbk"}),
        ("utf16.csv", "user,item\r\nu1,茶\r\nu2,\r\n".encode("utf-16"), {"charset": "utf-16"}),
        ("packed.csv.gz", gzip.compress("user,item\nu1,茶\n".encode(), mtime=0) + gzip.compress(b"u2,\n", mtime=0), {}),
        ("packed.csv.bz2", bz2.compress("\ufeffuser,item\nu1,茶\nu2,\n".encode()), {}),
        ("marked.csv", "\ufeffuser,item\nu1,茶\nu2,\n".encode(), {"charset": "utf-8-sig"}),
        ("gbk.csv.gz", gzip.compress("user,item\nu1,茶\nu2,\n".encode("gbk"), mtime=0), {"charset": "gbk"}),
        ("log.tsv", "user\titem\nu1\t茶\nu2\t\n".encode(), {"format": "tsv"}),
        (
            "no header.txt",
            "u1;茶\nu2;NULL\n".encode(),
            {"header": False, "columns": ["user", "item"], "delimiter": ";", "missing": ["NULL"]},
        ),
        (
            "lines.json",
            '\ufeff{"user":"u1","item":"茶"}\n\n{"user":"u2"}\n'.encode(),
            {"format": "json", "columns": ["user", "item"]},
        ),
    ],
)
def test_the_same_records_however_they_are_written(
    spark: SparkSession, tmp_path: Path, name: str, content: bytes, source: dict[str, Any]
) -> None:
    (tmp_path / name).write_bytes(content)
    described = FilesConfig.model_validate({"path": str(tmp_path / name)} | source)
    assert rows_of(spark, described) == [("u1", "茶", None), ("u2", None, None)]


def test_json_keeps_spellings_and_reaches_nested_fields(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(
        '{"user":{"id":007},"item":1}\n{"user":{"id":"007"},"price":1.50,"tags":["a","b"]}\n[1]\n{"user":{"id":12345678901234567890},"price":"1e1"}\n',
        "utf-8",
    )
    described = FilesConfig(path=str(tmp_path / "log.json"), format="json", columns=("user.id", "price", "tags"))
    assert rows_of(spark, described) == [
        ("007", "1.5", '["a","b"]', None),
        ("12345678901234567890", "1e1", None, None),
        (None, None, None, "broken row"),
        (None, None, None, "broken row"),
    ]


def test_what_stands_beside_an_object_on_its_line_is_not_lost(spark: SparkSession, tmp_path: Path) -> None:
    lines = [
        '{"user":"u1","item":"tea"}{"user":"u2","item":"mug"}',
        '{"user":"u3","item":"tea"},{"user":"u4","item":"mug"}',
        '{"user":"u5","item":"tea"} x',
        '{"user":"u6","item":"}"}',
        '{"user":"u7","item":{"a":[{}]}} ',
        "{'user':'u8','item':{'a':1}}",
        '{"user":"u9","item":"tea"}]',
        '{"user":"u10","item":"tea"},',
    ]
    (tmp_path / "log.json").write_text("\n".join(lines), "utf-8")
    described = FilesConfig(path=str(tmp_path / "log.json"), format="json", columns=("user", "item"))
    assert [row[-2:] for row in rows_of(spark, described) if row[0] in ("u6", "u7", "u8", "u10")] == [
        ("tea", None),
        ("}", None),
        ('{"a":[{}]}', None),
        ('{"a":1}', None),
    ]
    assert sorted(str(row[-1]) for row in rows_of(spark, described)) == ["None"] * 4 + ["broken row"] * 4


def test_broken_lines_never_swallow_their_neighbours(spark: SparkSession, tmp_path: Path) -> None:
    lines = [
        b'u1,"never closed',
        b'u2,"a ""b"" c"',
        b'u3,5" pipe',
        b"u4,\xff",
        b"u5,\x00\xf0\x9f\x98\x80",
        b"u6,too,many",
        b"#u7,tea",
    ]
    (tmp_path / "log.csv").write_bytes(b"\n".join([b"user,item", *lines]))
    assert rows_of(spark, FilesConfig(path=str(tmp_path / "log.csv"))) == [
        ("#u7", "tea", None),
        ("u1", "never closed", "unclosed quote"),
        ("u2", 'a "b" c', None),
        ("u3", '5" pipe', None),
        ("u4", "\ufffd", "not utf-8"),
        ("u5", "\x00😀", None),
        ("u6", "too", "broken row"),
    ]


@pytest.mark.parametrize("separator", [",", "\t", "|", ".", "^", " "])
def test_lines_without_a_quote_are_read_as_the_parser_would(spark: SparkSession, tmp_path: Path, separator: str) -> None:
    rng = random.Random(7)
    signs = [*"a1 \t\r\x00\x0b\x0c\x85\u2028\ufeffé漢😀'\\#|;.^$", *separator * 8]
    lines = sorted({"".join(rng.choices(signs, k=rng.randint(1, 12))).strip("\r\ufeff") for _ in range(500)})
    lines = [line for line in lines if line.strip(" ")]
    (tmp_path / "log.csv").write_bytes("\n".join(lines).encode())
    described = FilesConfig(path=str(tmp_path / "log.csv"), header=False, columns=("a", "b", "c"), delimiter=separator)
    options = {"sep": separator, "quote": '"', "escape": '"', "columnNameOfCorruptRecord": "broken", "maxCharsPerColumn": "-1"}
    parsed = spark.createDataFrame([(line,) for line in lines], "line string").select(
        F.from_csv("line", "a string, b string, c string, broken string", options).alias("of")
    )
    expected = [
        (*[cell if cell and cell.strip(" ") else None for cell in row[:3]], row[3] and "broken row")
        for row in parsed.select("of.*").collect()
    ]
    found = rows_of(spark, described)
    assert found == sorted(expected, key=str)
    assert 20 < sum(row[-1] is None for row in found) < len(found) - 20


def test_line_breaks_in_quotes_where_the_domain_declares_them(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('user,item\nu1,"green\ntea"\nu2,"open\nu3,mug\nu4,jam\n', "utf-8")
    described = FilesConfig(path=str(tmp_path / "log.csv"), multiline=True, max_record_lines=3)
    assert rows_of(spark, described) == [
        ("u1", "green\ntea", None),
        ("u2", "open", "unclosed quote"),
        ("u3", "mug", None),
        ("u4", "jam", None),
    ]


def test_where_line_breaks_may_be_quoted_a_stray_quote_takes_no_neighbour_along(spark: SparkSession, tmp_path: Path) -> None:
    lines = ['u1,5" pipe', "u2,mug", 'u3,3" nail', "u4,jam", 'u5,"open', 'u6,5" pipe', 'u7,"a', 'b"', 'u8,"c"d']
    (tmp_path / "log.csv").write_text("\n".join(["user,item", *lines]), "utf-8")
    assert rows_of(spark, FilesConfig(path=str(tmp_path / "log.csv"), multiline=True, max_record_lines=3)) == [
        ("u1", '5" pipe', None),
        ("u2", "mug", None),
        ("u3", '3" nail', None),
        ("u4", "jam", None),
        ("u5", "open", "unclosed quote"),
        ("u6", '5" pipe', None),
        ("u7", "a\nb", None),
        ("u8", '"c"d', None),
    ]


@pytest.mark.parametrize("kept", [60, 150])
def test_of_a_delivery_that_breaks_off_all_is_quarantined_and_the_header_read(
    spark: SparkSession, tmp_path: Path, kept: int
) -> None:
    packed = gzip.compress(b"user,item\n" + random.Random(7).randbytes(200).hex().encode(), mtime=0)
    (tmp_path / "log.csv.gz").write_bytes(packed[:kept])
    described = FilesConfig(path=str(tmp_path / "log.csv.gz"))
    ((user, item, reason),) = rows_of(spark, described)
    assert (user, item) == (None, None)
    assert reason.startswith("damaged file: ")


def test_a_delivery_without_a_header_that_can_be_read_is_told_so(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"user,item\nu1,tea\n", mtime=0)[:11])
    with pytest.raises(InputError, match=r"^none of the files has a header line that can be read, .*cut\.csv\.gz first; deliver"):
        rows_of(spark, FilesConfig(path=str(tmp_path / "cut.csv.gz")))
    (tmp_path / "latin.csv").write_bytes("user,größe\nu1,3\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"^the header of .*latin\.csv is not utf-8: .*; declare source\.charset"):
        rows_of(spark, FilesConfig(path=str(tmp_path / "latin.csv")))
    assert rows_of(spark, FilesConfig(path=str(tmp_path / "latin.csv"), charset="latin-1")) == [("u1", "3", None)]


def test_zstd_as_spark_reads_it(spark: SparkSession, tmp_path: Path) -> None:
    with pa.CompressedOutputStream(str(tmp_path / "log.csv.zst"), "zstd") as stream:
        stream.write(b"user,item\nu1,tea\n")
    assert rows_of(spark, FilesConfig(path=str(tmp_path / "log.csv.zst"))) == [("u1", "tea", None)]
    whole = (tmp_path / "log.csv.zst").read_bytes()
    (tmp_path / "log.csv.zst").write_bytes(whole[:-6])
    ((_, _, reason),) = rows_of(spark, FilesConfig(path=str(tmp_path / "log.csv.zst")))
    assert reason.startswith("damaged file: ")


def test_a_column_of_the_file_goes_before_a_folder_of_its_name(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log/shop=2").mkdir(parents=True)
    (tmp_path / "log/shop=2/a.csv").write_text("user,Shop\nu1,mine\n")
    assert rows_of(spark, FilesConfig(path=str(tmp_path / "log"))) == [("u1", "mine", None)]


def test_delta_parquet_and_a_query_over_several_files(spark: SparkSession, tmp_path: Path) -> None:
    spark.sql("SELECT 'u1' AS user, '007' AS item, array(1, 2) AS seen").write.format("delta").save(str(tmp_path / "delta"))
    for kind in ("delta", "parquet"):
        path = str(tmp_path / "delta") if kind == "delta" else str(tmp_path / "delta/*.parquet")
        assert rows_of(spark, FilesConfig(path=path, format=kind)) == [("u1", "007", "[1,2]", None)]
    (tmp_path / "names.csv").write_text('sku,label\n007,Spy novel\n"broken\n', "utf-8")
    query = SourceConfig(
        query="SELECT user, item, label FROM log LEFT JOIN names ON sku = item",
        tables={
            "log": FilesConfig(path=str(tmp_path / "delta"), format="delta"),
            "names": FilesConfig(path=str(tmp_path / "names.csv")),
        },
    )
    assert rows_of(spark, query) == [("u1", "007", "Spy novel", None), (None, None, None, "unclosed quote")]
    with pytest.raises(InputError, match=r"source.query does not fit its tables: .*lable"):
        rows_of(spark, query.model_copy(update={"query": "SELECT lable FROM names"}))


def test_parquet_of_several_schemas_is_read_by_each_or_refused(spark: SparkSession, tmp_path: Path) -> None:
    """Where Spark looked at one file alone, a column of the others was gone, or their values ended the job."""
    for name, query in {"a": "SELECT 'u1' AS user, 7 AS item", "b": "SELECT '08' AS item, 'u2' AS user"}.items():
        spark.sql(query).write.parquet(str(tmp_path / f"log/{name}"))
    source = FilesConfig(path=str(tmp_path / "log"), format="parquet")
    assert rows_of(spark, source) == [("u1", "7", None), ("u2", "08", None)]
    spark.sql("SELECT 'u3' AS user, 9 AS sku").write.parquet(str(tmp_path / "log/c"))
    with pytest.raises(
        InputError, match=r"columns differ: .* disagree on columns \['item', 'sku'\]; deliver them as separate sources"
    ):
        rows_of(spark, source)


def test_a_half_written_file_is_quarantined_whole_beside_others(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({"user": [f"u{name}"]}), tmp_path / f"{name}.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-20])
    source = FilesConfig(path=str(tmp_path), format="parquet")
    assert rows_of(spark, source) == [("ua", None), (None, "damaged file: no footer")]
    assert read_records(spark, source, source.paths).incomplete
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(
        InputError, match=r"^no file can be read as parquet: .*b\.parquet \(damaged file: .*\); deliver it whole, or"
    ):
        rows_of(spark, source)


def test_a_query_reads_its_tables_alone(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user\nu1\n")
    source = SourceConfig(
        query=f"SELECT _c0 FROM csv.`{tmp_path}/a.csv`", tables={"a": FilesConfig(path=str(tmp_path / "a.csv"))}
    )
    with pytest.raises(InputError, match=r"source\.query does not fit its tables: .*TABLE_OR_VIEW_NOT_FOUND"):
        rows_of(spark, source)
    assert spark.sql(source.query or "").count() == 2  # who else has this session may


def test_a_folder_s_value_is_part_of_each_record_or_of_none(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("shop=1/a.csv", "b.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("user,item\nu1,i1\n")
    with pytest.raises(InputError, match=r"folders differ: .* disagree on columns \['shop'\]"):
        rows_of(spark, FilesConfig(path=str(tmp_path)))


def test_a_table_that_grows_while_it_is_read_stays_at_its_version(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "live")
    spark.sql("SELECT 'u1' AS user").write.format("delta").save(path)
    records = read_records(spark, FilesConfig(path=path, format="delta"), (path,))
    spark.sql("SELECT 'u2' AS user").write.format("delta").mode("append").save(path)
    assert [row.user for row in records.rows.collect()] == ["u1"]
    assert records.units.count() == 1


def test_a_broken_last_character_is_one_bad_record(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes("user,item\nu1,茶\nu2,x\n".encode("utf-16")[:-3])
    found = rows_of(spark, FilesConfig(path=str(tmp_path / "log.csv"), charset="utf-16"))
    assert [(row[0], row[2]) for row in found] == [("u1", None), ("u2", "not utf-16")]


def test_what_python_cannot_unpack_is_refused_where_it_has_to(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.csv.deflate").write_bytes(zlib.compress("user,item\nu1,茶\n".encode("gbk")))
    with pytest.raises(InputError, match=r"log\.csv\.deflate: files of another charset.*gzip or bzip2"):
        rows_of(spark, FilesConfig(path=str(tmp_path / "log.csv.deflate"), charset="gbk"))


@pytest.mark.parametrize("kind", ["orc", "parquet"])
def test_nested_columns_are_json_that_sql_of_the_domain_reaches(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    rows = spark.sql(
        "SELECT '007' AS user, named_struct('title', '茶', 'tags', array('a', 'b')) AS item, map('colour', 'red') AS more, "
        "12.50BD AS price, DATE'2024-01-31' AS day, TIMESTAMP'2024-01-31 10:00:00' AS at, true AS paid, CAST(NULL AS INT) AS nothing"
    )
    rows.write.format(kind).save(str(tmp_path / "log"))
    records = read_records(spark, FilesConfig(path=str(tmp_path / "log"), format=kind), (str(tmp_path / "log"),))
    (row,) = records.rows.drop(RAW, BROKEN, "_file").collect()
    assert row.asDict() == {
        "user": "007",
        "item": '{"title":"茶","tags":["a","b"]}',
        "more": '{"colour":"red"}',
        "price": "12.50",
        "day": "2024-01-31",
        "at": "2024-01-31 10:00:00",
        "paid": "true",
        "nothing": None,
    }
    reached = [F.get_json_object("item", "$.tags[1]"), F.get_json_object("more", "$.colour")]
    assert tuple(records.rows.select(*reached).first() or ()) == ("b", "red")


def test_avro_without_its_package_says_so_in_one_line(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.avro").write_bytes(b"Obj\x01")
    needed = r"Failed to find data source: avro\. .*deploy the application as per the deployment section of Apache Avro[^\n]*; start with spark-submit --packages org\.apache\.spark:spark-avro_2\.13:4\."
    with pytest.raises(InputError, match=rf"^source path '[^']*/log\.avro' cannot be read as avro: {needed}"):
        read_records(spark, FilesConfig(path=str(tmp_path / "log.avro"), format="avro"), (str(tmp_path / "log.avro"),))


def test_numbers_with_declared_separators(spark: SparkSession) -> None:
    spelt = ["3,99", "1.234,50", "12", "0,5", "1.000", "-2,00", "n. v.", "1.000.000,00", "1.23,4", "1,2,3", ",5"]
    rows = spark.createDataFrame([(text,) for text in spelt], "text string")
    german = [row[0] for row in rows.select(parse_number(F.col("text"), ",", ".")).collect()]
    assert german == [3.99, 1234.5, 12.0, 0.5, 1000.0, -2.0, None, 1_000_000.0, None, None, 0.5]
    plain = [row[0] for row in rows.select(parse_number(F.col("text"))).collect()]
    assert plain == [None, None, 12.0, None, 1.0, None, None, None, None, None, None]


def test_epochs_and_the_repeated_hour(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("1711846799", "2024-10-27 02:30:00")], "epoch string, clock string")
    for scale, name in ((1, "epoch_seconds"), (1_000, "epoch_millis"), (1_000_000, "epoch_micros")):
        scaled = rows.withColumn("text", (F.col("epoch").cast("long") * scale).cast("string"))
        (row,) = with_time(scaled, "text", name, "Europe/Berlin").collect()
        assert str(row.event_time) == "2024-03-31 00:59:59"
        assert str(row.event_date) == "2024-03-31"
    (row,) = with_time(rows, "clock", "yyyy-MM-dd HH:mm:ss", "Europe/Berlin").collect()
    assert (str(row.event_time), row._ambiguous) == ("2024-10-27 00:30:00", True)


def test_each_file_is_read_skipped_or_quarantined_whole(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    folder = tmp_path / "log [1]" / "shop=007"
    folder.mkdir(parents=True)
    packed = gzip.compress(b"user,item,action,time\nu9,jam,buy,2024-01-01 10:00:00\n" * 50)
    (folder / "a.csv").write_text(
        "user,item,action,time\nu1,tea,KAUF,2024-01-01 10:00:00\nu1,tea,购买,2024-01-02 10:00:00\n", "utf-8"
    )
    (folder / "b.csv.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "c.csv").touch()
    (folder / "_SUCCESS").touch()
    (folder / "d.zip").write_bytes(b"PK\x03\x04")
    source = {"path": str(tmp_path / "log \\[1\\]")}
    settings = make_settings(DOMAIN | {"source": source, "columns": DOMAIN["columns"] | {"session_id": "shop"}})
    for time in ("first", "again"):
        run = run_job("ingest", settings)
        assert (run.counts["records"], run.counts["quarantined"]) == (3, 1)
        assert run.counts["used"] == (2 if time == "first" else 0)
        skipped = {name.rsplit("/", 1)[1]: why for name, why in run.versions.items() if name.startswith("skipped: ")}
        assert set(skipped) == {"c.csv", "_SUCCESS", "d.zip"}
    (bad,) = run.warehouse.read("quarantine").collect()
    assert bad.reason.startswith("damaged file: ")
    assert bad.file.endswith("b.csv.gz")
    assert {(row.event_type, row.session_id) for row in run.warehouse.read("events").collect()} == {("buy", "007")}


def test_a_folder_that_yields_nothing_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"no file can be read: .*empty.csv \(empty\)"):
        read_records(spark, FilesConfig(path=str(tmp_path)), (str(tmp_path),))


def test_a_column_of_instants_is_not_read_as_the_clock_of_a_zone(
    spark: SparkSession, tmp_path: Path, make_settings: Make, run_job: RunJob
) -> None:
    log = "SELECT 'u1' AS user, 'tea' AS item, 'buy' AS action, timestamp'2024-07-01 22:30:00.25' AS time"
    spark.sql(log).write.format("delta").save(str(tmp_path / "log"))
    described = DOMAIN | {"source": {"path": str(tmp_path / "log"), "format": "delta"}, "zone": "Europe/Berlin"}
    with pytest.raises(
        InputError, match=r"columns\.event_time: 'time' holds points in time, .* declare event_time: concat\(time, 'Z'\)"
    ):
        run_job("ingest", make_settings(described))
    columns = DOMAIN["columns"] | {"event_time": "concat(time, 'Z')"}
    run = run_job("ingest", make_settings(described | {"columns": columns, "time_formats": ["yyyy-MM-dd HH:mm:ss[.SSSSSS]X"]}))
    (event,) = run.warehouse.read("events").collect()
    assert (str(event.event_time), str(event.event_date)) == ("2024-07-01 22:30:00.250000", "2024-07-02")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "x", "charset": "utf-9"}, "charset 'utf-9' is unknown"),
        ({"path": "x", "decimal": ",", "thousands": ","}, "decimal and thousands are both ','"),
        ({"path": "x", "query": "SELECT 1"}, "either path or query"),
        ({}, "either path or query"),
        ({"query": "SELECT 1 FROM a"}, "query and tables go together"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(make_settings: Make, source: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_settings(DOMAIN | {"source": source})


HISTORIES = """1\tU1\t11/11/2019 9:05:58 AM\tN1 N2 N3 N4 N5\tN6-1 N7-0
2\tU2\t11/11/2019 9:06:10 AM\t\tN7-0 N8-1
3\tU3\t11/11/2019 9:07:00 AM\tN2 N9\tN1-0 N6-0
4\tU4\t11/11/2019 9:08:30 AM\t \tN3-0 N4-0
5\tU5\t11/11/2019 9:09:00 AM\tN4\tN5-1
6\tU6\t11/11/2019 9:10:00 AM\t\tN1-0
"""


def test_histories_and_impressions_become_events_and_impressions(
    spark: SparkSession, tmp_path: Path, run_job: RunJob, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty history is nobody's: not the one of the user read before."""
    (tmp_path / "log.tsv").write_text(HISTORIES, "utf-8")
    (tmp_path / "news.tsv").write_text("".join(f"N{n}\tfood\tsoup\tTitle {{{n}}}\t\n" for n in range(1, 9)), "utf-8")
    overrides = (
        f"warehouse={tmp_path / 'warehouse'}",
        f"domain.source.path={tmp_path / 'log.tsv'}",
        f"domain.items.source.path={tmp_path / 'news.tsv'}",
    )
    settings = load_settings(ROOT / "conf/pipeline.yaml", "news", overrides)
    preview(spark, settings, 1)
    shown = capsys.readouterr().out
    assert "read Title {1}, food soup" in shown
    assert "Impressions that nobody acted on" in shown
    assert "N7" in shown.split("Impressions")[1]
    assert not (tmp_path / "warehouse").exists()
    for new in (11, 0):
        run = run_job("ingest", settings)
        counted = {name.removeprefix("elements_"): n for name, n in run.counts.items() if name.startswith("elements")}
        assert counted == {"elements": 18, "events": 11, "impressions": 7, "duplicates": 0, "quarantined": 0}
        assert run.counts.get("events_new", 0) == new
    events = run.warehouse.read("events")
    read = {(row.user_id, row.item_id) for row in events.filter("time_known").collect()}
    assert read == {("U1", "N6"), ("U2", "N8"), ("U5", "N5")}
    past = events.filter("NOT time_known").orderBy("user_id", "position").collect()
    assert [(row.user_id, row.item_id) for row in past] == [
        *[("U1", f"N{n}") for n in range(1, 6)],
        ("U3", "N2"),
        ("U3", "N9"),
        ("U5", "N4"),
    ]
    ignored = run.warehouse.read("impressions").collect()
    assert {(row.user_id, row.item_id, row.rank) for row in ignored} >= {("U1", "N7", 2), ("U6", "N1", 1)}
    assert {row.outcome for row in ignored} == {"ignored"}
    assert run.warehouse.read("quarantine").select(RAW[1:]).count() == 0


LISTED: dict[str, Any] = {
    "name": "shop",
    "zone": "Asia/Shanghai",
    "columns": {"user_id": "user", "event_time": "event_time"},
    "time_formats": ["yyyy-MM-dd HH:mm:ss"],
    "lists": {"seen": {"values": "split(reason, ' ')", "event_type": "view"}},
    "event_types": {"view": {"target": True, "template": {"en": "viewed {title}"}}},
}


def test_columns_of_the_log_may_be_called_like_ours(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    (tmp_path / "log.csv").write_text("user,event_time,reason\nu1,2024-01-01 10:00:00,a b\n")
    run = run_job("ingest", make_settings(LISTED | {"source": {"path": str(tmp_path / "log.csv")}}))
    rows = run.warehouse.read("events").orderBy("position").collect()
    assert [(row.item_id, str(row.event_time)) for row in rows] == [("a", "2024-01-01 02:00:00"), ("b", "2024-01-01 02:00:00")]


def test_a_mapping_without_lists_takes_away_what_was_shown_by_the_one_before(
    tmp_path: Path, make_settings: Make, run_job: RunJob
) -> None:
    (tmp_path / "log.csv").write_text("user,event_time,reason,shown\nu1,2024-01-01 10:00:00,a,b\n")
    lists = LISTED["lists"] | {"shown": {"values": "split(shown, ' ')", "into": "impressions"}}
    described = LISTED | {"source": {"path": str(tmp_path / "log.csv")}, "lists": lists}
    run = run_job("ingest", make_settings(described))
    assert [row.item_id for row in run.warehouse.read("impressions").collect()] == ["b"]
    columns = LISTED["columns"] | {"item_id": "reason", "event_type": "'view'"}
    run = run_job("ingest", make_settings(described | {"lists": {}, "columns": columns}), rebuild=True)
    assert (run.warehouse.read("events").count(), run.warehouse.read("impressions").count()) == (1, 0)


def test_a_column_called_like_an_element_is_refused(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    (tmp_path / "log.csv").write_text("user,event_time,reason,value\nu1,2024-01-01 10:00:00,a b,3\n")
    with pytest.raises(InputError, match=r"the file has a column 'value', which is what a list's element is called"):
        run_job("ingest", make_settings(LISTED | {"source": {"path": str(tmp_path / "log.csv")}}))


def test_a_dry_run_of_a_day_reads_that_day(
    spark: SparkSession, tmp_path: Path, make_settings: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "2024-01-02.csv").write_text(
        "user,item,action,time\nann,lamp,buy,2024-01-02 10:00:00\n,lamp,buy,2024-01-02 11:00:00\n"
    )
    described = DOMAIN | {"source": {"path": str(tmp_path / "{day}.csv"), "format": "csv"}}
    preview(spark, make_settings(described, "day='2024-01-02'"), 5)
    events, refused = capsys.readouterr().out.split("Quarantine")
    assert "lamp" in events
    assert "no user" in refused
    (tmp_path / "items.csv").write_text("sku,label\nlamp,Lamp\n")
    catalogue = {"source": {"path": str(tmp_path / "items.csv")}, "columns": {"item_id": "sku", "title": "name"}}
    with pytest.raises(InputError, match=r"items\.columns\.title: 'name' does not fit the file, which has no such column"):
        preview(spark, make_settings(described | {"items": catalogue}, "day='2024-01-02'"), 5)
