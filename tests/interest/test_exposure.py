from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interest_cases import BUYS, N_ITEMS, daily_of, random_histories, trained_loss

from llmrec_pipeline.interest import objective
from llmrec_pipeline.interest.data import Catalogue
from llmrec_pipeline.interest.examples import examples_of
from llmrec_pipeline.interest.exposure import popularity_groups, unevenness
from llmrec_pipeline.interest.model import InterestModel

UNTRAINED = N_ITEMS - 1
OUT, ONES = -torch.inf, torch.ones(4)


def test_the_head_is_the_fewest_items_with_half_of_the_targets() -> None:
    assert popularity_groups(np.array([3, 1, 1, 1, 0])).tolist() == [0, 1, 1, 1, 1]
    assert popularity_groups(np.array([2, 2, 1])).tolist() == [0, 0, 1]  # two of five are not half
    assert popularity_groups(np.array([1, 1, 1, 1])).tolist() == [0, 0, 1, 1]  # among equals the lower row


def test_unevenness_by_hand() -> None:
    # the mean p is .35 .25 .2 .2; the first two are one group, the last has none: exposure .75 and .25 where 2/3 and 1/3 are even
    logits = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.2, 0.4, 0.2, 0.2]]).log()
    found = unevenness(logits, ONES.log(), torch.tensor([3.0, 1.0]), torch.tensor([0, 0, 1, -1]), 2)
    expected = 2 / 3 * np.log((2 / 3) / 0.75) + 1 / 3 * np.log((1 / 3) / 0.25)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_a_uniform_p_is_even_whatever_each_example_has_as_candidates() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, OUT], [0.0, OUT, OUT, 0.0]])
    found = unevenness(logits, ONES.log(), torch.tensor([0.3, 2.0]), torch.tensor([0, 1, 1, 0]), 2)
    assert float(found) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("groups", "least", "most"),
    [([0, 0, 1, 1], 10, 100), ([0, 0, 0, 0], 0, 1e-6), ([2, -1, -1, 2], 0, 1e-6), ([-1, -1, -1, -1], 0, 0)],
)
def test_a_group_without_exposure_or_candidates_or_no_group_at_all_is_no_nan(
    groups: list[int], least: float, most: float
) -> None:
    """Two items have all of p, as far as float32 can tell."""
    logits = torch.tensor([[0.0, 0.0, -300.0, -300.0]], requires_grad=True)
    found = unevenness(logits, ONES.log(), torch.ones(1), torch.tensor(groups), 3)
    found.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert least <= float(found.detach()) <= most


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_item_that_stands_for_two_counts_as_two_and_the_gradient_evens(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, generator=rng, requires_grad=True)
    weight, groups, stand = (
        torch.rand(3, generator=rng) + 0.1,
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([1.0, 1.0, 1.0, 2.0]).log(),
    )
    found = unevenness(logits + stand, stand, weight, groups, 2)
    (gradient,) = torch.autograd.grad(found, logits)
    with torch.no_grad():
        twice = torch.cat([logits, logits[:, 3:]], dim=1)
        of_five = unevenness(twice, torch.zeros(5), weight, torch.tensor([0, 0, 1, 1, 1]), 2)
        assert float(of_five) == pytest.approx(float(found), abs=1e-5)
        assert float(found) >= -1e-6
        assert float(unevenness(logits + stand - 0.01 * gradient, stand, weight, groups, 2)) <= float(found) + 1e-6


@pytest.mark.parametrize("term", ["exposure", "contrastive"])
@pytest.mark.parametrize("repeats", [True, False])
def test_a_term_comes_times_its_weight_and_the_sum_of_the_examples(
    repeats: bool,
    term: str,
    make_model: Callable[..., InterestModel],
    catalogue: Catalogue,
    text: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    histories = random_histories(np.random.default_rng(6), n_users=8, n_items=UNTRAINED)

    def loss(weight: float) -> float:
        return trained_loss(make_model(repeats=repeats, **{f"{term}_weight": weight}), histories, catalogue, text)[0]

    plain, with_term = loss(0.0), loss(1.0)
    assert plain == trained_loss(make_model(repeats=repeats), histories, catalogue, text)[0]
    assert with_term - plain > 0.01
    for name in ("unevenness", "contrast"):
        monkeypatch.setattr(objective, name, lambda *_: torch.tensor(1.0))
    examples = examples_of(histories, catalogue, daily_of(histories), make_model().config, BUYS, repeats)
    assert loss(0.5) - plain == pytest.approx(0.5 * float(examples.weight.sum()), rel=1e-4)


def test_the_pass_that_learns_the_level_of_new_items_is_without_it(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    histories = random_histories(np.random.default_rng(6), n_users=8, n_items=UNTRAINED)
    new = torch.tensor([True, True, False, False, False, False])
    plain, more = (
        trained_loss(make_model(exposure_weight=weight, contrastive_weight=weight), histories, catalogue, text, new)[0]
        for weight in (0.0, 1.0)
    )
    assert more == plain
