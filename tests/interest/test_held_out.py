from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from interest_cases import daily_of, histories_of

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.data import Catalogue, Query
from llmrec_pipeline.interest.held_out import held_out_between, held_out_step, ndcg_at
from llmrec_pipeline.interest.model import InterestModel

BUYS = np.array([True, False])
HISTORIES = histories_of(
    {
        "a": [(10.0, [(0, 0)]), (20.0, [(1, 0), (1, 0), (2, 0)]), (21.0, [(0, 0)])],
        "b": [(20.0, [(3, 1)])],
        "c": [(22.0, [(4, 0)])],
        "d": [(40.0, [(1, 0)])],
    }
)


def test_ndcg_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.4, 0.1], [0.0, 1.0, 2.0, 3.0]], dtype=np.float32)
    user, item = np.array([0, 0, 1]), np.array([0, 2, 0], dtype=np.int32)
    found = ndcg_at(scores, user, item, k=3)
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(found, [(1 + 1 / np.log2(4)) / ideal, 0.0])  # ranks 1 and 3 of two targets; rank 4 is beyond k
    assert np.isnan(ndcg_at(scores, np.array([0]), np.array([0], dtype=np.int32), 3)[1])


def test_validation_holds_users_with_a_target_and_what_came_before(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    period = (Query(20.0, 20), Query(30.0, 30))
    found = held_out_between(HISTORIES, catalogue, daily_of(HISTORIES), text, make_model().config, BUYS, period)
    assert found.histories.user_ids.tolist() == ["a", "c"]  # b only viewed, d bought later
    assert found.offsets.tolist() == [0, 3, 4]
    assert found.item.tolist() == [0, 1, 2, 4]
    assert found.histories.step_time.tolist() == [10.0]
    ((users, logits),) = found.blocks(make_model(repeats=False))
    assert users.tolist() == [0, 1]
    assert np.isneginf(logits[0]).tolist() == [True, False, False, False, False, False]  # a knows item 0
    assert np.isfinite(logits[1]).all()


def test_an_empty_period_is_refused(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    with pytest.raises(ModelError, match=r"no user has a target on days \[90, 95\)"):
        held_out_between(
            HISTORIES, catalogue, daily_of(HISTORIES), text, make_model().config, BUYS, (Query(90.0, 90), Query(95.0, 95))
        )


def test_a_period_whose_targets_are_no_candidates_is_refused(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    unborn = Catalogue(catalogue.item_ids, np.full(6, 20, dtype=np.int32), catalogue.text)
    model = make_model()
    found = held_out_between(HISTORIES, unborn, daily_of(HISTORIES), text, model.config, BUYS, (Query(20.0, 20), Query(30.0, 30)))
    with pytest.raises(ModelError, match="none of 4 validation targets is a candidate on day 20"):
        found.measure(model)


def test_cross_entropy_is_over_candidates(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    model = make_model()
    found = held_out_between(
        HISTORIES, catalogue, daily_of(HISTORIES), text, model.config, BUYS, (Query(20.0, 20), Query(30.0, 30))
    )
    ((_, logits),) = found.blocks(model)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([log_p[0, 0], log_p[0, 1], log_p[0, 2], log_p[1, 4]])
    np.testing.assert_allclose(found.measure(model)[1], expected, rtol=1e-5)


def test_each_user_is_asked_just_before_a_step_from_the_end(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    model = make_model(repeats=False)
    found = held_out_step(HISTORIES, catalogue, daily_of(HISTORIES), text, model.config, BUYS, 1)
    assert found.histories.user_ids.tolist() == ["a", "c", "d"]  # b has no target
    assert (found.offsets.tolist(), found.item.tolist()) == ([0, 1, 2, 3], [0, 4, 1])
    assert found.time.tolist() == [21.0, 22.0, 40.0]
    assert np.diff(found.histories.step_offsets).tolist() == [2, 0, 0]
    assert [rows.tolist() for rows, _ in found.blocks(model)] == [[0], [1], [2]]  # three dates
    second = held_out_step(HISTORIES, catalogue, daily_of(HISTORIES), text, model.config, BUYS, 2)
    assert (second.histories.user_ids.tolist(), second.item.tolist(), second.time.tolist()) == (["a"], [1, 2], [20.0])
    with pytest.raises(ModelError, match="no user has a target in step 4 from the end; there are 6 steps"):
        held_out_step(HISTORIES, catalogue, daily_of(HISTORIES), text, model.config, BUYS, 4)


def test_users_asked_at_their_own_instants_score_as_if_asked_alone(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    """Two users of one date: each as of an instant of their own, and the same as alone."""
    both = {"a": [(10.0, [(0, 0)]), (20.2, [(1, 0)])], "b": [(12.0, [(2, 0)]), (20.9, [(3, 0)])]}
    model = make_model()

    def logits(names: str) -> npt.NDArray[np.float32]:
        histories = histories_of({name: both[name] for name in names})
        ((_, found),) = held_out_step(histories, catalogue, daily_of(histories_of(both)), text, model.config, BUYS, 1).blocks(
            model
        )
        return found

    np.testing.assert_allclose(logits("ab"), np.concatenate([logits("a"), logits("b")]), atol=1e-6)
