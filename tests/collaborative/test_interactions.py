"""Own counts as sparse matrices: literal histories in, literal matrices out."""

import numpy as np
import pytest

from llmrec_pipeline.collaborative import history_weights, known_items, own_recent_weights, own_weights, recent_weights, transform
from llmrec_pipeline.errors import InputError
from llmrec_pipeline.interest.data import Catalogue, Histories, OwnCounts, Query
from llmrec_pipeline.interest.own import ONE_STEP, own_counts

# two users; user a: day 0 items 0, 1; day 10 items 0 (twice); user b: day 20 item 2 and an item that the catalogue lacks
HISTORIES = Histories(
    user_ids=np.array(["a", "b"]),
    step_offsets=np.array([0, 2, 3]),
    step_day=np.array([0, 10, 20], dtype=np.int32),
    step_time=np.array([0.0, 10.0, 20.0]),
    step_session=np.array([False, False, False]),
    event_offsets=np.array([0, 2, 4, 6]),
    item=np.array([0, 1, 0, 0, 2, -1], dtype=np.int32),
    event_type=np.array([0, 1, 0, 0, 0, 0], dtype=np.int8),
    text=np.zeros(6, dtype=np.int32),
    quantity=np.ones(6, dtype=np.float32),
)
OWN = OwnCounts(
    offsets=np.array([0, 2, 3]),
    item=np.array([0, 1, 2], dtype=np.int32),
    decayed=np.array([[[1.5, 2.5], [0.0, 0.0]], [[0.0, 0.0], [0.25, 0.5]], [[1.0, 1.0], [0.0, 0.0]]]),
    recent=np.array([[2.0, 0.0], [0.0, 0.5], [1.0, 0.0]]),
    total=np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),
)


def test_history_weights_decay_by_half_life_and_weigh_types() -> None:
    weights = history_weights(HISTORIES, Query(20.0, 20), [1.0, 0.5], 3, 10.0)
    assert weights.toarray().tolist() == [[0.25 + 0.5 + 0.5, 0.5 * 0.25, 0.0], [0.0, 0.0, 0.0]]


def test_history_weights_count_plainly_without_half_life() -> None:
    weights = history_weights(HISTORIES, Query(21.0, 21), [1.0, 0.0], 3, None)
    assert weights.toarray().tolist() == [[3.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert weights.nnz == 2


def test_recent_weights_count_steps_and_not_days() -> None:
    weights = recent_weights(HISTORIES, Query(15.0, 15), [1.0, 1.0], 3)
    assert weights.toarray() == pytest.approx(np.array([[ONE_STEP + 1.0 + 1.0, ONE_STEP, 0.0], [0.0, 0.0, 0.0]]))


def test_recent_weights_from_histories_equal_those_carried() -> None:
    catalogue = Catalogue(np.array(["x", "y", "z"]), np.zeros(3, dtype=np.int32), np.zeros(3, dtype=np.int32))
    query = Query(25.0, 25)
    own = own_counts(HISTORIES, query, (7.0,), 2, catalogue)
    carried = own_recent_weights(own, [1.0, 0.5], 3)
    assert carried.toarray() == pytest.approx(recent_weights(HISTORIES, query, [1.0, 0.5], 3).toarray())
    assert carried.nnz == 3


def test_own_weights_read_one_half_life_or_plain_counts() -> None:
    assert own_weights(OWN, [1.0, 2.0], 3, 1).toarray().tolist() == [[2.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert own_weights(OWN, [1.0, 2.0], 3, None).toarray().tolist() == [[3.0, 2.0, 0.0], [0.0, 0.0, 1.0]]


def test_known_items_are_those_of_target_events() -> None:
    assert known_items(OWN, [True, False], 3).toarray().tolist() == [[True, False, False], [False, False, True]]


def test_transform_gives_the_form_that_enters_co_occurrence() -> None:
    counts = own_weights(OWN, [1.0, 0.0], 3, None)
    assert transform(counts, "binary").toarray().tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert transform(counts, "log").toarray()[0, 0] == pytest.approx(np.log(4.0))
    assert counts.toarray()[0, 0] == 3.0


def test_wrong_weights_and_half_lives_are_refused_with_their_values() -> None:
    with pytest.raises(InputError, match=r"shape \(3,\), own counts have \(2,\)"):
        own_weights(OWN, [1.0, 1.0, 1.0], 3, None)
    with pytest.raises(InputError, match=r"position 2 is not in the range of own counts \[0, 2\)"):
        own_weights(OWN, [1.0, 1.0], 3, 2)
