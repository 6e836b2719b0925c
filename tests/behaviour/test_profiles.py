"""Profile texts: when they are due, what they say, and that Spark and the slow way agree."""

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import Row, SparkSession

from llmrec_pipeline.behaviour.profiles import FREQUENT, due_snapshots, renewals, snapshots_of


def behaviour(user: str = "ann", day: int = 1, step: int = 0, category=None, brand=None, text=None) -> dict:
    return {"user_id": user, "event_date": date(2011, 3, day), "step": step, "category": category, "brand": brand, "text": text}


def lines(behaviours: list[dict], room: int = 256) -> list[tuple]:
    return [
        (row["user_id"], row["renewal"], row["event_date"].day, row["step"], row["text"])
        for row in snapshots_of(behaviours, room)
    ]


@given(st.integers(0, 10**7))
def test_snapshots_are_due_at_16_and_its_doubles(behaviours: int) -> None:
    assert renewals(behaviours) == sum(16 * 2**k <= behaviours for k in range(40))


def test_a_line_names_what_is_frequent_and_then_what_came_last() -> None:
    kinds = [("tea", "Ivy")] * 6 + [("mugs", "Oak")] * 3 + [("lamps", None)] * 3 + [("clocks", "Elm")] * 2 + [(None, "Oak")] * 2
    rows = [behaviour(step=n, category=c, brand=b, text=f"text {n % 14}") for n, (c, b) in enumerate(kinds)]
    assert len(rows) == 16
    whole = "tea, lamps, mugs; Ivy, Oak, Elm; text 1; text 0; text 13; text 12; text 11"
    assert lines(rows, room=len(whole)) == [("ann", 0, 1, 15, whole)]
    assert lines(rows, room=len(whole) - 1) == [("ann", 0, 1, 15, whole.removesuffix("; text 11"))]
    assert lines(rows[:15]) == []
    assert FREQUENT == 3


def test_a_snapshot_holds_its_whole_step_and_nothing_later() -> None:
    first = [behaviour(day=1, step=n, text=f"a{n}") for n in range(14)]
    passing = [behaviour(day=2, step=0, text=text) for text in ("b", "c", "d")]  # the 15th to 17th behaviour
    later = [behaviour(day=2, step=1, text="e"), behaviour(day=3, step=0, text="f")]
    expected = [("ann", 0, 2, 0, "; ".join(["d", "c", "b", *[f"a{n}" for n in range(13, -1, -1)]]))]
    assert lines(first + passing) == expected
    assert lines(first + passing + later) == expected


def test_a_step_that_passes_two_marks_has_two_equal_snapshots() -> None:
    found = lines([behaviour(text=f"t{n}") for n in range(40)])
    assert [row[:4] for row in found] == [("ann", 0, 1, 0), ("ann", 1, 1, 0)]
    assert found[0][4] == found[1][4]


def test_one_long_text_is_cut_and_no_text_says_nothing() -> None:
    assert lines([behaviour(text="x" * 300)] * 16, room=20) == [("ann", 0, 1, 0, "x" * 20)]
    assert lines([behaviour()] * 16) == [("ann", 0, 1, 0, None)]


def test_users_do_not_mix() -> None:
    rows = [behaviour(user=user, step=n, text=user) for user in ("ann", "bob") for n in range(16)]
    assert lines(rows) == [("ann", 0, 1, 15, "ann"), ("bob", 0, 1, 15, "bob")]


@pytest.mark.spark
@settings(max_examples=5, deadline=None)
@given(sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4))
def test_spark_finds_due_what_the_lines_are_made_for(spark: SparkSession, sizes: list[list[int]]) -> None:
    """Numbers of behaviours by user and date; each behaviour a step."""
    rows = [
        Row(
            user_id=f"u{user}",
            event_date=date(2011, 3, 1) + timedelta(days=day),
            fingerprint=100 * user + day,
            steps=[Row(step=step) for step in range(n)],
        )
        for user, of_user in enumerate(sizes)
        for day, n in enumerate(of_user)
    ]
    behaviours = [
        behaviour(user=row.user_id, day=row.event_date.day, step=step, text="t") for row in rows for step in range(len(row.steps))
    ]
    due = {
        (row.user_id, row.renewal, row.event_date): row.fingerprint
        for row in due_snapshots(spark.createDataFrame(rows)).collect()
    }
    assert sorted(due) == sorted((row["user_id"], row["renewal"], row["event_date"]) for row in snapshots_of(behaviours, 256))
    for (user, _, day), fingerprint in due.items():
        expected = 0
        for row in rows:
            if row.user_id == user and row.event_date <= day:
                expected ^= row.fingerprint
        assert fingerprint == expected
