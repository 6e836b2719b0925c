"""Ranking metrics: hand-worked cases, brute-force enumeration of tie orders, chance, and ranx."""

import itertools
import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.evaluation import block_metrics
from llmrec_pipeline.evaluation.metrics import find_places, place_metrics
from llmrec_pipeline.recommendation import Targets


def all_candidates(scores: np.ndarray) -> np.ndarray:
    return np.ones(scores.shape, dtype=bool)


def test_metrics_by_hand() -> None:
    # targets 1 and 3 stand at ranks 2 and 4
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])
    found = block_metrics(scores, all_candidates(scores), Targets.of([[3, 1]]), (1, 3, 5))[0]
    ideal = 1 + 1 / math.log2(3)
    assert found[0].tolist() == [0.0, 1.0, 1.0]  # hr
    assert found[1] == pytest.approx([0.0, (1 / math.log2(3)) / ideal, (1 / math.log2(3) + 1 / math.log2(5)) / ideal])
    assert found[2].tolist() == [0.0, 0.5, 1.0]  # recall
    assert found[3].tolist() == [0.0, 0.5, 0.5]  # mrr
    assert found[4] == pytest.approx([0.0, 1 / 2 / 2, (1 / 2 + 2 / 4) / 2])  # map: precision 1/2 at rank 2, 2/4 at rank 4


def test_ideal_is_cut_at_k_and_at_the_number_of_targets() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0]])
    found = block_metrics(scores, all_candidates(scores), Targets.of([[0, 1, 2]]), (2, 4))[0]
    assert found[1].tolist() == [1.0, 1.0]
    assert found[2].tolist() == [2 / 3, 1.0]


def test_a_user_without_a_target_among_the_candidates_has_no_metrics() -> None:
    scores = np.array([[3.0, 2.0, 1.0]] * 3)
    mask = np.array([[True, False, True]] * 3)
    found = block_metrics(scores, mask, Targets.of([[1], [], [1, 2]]), (1, 2))
    assert np.isnan(found[:2]).all()
    assert found[2, 2].tolist() == [0.0, 1.0]  # item 1 is masked: item 2 is the only target, at rank 2


def brute_force(scores: list[int], targets: set[int], k: int) -> list[float]:
    """Means over all orders of the items that respect the scores."""
    orders = [
        o for o in itertools.permutations(range(len(scores))) if all(scores[a] >= scores[b] for a, b in itertools.pairwise(o))
    ]
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(targets))))
    rows = []
    for order in orders:
        ranks = [rank for rank, item in enumerate(order[:k], start=1) if item in targets]
        rows.append(
            [
                float(bool(ranks)),
                sum(1 / math.log2(rank + 1) for rank in ranks) / ideal,
                len(ranks) / len(targets),
                1 / ranks[0] if ranks else 0.0,
                sum(place / rank for place, rank in enumerate(ranks, start=1)) / min(k, len(targets)),
            ]
        )
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.sets(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 7))
def test_ties_are_scored_by_their_expectation(scores: list[int], targets: set[int], k: int) -> None:
    values = np.array([scores], dtype=np.float64)
    found = block_metrics(values, all_candidates(values), Targets.of([sorted(targets)]), (k,))[0, :, 0]
    assert found == pytest.approx(brute_force(scores, targets, k))


def test_a_constant_model_gets_exactly_chance() -> None:
    scores = np.zeros((1, 1000))
    hr, ndcg, recall, mrr, _ = block_metrics(scores, all_candidates(scores), Targets.of([[7, 70, 700]]), (10,))[0, :, 0]
    missed = math.comb(997, 10) / math.comb(1000, 10)
    assert hr == pytest.approx(1 - missed)
    assert recall == pytest.approx(0.01)
    ideal = sum(1 / math.log2(rank + 1) for rank in (1, 2, 3))
    assert ndcg == pytest.approx(3 / 1000 * sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / ideal)
    assert mrr == pytest.approx(sum(math.comb(1000 - j, 2) / math.comb(1000, 3) / j for j in range(1, 11)))


def test_many_targets_take_the_sorted_path_and_give_the_same() -> None:
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 12, (4, 60)).astype(np.float32)
    mask = rng.random((4, 60)) < 0.9
    wanted = [sorted(rng.choice(60, size=40, replace=False).tolist()) for _ in range(4)]
    found = block_metrics(scores, mask, Targets.of(wanted), (5, 20))
    gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 22)))])
    for user, row in enumerate(wanted):
        targets = [item for item in row if mask[user, item]]
        for column, k in enumerate((5, 20)):
            dcg = hits = 0.0
            for item in targets:
                above = sum(mask[user, j] and scores[user, j] > scores[user, item] for j in range(60))
                tied = sum(mask[user, j] and scores[user, j] == scores[user, item] for j in range(60))
                ranks = [rank for rank in range(above + 1, above + tied + 1) if rank <= k]
                dcg += sum(1 / math.log2(rank + 1) for rank in ranks) / tied
                hits += len(ranks) / tied
            assert found[user, 1, column] == pytest.approx(dcg / gains[min(k, len(targets))])
            assert found[user, 2, column] == pytest.approx(hits / len(targets))


def test_ranx_agrees_where_there_are_no_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # interpreted: compiling ranx takes longer than all other tests
    from ranx import Qrels, Run, evaluate

    rng = np.random.default_rng(11)
    scores = rng.permuted(np.tile(np.arange(30.0), (8, 1)), axis=1) + 1.0
    wanted = [sorted(rng.choice(30, size=int(rng.integers(1, 12)), replace=False).tolist()) for _ in range(8)]
    qrels = Qrels({f"u{u}": {f"i{i}": 1 for i in row} for u, row in enumerate(wanted)})
    run = Run({f"u{u}": {f"i{i}": float(scores[u, i]) for i in range(30)} for u in range(8)})
    theirs = evaluate(qrels, run, ["hit_rate@10", "ndcg@10", "recall@10", "mrr@10", "map@30"])
    ours = block_metrics(scores, all_candidates(scores), Targets.of(wanted), (10, 30)).mean(axis=0)
    assert [*ours[:4, 0], ours[4, 1]] == pytest.approx(
        list(theirs.values())
    )  # theirs divides map by all targets, ours by k at most


def test_some_targets_are_ranked_among_all_candidates() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0]])
    places = find_places(scores, all_candidates(scores), Targets.of([[0, 2]]))
    second = place_metrics(places.only(places.item == 2), (3,))[0, :, 0]
    assert second == pytest.approx([1.0, 1 / math.log2(4), 1.0, 1 / 3, 1 / 3])
    assert np.isnan(place_metrics(places.only(places.item == 1), (3,))).all()


def test_a_score_that_is_no_number_is_refused() -> None:
    scores = np.array([[1.0, np.nan]])
    with pytest.raises(ModelError, match="item row 1 is nan, expected a finite number"):
        block_metrics(scores, all_candidates(scores), Targets.of([[0]]), (1,))
