"""A return undoes one purchase of the item, once: against a walk through each history, and wherever the history is cut."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interest_cases import N_ITEMS, daily_of, histories_of, random_histories

from llmrec_pipeline.collaborative import history_weights
from llmrec_pipeline.config import InterestConfig
from llmrec_pipeline.interest.cancelling import known_types
from llmrec_pipeline.interest.data import Catalogue, Histories, Query
from llmrec_pipeline.interest.examples import examples_of, targets_of
from llmrec_pipeline.interest.own import ONE_STEP, OwnItems, advance_own, own_before_steps, own_counts

LIVES = (4.0, 8.0)
BOUGHT, RETURNED = 0, 1
CANCELS = (-1, BOUGHT)
ITEMS = Catalogue(
    np.array([f"i{row}" for row in range(N_ITEMS)]), np.zeros(N_ITEMS, dtype=np.int32), np.arange(N_ITEMS, dtype=np.int32)
)


def shop(days: list[tuple[float, list[tuple[int, int]]]]) -> Histories:
    return replace(histories_of({"a": days}), cancels=CANCELS)


def walked(histories: Histories, user: int, query: Query) -> dict[int, tuple[list[float], float, float]]:
    """Slow reference: item -> (bought, decayed by each half-life; bought; returned), one behaviour after the other."""
    found: dict[int, tuple[list[float], float]] = {}
    returned: dict[int, float] = {}
    before: float | None = None
    for step in range(histories.step_offsets[user], histories.step_offsets[user + 1]):
        time = histories.step_time[step]
        if time >= query.time:
            break
        fade = [2 ** (-(time - before) / life) if before is not None else 1.0 for life in LIVES]
        found = {item: ([d * f for d, f in zip(decayed, fade, strict=True)], n) for item, (decayed, n) in found.items()}
        before = time
        events = range(histories.event_offsets[step], histories.event_offsets[step + 1])
        for event in sorted(events, key=lambda event: histories.event_type[event]):
            item = int(histories.item[event])
            if item < 0:
                continue
            decayed, n = found.get(item, ([0.0, 0.0], 0.0))
            if histories.event_type[event] == BOUGHT:
                found[item] = ([d + 1 for d in decayed], n + 1)
            else:
                returned[item] = returned.get(item, 0.0) + 1
                found[item] = ([d * (n - 1) / n for d in decayed], n - 1) if n else (decayed, n)
    fade = [2 ** (-(query.time - before) / life) if before is not None else 1.0 for life in LIVES]
    return {
        item: ([d * f for d, f in zip(decayed, fade, strict=True)], n, returned.get(item, 0.0))
        for item, (decayed, n) in found.items()
    }


def test_a_return_takes_back_one_of_two_purchases_by_half_of_each() -> None:
    own = own_counts(
        shop([(10.0, [(1, BOUGHT)]), (14.0, [(1, BOUGHT)]), (18.0, [(1, RETURNED)])]), Query(22.0, 22), LIVES, 2, ITEMS
    )
    assert own.item.tolist() == [1]
    assert own.total.tolist() == [[1.0, 1.0]]
    np.testing.assert_allclose(own.recent, [[(ONE_STEP**2 + ONE_STEP) / 2, 1.0]])
    np.testing.assert_allclose(own.decayed[0, BOUGHT], [(2**-3 + 2**-2) / 2, (2**-1.5 + 2**-1) / 2])
    np.testing.assert_allclose(own.decayed[0, RETURNED], [0.5, 2**-0.5])  # a return is also a behaviour of its own


def test_what_a_return_has_taken_back_is_gone_and_a_new_purchase_counts_whole() -> None:
    days = [(10.0, [(1, BOUGHT)]), (14.0, [(1, RETURNED)]), (18.0, [(1, BOUGHT)])]
    before = own_counts(shop(days[:2]), Query(18.0, 18), LIVES, 2, ITEMS)
    after = own_counts(shop(days), Query(18.5, 18), LIVES, 2, ITEMS)
    assert (before.total[0, BOUGHT], before.decayed[0, BOUGHT].tolist()) == (0.0, [0.0, 0.0])
    np.testing.assert_allclose(after.decayed[0, BOUGHT], [2 ** (-0.5 / life) for life in LIVES])


def test_a_return_of_what_the_log_does_not_hold_takes_back_nothing_bought_later() -> None:
    days = [(10.0, [(1, RETURNED), (1, RETURNED)]), (14.0, [(1, BOUGHT)])]
    own = own_counts(shop(days), Query(18.0, 18), LIVES, 2, ITEMS)
    assert own.total.tolist() == [[1.0, 2.0]]
    assert own.decayed[0, BOUGHT].tolist() == [0.5, 2**-0.5]


@pytest.mark.parametrize("cancels", [(), (-1, -1)])
def test_without_a_type_that_cancels_every_behaviour_stands(cancels: tuple[int, ...]) -> None:
    histories = replace(shop([(10.0, [(1, BOUGHT)]), (14.0, [(1, RETURNED)])]), cancels=cancels)
    assert own_counts(histories, Query(18.0, 18), LIVES, 2, ITEMS).total.tolist() == [[1.0, 1.0]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.floats(100, 160))
def test_counts_equal_a_walk_through_each_history_wherever_it_is_cut(seed: int, cut: float) -> None:
    histories = replace(random_histories(np.random.default_rng(seed), n_users=3, max_steps=14, max_size=6), cancels=CANCELS)
    query = Query(161.0, 161)
    whole = own_counts(histories, query, LIVES, 2, ITEMS)
    early = histories.earlier(Query(cut, int(cut)))
    late = histories._select_steps(histories.step_time >= cut)
    state, last = OwnItems.empty(3, 2, len(LIVES)), np.zeros(3)
    for part in (early, late):
        state = advance_own(state, last, part, ITEMS, LIVES)
        some = np.diff(part.step_offsets) > 0
        last[some] = part.step_time[part.step_offsets[1:][some] - 1]
    carried = state.as_of(last, query, ITEMS, LIVES)
    np.testing.assert_allclose(carried.recent, whole.recent, atol=1e-9)
    plain = history_weights(histories, query, [1.0, 0.0], N_ITEMS, LIVES[0]).toarray()
    for user in range(3):
        expected = walked(histories, user, query)
        for own in (whole, carried):
            rows = slice(own.offsets[user], own.offsets[user + 1])
            assert own.item[rows].tolist() == sorted(expected)
            assert own.total[rows].tolist() == [list(expected[item][1:]) for item in sorted(expected)]
            bought = [expected[item][0] for item in sorted(expected)]
            np.testing.assert_allclose(own.decayed[rows, BOUGHT], np.reshape(bought, (-1, 2)), atol=1e-9)
        np.testing.assert_allclose(plain[user], [expected[i][0][0] if i in expected else 0.0 for i in range(N_ITEMS)], atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_training_counts_before_each_step_what_serving_would_count_then(seed: int) -> None:
    histories = replace(random_histories(np.random.default_rng(seed), n_users=4, max_size=6), cancels=CANCELS)
    trained = own_before_steps(histories, np.ones(histories.n_steps, dtype=bool), LIVES, 2)
    for step in range(histories.n_steps):
        served = own_counts(histories, Query(histories.step_time[step], int(histories.step_day[step])), LIVES, 2, ITEMS)
        user = histories.step_user[step]
        mine, theirs = (slice(c.offsets[r], c.offsets[r + 1]) for c, r in ((trained, step), (served, user)))
        assert trained.item[mine].tolist() == served.item[theirs].tolist()
        assert trained.total[mine].tolist() == served.total[theirs].tolist()
        np.testing.assert_allclose(trained.decayed[mine], served.decayed[theirs], atol=1e-9)
        np.testing.assert_allclose(trained.recent[mine], served.recent[theirs], atol=1e-9)


def test_what_was_returned_stays_known_and_so_does_what_the_log_saw_returned_only() -> None:
    """Where items do not repeat, neither is a target or a candidate again, in training as in serving."""
    histories = shop(
        [(10.0, [(1, BOUGHT), (2, RETURNED)]), (12.0, [(1, RETURNED)]), (14.0, [(1, BOUGHT), (2, BOUGHT), (3, BOUGHT)])]
    )
    buys = np.array([True, False])
    assert known_types(buys, CANCELS).tolist() == [True, True]
    assert known_types(buys, ()).tolist() == [True, False]
    targets = targets_of(histories, ITEMS, buys, repeats=False)
    assert targets.item[targets.offsets[2] :].tolist() == [3]
    examples = examples_of(histories, ITEMS, daily_of(histories), InterestConfig(), buys, repeats=False)
    assert examples.known.of_steps(np.array([2]))[1].tolist() == [1, 2]
