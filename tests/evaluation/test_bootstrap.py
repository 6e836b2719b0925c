"""The mergeable paired bootstrap and the evaluator that feeds it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from llmrec_pipeline.errors import InputError
from llmrec_pipeline.evaluation import Estimate, Partials, Task, Users, evaluate_block, finish, leads, merge
from llmrec_pipeline.evaluation.bootstrap import poisson_weights
from llmrec_pipeline.interest.popularity import head_items
from llmrec_pipeline.recommendation import Targets

ITEMS = np.array([f"i{number}" for number in range(8)])
TASK = Task(
    item_ids=ITEMS,
    ks=(1, 3),
    history_edges=(2, 5),
    repeats=True,
    replicates=200,
    seed=3,
    information=np.arange(8.0),
    text=np.eye(8, dtype=np.float32),
    head=np.arange(8) < 2,
)


def smaller(n_items: int, **more: object) -> Task:
    return replace(
        TASK,
        item_ids=ITEMS[:n_items],
        information=TASK.information[:n_items],
        text=TASK.text[:n_items],
        head=TASK.head[:n_items],
        **more,
    )


def plain_users(targets: Targets, length: np.ndarray, ids: np.ndarray, known: np.ndarray | None = None) -> Users:
    """Users who behaved last on the day before, and know nothing unless told."""
    nothing = np.zeros((len(ids), len(ITEMS)), dtype=bool) if known is None else known
    return Users(ids, length, np.ones(len(ids), dtype=np.int64), sparse.csr_array(nothing), targets)


def block(task: Task, users: int, seed: int, start: int = 0, stop: int | None = None) -> Partials:
    rng = np.random.default_rng(seed)
    scores = {"a": rng.integers(0, 5, (users, 8)).astype(np.float32), "b": rng.normal(size=(users, 8)).astype(np.float32)}
    mask = rng.random((users, 8)) < 0.8
    bought = [rng.choice(8, size=2, replace=False).tolist() for _ in range(users)]
    known, length = rng.random((users, 8)) < 0.3, rng.integers(0, 8, users)
    ids = np.array([f"user-{number}" for number in range(users)])
    part = slice(start, stop)
    return evaluate_block(
        task,
        {name: values[part] for name, values in scores.items()},
        mask[part],
        plain_users(Targets.of(bought[part]), length[part], ids[part], known[part]),
    )


def pick(rows: list[Estimate], **wanted: object) -> Estimate:
    found = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_metrics_and_slices_by_hand() -> None:
    # three users, four items in order of score; user 0 knows item 0; user 2 has no history and only a masked target
    scores = np.array([[4.0, 3.0, 2.0, 1.0]] * 3)
    mask = np.ones((3, 4), dtype=bool)
    mask[2, 3] = False
    known = np.array([[True, False, False, False], [False] * 4, [False] * 4])
    task = smaller(4, ks=(1, 2))
    users = plain_users(Targets.of([[0, 1], [1], [3]]), np.array([3, 0, 0]), np.array(["x", "y", "z"]), known)
    found = evaluate_block(task, {"m": scores}, mask, replace(users, since=np.array([30, 1, 1])))
    assert task.slices == (
        *("all", "first_time", "with_history", "no_history", "steps_1_1", "steps_2_4", "steps_5_more"),
        *("since_1_7", "since_8_28", "since_29_90", "since_91_more", "head_items", "tail_items"),
    )
    assert (found.targets, found.masked_targets) == (3, 1)
    rows = finish(found)
    assert (pick(rows, slice="all", metric="hr", k=1).value, pick(rows, slice="all", metric="hr", k=1).n) == (0.5, 2)
    assert pick(rows, slice="all", metric="recall", k=2).value == 1.0
    assert pick(rows, slice="first_time", metric="hr", k=1).value == 0.5  # item 1 leads once item 0 is known and out
    assert pick(rows, slice="with_history", metric="ndcg", k=2).value == 1.0
    assert pick(rows, slice="no_history", metric="ndcg", k=2).value == pytest.approx(1 / math.log2(3))
    assert pick(rows, slice="steps_2_4", metric="mrr", k=2).n == 1
    empty = pick(rows, slice="steps_1_1", metric="mrr", k=2)
    assert (math.isnan(empty.value), math.isnan(empty.low), empty.n) == (True, True, 0)
    assert pick(rows, metric="coverage", k=2).value == 0.5  # both lists hold items 0 and 1 of four
    assert pick(rows, metric="gini", k=2).value == 0.5  # two lists hold 0 and 1, none 2 and 3
    assert [pick(rows, slice=f"since_{days}", metric="hr", k=1).n for days in ("1_7", "29_90")] == [0, 1]
    assert pick(rows, slice="all", metric="novelty", k=2).value == 0.5  # items 0 and 1 carry 0 bits and 1
    assert pick(rows, slice="all", metric="diversity", k=2).value == 1.0  # texts at right angles


def test_slices_of_targets_rank_them_among_all_candidates() -> None:
    scores = np.array([[4.0, 3.0, 2.0, 1.0]] * 2)
    events = {"view": Targets.of([[3], [0]]), "buy": Targets.of([[1, 3], []])}
    users = plain_users(Targets.of([[3, 1, 3], [0]]), np.array([1, 1]), np.array(["x", "y"]), np.zeros((2, 4), dtype=bool))
    task = smaller(4, ks=(2,), target_types=("view", "buy"))
    rows = finish(evaluate_block(task, {"m": scores}, np.ones((2, 4), dtype=bool), replace(users, of_type=events)))
    found = {name: pick(rows, slice=name, metric="recall") for name in task.by_target}
    assert {name: (row.value, row.n) for name, row in found.items()} == {
        "head_items": (1.0, 2),  # items 0 and 1
        "tail_items": (0.0, 1),  # item 3, at rank 4
        "target_view": (0.5, 2),
        "target_buy": (0.5, 1),
    }


def test_an_item_that_the_catalogue_lacks_is_in_no_slice_of_targets() -> None:
    events = {"view": Targets.of([[3], [0]]), "buy": Targets.of([[1], [-1]])}
    users = plain_users(Targets.of([[1, 3], [-1, 0]]), np.array([1, 1]), np.array(["x", "y"]), np.zeros((2, 4), dtype=bool))
    task = smaller(4, ks=(2,), target_types=("view", "buy"))
    scores = {"m": np.array([[4.0, 3.0, 2.0, 1.0]] * 2)}
    rows = finish(evaluate_block(task, scores, np.ones((2, 4), dtype=bool), replace(users, of_type=events)))
    bought = pick(rows, slice="target_buy", metric="recall")
    assert (bought.value, bought.n) == (1.0, 1)  # of x item 1, at rank 2, and not the last one beside it


def test_half_of_the_events_makes_the_head() -> None:
    assert head_items(np.array([1.0, 5.0, 0.0, 2.0, 2.0])).tolist() == [False, True, False, False, False]
    assert head_items(np.array([3.0, 2.0, 2.0])).tolist() == [True, True, False]
    assert not head_items(np.zeros(3)).any()


def test_blocks_merge_to_the_whole_whatever_the_cut() -> None:
    whole = block(TASK, 40, 7)
    for cut in (1, 13, 39):
        merged = merge([block(TASK, 40, 7, 0, cut), block(TASK, 40, 7, cut)])
        assert merged.sums == pytest.approx(whole.sums)
        assert np.array_equal(merged.weights, whole.weights)
        assert np.array_equal(merged.listed, whole.listed)
        assert np.array_equal(merged.candidates, whole.candidates)
        assert (merged.targets, merged.masked_targets) == (whole.targets, whole.masked_targets)
        assert merged.reliability == pytest.approx(whole.reliability)
        assert np.array_equal(merged.pairs, whole.pairs)


def test_weights_belong_to_the_user_and_are_poisson_with_mean_one() -> None:
    ids = np.array([f"u{number}" for number in range(400)])
    weights = poisson_weights(ids, 500, seed=1)
    assert np.array_equal(poisson_weights(ids[[9, 3]], 500, seed=1), weights[[9, 3]])
    assert not np.array_equal(poisson_weights(ids, 500, seed=2), weights)
    share = np.bincount(weights.ravel().astype(int), minlength=5)[:5] / weights.size
    assert share == pytest.approx([math.exp(-1) / math.factorial(n) for n in range(5)], abs=0.004)
    assert np.abs(np.corrcoef(weights[:20]) - np.eye(20)).max() < 0.25


def test_interval_is_that_of_the_mean_and_differences_are_paired() -> None:
    rng = np.random.default_rng(2)
    users = 400
    scores = rng.normal(size=(users, 8)).astype(np.float32)
    targets = Targets.of(rng.integers(0, 8, (users, 1)).tolist())
    better = scores.copy()
    better[np.arange(0, users, 10), targets.item[::10]] = 9.0  # every tenth target comes first
    task = replace(TASK, ks=(3,), replicates=1000)
    ids = np.array([f"u{number}" for number in range(users)])
    partials = evaluate_block(
        task, {"a": scores, "b": better}, np.ones((users, 8), dtype=bool), plain_users(targets, np.ones(users, dtype=int), ids)
    )
    hit = pick(finish(partials), slice="all", model="a", metric="hr")
    error = math.sqrt(hit.value * (1 - hit.value) / users)
    assert (hit.low, hit.high) == pytest.approx((hit.value - 1.96 * error, hit.value + 1.96 * error), abs=0.25 * error)
    gain = pick(leads(partials, "b"), slice="all", model="b", metric="hr")
    assert gain.baseline == "a"
    assert gain.value == pytest.approx(pick(finish(partials), slice="all", model="b", metric="hr").value - hit.value)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < hit.high - hit.low  # what both share does not blur the difference


def test_equal_models_differ_by_nothing() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 8))
    ids = np.array([f"u{number}" for number in range(30)])
    partials = evaluate_block(
        TASK,
        {"a": scores, "b": scores + 1},
        np.ones((30, 8), dtype=bool),
        plain_users(Targets.of([[1]] * 30), np.ones(30, dtype=int), ids),
    )
    assert {(row.value, row.low, row.high) for row in leads(partials, "b") if row.slice == "all"} == {(0.0, 0.0, 0.0)}


def test_first_time_is_no_slice_where_items_do_not_repeat() -> None:
    task = replace(TASK, repeats=False)
    assert "first_time" not in block(task, 10, 1).slices


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="no block of users was evaluated"):
        merge([])
    with pytest.raises(InputError, match=r"blocks differ in ks: \(1, 3\) and \(2,\)"):
        merge([block(TASK, 5, 1), block(replace(TASK, ks=(2,)), 5, 1)])
    with pytest.raises(InputError, match="blocks differ in replicates or catalogue"):
        merge([block(TASK, 5, 1), block(replace(TASK, replicates=7), 5, 1)])
    with pytest.raises(InputError, match="model 'c' was not evaluated; known: a, b"):
        leads(block(TASK, 5, 1), "c")
    users = plain_users(Targets.of([[0]]), np.ones(1, dtype=int), np.array(["u"]))
    with pytest.raises(InputError, match=r"model 'm' has scores \(1, 3\), the block has \(1, 2\)"):
        evaluate_block(TASK, {"m": np.zeros((1, 3))}, np.ones((1, 2), dtype=bool), users)
