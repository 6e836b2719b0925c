"""UP-CF beside a slow reference that follows the paper, and literal cases."""

import numpy as np
import pytest
from basket_cases import histories
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from test_baselines import baskets_of_users

from llmrec_pipeline.evaluation import upcf
from llmrec_pipeline.evaluation.upcf import UpCf, upcf_scores, user_wise_popularity
from llmrec_pipeline.interest.data import Query

LATER = Query(100.0, 100)


def test_popularity_is_the_share_of_the_last_steps() -> None:
    past = histories([[[0], [0, 1], [1, 1]], [[2]], []])
    found = user_wise_popularity(past, LATER, [True], 3, UpCf(recency=2)).toarray()
    assert found.tolist() == [[0.5, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    early = user_wise_popularity(past, Query(2.0, 2), [True], 3, UpCf(recency=2)).toarray()
    assert early[0].tolist() == [1.0, 0.5, 0.0]


def slow_scores(items: list[set[int]], shares: np.ndarray, params: UpCf) -> np.ndarray:
    scores = np.zeros(shares.shape)
    for user, own in enumerate(items):
        for other, theirs in enumerate(items):
            if own and theirs:
                cosine = len(own & theirs) / (len(own) ** params.asymmetry * len(theirs) ** (1 - params.asymmetry))
                scores[user] += cosine**params.locality * shares[other]
    return scores


@settings(max_examples=60, deadline=None)
@given(baskets_of_users, st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_scores_equal_the_paper_worked_with_loops(
    baskets: list[list[list[int]]], recency: int, locality: int, asymmetry: float
) -> None:
    params = UpCf(recency, locality, asymmetry)
    items = [{item for basket in own for item in basket} for own in baskets]
    dense = np.array([[float(item in own) for item in range(5)] for own in items])
    shares = user_wise_popularity(histories(baskets), LATER, [True], 5, params)
    popular = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    everyone = sparse.csr_array(dense)
    found = upcf_scores(everyone, everyone, shares, popular, params)
    expected = slow_scores(items, shares.toarray(), params)
    expected[[not own for own in items]] = popular
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_cutting_the_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = sparse.csr_array((np.random.default_rng(1).random((9, 6)) < 0.5).astype(np.float64))
    whole = upcf_scores(dense, dense, dense, np.ones(6), UpCf())
    monkeypatch.setattr(upcf, "BLOCK_CELLS", 18)  # two users at a time
    assert upcf_scores(dense, dense, dense, np.ones(6), UpCf()) == pytest.approx(whole)
