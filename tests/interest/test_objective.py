from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interest_cases import BUYS, N_ITEMS, TEXT_DIM, daily_of, random_histories, trained_loss, with_snapshots

from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Histories, Query
from llmrec_pipeline.interest.examples import examples_of
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.objective import inputs_of, window_loss
from llmrec_pipeline.interest.popularity import decayed_counts
from llmrec_pipeline.interest.recurrence import Carry
from llmrec_pipeline.interest.scoring import item_side, score_parts
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.interest.window import window_of

Float32 = npt.NDArray[np.float32]
BELOW_1 = np.nextafter(1, 0)  # the largest that a uniform draw gives
UNTRAINED = N_ITEMS - 1  # the one item of the catalogue that the models were not trained on


def served_loss(model: InterestModel, histories: Histories, catalogue: Catalogue, text: Float32) -> tuple[float, int]:
    """The same from served states: before each target step the list is scored anew, masked, and compared with what came."""
    items = item_side(model, catalogue, text)
    losses: dict[int, list[float]] = {user: [] for user in range(histories.n_users)}
    for step in range(histories.n_steps):
        user = int(histories.step_user[step])
        query = Query(float(histories.step_time[step]), int(histories.step_day[step]))
        past = histories.users(user, user + 1).earlier(query)
        states = advance(model, States.empty(past.user_ids, model.layout), past, catalogue, text)
        popularity = decayed_counts(daily_of(histories), query.day, model.config.popularity_half_lives, N_ITEMS, 2)
        logits = score_parts(model, states, query, catalogue, items, popularity).logits[0].astype(np.float64)
        logits[catalogue.first_day >= query.day] = -np.inf
        logits[UNTRAINED] = -np.inf  # it can be recommended, and stands in no softmax of training
        if not model.repeats:
            known = past.item[(past.event_type == 0) & (past.item >= 0)]
            logits[known] = -np.inf
        rows = slice(histories.event_offsets[step], histories.event_offsets[step + 1])
        bought = np.unique(histories.item[rows][(histories.event_type[rows] == 0) & (histories.item[rows] >= 0)])
        targets = bought[np.isfinite(logits[bought])]
        if len(targets):
            log_p = logits - np.log(np.exp(logits).sum())
            losses[user].append(-(len(targets) ** model.config.target_exponent) * float(log_p[targets].mean()))
    total = sum(sum(found) / max(len(found), 1) ** model.config.user_exponent for found in losses.values())
    return total, sum(len(found) for found in losses.values())


@pytest.mark.parametrize("profile_texts", [False, True])
@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_is_trained_is_what_is_served(
    cell: str,
    repeats: bool,
    profile_texts: bool,
    make_model: Callable[..., InterestModel],
    catalogue: Catalogue,
    text: Float32,
) -> None:
    """That a step's own profile text, or a later one, has no say in its loss is part of this: states are served of what lies before it."""
    model, rng = make_model(cell=cell, repeats=repeats, window_steps=3, profile_texts=profile_texts), np.random.default_rng(6)
    histories = with_snapshots(random_histories(rng, n_users=8, n_items=UNTRAINED), rng)
    catalogue = replace(catalogue, first_day=np.array([0, 0, 0, 110, 120, 0], dtype=np.int32))
    trained, examples = trained_loss(model, histories, catalogue, text)
    served, served_examples = served_loss(model, histories, catalogue, text)
    assert examples == served_examples > 10
    np.testing.assert_allclose(trained, served, rtol=1e-5)


def test_a_profile_text_is_known_from_the_step_after_its_own(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: Float32
) -> None:
    model, rng = make_model(window_steps=3, profile_texts=True), np.random.default_rng(6)
    histories = random_histories(rng, n_users=8, n_items=UNTRAINED)
    last = histories.step_offsets[1:][np.diff(histories.step_offsets) > 1] - 1

    def loss(steps: npt.NDArray[np.int64]) -> float:
        renewed = replace(histories, snapshot_step=steps, snapshots=rng.normal(size=(len(steps), TEXT_DIM)).astype(np.float32))
        return trained_loss(model, renewed, catalogue, text)[0]

    nothing = loss(last[:0])
    assert loss(last) == nothing
    assert loss(last - 1) != nothing


def test_gradients_do_not_cross_windows_but_states_do(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: Float32
) -> None:
    model, histories = make_model(window_steps=2), random_histories(np.random.default_rng(6), n_users=8, n_items=UNTRAINED)
    examples = examples_of(histories, catalogue, daily_of(histories), model.config, BUYS, True)
    inputs = inputs_of(histories, catalogue, text, model, examples)
    users = np.arange(8)
    carry = Carry.of(States.empty(histories.user_ids, model.layout), model.layout, torch.float32)
    _, after, weight = window_loss(model, carry, window_of(histories, users, 0, 2, inputs.item_row, text), inputs)
    assert weight > 0
    assert not any(getattr(after, name).requires_grad for name in ("h", "c", "numerator", "sums"))
    assert after.steps.tolist() == np.minimum(np.diff(histories.step_offsets), 2).tolist()


@pytest.mark.parametrize("repeats", [True, False])
def test_a_sampled_softmax_has_on_average_the_normaliser_of_the_full_one(
    repeats: bool,
    make_model: Callable[..., InterestModel],
    catalogue: Catalogue,
    text: Float32,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """exp(loss) is the normaliser over exp(the target's logit): its mean over all draws there are is that of all items."""
    histories = random_histories(np.random.default_rng(6), n_users=12, n_items=UNTRAINED)
    draws = np.array(list(product([False, True], repeat=N_ITEMS - 1)))
    draws = np.column_stack([draws, np.zeros(len(draws), dtype=bool)])  # the untrained item never is

    def odds(softmax_items: int) -> tuple[list[float], float]:
        """Of each user the mean over draws; and the largest spread among them."""
        model = make_model(repeats=repeats, softmax_items=softmax_items, target_exponent=0, user_exponent=0).train()
        examples = examples_of(histories, catalogue, daily_of(histories), model.config, BUYS, repeats)
        inputs = inputs_of(histories, catalogue, text, model, examples)
        likely = np.where(draws, inputs.draw_probability, 1 - inputs.draw_probability).prod(axis=1)
        means, spread = [], 0.0
        for user in np.flatnonzero(np.diff(histories.step_offsets) > 1):
            carry = Carry.of(States.empty(histories.user_ids[[user]], model.layout), model.layout, torch.float32)
            window = window_of(histories, np.array([user]), 1, 1, inputs.item_row, text)
            found = []
            for draw in draws[likely > 0]:
                monkeypatch.setattr(torch, "rand", lambda _, draw=draw: torch.from_numpy(np.where(draw, 0, BELOW_1)))
                loss, _, weight = window_loss(model, carry, window, inputs)
                found.append(np.exp(float(loss.detach())))
            if weight:
                means.append(float(np.average(found, weights=likely[likely > 0])))
                spread = max(spread, np.ptp(found))
        return means, spread

    (full, none), (sampled, some) = odds(N_ITEMS), odds(4)
    assert len(full) > 3
    assert none == 0 < some
    np.testing.assert_allclose(sampled, full, rtol=1e-5)


@pytest.mark.parametrize("softmax_items", [1, 3, N_ITEMS, 100])
def test_what_is_more_often_a_target_is_drawn_more_often(
    softmax_items: int, make_model: Callable[..., InterestModel], catalogue: Catalogue, text: Float32
) -> None:
    model, histories = (
        make_model(softmax_items=softmax_items),
        random_histories(np.random.default_rng(6), n_users=8, n_items=UNTRAINED),
    )
    examples = examples_of(histories, catalogue, daily_of(histories), model.config, BUYS, True)
    drawn = inputs_of(histories, catalogue, text, model, examples).draw_probability
    assert drawn[UNTRAINED] == 0
    drawn, often = drawn[:UNTRAINED], np.bincount(examples.targets.item, minlength=N_ITEMS)[:UNTRAINED] + 1
    assert drawn.sum() == pytest.approx(min(softmax_items, UNTRAINED))
    assert drawn.min() > 0
    below = drawn < 1
    np.testing.assert_allclose(drawn[below] / often[below], (drawn[below] / often[below])[:1].repeat(below.sum()), rtol=1e-5)
    assert often[~below].min(initial=10**9) >= often[below].max(initial=0)
