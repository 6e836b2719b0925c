"""The scorer of a head: as of another moment, and with new items shifted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interest_cases import N_ITEMS, daily_of, random_histories

from llmrec_pipeline.collaborative import Neighbours
from llmrec_pipeline.config import CollaborativeConfig, DomainConfig, load_settings
from llmrec_pipeline.interest.carrying import advance
from llmrec_pipeline.interest.data import Catalogue, Query
from llmrec_pipeline.interest.model import InterestModel
from llmrec_pipeline.interest.state import States
from llmrec_pipeline.recommendation.joint import JointWeights
from llmrec_pipeline.recommendation.scorer import Scorer, popularity_as_of

ROOT = Path(__file__).parent.parent.parent
Float32 = npt.NDArray[np.float32]
UNTRAINED = N_ITEMS - 1
HISTORIES = random_histories(np.random.default_rng(4), n_users=5, n_items=UNTRAINED)


@pytest.fixture
def domain() -> DomainConfig:
    kinds = "{buy: {target: true, template: {en: bought}}, view: {template: {en: saw}}}"
    return load_settings(
        ROOT / "conf/pipeline.yaml", "retail", (f"domain.event_types={kinds}", "domain.quarantine_when={}")
    ).domain


@pytest.fixture
def scorer(make_model: Callable[..., InterestModel], catalogue: Catalogue, text: Float32, domain: DomainConfig) -> Scorer:
    """As of day 165; item i5 is new."""
    model = make_model()
    with torch.no_grad():
        model.head.new_level.fill_(4.0)  # i5 stands at the level of new items, not at its own bias
    rows = [np.array(values, dtype=np.int32) for values in ([0, 1, 2], [1, 2, 3])]
    similar, following = (Neighbours(*rows, np.array(w, dtype=np.float32)) for w in ([0.5, 0.2, 0.3], [0.1, 0.9, 0.6]))
    return Scorer(
        model=model,
        catalogue=catalogue,
        text_vectors=text,
        popularity=popularity_as_of(model, daily_of(HISTORIES), 165, N_ITEMS),
        neighbours=similar,
        transitions=following,
        weights=JointWeights(1.0, 1.0, (0.3,), (), 1.2, 0.4),
        config=CollaborativeConfig(),
        domain=domain,
        query=Query(165.0, 165),
        blocked=np.zeros(N_ITEMS, dtype=np.bool_),
    )


def states_before(scorer: Scorer, query: Query) -> States:
    empty = States.empty(HISTORIES.user_ids, scorer.model.layout)
    return advance(scorer.model, empty, HISTORIES.earlier(query), scorer.catalogue, scorer.text_vectors)


def test_as_of_another_moment_it_scores_as_one_that_is_made_for_it(scorer: Scorer) -> None:
    query = Query(130.0, 130)
    popularity = popularity_as_of(scorer.model, daily_of(HISTORIES), query.day, N_ITEMS)
    moved, anew = scorer.at(query, popularity), replace(scorer, query=query, popularity=popularity)
    assert moved.similar_items is scorer.similar_items
    found, expected = (one.score(states_before(scorer, query)) for one in (moved, anew))
    np.testing.assert_array_equal(found.joint.score, expected.joint.score)
    assert not np.array_equal(found.joint.score, scorer.score(states_before(scorer, query)).joint.score)


def test_a_shift_of_new_items_is_theirs_alone_and_ends_with_their_counts(scorer: Scorer) -> None:
    states = states_before(scorer, scorer.query)
    plain, shifted = scorer.parts(states), replace(scorer, new_item_shift=1.5).parts(states)
    expected = plain.logits.copy()
    expected[:, UNTRAINED] += np.float32(1.5)
    np.testing.assert_allclose(shifted.logits, expected, rtol=1e-6, atol=1e-5)
    had = scorer.popularity.copy()
    had[UNTRAINED] = np.expm1(50 * np.sign(scorer.model.head.popularity.detach().numpy().clip(0)))
    popular, still = (
        replace(scorer, popularity=had).parts(states),
        replace(scorer, popularity=had, new_item_shift=1.5).parts(states),
    )
    assert popular.bias[UNTRAINED] > shifted.bias[UNTRAINED]
    np.testing.assert_array_equal(still.logits, popular.logits)
