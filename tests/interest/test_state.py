from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from interest_cases import random_histories

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.state import SCHEMA, States

Make = Callable[..., InterestModel]


@pytest.fixture
def states(make_model: Make, catalogue: Catalogue, text: npt.NDArray[np.float32]) -> States:
    model, histories = make_model(), random_histories(np.random.default_rng(1), n_users=6)
    return advance(model, States.empty(histories.user_ids, model.layout), histories, catalogue, text)


def assert_equal(one: States, other: States) -> None:
    for name in ("user_ids", "h", "c", "accumulators", "steps", "last_day", "last_time"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist(), name
    for name in ("offsets", "item_id", "decayed", "total"):
        assert getattr(one.own, name).tolist() == getattr(other.own, name).tolist(), name


def test_arrow_gives_states_back_bit_for_bit(states: States, make_model: Make) -> None:
    table = states.to_arrow()
    assert table.schema == SCHEMA
    assert table.num_rows == 6
    assert_equal(States.from_arrow(table, make_model().layout), states)
    assert_equal(States.from_arrow(table.slice(2, 3), make_model().layout), states.take(np.array([2, 3, 4])))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_empty_states_and_no_states_pass_through_arrow(cell: str, make_model: Make) -> None:
    layout = make_model(cell=cell).layout
    for names in (["a", "b"], []):
        empty = States.empty(np.array(names, dtype=np.str_), layout)
        assert_equal(States.from_arrow(empty.to_arrow(), layout), empty)


def test_states_of_another_model_are_refused(states: States, make_model: Make) -> None:
    layout = replace(make_model().layout, hidden=9)
    with pytest.raises(ModelError, match="h has 7 numbers, this model has 9; use states of the model's own state_version"):
        States.from_arrow(states.to_arrow(), layout)
    with pytest.raises(ModelError, match=r"lack the columns \['own'\]"):
        States.from_arrow(states.to_arrow().drop_columns("own"), make_model().layout)


def test_unknown_users_get_an_empty_state(states: States, make_model: Make) -> None:
    layout = make_model().layout
    picked = states.for_users(np.array(["u003", "nobody", "u001"]), layout)
    assert_equal(picked.take(np.array([0, 2])), states.take(np.array([3, 1])))
    assert_equal(picked.take(np.array([1])), States.empty(np.array(["nobody"]), layout))
