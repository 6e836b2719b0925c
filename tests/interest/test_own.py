import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from interest_cases import N_ITEMS, histories_of, random_histories

from llmrec_pipeline.interest.data import Catalogue, Histories, OwnCounts, Query
from llmrec_pipeline.interest.own import OwnItems, advance_own, own_before_steps, own_counts

LIVES = (4.0, 8.0)
STEP_BEFORE = round(2**-0.5, 9)  # weight of a step that is the last but one


def items(*ids: str) -> Catalogue:
    rows = np.arange(len(ids), dtype=np.int32)
    return Catalogue(np.array(ids, dtype=np.str_), np.zeros(len(ids), dtype=np.int32), rows)


def as_dict(own: OwnCounts, row: int) -> dict[int, tuple[list[list[float]], list[float], list[float]]]:
    rows = range(own.offsets[row], own.offsets[row + 1])
    return {
        int(own.item[j]): (own.decayed[j].round(9).tolist(), own.recent[j].round(9).tolist(), own.total[j].tolist()) for j in rows
    }


def test_own_counts_are_by_item_type_and_half_life_as_of_the_query() -> None:
    histories = histories_of({"a": [(10.0, [(1, 0), (2, 1)]), (14.0, [(1, 0), (-1, 0)]), (30.0, [(0, 0)])], "b": []})
    own = own_counts(histories, Query(18.0, 18), LIVES, 2, items("x", "y", "z"))
    # item 1 bought at ages 8 and 4; item 2 viewed at age 8; the step at 30 lies after the query, item -1 is nobody's
    assert as_dict(own, 0) == {
        1: ([[0.25 + 0.5, round(0.5 + 2**-0.5, 9)], [0.0, 0.0]], [STEP_BEFORE + 1, 0.0], [2.0, 0.0]),
        2: ([[0.0, 0.0], [0.25, 0.5]], [0.0, STEP_BEFORE], [0.0, 1.0]),
    }
    assert own.offsets.tolist() == [0, 2, 2]


def test_counts_before_a_step_leave_that_step_out() -> None:
    histories = histories_of({"a": [(10.0, [(1, 0)]), (14.0, [(1, 0), (0, 1)]), (18.0, [(2, 0)])]})
    own = own_before_steps(histories, np.array([True, False, True]), LIVES, 2)
    assert own.offsets.tolist() == [0, 0, 2]  # nothing before the first step, two items before the third
    assert as_dict(own, 1) == {
        1: ([[0.25 + 0.5, round(0.5 + 2**-0.5, 9)], [0.0, 0.0]], [STEP_BEFORE + 1, 0.0], [2.0, 0.0]),
        0: ([[0.0, 0.0], [0.5, round(2**-0.5, 9)]], [0.0, 1.0], [0.0, 1.0]),
    }


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_counts_before_steps_equal_counts_from_the_history_up_to_each(seed: int) -> None:
    histories = random_histories(np.random.default_rng(seed), n_users=4)
    catalogue = items(*(f"i{row}" for row in range(N_ITEMS)))
    everything = own_before_steps(histories, np.ones(histories.n_steps, dtype=bool), LIVES, 2)
    for step in range(histories.n_steps):
        query = Query(histories.step_time[step], int(histories.step_day[step]))
        slow = own_counts(histories, query, LIVES, 2, catalogue)
        assert as_dict(everything, step) == as_dict(slow, int(histories.step_user[step]))


def test_a_catalogue_that_grows_or_shrinks_leaves_carried_counts_valid() -> None:
    first = histories_of({"a": [(10.0, [(0, 0), (1, 0)])]})
    own = advance_own(OwnItems.empty(1, 2, 2), np.zeros(1), first, items("m", "q"), LIVES)
    grown = items("a", "m", "z")  # "q" has gone, "m" has moved
    second = histories_of({"a": [(14.0, [(1, 0), (2, 1)])]})
    own = advance_own(own, np.array([10.0]), second, grown, LIVES)
    assert own.item_id.tolist() == ["m", "q", "z"]
    assert own.decayed[:, 0, 0].tolist() == [0.5 + 1, 0.5, 0.0]
    assert own.as_of(np.array([14.0]), Query(14.0, 14), grown, LIVES).item.tolist() == [1, -1, 2]


def test_counts_of_users_in_any_order() -> None:
    histories: Histories = histories_of({"a": [(10.0, [(0, 0)])], "b": [(11.0, [(1, 0), (2, 0)])]})
    own = advance_own(OwnItems.empty(2, 2, 2), np.zeros(2), histories, items("x", "y", "z"), LIVES)
    turned = own.take(np.array([1, 0]))
    assert turned.item_id.tolist() == ["y", "z", "x"]
    assert turned.offsets.tolist() == [0, 2, 3]
