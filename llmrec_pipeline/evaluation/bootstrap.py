"""Paired Poisson bootstrap over users in mergeable form: blocks give partial sums, the driver adds and finishes them.

A user's replicate weights are Poisson(1) drawn from a counter keyed by hash(seed, user_id), so they are the same for every model
and whatever block the user is in: differences of models are paired (Chamandy et al. 2012, "Estimating uncertainty for massive
data streams").

Legend: U users of a block, B replicates, R = B + 1 rows (row 0: every weight 1, the estimate itself), S slices, X models,
M metrics, K cut-offs, N items, V bins of `calibration.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.errors import InputError, nearest
from llmrec_pipeline.evaluation.calibration import ratios
from llmrec_pipeline.evaluation.lists import LISTS, gini
from llmrec_pipeline.evaluation.metrics import RANKING
from llmrec_pipeline.recommendation.hashing import counter_bits, hash_ids

Double = npt.NDArray[np.float64]
METRICS = (*RANKING, *LISTS)
POISSON_TAIL = 12  # P(Poisson(1) > 12) is below 1e-10, less than one draw in a run
INTERVAL = (2.5, 97.5)  # percentiles of the 95% interval


@dataclass(frozen=True)
class Partials:
    """What a block adds to the evaluation; `merge` adds two of them, in any order up to float rounding."""

    models: tuple[str, ...]  # X names
    ks: tuple[int, ...]  # K cut-offs
    slices: tuple[str, ...]  # S names
    sums: Double  # [R, S, X, M, K] weight * value over the slice's users
    weights: Double  # [R, S] sum of weights; row 0 is n
    listed: npt.NDArray[np.int64]  # [X, K, N] lists that hold the item in their first k places
    candidates: npt.NDArray[np.int64]  # [N] users that have the item as a candidate
    targets: int  # distinct (user, item) targets counted
    masked_targets: int  # targets dropped: their item was no candidate
    calibrated: str  # the model whose scores were judged as log odds
    reliability: Double  # [R, 2, V] sums of y and of outcomes by bin of log y
    pairs: npt.NDArray[np.int64]  # [V] pairs of user and listed item


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95% interval; NaN when the slice has no user. Coverage is no mean over users: no interval (NaN)."""

    slice: str
    model: str
    metric: str
    k: int
    value: float
    low: float
    high: float
    n: int  # users
    baseline: str | None = None  # not None: value is model less baseline on the same users, the interval is paired


def poisson_weights(user_ids: npt.NDArray[np.str_], replicates: int, seed: int) -> Double:
    """[U, B] Poisson(1) weights; a user's row depends on (seed, user_id) alone."""
    uniform = (counter_bits(hash_ids(user_ids, seed), replicates) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    mass = np.exp(-1.0) / np.cumprod(np.maximum(np.arange(POISSON_TAIL + 1), 1.0))
    return np.searchsorted(np.cumsum(mass), uniform, side="right").astype(np.float64)


def merge(partials: Iterable[Partials]) -> Partials:
    """The sum of blocks' partial sums.

    Raises:
        InputError: there is none, or two differ in models, cut-offs, slices, replicates or catalogue.
    """
    total: Partials | None = None
    for part in partials:
        total = part if total is None else _add(total, part)
    if total is None:
        raise InputError("no block of users was evaluated; the window has no user with a target, choose an earlier window")
    return total


def finish(partials: Partials) -> list[Estimate]:
    """Values with 95% bootstrap intervals for every slice, model, metric and k; coverage, gini and calibration for the slice `all`."""
    return [*_estimates(partials, weighted_means(partials)), *_exposure(partials), *_calibration(partials)]


def leads(partials: Partials, model: str) -> list[Estimate]:
    """`model` less each other one, paired by user, for every slice, metric and k.

    Raises:
        InputError: `model` was not evaluated.
    """
    if model not in partials.models:
        raise InputError(f"model {model!r} was not evaluated; {nearest(model, partials.models)}")
    place, means = partials.models.index(model), weighted_means(partials)
    rows = _estimates(partials, means[:, :, [place]] - means)
    return [replace(row, model=model, baseline=row.model) for row in rows if row.model != model]


def _estimates(partials: Partials, means: Double) -> Iterator[Estimate]:
    """One row for each cell of `means` [R, S, X, M, K]."""
    low, high = _interval(means)
    for s, x, m, c in np.ndindex(*means.shape[1:]):
        value, lower, upper = (float(array[s, x, m, c]) for array in (means[0], low, high))
        n = int(partials.weights[0, s])
        yield Estimate(partials.slices[s], partials.models[x], METRICS[m], partials.ks[c], value, lower, upper, n)


def _add(left: Partials, right: Partials) -> Partials:
    for name in ("models", "ks", "slices", "calibrated"):
        if getattr(left, name) != getattr(right, name):
            raise InputError(
                f"blocks differ in {name}: {getattr(left, name)} and {getattr(right, name)}; evaluate all with one configuration"
            )
    if left.sums.shape != right.sums.shape or left.listed.shape != right.listed.shape:
        raise InputError(
            f"blocks differ in replicates or catalogue: sums {left.sums.shape} and {right.sums.shape}, "
            f"lists {left.listed.shape} and {right.listed.shape}; evaluate all with one configuration"
        )
    return replace(
        left,
        sums=left.sums + right.sums,
        weights=left.weights + right.weights,
        listed=left.listed + right.listed,
        candidates=left.candidates + right.candidates,
        targets=left.targets + right.targets,
        masked_targets=left.masked_targets + right.masked_targets,
        reliability=left.reliability + right.reliability,
        pairs=left.pairs + right.pairs,
    )


def weighted_means(partials: Partials) -> Double:
    """[R, S, X, M, K] weighted means; NaN where no weight is."""
    weights = partials.weights[:, :, None, None, None]
    return np.where(weights > 0, partials.sums / np.where(weights > 0, weights, 1.0), np.nan)


def _interval(means: Double) -> tuple[Double, Double]:
    """95% percentile interval over the replicates; a replicate that draws none of a slice's users is left out."""
    replicates = means[1:].reshape(len(means) - 1, -1)
    low, high = np.full((2, replicates.shape[1]), np.nan)
    known = np.isfinite(replicates)
    whole, some = known.all(axis=0), known.any(axis=0)
    if len(replicates):
        low[whole], high[whole] = np.percentile(replicates[:, whole], INTERVAL, axis=0)
        for column in np.flatnonzero(some & ~whole):
            low[column], high[column] = np.percentile(replicates[known[:, column], column], INTERVAL)
    return low.reshape(means.shape[1:]), high.reshape(means.shape[1:])


def _exposure(partials: Partials) -> list[Estimate]:
    """coverage: share of candidates that stand in at least one list's first k places; gini: how unevenly lists show candidates."""
    possible = partials.candidates > 0
    n = int(partials.weights[0, partials.slices.index("all")])
    return [
        Estimate("all", model, name, k, value, np.nan, np.nan, n)
        for x, model in enumerate(partials.models)
        for c, k in enumerate(partials.ks)
        for name, value in (
            ("coverage", float((partials.listed[x, c, possible] > 0).mean()) if possible.any() else np.nan),
            ("gini", gini(partials.listed[x, c, possible])),
        )
    ]


def _calibration(partials: Partials) -> list[Estimate]:
    """Mean outcome over mean y by decile of y, the decile as k."""
    n = int(partials.weights[0, partials.slices.index("all")])
    found = ratios(partials.reliability, partials.pairs)
    low, high = _interval(found)
    return [
        Estimate("all", partials.calibrated, "calibration", decile + 1, float(value), float(low[decile]), float(high[decile]), n)
        for decile, value in enumerate(found[0])
    ]
