from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from interest_cases import daily_of, histories_of

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.data import Catalogue, Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.validation import ndcg_at, validation_of

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
    found = validation_of(HISTORIES, catalogue, daily_of(HISTORIES), text, make_model(), BUYS, period)
    assert found.histories.user_ids.tolist() == ["a", "c"]  # b only viewed, d bought later
    assert found.offsets.tolist() == [0, 3, 4]
    assert found.item.tolist() == [0, 1, 2, 4]
    assert found.histories.step_time.tolist() == [10.0]
    ((users, logits),) = found.blocks(make_model(repeats=False))
    assert users == slice(0, 2)
    assert np.isneginf(logits[0]).tolist() == [True, False, False, False, False, False]  # a knows item 0
    assert np.isfinite(logits[1]).all()


def test_an_empty_period_is_refused(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    with pytest.raises(ModelError, match=r"no user has a target on days \[90, 95\)"):
        validation_of(HISTORIES, catalogue, daily_of(HISTORIES), text, make_model(), BUYS, (Query(90.0, 90), Query(95.0, 95)))


def test_a_period_whose_targets_are_no_candidates_is_refused(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    unborn = Catalogue(catalogue.item_ids, np.full(6, 20, dtype=np.int32), catalogue.text)
    model = make_model()
    found = validation_of(HISTORIES, unborn, daily_of(HISTORIES), text, model, BUYS, (Query(20.0, 20), Query(30.0, 30)))
    with pytest.raises(ModelError, match="none of 4 validation targets is a candidate on day 20"):
        found.measure(model)


def test_cross_entropy_is_over_candidates(
    make_model: Callable[..., InterestModel], catalogue: Catalogue, text: npt.NDArray[np.float32]
) -> None:
    model = make_model()
    found = validation_of(HISTORIES, catalogue, daily_of(HISTORIES), text, model, BUYS, (Query(20.0, 20), Query(30.0, 30)))
    ((_, logits),) = found.blocks(model)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([log_p[0, 0], log_p[0, 1], log_p[0, 2], log_p[1, 4]])
    np.testing.assert_allclose(found.measure(model)[1], expected, rtol=1e-5)
