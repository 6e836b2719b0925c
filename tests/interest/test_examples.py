from itertools import pairwise

import numpy as np
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
