"""The joint score: worked out by hand for 3 users x 5 items, and its laws (DESIGN 1.5)."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.recommendation import (
    FirstTimeWeights,
    JointWeights,
    candidate_mask,
    collaborative_log_s,
    contributions,
    first_time_similarity,
    joint_logit,
    log_softmax,
    standardise,
    with_first_time,
)
from llmrec_pipeline.recommendation.joint import mixed_similarity

OUT = -np.inf
# item 4 is masked for user 1; user 2 has neither co-occurrence nor own counts
MASK = np.array([[True] * 5, [True, True, True, True, False], [True] * 5])
LOGITS = np.log(np.array([[1.0, 2.0, 3.0, 4.0, 10.0], [1.0, 1.0, 2.0, 4.0, 99.0], [1.0, 1.0, 1.0, 1.0, 4.0]]))
SIMILARITY = np.array([[2.0, 0.0, 0.0, 0.0, 3.0], [1.0, 1.0, 3.0, 3.0, 50.0], [0.0] * 5])
OWN = np.array([[0.0, 4.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 2.0, 0.0], [0.0] * 5])


def lambdas(*cf_weight: float, theta: float = 1.0) -> JointWeights:
    """One lambda for each history length: 0, 1, 2 and so on."""
    return JointWeights(1.0, 1.0, cf_weight, tuple(range(1, len(cf_weight))), theta, 0.0)


def of_each(cf_weight: np.ndarray, theta: float) -> tuple[JointWeights, np.ndarray]:
    """Weights and history lengths under which each user has a lambda of their own."""
    return lambdas(*cf_weight.tolist(), theta=theta), np.arange(len(cf_weight))


def test_p_by_hand() -> None:
    p = np.exp(log_softmax(LOGITS, MASK))
    assert p == pytest.approx(
        np.array([[0.05, 0.1, 0.15, 0.2, 0.5], [0.125, 0.125, 0.25, 0.5, 0.0], [0.125, 0.125, 0.125, 0.125, 0.5]])
    )


def test_z_by_hand() -> None:
    # user 0: mean 1, deviations 1 -1 -1 -1 2, variance 8/5; user 1: mean 2 over four candidates, variance 1; user 2: all 0
    spread = math.sqrt(8 / 5)
    expected = [[1 / spread, -1 / spread, -1 / spread, -1 / spread, 2 / spread], [-1, -1, 1, 1, 0], [0] * 5]
    assert standardise(SIMILARITY, MASK) == pytest.approx(np.array(expected))


def test_s_by_hand() -> None:
    # w = 1, tau = 2. user 1: z(sim) = -1 -1 1 1, z(own) = -1 1 -1 1; sums -2 0 0 2, over tau -1 0 0 1
    log_s = collaborative_log_s(SIMILARITY, OWN, 1.0, 2.0, MASK)
    total = math.log(math.exp(-1) + 2 + math.exp(1))
    assert log_s[1] == pytest.approx(np.array([-1 - total, -total, -total, 1 - total, OUT]))
    # user 0: z(own) of 0 4 0 1 0 is (-1 3 -1 0 -1) / sqrt(12/5)
    spread, own = math.sqrt(8 / 5), math.sqrt(12 / 5)
    logits = [(a / spread + b / own) / 2 for a, b in zip([1, -1, -1, -1, 2], [-1, 3, -1, 0, -1], strict=True)]
    total = math.log(sum(math.exp(x) for x in logits))
    assert log_s[0] == pytest.approx(np.array([x - total for x in logits]), abs=1e-6)
    assert log_s[2] == pytest.approx(np.full(5, -math.log(5)))


def test_y_by_hand() -> None:
    # user 1, lambda 0.5, theta 2: (log p + 0.5 log s) / 2 up to a constant: log of 1 1 2 4, plus 0.5 * (-1 0 0 1), halved
    log_s = collaborative_log_s(SIMILARITY, OWN, 1.0, 2.0, MASK)
    y = np.exp(log_softmax(joint_logit(log_softmax(LOGITS, MASK), log_s, lambdas(0.5, theta=2.0), [0] * 3, MASK), MASK))
    raw = [math.exp(-0.25), 1.0, math.sqrt(2), 2 * math.exp(0.25)]
    assert y[1] == pytest.approx(np.array([x / sum(raw) for x in raw] + [0.0]))
    assert y[2] == pytest.approx(np.array([1, 1, 1, 1, 2]) / 6)  # s is uniform: y is p ^ (1 / theta)
    assert y.sum(axis=1) == pytest.approx(np.ones(3))


def test_first_time_items_by_hand() -> None:
    # items 0 and 1 were had: y is theirs as before. Of the three others p is 1 2 4, z -1 0 1 times sqrt(3/2); w 1/2, lambda 2, theta 2
    logit, new = np.log(np.array([[3.0, 2.0, 1.0, 2.0, 2.0]])), np.array([[False, False, True, True, True]])
    log_p, following = np.log(np.array([[7.0, 7.0, 1.0, 2.0, 4.0]])), np.array([[9.0, -9.0, 5.0, 6.0, 7.0]])
    viewed = np.array([[8.0, 8.0, 4.0, 0.0, 2.0]])  # z among the three: sqrt(3/2) times 1 -1 0
    similar = first_time_similarity(np.zeros((1, 5)), viewed, following, FirstTimeWeights(1.0, 0.5, 2.0, 2.0), new)
    y = np.exp(log_softmax(with_first_time(logit, log_p, similar, FirstTimeWeights(1.0, 0.5, 2.0, 2.0), new), new | ~new))
    z = math.sqrt(3 / 2)
    raw = [math.exp(-z + 0.5 * z), math.sqrt(2) * math.exp(-0.5 * z), 2 * math.exp(z)]
    assert y == pytest.approx(np.array([[0.3, 0.2, *(0.5 * one / sum(raw) for one in raw)]]))


def test_shares_by_hand() -> None:
    # one user, two items, theta 2, lambda 3: each part is half of its difference, apart and centred
    zeros, mask = np.zeros((1, 2)), np.array([[True, True]])
    short, bias, repeat = np.array([[4.0, 0.0]]), np.array([0.0, 8.0]), np.array([[2.0, 0.0]])
    logit = joint_logit(short + bias + repeat, np.array([[-1.0, -3.0]]), lambdas(3.0, theta=2.0), [0], mask)
    found = contributions(logit, short, zeros, bias, repeat, 2.0, mask)
    assert found.short.tolist() == [[1.0, -1.0]]
    assert found.long.tolist() == [[0.0, 0.0]]
    assert found.bias.tolist() == [[-2.0, 2.0]]
    assert found.repeat.tolist() == [[0.5, -0.5]]
    assert found.collaborative.tolist() == [[1.5, -1.5]]
    assert found.score.tolist() == [[1.0, -1.0]]


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, np.ndarray]:
    users, items = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((users, items)) < 0.8
    mask[:, 0] = True
    names = ("short", "long", "repeat", "similarity", "own")
    parts = {name: rng.integers(-3, 4, (users, items)).astype(np.float32) for name in names}
    had = rng.random((users, items)) < 0.4
    return parts | {"bias": rng.normal(size=items), "mask": mask, "had": had, "cf_weight": rng.random(users)}


@settings(max_examples=60, deadline=None)
@given(blocks(), st.floats(0.3, 3.0))
def test_shares_add_up_to_the_centred_logit_of_y(block: dict[str, np.ndarray], theta: float) -> None:
    mask, new = block["mask"], block["mask"] & ~block["had"]
    log_s = collaborative_log_s(block["similarity"], block["own"], 0.7, 0.9, mask)
    logits = block["short"] + block["long"] + block["bias"] + block["repeat"]
    similar = standardise(block["similarity"], new)

    def logit(log_p: np.ndarray) -> np.ndarray:
        plain = joint_logit(log_p, log_s, *of_each(block["cf_weight"], theta), mask)
        return with_first_time(plain, log_p, similar, FirstTimeWeights(0.0, 0.5, 0.8, 1.7), new)

    log_y = log_softmax(logit(log_softmax(logits, mask)), mask)
    found = contributions(logit(logits), block["short"], block["long"], block["bias"], block["repeat"], theta, mask)
    shares = found.short + found.long + found.bias + found.repeat + found.collaborative
    for user in range(len(mask)):
        inside = mask[user]
        assert shares[user, inside] == pytest.approx(found.score[user, inside], abs=1e-5)
        assert found.score[user, inside] == pytest.approx(log_y[user, inside] - log_y[user, inside].mean(), abs=1e-5)
        assert np.all(found.score[user, ~inside] == OUT)


@settings(max_examples=60, deadline=None)
@given(blocks(), st.floats(0.0, 3.0), st.floats(0.3, 3.0))
def test_first_time_items_keep_their_share_and_what_was_had_its_own(
    block: dict[str, np.ndarray], value: float, theta: float
) -> None:
    mask, had = block["mask"], block["mask"] & block["had"]
    new = mask & ~had
    log_s = collaborative_log_s(block["similarity"], block["own"], 1.0, 1.0, mask)
    logit = joint_logit(block["short"], log_s, *of_each(block["cf_weight"], 1.2), mask)
    moved = with_first_time(
        logit, block["short"], standardise(block["similarity"], new), FirstTimeWeights(0.0, 0.0, value, theta), new
    )
    before, after = (np.exp(log_softmax(of, mask)) for of in (logit, moved))
    assert after[had] == pytest.approx(before[had], abs=1e-9)
    assert np.where(new, after, 0).sum(axis=1) == pytest.approx(np.where(new, before, 0).sum(axis=1), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(blocks(), st.floats(0.3, 3.0))
def test_theta_moves_no_order(block: dict[str, np.ndarray], theta: float) -> None:
    mask = block["mask"]
    log_s = collaborative_log_s(block["similarity"], block["own"], 1.0, 1.0, mask)
    log_p = log_softmax(block["short"], mask)
    plain, bent = (
        log_softmax(joint_logit(log_p, log_s, *of_each(block["cf_weight"], value), mask), mask) for value in (1.0, theta)
    )
    for user in range(len(mask)):
        a, b = plain[user, mask[user]], bent[user, mask[user]]
        clear = np.abs(a[:, None] - a[None, :]) > 1e-5
        assert np.array_equal(np.sign(a[:, None] - a[None, :])[clear], np.sign(b[:, None] - b[None, :])[clear])


@settings(max_examples=60, deadline=None)
@given(blocks(), st.floats(-5, 5))
def test_a_constant_similarity_is_uniform_and_changes_nothing(block: dict[str, np.ndarray], constant: float) -> None:
    mask = block["mask"]
    flat = np.full(mask.shape, constant)
    log_s = collaborative_log_s(flat, flat, 2.0, 0.5, mask)
    for user in range(len(mask)):
        assert log_s[user, mask[user]] == pytest.approx(-math.log(mask[user].sum()), abs=1e-6)
    log_p = log_softmax(block["short"], mask)
    log_y = log_softmax(joint_logit(log_p, log_s, lambdas(1.0), [0] * len(mask), mask), mask)
    assert log_y[mask] == pytest.approx(log_p[mask], abs=1e-5)


def test_co_occurrence_and_transitions_are_mixed_by_their_z_scores_over_the_candidates() -> None:
    mask = np.array([[True, True, True, False]])
    similar, following = np.array([[1.0, 2.0, 3.0, 1e6]]), np.array([[30.0, 10.0, 20.0, -1e6]])
    z = math.sqrt(3 / 2)  # of the z-scores -z, 0, z of three numbers at equal distances
    found = mixed_similarity(similar, following, 0.25, mask)
    assert found[mask] == pytest.approx([-0.75 * z + 0.25 * z, -0.25 * z, 0.75 * z], abs=1e-6)
    assert mixed_similarity(similar, following, 0.0, mask) is similar
    assert mixed_similarity(similar, following, 1.0, mask) is following


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_what_is_masked_has_no_influence(block: dict[str, np.ndarray]) -> None:
    mask = block["mask"]
    loud = {name: np.where(mask, block[name], 1e6) for name in ("short", "similarity", "own")}
    for name in ("short", "similarity", "own"):
        assert standardise(loud[name], mask) == pytest.approx(standardise(block[name], mask))
    log_s = collaborative_log_s(loud["similarity"], loud["own"], 1.0, 1.0, mask)
    assert np.all(log_s[~mask] == OUT)
    assert np.array_equal(log_softmax(loud["short"], mask), log_softmax(block["short"], mask))


def test_a_user_without_candidates_gets_no_item_and_no_nan() -> None:
    mask = np.zeros((1, 3), dtype=bool)
    values = np.array([[1.0, 2.0, 3.0]])
    log_s = collaborative_log_s(values, values, 1.0, 1.0, mask)
    assert np.all(log_s == OUT)
    logit = joint_logit(log_softmax(values, mask), log_s, lambdas(1.0), [0], mask)
    assert np.all(log_softmax(with_first_time(logit, values, values, FirstTimeWeights(0.0, 0.0, 1.0, 1.0), mask), mask) == OUT)


def test_mask_keeps_known_items_only_where_items_repeat() -> None:
    first_day = np.array([5, 9, 10, 1], dtype=np.int32)
    known = sparse.csr_array(np.array([[True, False, False, False], [False, False, False, False]]))
    blocked = np.array([False, False, False, True])
    assert candidate_mask(first_day, 10, known, True, blocked).tolist() == [[True, True, False, False]] * 2
    assert candidate_mask(first_day, 10, known, False, blocked).tolist() == [
        [False, True, False, False],
        [True, True, False, False],
    ]


def test_weights_survive_the_way_through_a_dict_and_pick_lambda_by_history() -> None:
    weights = JointWeights(2.0, 0.5, (0.1, 0.2, 0.3), (2, 5), 1.2, 0.25, FirstTimeWeights(0.5, 0.2, 0.7, 1.5))
    assert JointWeights.from_dict(json.loads(json.dumps(weights.to_dict()))) == weights
    assert weights.named() == {
        "cf_repeat_weight": 2.0,
        "cf_temperature": 0.5,
        "cf_weight": (0.1, 0.2, 0.3),
        "temperature": 1.2,
        "cf_transition_weight": 0.25,
        "first_time.cf_transition_weight": 0.5,
        "first_time.cf_repeat_weight": 0.2,
        "first_time.cf_weight": 0.7,
        "first_time.temperature": 1.5,
    }
    assert weights.of_users([0, 1, 2, 4, 5, 50]).tolist() == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_broken_weights_are_refused() -> None:
    good = JointWeights(2.0, 0.5, (0.1, 0.2, 0.3), (2, 5), 1.2, 0.25).to_dict()
    with pytest.raises(ModelError, match="'temperature' is missing"):
        JointWeights.from_dict({key: value for key, value in good.items() if key != "temperature"})
    with pytest.raises(ModelError, match="'temprature' is unknown; did you mean 'temperature'"):
        JointWeights.from_dict(good | {"temprature": 1.0})
    with pytest.raises(ModelError, match="cf_weight has 1 values for 2 history_edges"):
        JointWeights(2.0, 0.5, (0.1,), (2, 5), 1.2, 0.25)
    with pytest.raises(ModelError, match="must be > 0"):
        JointWeights(2.0, 0.0, (0.1,), (), 1.2, 0.25)
    with pytest.raises(ModelError, match=r"first_time.temperature 0.0 must be > 0"):
        FirstTimeWeights(0.0, 0.0, 1.0, 0.0)
    with pytest.raises(ModelError, match="'cf_weight' is missing"):
        JointWeights.from_dict(good | {"first_time": {"cf_transition_weight": 0.0, "cf_repeat_weight": 0.0, "temperature": 1.0}})


def test_a_version_without_weights_of_first_time_items_has_one_lambda_for_all() -> None:
    weights = JointWeights(2.0, 0.5, (0.1,), (), 1.2, 0.25)
    older = {name: value for name, value in weights.to_dict().items() if name != "first_time"}
    assert JointWeights.from_dict(older) == weights
    assert "first_time.cf_weight" not in weights.named()
