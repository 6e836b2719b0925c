"""All baselines as of a moment: what comes later changes nothing, whatever the cut into blocks."""

import numpy as np
import pytest
from basket_cases import histories

from llmrec_pipeline.config import CollaborativeConfig
from llmrec_pipeline.evaluation.counted import Counted, Recipe, count
from llmrec_pipeline.interest.data import DailyCounts, Histories, Query

RNG = np.random.default_rng(8)
BASKETS = [[RNG.integers(0, 6, int(RNG.integers(1, 4))).tolist() for _ in range(int(RNG.integers(1, 9)))] for _ in range(12)]
RECIPE = Recipe(6, [True], [1.0], CollaborativeConfig(ease_l2=1.0, knn_shrinkage=1.0))
NAMES = ["popularity", "popularity_30d", "popularity_decayed", "own_decayed", "markov", "item_knn", "ease", "tifu_knn", "up_cf"]


def daily(past: Histories) -> DailyCounts:
    days, items = past.step_day[past.event_step], past.item
    order = np.lexsort((items, days))
    return DailyCounts(days[order], items[order], np.zeros(len(items), dtype=np.int8), np.ones(len(items)))


def as_of(baskets: list[list[list[int]]], day: int, cut: int = 12) -> Counted:
    past = histories(baskets)
    past = Histories(**{**vars(past), "user_ids": np.array([f"u{number:02}" for number in range(past.n_users)])})
    blocks = [past.users(0, cut), past.users(cut, past.n_users)]
    return count(RECIPE, daily(past), [Query(float(day), day)], blocks)[0]


def test_every_baseline_is_there_with_finite_scores() -> None:
    scores = as_of(BASKETS, 5).scores(histories(BASKETS).before(5))
    assert list(scores) == NAMES
    assert all(np.isfinite(values).all() and values.shape == (12, 6) for values in scores.values())
    assert [name for name, values in scores.items() if not np.ptp(values, axis=1).any()] == []  # each tells items apart


@pytest.mark.parametrize("day", [2, 4])
def test_what_comes_later_changes_nothing(day: int) -> None:
    shorter = [own[:day] for own in BASKETS]
    seen, cut = (as_of(baskets, day).scores(histories(baskets).before(day)) for baskets in (BASKETS, shorter))
    for name, values in seen.items():
        assert np.array_equal(values, cut[name]), name
    other = as_of([[[5], *own] for own in BASKETS], day).scores(histories(BASKETS).before(day))
    assert not np.array_equal(seen["ease"], other["ease"])  # control: the past matters


def test_blocks_of_users_add_up() -> None:
    whole, parts = (as_of(BASKETS, 6, cut).scores(histories(BASKETS).before(6)) for cut in (12, 5))
    for name, values in whole.items():
        assert values == pytest.approx(parts[name], rel=1e-5, abs=1e-6), name


def test_two_moments_of_one_pass_are_those_of_two_passes() -> None:
    past = histories(BASKETS)
    queries = [Query(3.0, 3), Query(6.0, 6)]
    together = count(RECIPE, daily(past), queries, [past])
    for query, found in zip(queries, together, strict=True):
        alone = count(RECIPE, daily(past), [query], [past])[0]
        for name, values in found.scores(past.before(query.day)).items():
            assert np.array_equal(values, alone.scores(past.before(query.day))[name]), name


def test_no_ease_where_there_are_more_items_than_the_dense_solve_may_take() -> None:
    past = histories(BASKETS)
    small = Recipe(6, [True], [1.0], CollaborativeConfig(max_dense_items=3))
    found = count(small, daily(past), [Query(6.0, 6)], [past])[0]
    assert set(NAMES) - set(found.scores(past.before(6))) == {"ease"}
