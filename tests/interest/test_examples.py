from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from interest_cases import N_ITEMS, daily_of, histories_of

from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.data import Catalogue
from llmrec_pipeline.interest.examples import examples_of, targets_of

BUYS = np.array([True, False])


def catalogue(first_day: list[int]) -> Catalogue:
    ids = np.array([f"i{row}" for row in range(N_ITEMS)])
    return Catalogue(ids, np.array(first_day, dtype=np.int32), np.arange(N_ITEMS, dtype=np.int32))


HISTORIES = histories_of(
    {
        "a": [
            (10.0, [(0, 0), (0, 0), (1, 1)]),
            (12.0, [(0, 0), (2, 0), (-1, 0)]),
            (13.0, [(1, 1)]),
            (14.0, [(1, 0), (2, 0), (5, 0)]),
        ]
    }
)


def rows(targets_offsets: list[int], item: list[int]) -> list[list[int]]:
    return [item[a:b] for a, b in pairwise(targets_offsets)]


def test_targets_are_distinct_items_of_target_events_that_were_there_before() -> None:
    targets = targets_of(HISTORIES, catalogue([0, 0, 0, 0, 0, 14]), BUYS, repeats=True)
    assert rows(targets.offsets.tolist(), targets.item.tolist()) == [[0], [0, 2], [], [1, 2]]
    assert targets.dropped == {"unknown": 1, "new": 1, "masked": 0}


def test_where_items_do_not_repeat_a_known_item_is_no_target() -> None:
    targets = targets_of(HISTORIES, catalogue([0, 0, 0, 0, 0, 14]), BUYS, repeats=False)
    assert rows(targets.offsets.tolist(), targets.item.tolist()) == [[0], [2], [], [1]]
    assert targets.dropped == {"unknown": 1, "new": 1, "masked": 2}


def test_a_horizon_adds_what_the_days_after_a_step_hold() -> None:
    seen = {"a": [(10.0, [(0, 0)]), (20.0, [(1, 1)]), (31.0, [(2, 0), (0, 0)]), (41.0, [(3, 0)])], "b": [(10.5, [(4, 0)])]}
    histories, items = histories_of(seen), catalogue([0, 0, 0, 35, 0, 0])

    def found(days: float, repeats: bool = True) -> list[list[int]]:
        targets = targets_of(histories, items, BUYS, repeats, days)
        return rows(targets.offsets.tolist(), targets.item.tolist())

    assert found(0) == [[0], [], [0, 2], [3], [4]]
    assert found(21) == [[0], [], [0, 2], [3], [4]]  # 31 is not less than 21 days after 10, and item 3 comes on day 35 only
    assert found(22) == [[0, 2], [], [0, 2], [3], [4]]  # a viewed item is none, and b's are not a's
    assert found(22, repeats=False) == [[0, 2], [], [2], [3], [4]]
    assert targets_of(histories, items, BUYS, True, 22).dropped == {"unknown": 0, "new": 1, "masked": 0}


@given(st.integers(0, 2**31), st.floats(0.5, 40))
def test_a_horizon_equals_its_slow_reference(seed: int, days: float) -> None:
    draw = np.random.default_rng(seed)
    log = {}
    for user in "abc":
        times = np.unique(draw.integers(0, 60, size=draw.integers(1, 8))).astype(float)
        log[user] = [
            (time, [(int(draw.integers(N_ITEMS)), int(draw.integers(2))) for _ in range(draw.integers(1, 4))]) for time in times
        ]
    targets = targets_of(histories_of(log), catalogue([-1] * N_ITEMS), BUYS, True, days)
    expected = []
    for steps in log.values():
        bought = [{item for item, kind in behaviours if kind == 0} for _, behaviours in steps]
        for (now, _), own in zip(steps, bought, strict=True):
            later = [items for (then, _), items in zip(steps, bought, strict=True) if 0 <= then - now < days]
            expected.append(sorted(set().union(*later)) if own else [])
    assert rows(targets.offsets.tolist(), targets.item.tolist()) == expected


def test_known_items_are_those_of_earlier_target_events_only() -> None:
    examples = examples_of(HISTORIES, catalogue([0] * N_ITEMS), daily_of(HISTORIES), InterestConfig(), BUYS, repeats=False)
    position, item, _ = examples.known.of_steps(np.array([0, 1, 3]))
    assert list(zip(position.tolist(), item.tolist(), strict=True)) == [(1, 0), (2, 0), (2, 2)]  # item 1 was only viewed


def test_popularity_and_candidates_are_as_of_the_day_of_the_step() -> None:
    examples = examples_of(HISTORIES, catalogue([0, 0, 0, 0, 0, 13]), daily_of(HISTORIES), InterestConfig(), BUYS, repeats=True)
    assert examples.days.tolist() == [10, 12, 14]
    assert examples.absent[:, 5].tolist() == [True, True, False]
    assert not examples.absent[:, :5].any()
    half_life = InterestConfig().popularity_half_lives[0]
    assert examples.popularity[0].max() == 0.0
    np.testing.assert_allclose(examples.popularity[1, 0, 0], np.log1p(2 * 2 ** (-2 / half_life)), rtol=1e-6)
    position, item, features = examples.own.of_steps(np.array([1]))
    assert list(zip(position.tolist(), item.tolist(), strict=True)) == [(0, 0), (0, 1)]
    np.testing.assert_allclose(features[0, 0], 2 * 2 ** (-2 / InterestConfig().repeat_half_lives[0]), rtol=1e-6)


def test_a_step_weighs_by_its_targets_and_its_users_steps() -> None:
    config = InterestConfig.model_validate({"target_exponent": 0.5, "user_exponent": 1.0})
    examples = examples_of(HISTORIES, catalogue([0] * N_ITEMS), daily_of(HISTORIES), config, BUYS, repeats=True)
    np.testing.assert_allclose(examples.weight, [1 / 3, 2**0.5 / 3, 0, 3**0.5 / 3], rtol=1e-6)
