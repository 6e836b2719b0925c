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
class JointWeights:
    """What is fitted on validation (DESIGN 1.5), under the names of conf, MLflow and tables."""

    cf_repeat_weight: float  # w
    cf_temperature: float  # tau
    cf_weight: tuple[float, ...]  # lambda per bucket of history length; len(history_edges) + 1
    history_edges: tuple[int, ...]  # steps; bucket b holds lengths in [history_edges[b - 1], history_edges[b])
    temperature: float  # theta
    cf_transition_weight: float  # share of transitions in item-item similarity

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

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "JointWeights":
        """Raises ModelError when a key is missing or unknown."""
        names = {field.name for field in fields(JointWeights)}
        for name in sorted(names ^ set(values)):
            raise ModelError(
                f"joint weights: key {name!r} is {'missing' if name in names else 'unknown; ' + nearest(name, names)}"
            )
        return JointWeights(
            cf_repeat_weight=float(values["cf_repeat_weight"]),
            cf_temperature=float(values["cf_temperature"]),
            cf_weight=tuple(float(weight) for weight in values["cf_weight"]),
            history_edges=tuple(int(edge) for edge in values["history_edges"]),
            temperature=float(values["temperature"]),
            cf_transition_weight=float(values["cf_transition_weight"]),
        )


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


def joint_log_y(log_p: Float, log_s: Float, cf_weight: npt.ArrayLike, temperature: float, mask: Bool) -> Float:
    """[U, N] log y = log softmax((log p + lambda log s) / theta) over the candidates (DESIGN 1.5).

    Args:
        log_p: [U, N] log probability of the interest model.
        log_s: [U, N] of `collaborative_log_s`.
        cf_weight: [U] lambda of each user (`JointWeights.of_users`).
        temperature: theta.
        mask: [U, N] True = candidate.
    """
    fused = np.where(mask, log_p, 0) + np.asarray(cf_weight, dtype=np.float64)[:, None] * np.where(mask, log_s, 0)
    return log_softmax(fused / temperature, mask)


def contributions(
    short: Float, long: Float, bias: Float, repeat: Float, log_s: Float, cf_weight: npt.ArrayLike, temperature: float, mask: Bool
) -> Contributions:
    """Score = y's logit less its mean over the candidates, and its five shares, each centred and divided by theta (DESIGN 1.5).

    Args:
        short: [U, N] f_i^T W_1 g short_u.
        long: [U, N] f_i^T W_1 (1 - g) long_u.
        bias: [N] or [U, N] b_i(t).
        repeat: [U, N] r_{u,i}(t).
        log_s: [U, N] of `collaborative_log_s`.
        cf_weight: [U] lambda of each user.
        temperature: theta.
        mask: [U, N] True = candidate.
    """
    weight = np.asarray(cf_weight, dtype=np.float64)[:, None]
    collaborative = weight * np.where(mask, log_s, 0)
    parts = [
        _centre(np.broadcast_to(part, mask.shape), mask) / temperature for part in (short, long, bias, repeat, collaborative)
    ]
    score = np.where(mask, sum(parts), -np.inf)
    return Contributions(score, *parts)


def _centre(values: Float, mask: Bool) -> npt.NDArray[np.float64]:
    inside = np.where(mask, values, 0).astype(np.float64)
    mean = inside.sum(axis=1, keepdims=True) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
    return np.where(mask, inside - mean, 0.0)
