"""Faults from the field that show at the end of the whole path: orders that tell the answer, masks that differ, lists of nobody."""

import csv
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmrec_pipeline.cli import STEPS
from llmrec_pipeline.config import Settings
from llmrec_pipeline.tracking import Run

pytestmark = [pytest.mark.spark, pytest.mark.slow]
CASES = Path(__file__).parent
Make, RunJob = Callable[..., Settings], Callable[..., Run]
SMALL = ("interest.hidden_size=8", "interest.item_dim=8", "interest.max_epochs=1", "evaluation.bootstrap=20")


def read(run: Run, name: str) -> pl.DataFrame:
    return pl.read_delta(run.warehouse.path(name))


def run_all(run_job: RunJob, settings: Settings) -> dict[str, Run]:
    return {name: run_job(name, settings) for name in STEPS}


# --- 10: ties ordered by item id make a pattern


def ties(path: Path, **more: Any) -> dict[str, Any]:
    columns = {"user_id": "guest", "item_id": "title_id", "event_type": "action", "event_time": "day"}
    kinds = {"rate": {"target": True, "template": {"en": "rated {item_id}"}}}
    source = {"path": str(path)}
    whole = {"name": "shop", "source": source, "columns": columns, "time_formats": ["yyyy-MM-dd"], "event_types": kinds}
    return whole | {"repeats": False} | more


def sequences(run: Run) -> list[tuple[str, list[str]]]:
    rows = read(run, "user_sequences").sort("user_id", "event_date")
    return [(user, [behaviour["item_id"] for behaviour in steps]) for user, steps in rows.select("user_id", "steps").iter_rows()]


def test_10_baskets_of_equal_time_leave_no_next_step_and_it_says_so(
    make_settings: Make, run_job: RunJob, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="llmrec")
    runs = run_all(run_job, make_settings(ties(CASES / "10-ties.csv", step_by="time"), *SMALL, "evaluation.window_days=14"))
    counts = runs["ingest"].counts
    assert (counts["records"], counts["used"], counts["quarantined"]) == (480, 480, 0)
    assert read(runs["textualise"], "user_sequences")["n_steps"].to_list() == [1] * 60
    said = [record.getMessage() for record in caplog.records if "no user has a next step" in record.getMessage()]
    assert len(said) == 1
    lists = read(runs["recommend"], "recommendations")
    assert lists["user_id"].n_unique() == 60
    assert lists.filter(pl.col("rank") == 1)["basis"].is_in(["joint", "one_event"]).all()


def test_10_the_order_within_a_tie_says_nothing(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    """The last item of each guest's day is as likely to have a high id as any; neither file order nor ids make the order."""
    with (CASES / "10-ties.csv").open() as file:
        header, *rows = csv.reader(file)
    orders = []
    for name, order in (("as-it-came", rows), ("shuffled", random.Random(3).sample(rows, len(rows)))):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(",".join(row) for row in [header, *order]) + "\n")
        settings = make_settings(ties(path, step_by="row"), f"warehouse={tmp_path / name}")
        run_job("ingest", settings)
        orders.append(sequences(run_job("textualise", settings)))
    assert orders[0] == orders[1]
    highest = sum(items[-1] == max(items) for _, items in orders[0])
    assert len(orders[0]) == 60
    assert highest <= 17  # of 60 with one chance in 8: mean 7.5, sd 2.6
    in_file = [[row[1] for row in rows if row[0] == guest] for guest, _ in orders[0]]
    assert sum(items == listed for (_, items), listed in zip(orders[0], in_file, strict=True)) == 0


# --- 21: repeats masked for one model and not for the other


def households(**more: Any) -> dict[str, Any]:
    columns = {"user_id": "household", "item_id": "product", "event_type": "action", "event_time": "at", "quantity": "qty"}
    kinds = {"purchase": {"target": True, "template": {"en": "bought {item_id}"}}}
    source = {"path": str(CASES / "21-repeat-targets.csv")}
    return {"name": "shop", "source": source, "columns": columns, "event_types": kinds} | more


def metric(run: Run, model: str, name: str, k: int, of: str = "all") -> tuple[float, int]:
    rows = read(run, "evaluation").filter((pl.col("slice") == of) & (pl.col("k") == k))
    row = rows.filter((pl.col("model") == model) & (pl.col("metric") == name)).row(0, named=True)
    return row["value"], row["n"]


@pytest.mark.parametrize("repeats", [True, False])
def test_21_one_key_masks_known_items_for_all_models_alike(make_settings: Make, run_job: RunJob, repeats: bool) -> None:
    window = ("evaluation.window_days=22", "evaluation.ks=[3,5,10]", "recommend.top_k=5")
    runs = run_all(run_job, make_settings(households(repeats=repeats), *SMALL, *window))
    counts = runs["evaluate"].counts
    assert (runs["ingest"].counts["records"], runs["ingest"].counts["used"]) == (84, 84)
    assert (counts["users"], counts["targets"], counts["targets_not_candidates"]) == (12, 12, 0 if repeats else 6)
    models = ("joint", "p", "s", "popularity", "popularity_30d", "own_decayed", "item_knn", "tifu_knn")
    assert {metric(runs["evaluate"], model, "hr", 10)[1] for model in models} == {12}
    hits = {model: metric(runs["evaluate"], model, "hr", 10)[0] for model in models}
    if repeats:
        assert {round(hr, 9) for hr in hits.values()} == {1.0}  # 8 candidates, 10 places
        assert metric(runs["evaluate"], "own_decayed", "hr", 3)[0] == 0.5  # the three that a household knows: 6 of 12
        assert {metric(runs["evaluate"], model, "hr", 5, "first_time") for model in models} == {
            (1.0, 6)
        }  # 5 candidates, 5 places
    else:
        assert {round(hr, 9) for hr in hits.values()} == {
            0.5
        }  # the 6 new ones, of 12 households: those that bought again cannot be hit
    lists = read(runs["recommend"], "recommendations").group_by("user_id").agg("item_id")
    bought = read(runs["ingest"], "events").group_by("user_id").agg(pl.col("item_id").unique().alias("known"))
    overlaps = [len(set(items) & set(known)) for _, items, known in lists.join(bought, on="user_id").iter_rows()]
    assert len(overlaps) == 12
    assert (min(overlaps) > 0) if repeats else (max(overlaps) == 0)


# --- 12: who is known by impressions alone


def news(path: Path) -> dict[str, Any]:
    columns = ["impression", "user", "time", "history", "shown"]
    shown = {"values": "split(shown, ' ')", "into": "impressions", "item_id": "regexp_extract(value, '^(.*)-[01]$', 1)"}
    lists = {
        "history": {"values": "split(history, ' ')", "event_type": "click", "event_time": "'11/1/2019 12:00:00 AM'"},
        "shown": shown | {"acted": "value LIKE '%-1'"},
    }
    return {
        "name": "shop",
        "source": {"format": "tsv", "quote": None, "header": False, "columns": columns, "path": str(path)},
        "columns": {"user_id": "user", "event_time": "time"},
        "time_formats": ["M/d/yyyy h:mm:ss a"],
        "lists": lists,
        "event_types": {"click": {"target": True, "template": {"en": "read {item_id}"}}},
        "repeats": False,
    }


def base_log() -> list[str]:
    """Twenty made readers, who click one of two shown items a day for twenty days, up to the day of the case."""
    draw, lines = random.Random(5), []
    for day in range(20):
        date = datetime(2019, 10, 23) + timedelta(days=day)
        for reader in range(20):
            first, second = draw.sample(range(1, 10), 2)
            when = f"{date.month}/{date.day}/{date.year} 8:00:00 AM"
            lines.append(f"{day}-{reader}\tB{reader:02}\t{when}\t\tN{first}-1 N{second}-0")
    return lines


def test_12_who_was_only_shown_something_has_a_list_of_its_own(tmp_path: Path, make_settings: Make, run_job: RunJob) -> None:
    case = (CASES / "12-empty-history.tsv").read_text().splitlines()
    found = []
    for name, lines in (("as-it-came", case), ("reversed", case[::-1])):
        path = tmp_path / f"{name}.tsv"
        path.write_text("\n".join([*base_log(), *lines]) + "\n")
        described = news(path)
        described["lists"]["shown"] |= {"event_type": "click"}
        settings = make_settings(
            described, *SMALL, "evaluation.window_days=5", "recommend.top_k=5", f"warehouse={tmp_path / name}"
        )
        runs = run_all(run_job, settings)
        lists = read(runs["recommend"], "recommendations").sort("user_id", "rank")
        basis = dict(lists.filter(pl.col("rank") == 1).select("user_id", "basis").iter_rows())
        assert len(basis) + runs["recommend"].counts.get("users_without_candidates", 0) == 26  # some readers know all nine
        assert {user: basis[user] for user in ("U1", "U2", "U3", "U4", "U5", "U6")} == {
            "U1": "joint",
            "U2": "one_event",
            "U3": "joint",
            "U4": "no_history",
            "U5": "joint",
            "U6": "no_history",
        }
        nobody = read(runs["recommend"], "default_recommendations").sort("rank")["item_id"].to_list()
        for user in ("U4", "U6"):
            assert lists.filter(pl.col("user_id") == user)["item_id"].to_list() == nobody
        found.append(lists.select("user_id", "rank", "item_id", "score"))
        assert run_job("recommend", settings).outputs == runs["recommend"].outputs
    assert found[0].equals(found[1])
