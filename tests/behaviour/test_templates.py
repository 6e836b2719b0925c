"""Templates: what a sentence holds, and what data can never do to it."""

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.items import price_band
from llmrec_pipeline.behaviour.templates import FIELDS, parse_template, render
from llmrec_pipeline.errors import ConfigError

ITEM_SCHEMA = ", ".join(f"{name} string" for name in FIELDS)


def sentences(spark: SparkSession, template: str, *items: dict[str, str | None], max_chars: int = 100) -> list[str | None]:
    rows = [tuple(item.get(name) for name in FIELDS) for item in items]
    df = spark.createDataFrame(rows, ITEM_SCHEMA).coalesce(1)
    return [row[0] for row in df.select(render(template, max_chars)).collect()]


@pytest.mark.spark
def test_missing_fields_leave_no_comma_and_no_none(spark: SparkSession) -> None:
    full = {"title": "Mug", "brand": "Pape", "price_band": "2-5"}
    assert sentences(
        spark,
        "bought {title}[, brand {brand}][, price {price_band}]",
        full,
        {"title": "Mug"},
        {"title": "Mug", "price_band": "2-5"},
    ) == [
        "bought Mug, brand Pape, price 2-5",
        "bought Mug",
        "bought Mug, price 2-5",
    ]


@pytest.mark.spark
def test_a_sentence_without_any_value_is_null(spark: SparkSession) -> None:
    assert sentences(spark, "bought {title}[, {brand}]", {"item_id": "7"}) == [None]


@pytest.mark.spark
@pytest.mark.parametrize(
    "title",
    [
        "Poster {title} edition",
        "Set {0} of 3",
        "{{ user_id }}",
        "Unclosed { bracket",
        "{0.__class__}",
        "100% %(brand)s %s",
        "$brand ${title} \\1 \\n",
        "[x], [y",
    ],
)
def test_data_is_never_read_as_template(spark: SparkSession, title: str) -> None:
    assert sentences(spark, "saw {title}[ by {brand}]", {"title": title, "brand": "{title}"}) == [f"saw {title} by {{title}}"]


@pytest.mark.spark
def test_long_text_is_cut_before_tokenising(spark: SparkSession) -> None:
    assert sentences(spark, "{title}", {"title": "x" * 1_000}, max_chars=12) == ["x" * 12]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", "unknown field 'titel'; did you mean 'title'"),
        ("{title", "brace at '{title' does not match"),
        ("{title}[, {brand}", "brackets must match"),
        ("", "template is empty"),
    ],
)
def test_a_broken_template_is_refused_with_its_fault(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("{", r"\{")):
        parse_template(template)


@pytest.mark.spark
def test_price_bands_have_fixed_edges(spark: SparkSession) -> None:
    prices = [0.05, 0.1, 1.99, 2.0, 4.99, 100_000.0, 600_000.0, 0.0, None]
    df = spark.createDataFrame([(price,) for price in prices], "price double").coalesce(1)
    assert [row[0] for row in df.select(price_band(F.col("price"), ())).collect()] == [
        "<0.1", "0.1-0.2", "1-2", "2-5", "2-5", "100000-200000", ">=500000", None, None,
    ]  # fmt: skip
    assert [row[0] for row in df.select(price_band(F.col("price"), (3.0, 50.0))).collect()][:6] == [
        "<3",
        "<3",
        "<3",
        "<3",
        "3-50",
        ">=50",
    ]
