"""Texts of the kinds that logs hold; invented."""

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from llmrec_pipeline.behaviour.values import TITLE_CHARS, clean_text, has_text

pytestmark = pytest.mark.spark
CHARS = ("", " ", "\t", "\u0085", "\u00a0", "\u200e", "\u2069", "\x7f", "!", "~", "a", "é", "茶", "🎁")


def test_has_text_tells_where_clean_text_leaves_something(spark: SparkSession) -> None:
    texts = [one + other for one in CHARS for other in CHARS] + [
        "\u200e" * TITLE_CHARS + "a",
        "\u200e" * (TITLE_CHARS - 1) + "a",
        None,
    ]
    rows = spark.createDataFrame([(text,) for text in texts], "text string")
    told = rows.select(
        "text", has_text(F.col("text")).alias("has"), clean_text(F.col("text")).isNotNull().alias("left")
    ).collect()
    assert [row.text for row in told if row.has != row.left] == []
    assert {row.has for row in told} == {True, False}
