import csv
import gzip
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHIPPED = EXAMPLES / "clicks" / "log.csv.gz"


def make(out: Path, *arguments: str, hash_seed: str = "0") -> bytes:
    command = [sys.executable, str(EXAMPLES / "make_clicks.py"), "--out", str(out), *arguments]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": hash_seed})
    return out.read_bytes()


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with gzip.open(SHIPPED, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_script_writes_the_same_bytes_twice_and_they_are_the_shipped_ones(tmp_path: Path) -> None:
    first = make(tmp_path / "a.csv.gz", hash_seed="1")
    assert first == make(tmp_path / "b.csv.gz", hash_seed="2")
    assert gzip.decompress(first) == gzip.decompress(SHIPPED.read_bytes())


def test_another_seed_makes_another_log(tmp_path: Path) -> None:
    assert gzip.decompress(make(tmp_path / "a.csv.gz", "--seed", "7")) != gzip.decompress(SHIPPED.read_bytes())


def test_the_shipped_log_is_small_and_has_rees46s_columns_in_time_order(rows: list[dict[str, str]]) -> None:
    expected = "event_time event_type product_id category_id category_code brand price user_id user_session"
    assert SHIPPED.stat().st_size < 200_000
    assert list(rows[0]) == expected.split()
    times = [row["event_time"] for row in rows]
    assert times == sorted(times)
    assert (times[0][:10], times[-1][:10], times[0][-4:]) == ("2019-10-01", "2019-11-04", " UTC")


def test_the_readme_counts_what_the_log_holds(rows: list[dict[str, str]]) -> None:
    kinds = Counter(row["event_type"] for row in rows)
    assert kinds == {"view": 4930, "cart": 519, "purchase": 364, "remove_from_cart": 15}
    distinct = [len({row[name] for row in rows} - {""}) for name in ("user_id", "product_id", "user_session", "category_id")]
    assert distinct == [300, 200, 1391, 20]
    missing = [sum(not row[name] for row in rows) for name in ("brand", "category_code", "user_id")]
    assert missing == [342, 262, 5]
    assert sum(row["price"] == "0.00" for row in rows) == 20
    assert len(rows) - len({tuple(row.values()) for row in rows}) == 20


def test_purchases_follow_a_view_and_a_cart_of_the_same_product_and_session(rows: list[dict[str, str]]) -> None:
    seen: dict[str, set[tuple[str, str]]] = defaultdict(set)
    followed = []
    for row in rows:
        if row["event_type"] == "purchase":
            followed.append({("view", row["product_id"]), ("cart", row["product_id"])} <= seen[row["user_session"]])
        seen[row["user_session"]].add((row["event_type"], row["product_id"]))
    assert sum(followed) / len(followed) > 0.97  # the rest lost a row's type to the dirt


def test_users_keep_to_their_categories(rows: list[dict[str, str]]) -> None:
    """The first half's favourite category takes a large share of the second half's sessions; by chance it were 1/20."""
    sessions: dict[str, list[str]] = defaultdict(list)
    for row in {row["user_session"]: row for row in rows}.values():
        sessions[row["user_id"]].append(row["category_id"])
    hits = total = 0
    for categories in sessions.values():
        half = len(categories) // 2
        if half:
            favourite = Counter(categories[:half]).most_common(1)[0][0]
            hits += categories[half:].count(favourite)
            total += len(categories) - half
    assert hits / total > 0.2
