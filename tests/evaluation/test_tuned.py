"""The tuned sum: what is chosen and weighted, and that the pool decides as the whole catalogue would."""

import numpy as np
import pytest

from llmrec_pipeline.evaluation import block_metrics, tuned
from llmrec_pipeline.evaluation.tuned import GRID, pool, tune, weighted_sum
from llmrec_pipeline.recommendation import Targets, standardise

USERS, ITEMS = 60, 40
RNG = np.random.default_rng(6)
WANTED = RNG.integers(0, ITEMS, (USERS, 3))
TARGETS = Targets.of(WANTED.tolist())
MASK = RNG.random((USERS, ITEMS)) < 0.9


def models() -> dict[str, np.ndarray]:
    """Two that each know one target of every user, and what adds nothing to them."""
    noise, first, second = np.random.default_rng(7).normal(size=(3, USERS, ITEMS)).astype(np.float32)
    first[np.arange(USERS), WANTED[:, 0]] += 4.0
    second[np.arange(USERS), WANTED[:, 1]] += 2.5
    return {"noise": noise, "first": first, "echo": first * 3 + 1, "second": second, "constant": np.ones((USERS, ITEMS))}


def test_what_adds_is_chosen_before_an_echo_of_what_is_there() -> None:
    choice = tune([pool(models(), MASK, TARGETS)])
    assert list(choice.weights)[:2] == ["first", "second"]
    assert choice.weights["first"] == 1.0
    assert choice.weights["second"] in GRID
    assert choice.ndcg > max(choice.single.values())
    assert choice.users == (TARGETS.distinct().within(MASK).per_user > 0).sum()


def test_figures_of_the_pool_are_those_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "DEPTH", 20)
    given = models()
    choice = tune([pool(given, MASK, TARGETS)])
    for name, scores in [*given.items(), ("sum", weighted_sum(given, choice.weights, MASK))]:
        whole = np.nanmean(block_metrics(np.asarray(scores), MASK, TARGETS, (10,))[:, 1, 0])
        if name != "constant":  # has chance there, nothing here
            assert {**choice.single, "sum": choice.ndcg}[name] == pytest.approx(whole, abs=0.003)
    assert choice.single["constant"] == 0.0


def test_blocks_decide_together_and_the_same_each_time() -> None:
    given = models()
    parts = []
    for part in (slice(0, 25), slice(25, USERS)):
        targets = Targets.of(WANTED[part].tolist())
        parts.append(pool({name: scores[part] for name, scores in given.items()}, MASK[part], targets))
    whole = tune([pool(given, MASK, TARGETS)])
    assert tune(parts).weights == tune(parts).weights == whole.weights
    assert tune(parts).ndcg == pytest.approx(whole.ndcg)


def test_the_sum_is_of_z_scores_over_the_candidates() -> None:
    given = models()
    found = weighted_sum(given, {"first": 1.0, "second": 0.35}, MASK)
    expected = standardise(given["first"], MASK) + 0.35 * standardise(given["second"], MASK)
    assert found == pytest.approx(expected, abs=1e-5)
    assert not found[~MASK].any()
