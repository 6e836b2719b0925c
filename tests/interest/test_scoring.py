import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interest_cases import N_ITEMS, daily_of, histories_of

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Query
from llmrec_pipeline.interest.head import LOG_SHARE_SCALE
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.popularity import decayed_counts
from llmrec_pipeline.interest.recurrence import Carry
from llmrec_pipeline.interest.scoring import Parts, item_side, score_parts
from llmrec_pipeline.interest.state import States

Make = Callable[..., InterestModel]
Float32 = npt.NDArray[np.float32]
QUERY = Query(112.0, 112)
BEHAVIOURS = [(100.0, 0, 0), (100.0, 1, 1), (104.5, 0, 0), (104.5, 5, 0)]  # of user a: (instant, item, type)
HISTORIES = histories_of({"a": [(100.0, [(0, 0), (1, 1)]), (104.5, [(0, 0), (5, 0)])], "b": []})


def logit_by_hand(model: InterestModel, states: States, user: int, item: int, text: Float32) -> tuple[float, float, float]:
    """Short, long and bias of DESIGN 1.5 for one user and one item, term by term."""
    head, carry = model.head, Carry.of(states, model.layout, torch.float64)
    short, long, gate = head.interest(carry, torch.full((2,), QUERY.time, dtype=torch.float64))
    trained = item < N_ITEMS - 1
    vector = head.items.tower(torch.from_numpy(text[item])[None])[0] + (head.items.ids.weight[item + 1] if trained else 0)
    standard = (torch.from_numpy(text[item]) - 0.1) / 2.0
    bias = head.bias.weight[item + 1, 0] if trained else standard @ head.bias_text[:-1] + head.bias_text[-1]
    bias = bias + sum_of_logs(head.popularity, model.config.popularity_half_lives, item)
    if not trained:
        bias = torch.maximum(bias, standard @ head.total_text[:-1] + head.total_text[-1] + head.new_level)
    g = gate[user]
    return float(vector @ head.w1(g * short[user])), float(vector @ head.w1((1 - g) * long[user])), float(bias)


def sum_of_logs(weights: torch.Tensor, half_lives: tuple[float, ...], item: int) -> float:
    """Counted part of b_i(t): sum over types and half-lives of a log(1 + decayed count)."""
    total = 0.0
    for kind, (h, life) in itertools.product((0, 1), enumerate(half_lives)):
        count = sum(2 ** (-(112 - int(time)) / life) for time, row, k in BEHAVIOURS if row == item and k == kind)
        total += float(weights[kind, h]) * np.log(1 + count)
    return total


def repeat_by_hand(model: InterestModel, bias: Float32, item: int) -> float:
    """r_{a,i}(t) as its docstring has it."""
    part, lives, mass = model.head.repeat, model.config.repeat_half_lives, 0.0
    log_own, log_total = np.zeros((2, len(lives))), np.zeros((2, len(lives)))
    for kind, (h, life) in itertools.product((0, 1), enumerate(lives)):
        aged = [(row, 2 ** (-(112 - time) / life)) for time, row, k in BEHAVIOURS if k == kind]
        log_own[kind, h] = np.log(1 + sum(weight for row, weight in aged if row == item))
        log_total[kind, h] = np.log(1 + sum(weight for _, weight in aged))
    for kind in (0, 1):
        power = sum(np.exp(float(part.log_slope[kind, h])) * log_own[kind, h] for h in range(len(lives)))
        fade = sum(float(part.saturation[h]) * log_total[kind, h] for h in range(len(lives)))
        mass += np.exp(float(part.strength[kind])) * (np.exp(power) - 1) / np.exp(fade)
    log_share = bias[item] - np.log(np.exp(bias[:5]).sum())  # item 5 is no candidate yet
    of_item = part.pair.weight.numpy() @ [*log_own.flatten(), log_share / LOG_SHARE_SCALE] + part.pair.bias.numpy()
    units = np.tanh(of_item + part.user.weight.numpy() @ log_total.flatten())
    return float(np.log(1 + mass * np.exp(part.shape.weight[0].numpy() @ units) * np.exp(log_share) ** -float(part.rivalry)))


@pytest.mark.parametrize("repeats", [True, False])
def test_parts_are_those_of_the_design(repeats: bool, make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    model = make_model(repeats=repeats)
    catalogue = replace(catalogue, first_day=np.array([0, 0, 0, 0, 0, 112], dtype=np.int32))
    states = advance(model, States.empty(HISTORIES.user_ids, model.layout), HISTORIES, catalogue, text)
    popularity = decayed_counts(daily_of(HISTORIES), 112, model.config.popularity_half_lives, N_ITEMS, 2)
    parts = score_parts(model, states, QUERY, catalogue, item_side(model, catalogue, text), popularity)
    with torch.no_grad():
        for user in (0, 1):
            for item in range(N_ITEMS):
                short, long, bias = logit_by_hand(model, states, user, item, text)
                repeat = repeat_by_hand(model, parts.bias, item) if repeats and user == 0 else 0.0
                found = (parts.short[user, item], parts.long[user, item], parts.bias[item], parts.repeat[user, item])
                np.testing.assert_allclose(found, (short, long, bias, repeat), rtol=1e-4, atol=1e-5)
    assert (parts.repeat[0] > 0.01).tolist() == ([True, True, False, False, False, True] if repeats else [False] * 6)
    np.testing.assert_allclose(parts.logits, parts.short + parts.long + parts.bias + parts.repeat)
    assert parts.logits.dtype == np.float32


def test_a_user_without_steps_has_an_empty_short_part_and_no_own_items(
    make_model: Make, catalogue: Catalogue, text: Float32
) -> None:
    model = make_model()
    states = States.empty(np.array(["new"]), model.layout)
    popularity = np.zeros((N_ITEMS, 2, len(model.config.popularity_half_lives)))
    parts = score_parts(model, states, QUERY, catalogue, item_side(model, catalogue, text), popularity)
    assert np.isfinite(parts.logits).all()
    assert not parts.short.any()
    assert not parts.repeat.any()
    assert 0 < parts.gate[0] < 1


def test_an_item_without_text_and_training_scores_by_its_popularity(make_model: Make, text: Float32) -> None:
    model = make_model()
    bare = Catalogue(np.array(["unheard"]), np.zeros(1, np.int32), np.array([-1], np.int32))
    items = item_side(model, bare, text)
    assert not items.vectors.any()
    assert items.bias[0] == model.head.bias_text[-1]
    assert items.least_bias[0] == model.head.total_text[-1] + model.head.new_level


def test_popularity_of_other_half_lives_is_refused(make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    model = make_model()
    states = States.empty(np.array(["a"]), model.layout)
    with pytest.raises(ModelError, match=r"popularity has shape \(6, 2, 1\), expected \(6, 2, \d\)"):
        score_parts(model, states, QUERY, catalogue, item_side(model, catalogue, text), np.zeros((N_ITEMS, 2, 1)))


def scored(model: InterestModel, catalogue: Catalogue, text: Float32, gate_shift: float = 0.0) -> Parts:
    states = advance(model, States.empty(HISTORIES.user_ids, model.layout), HISTORIES, catalogue, text)
    popularity = decayed_counts(daily_of(HISTORIES), 112, model.config.popularity_half_lives, N_ITEMS, 2)
    return score_parts(model, states, QUERY, catalogue, item_side(model, catalogue, text), popularity, gate_shift)


def test_a_learnt_gate_is_shifted_in_its_logit(make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    plain, shifted = (scored(make_model(), catalogue, text, shift).gate.astype(np.float64) for shift in (0.0, 1.5))
    np.testing.assert_allclose(np.log(shifted / (1 - shifted)), np.log(plain / (1 - plain)) + 1.5, rtol=1e-5)


@pytest.mark.parametrize(("gate", "silent"), [(1.0, "long"), (0.0, "short")])
def test_a_fixed_gate_leaves_one_part_out(
    gate: float, silent: str, make_model: Make, catalogue: Catalogue, text: Float32
) -> None:
    parts = scored(make_model(gate=gate), catalogue, text, gate_shift=3.0)
    assert parts.gate.tolist() == [gate, gate]
    heard = {"long": parts.long, "short": parts.short}
    assert not heard.pop(silent).any()
    assert np.abs(next(iter(heard.values()))[0]).min() > 0


def test_without_as_of_terms_the_moment_plays_no_part(make_model: Make, catalogue: Catalogue, text: Float32) -> None:
    model = make_model(as_of_terms=False)
    parts = scored(model, catalogue, text)
    assert not parts.repeat.any()
    np.testing.assert_array_equal(parts.bias[: N_ITEMS - 1], model.head.bias.weight.detach().numpy()[1:, 0])
