"""SQL of a domain that would end the job at the first value that does not fit is refused before anything is read."""

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.ansi import check_total
from llmrec_pipeline.errors import InputError

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    made = spark.createDataFrame([("x", "y", "a b")], "a string, b string, c string")
    made.createOrReplaceTempView("log")
    return made


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("CAST(trim(a) AS INT)", r"CAST\(trim\(a\) AS INT\); write try_cast"),
        ("a::date", r"CAST\(a AS DATE\)"),
        ("int(a)", r"CAST\(a AS INT\)"),
        ("CASE WHEN a > 0 THEN b END", r"CAST\(a AS BIGINT\)"),
        ("coalesce(a, 0)", r"CAST\(a AS BIGINT\)"),
        ("split(c, ' ')[2]", r"split\(c, ' ', -1\)\[2\]; write get\(array, index\)"),
        ("element_at(split(c, ' '), 3)", r"element_at\(.*; write try_element_at"),
        ("transform(split(c, ' '), x -> int(x))", r"AS INT\)"),
        ("to_timestamp(a)", "to_timestamp"),
        ("to_number(a, '999')", "to_number"),
        ("to_timestamp(a, 'yyyy')", "to_timestamp"),
        ("1 / length(nullif(c, 'a b'))", None),
        ("length(c) / (length(a) - 1)", r"; write try_divide"),
    ],
)
def test_what_can_raise_is_named(rows: DataFrame, expression: str, part: str | None) -> None:
    if part:
        with pytest.raises(PySparkException):  # the control: it does end a job, on these values
            rows.select(F.expr(expression)).collect()
    with pytest.raises(
        InputError, match=f"columns.price: .* ends the whole job at the first value that does not fit .*{part or ''}"
    ):
        check_total("columns.price", expression, rows.select(F.expr(expression)))


@pytest.mark.parametrize(
    "expression",
    [
        "try_cast(a AS INT)",
        "try_divide(try_cast(a AS DOUBLE), try_cast(b AS DOUBLE))",
        "try_cast(a AS DOUBLE) * 2.5 - 1",
        "try_add(instr(a, ':'), 1)",
        "try_subtract(length(a), 1)",
        "try_multiply(try_cast(a AS DECIMAL(10, 2)), 100)",
        "try_element_at(split(c, ' '), 3)",
        "try_to_binary(a, 'hex')",
        "int(a = 'x')",
        "year(try_to_timestamp(a))",
        "double(try_cast(a AS DECIMAL(10, 2)))",
        "try_cast(a AS DOUBLE) / 100",
        "CASE WHEN a LIKE 'C%' THEN 'return' ELSE b END",
        "get(split(c, ' '), 9)",
        "try_to_timestamp(a)",
        "map('k', 1)[a]",
        "CAST(length(a) AS STRING)",
    ],
)
def test_what_has_a_result_for_each_value_passes(rows: DataFrame, expression: str) -> None:
    check_total("columns.price", expression, rows.select(F.expr(expression)))
    rows.select(F.expr(expression)).collect()


@pytest.mark.usefixtures("rows")
def test_a_query_is_looked_at_as_a_whole(spark: SparkSession) -> None:
    joined = "SELECT x.a, sum(try_cast(y.b AS DOUBLE)) AS n FROM log x JOIN log y ON x.a = y.a GROUP BY x.a"
    check_total("source.query", joined, spark.sql(joined), query=True)
    latest = "SELECT *, row_number() OVER (PARTITION BY a ORDER BY b) AS n FROM log"
    check_total("source.query", latest, spark.sql(latest), query=True)
    among = "SELECT a FROM log WHERE a IN (SELECT b FROM log WHERE c > 3)"
    with pytest.raises(InputError, match=r"CAST\(.*c AS BIGINT\)"):
        check_total("source.query", among, spark.sql(among), query=True)
    asked = "SELECT a FROM log WHERE a > (SELECT max(concat(b, current_date())) FROM log)"
    with pytest.raises(InputError, match=r"source\.query: .* asks current_date\(\), which another run would answer otherwise"):
        check_total("source.query", asked, spark.sql(asked), query=True)
    filtered = f"SELECT * FROM ({joined}) WHERE a > 3"
    with pytest.raises(InputError, match=r"source\.query: .*CAST\(.*a AS BIGINT\)"):
        check_total("source.query", filtered, spark.sql(filtered), query=True)
