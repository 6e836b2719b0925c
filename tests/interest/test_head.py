"""The repeat term by itself: `test_scoring.py` holds it against its formula."""

import pytest
import torch
from torch import Tensor

from llmrec_pipeline.interest.head import Repeat

SHARE = torch.tensor([0.2, 0.1, 0.3, 0.4])  # P_t of four items, the last of which nobody here has had
ROW, ITEM = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
COUNTS = torch.tensor([[[3.0]], [[1.0]], [[2.0]]])  # [M, 1 type, 1 half-life]


def repeat_of(half_lives: int, bend: float = 0.0) -> Repeat:
    """The term with an m of random weights of this size; 0: as it starts."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        repeat = Repeat(torch.ones(1, 1), half_lives)
        torch.nn.init.normal_(repeat.shape.weight, std=bend)
        return repeat


def term(repeat: Repeat, counts: Tensor) -> Tensor:
    """[M] r"""
    found: Tensor = repeat(ROW, counts, 2, SHARE.log()[ITEM])
    return found


@torch.no_grad()
def test_at_exponents_of_one_it_mixes_popularity_with_own_shares() -> None:
    repeat = repeat_of(1)
    for weight, value in ((repeat.strength, 0.7), (repeat.log_slope, 0.0), (repeat.saturation, 1.0), (repeat.rivalry, 1.0)):
        weight.fill_(value)
    own_share = COUNTS[:, 0, 0] / torch.tensor([5.0, 5.0, 3.0])  # of one more than the user's total
    mixed = SHARE[ITEM] * torch.exp(term(repeat, COUNTS))  # exp(b + r)
    torch.testing.assert_close(mixed, SHARE[ITEM] + 2.0137527 * own_share)  # e^0.7


@torch.no_grad()
def test_what_is_had_lately_and_for_long_comes_before_what_is_either() -> None:
    counts = torch.tensor([[[2.0, 2.0]], [[0.0, 4.0]], [[4.0, 0.0]]])
    repeat = repeat_of(2)
    both, long, lately = repeat(torch.zeros(3, dtype=torch.int64), counts, 1, torch.full((3,), -3.0)).tolist()
    assert both > long == pytest.approx(lately)


@torch.no_grad()
def test_counts_beyond_all_of_training_are_numbers_and_none_is_nothing() -> None:
    repeat = repeat_of(3, bend=1.0)
    counts = torch.tensor([1e9, 0.0, 1e-9])[:, None, None].expand(-1, 1, 3)
    found = term(repeat, counts)
    assert torch.isfinite(found).all()
    assert found[1] == 0
    assert found[2] > 0


def test_a_user_in_a_block_has_the_term_that_the_user_has_alone() -> None:
    repeat = repeat_of(1, bend=1.0)
    alone = repeat(torch.zeros(1, dtype=torch.int64), COUNTS[2:], 1, SHARE.log()[ITEM[2:]])
    torch.testing.assert_close(term(repeat, COUNTS)[2:], alone)
