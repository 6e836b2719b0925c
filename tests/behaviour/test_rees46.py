"""The real sample of REES46's log, in English and Chinese; skipped where it is absent (its licence does not let us ship it)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.tracking import Run

ROOT = Path(__file__).parent.parent.parent
SAMPLE = ROOT.parent / "shared/data/rees46/2019-Oct-first-3h.csv.gz"

pytestmark = [pytest.mark.spark, pytest.mark.skipif(not SAMPLE.exists(), reason=f"the REES46 sample is not at {SAMPLE}")]


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Settings]:
    def make(language: str) -> Settings:
        overrides = (f"warehouse={tmp_path / language}", f"domain.source.path={SAMPLE}", f"domain.languages=[{language}]")
        return load_settings(ROOT / "conf/pipeline.yaml", "ecommerce", overrides)

    return make


def test_every_row_of_the_sample_has_a_fate_and_purchases_follow_views(
    settings: Callable[[str], Settings], run_job: Callable[..., Run]
) -> None:
    run = run_job("ingest", settings("zh"))
    counts = run.counts
    assert counts["records"] == 17_435
    assert counts["duplicates_in_delivery"] == 5  # 4 views and a cart stand twice in the file, equal in every field
    assert counts["records"] == counts["used"] + counts["duplicates_in_delivery"] + counts["quarantined"]
    events = run.warehouse.read("events")
    kinds = {row["event_type"]: row["count"] for row in events.groupBy("event_type").count().collect()}
    assert kinds == {"view": 17_052, "cart": 164, "purchase": 214}
    bought, seen = events.filter("event_type = 'purchase'").alias("b"), events.filter("event_type <> 'purchase'").alias("s")
    before = [F.col(f"b.{key}") == F.col(f"s.{key}") for key in ("user_id", "session_id", "item_id")]
    assert bought.join(seen, on=[*before, F.col("s.event_time") <= F.col("b.event_time")], how="left_semi").count() == 212
    run_job("textualise", settings("zh"))
    texts = [row["text"] for row in run.warehouse.read("texts").collect()]
    assert {
        "浏览了electronics smartphone，品牌apple，价格500-1000",
        "加入购物车electronics smartphone，品牌apple，价格500-1000",
        "购买了electronics smartphone，品牌apple，价格500-1000",
        "浏览了，品牌shiseido，价格20-50",
    } <= set(texts)
    assert not [text for text in texts if "None" in text or "null" in text or text.endswith("，")]
