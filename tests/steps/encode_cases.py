"""A shop whose texts a test writes itself, for the tests of what comes after textualise."""

from hashlib import md5

from pyspark.sql import SparkSession

from llmrec_pipeline.warehouse import Warehouse

DOMAIN = {
    "name": "shop",
    "source": {"path": "absent.csv", "format": "csv"},
    "columns": {"user_id": "user", "item_id": "item", "event_type": "'buy'", "event_time": "time"},
    "event_types": {"buy": {"target": True, "template": {"en": "bought {title}"}}},
    "items": {"columns": {"title": "item"}},
    "languages": ["en"],
}


def add_texts(spark: SparkSession, warehouse: Warehouse, *texts: str) -> None:
    """Adds texts to the table as textualise would."""
    warehouse.create(["texts"])
    rows = [(md5(text.encode()).hexdigest(), text, "en") for text in texts]
    warehouse.insert_new("texts", spark.createDataFrame(rows, warehouse.schema("texts")))
