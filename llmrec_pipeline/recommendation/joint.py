"""The joint model y of interest p and collaborative similarity s, in log space (DESIGN 1.5; article 4.1-4.2).

Legend: U users of a block, N items. Masks are [U, N], True = candidate. Log probabilities of masked items are -inf.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec_pipeline.errors import ModelError, nearest

Float = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FirstTimeWeights:
    """What is fitted among the items that a user has not had, where items repeat (ADR 0019)."""

    cf_transition_weight: float  # share of transitions in item-item similarity
    cf_repeat_weight: float  # w: behaviours of other types, such as views, are own counts of items not had
    cf_weight: float  # lambda
    temperature: float  # theta

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ModelError(f"first_time.temperature {self.temperature} must be > 0; fit the joint model again")

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "FirstTimeWeights":
        """Raises ModelError when a key is missing or unknown."""
        _require_keys(FirstTimeWeights, values)
        return FirstTimeWeights(**{name: float(value) for name, value in values.items()})


@dataclass(frozen=True)
class JointWeights:
    """What is fitted on validation (DESIGN 1.5), under the names of conf, MLflow and tables."""

    cf_repeat_weight: float  # w
    cf_temperature: float  # tau
    cf_weight: tuple[float, ...]  # lambda per bucket of history length; len(history_edges) + 1
    history_edges: tuple[int, ...]  # steps; bucket b holds lengths in [history_edges[b - 1], history_edges[b])
    temperature: float  # theta
    cf_transition_weight: float  # share of transitions in item-item similarity
    first_time: FirstTimeWeights | None = None  # of the items that the user has not had; None: as of all

    def __post_init__(self) -> None:
        if len(self.cf_weight) != len(self.history_edges) + 1:
            raise ModelError(
                f"cf_weight has {len(self.cf_weight)} values for {len(self.history_edges)} history_edges; expected one more"
            )
        if min(self.cf_temperature, self.temperature) <= 0:
            raise ModelError(
                f"cf_temperature {self.cf_temperature} and temperature {self.temperature} must be > 0; fit the joint model again"
            )

    def of_users(self, history_length: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """[U] lambda of each user, by number of steps."""
        return np.array(self.cf_weight)[history_bucket(history_length, self.history_edges)]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def named(self) -> dict[str, Any]:
        """Each fitted number under its name, those of first-time items as `first_time.NAME`."""
        values = {name: value for name, value in self.to_dict().items() if name not in ("history_edges", "first_time")}
        first_time = asdict(self.first_time) if self.first_time else {}
        return values | {f"first_time.{name}": value for name, value in first_time.items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "JointWeights":
        """Raises ModelError when a key is missing or unknown."""
        values = {"first_time": None} | values  # which versions of before it was fitted lack
        _require_keys(JointWeights, values)
        first_time = values["first_time"]
        return JointWeights(
            cf_repeat_weight=float(values["cf_repeat_weight"]),
            cf_temperature=float(values["cf_temperature"]),
            cf_weight=tuple(float(weight) for weight in values["cf_weight"]),
            history_edges=tuple(int(edge) for edge in values["history_edges"]),
            temperature=float(values["temperature"]),
            cf_transition_weight=float(values["cf_transition_weight"]),
            first_time=None if first_time is None else FirstTimeWeights.from_dict(first_time),
        )


def _require_keys(of: type[JointWeights | FirstTimeWeights], values: dict[str, Any]) -> None:
    names = {field.name for field in fields(of)}
    for name in sorted(names ^ set(values)):
        raise ModelError(f"joint weights: key {name!r} is {'missing' if name in names else 'unknown; ' + nearest(name, names)}")


@dataclass(frozen=True)
class Contributions:
    """`score` and its five shares, each [U, N]; the shares add up to `score` on candidates. Masked: score -inf, shares 0."""

    score: Float
    short: Float
    long: Float
    bias: Float
    repeat: Float
    collaborative: Float


def history_bucket(history_length: npt.ArrayLike, edges: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """[U] bucket of each history length in steps: the number of edges that it reaches."""
    return np.searchsorted(np.array(edges, dtype=np.int64), np.asarray(history_length), side="right").astype(np.int64)


def candidate_mask(first_day: npt.NDArray[np.int32], day: int, known: sparse.csr_array, repeats: bool, blocked: Bool) -> Bool:
    """[U, N] True = candidate: first seen before `day`, not blocked and, where items do not repeat, not known to the user.

    Args:
        first_day: [N] the catalogue's first_day.
        day: date that the list is for, days since 1970-01-01.
        known: [U, N] bool, True: the user had a target event with the item before.
        repeats: the domain's `repeats`.
        blocked: [N] True: never recommended.
    """
    mask = np.repeat(((first_day < day) & ~blocked)[None, :], known.shape[0], axis=0)
    if not repeats:
        mask &= ~known.toarray().astype(bool)
    return mask


def log_softmax(logits: Float, mask: Bool) -> Float:
    """[U, N] log softmax over each user's candidates; -inf on masked items, and on all items of a user without candidates."""
    inside = np.where(mask, logits, -np.inf)
    top = np.max(inside, axis=1, keepdims=True, initial=-np.inf)
    shifted = inside - np.where(np.isfinite(top), top, 0.0)
    total = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(shifted - np.log(np.maximum(total, np.finfo(np.float64).tiny)).astype(shifted.dtype))


def standardise(scores: Float, mask: Bool) -> Float:
    """[U, N] z-scores over each user's candidates; 0 on masked items, and everywhere where the candidates do not vary."""
    inside = np.where(mask, scores, 0).astype(np.float64)
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    centred = np.where(mask, inside - inside.sum(axis=1, keepdims=True) / count, 0.0)
    spread = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / count)
    low, high = (
        np.where(mask, scores, np.inf).min(axis=1, initial=np.inf),
        np.where(mask, scores, -np.inf).max(axis=1, initial=-np.inf),
    )
    varies = (high > low)[:, None] & (spread > 0)
    return np.where(varies, centred / np.where(varies, spread, 1.0), 0.0).astype(np.float32)


def mixed_similarity(similarity: Float, transition: Float, share: float, mask: Bool) -> Float:
    """[U, N] item-item similarity of both kinds, (1 - share) z(co-occurrence) + share z(transitions) (DESIGN 1.5).

    Args:
        similarity: [U, N] by co-occurrence.
        transition: [U, N] by transitions from the last steps.
        share: cf_transition_weight; at 0 and at 1 the one kind alone, as it came.
        mask: [U, N] True = candidate.
    """
    if share in (0.0, 1.0):
        return transition if share else similarity
    return np.float32(1 - share) * standardise(similarity, mask) + np.float32(share) * standardise(transition, mask)


def collaborative_log_s(similarity: Float, own: Float, w: float, tau: float, mask: Bool) -> Float:
    """[U, N] log s = log softmax((z(similarity) + w z(own)) / tau) over the candidates (DESIGN 1.5).

    Args:
        similarity: [U, N] item-item similarity.
        own: [U, N] own decayed counts; zeros where the domain's items do not repeat.
        w: cf_repeat_weight.
        tau: cf_temperature.
        mask: [U, N] True = candidate.
    """
    return log_softmax((standardise(similarity, mask) + np.float32(w) * standardise(own, mask)) / np.float32(tau), mask)


def weighed_log_s(similarity: Float, own: Float, transition: Float, weights: JointWeights, mask: Bool) -> Float:
    """[U, N] log s under fitted weights, from what it is made of: `mixed_similarity`, then `collaborative_log_s`."""
    mixed = mixed_similarity(similarity, transition, weights.cf_transition_weight, mask)
    return collaborative_log_s(mixed, own, weights.cf_repeat_weight, weights.cf_temperature, mask)


def joint_logit(
    log_p: Float, log_s: Float, weights: JointWeights, history_length: npt.ArrayLike, mask: Bool
) -> npt.NDArray[np.float64]:
    """[U, N] logit of y = softmax((log p + lambda log s) / theta) over the candidates (DESIGN 1.5); 0 on masked items.

    Args:
        log_p: [U, N] log probability of the interest model, or its logit: a constant of a user moves nothing.
        log_s: [U, N] of `weighed_log_s`.
        weights: lambda and theta.
        history_length: [U] steps.
        mask: [U, N] True = candidate.
    """
    cf_weight = weights.of_users(history_length)[:, None]
    fused: npt.NDArray[np.float64] = np.where(mask, log_p, 0).astype(np.float64) + cf_weight * np.where(mask, log_s, 0)
    return fused / weights.temperature


def with_first_time(
    logit: npt.NDArray[np.float64], log_p: Float, similar: Float, weights: FirstTimeWeights, new: Bool
) -> npt.NDArray[np.float64]:
    """[U, N] the logit with the items that the user has not had in an order of their own; together they keep their share of y (ADR 0019).

    Args:
        logit: [U, N] of `joint_logit`.
        log_p: [U, N] as it took it.
        similar: [U, N] of `first_time_similarity`.
        weights: lambda and theta.
        new: [U, N] True = a candidate that the user has not had.
    """
    other = (np.where(new, log_p, 0).astype(np.float64) + weights.cf_weight * similar) / weights.temperature
    return np.where(new, other - _log_total(other, new) + _log_total(logit, new), logit)


def first_time_similarity(similarity: Float, own: Float, transition: Float, weights: FirstTimeWeights, new: Bool) -> Float:
    """[U, N] what log s is made of, z(similarity) + w z(own), with z over the items that a user has not had.

    Args:
        similarity: [U, N] by co-occurrence.
        own: [U, N] own decayed counts.
        transition: [U, N] by transitions from the last steps.
        weights: share of transitions and w.
        new: [U, N] True = a candidate that the user has not had.
    """
    mixed = standardise(mixed_similarity(similarity, transition, weights.cf_transition_weight, new), new)
    w = np.float32(weights.cf_repeat_weight)
    return mixed + w * standardise(own, new) if w else mixed


def contributions(
    logit: Float, short: Float, long: Float, bias: Float, repeat: Float, temperature: float, mask: Bool
) -> Contributions:
    """Score = y's logit less its mean over the candidates, and its five shares (DESIGN 1.5).

    Those of p are centred and divided by theta; the rest is collaborative: what s adds to them or takes, and with weights of first-time items
    what these change.

    Args:
        logit: [U, N] of `joint_logit` or `with_first_time`.
        short: [U, N] f_i^T W_1 g short_u.
        long: [U, N] f_i^T W_1 (1 - g) long_u.
        bias: [N] or [U, N] b_i(t).
        repeat: [U, N] r_{u,i}(t).
        temperature: theta.
        mask: [U, N] True = candidate.
    """
    score = _centre(logit, mask)
    shares = [_centre(np.broadcast_to(part, mask.shape), mask) / temperature for part in (short, long, bias, repeat)]
    shares.append(np.asarray(score - sum(shares)))
    return Contributions(np.where(mask, score, -np.inf), *shares)


def _log_total(logits: npt.NDArray[np.float64], mask: Bool) -> npt.NDArray[np.float64]:
    """[U, 1] log of the sum of exp over each user's marked items; 0 where none is."""
    inside = np.where(mask, logits, -np.inf)
    top = np.max(inside, axis=1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.exp(inside - top).sum(axis=1, keepdims=True)
    return np.where(total > 0, top + np.log(np.where(total > 0, total, 1.0)), 0.0)


def _centre(values: Float, mask: Bool) -> npt.NDArray[np.float64]:
    inside = np.where(mask, values, 0).astype(np.float64)
    mean = inside.sum(axis=1, keepdims=True) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
    return np.where(mask, inside - mean, 0.0)
