from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interest_cases import N_ITEMS, random_histories, trained_loss

from llmrec_pipeline.interest.data import Catalogue
from llmrec_pipeline.interest.exposure import even_shares, popularity_groups, unevenness
from llmrec_pipeline.interest.model import InterestModel

UNTRAINED = N_ITEMS - 1
OUT = -torch.inf


def test_the_head_is_the_fewest_items_with_half_of_the_targets() -> None:
    assert popularity_groups(np.array([0, 0, 0, 1, 2, 3]), 5).tolist() == [0, 1, 1, 1, 1]
    assert popularity_groups(np.array([0, 0, 1, 1, 2]), 3).tolist() == [0, 0, 1]  # two of five are not half
    assert popularity_groups(np.array([2, 1, 0, 3]), 4).tolist() == [0, 0, 1, 1]  # among equals the lower row


def test_even_shares_are_those_of_the_trained_items_with_a_group() -> None:
    groups, trained = np.array([0, 1, 1, 1, -1, 2]), np.array([True, True, True, False, True, False])
    assert even_shares(groups, trained) == pytest.approx([1 / 3, 2 / 3, 0.0])


def test_unevenness_by_hand() -> None:
    # the mean p is .35 .25 .2 .2; the first two are one group, the last has none: exposure .75 and .25 where half is even
    logits = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.2, 0.4, 0.2, 0.2]]).log()
    weight, groups, even = torch.tensor([3.0, 1.0]), torch.tensor([0, 0, 1, -1]), torch.tensor([0.5, 0.5])
    expected = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert float(unevenness(logits, weight, groups, even)) == pytest.approx(expected, abs=1e-6)


def test_as_much_for_each_item_is_even_whatever_is_masked() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, OUT], [0.0, 0.0, 0.0, OUT]])
    found = unevenness(logits, torch.ones(2), torch.tensor([0, 1, 1, 0]), torch.tensor([1 / 3, 2 / 3]))
    assert float(found) == pytest.approx(0.0, abs=1e-6)


def test_a_group_without_trained_items_does_not_count_and_one_without_exposure_is_no_nan() -> None:
    logits = torch.tensor([[0.0, OUT]], requires_grad=True)
    found = unevenness(logits, torch.ones(1), torch.tensor([0, 1]), torch.tensor([0.5, 0.5, 0.0]))
    assert torch.isfinite(found)
    assert float(found.detach()) > 10


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_item_that_stands_for_two_counts_as_two_and_the_gradient_evens(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, generator=rng, requires_grad=True)
    weight, groups, even = torch.rand(3, generator=rng) + 0.1, torch.tensor([0, 0, 1, 1]), torch.tensor([0.25, 0.75])
    twice = torch.cat([logits, logits[:, 3:]], dim=1)
    stands = logits + torch.tensor([1.0, 1.0, 1.0, 2.0]).log()
    found = unevenness(stands, weight, groups, even)
    (gradient,) = torch.autograd.grad(found, logits)
    with torch.no_grad():
        assert float(unevenness(twice, weight, torch.tensor([0, 0, 1, 1, 1]), even)) == pytest.approx(float(found), abs=1e-5)
        assert float(found) >= -1e-6
        assert float(unevenness(stands - 0.01 * gradient, weight, groups, even)) <= float(found) + 1e-6


@pytest.mark.parametrize("repeats", [True, False])
def test_the_loss_has_the_weighed_term_and_none_by_default(
    repeats: bool, make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    """Its part in the loss is proportional to its weight, and comes with the sum of the examples' weights."""
    histories = random_histories(np.random.default_rng(6), n_users=8, n_items=UNTRAINED)

    def loss(weight: float) -> float:
        return trained_loss(make_model(repeats=repeats, exposure_weight=weight), histories, catalogue, text)[0]

    plain, half, whole = loss(0.0), loss(0.5), loss(1.0)
    assert plain == trained_loss(make_model(repeats=repeats), histories, catalogue, text)[0]
    assert whole - plain > 0.01
    assert half - plain == pytest.approx((whole - plain) / 2, rel=1e-3)


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
