"""Whether a challenger may take the champion's place: figures in, reasons against it out. What is missing or NaN is a reason.

Legend: R bootstrap rows (`bootstrap.py`), S slices.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.config import PromotionConfig
from llmrec_pipeline.evaluation.bootstrap import METRICS, Estimate, Partials, finish, weighted_means
from llmrec_pipeline.evaluation.calibration import DECILES
from llmrec_pipeline.registry import CHALLENGER, CHAMPION

ALL = "all"
K = 10  # cut-off of what is compared


@dataclass(frozen=True)
class Ratio:
    """The challenger's mean NDCG@10 over the champion's on the users of a slice, with the lower end of its interval."""

    slice: str
    users: int
    value: float
    low: float


@dataclass(frozen=True)
class Figures:
    """What is known of a challenger."""

    epochs: Sequence[Mapping[str, float]]  # loss and validation figures of each
    users: int = 0  # with a target among the candidates of the days compared on
    ndcg: float = math.nan
    calibration: Sequence[float] = ()  # mean outcome over mean y, by decile of y
    coverage: Mapping[str, float] | None = None  # of the lists' first ten places, by model
    ratios: Sequence[Ratio] | None = None  # None: there is no champion


def figures_of(partials: Partials, epochs: Sequence[Mapping[str, float]], limits: PromotionConfig) -> Figures:
    """The figures of scored blocks, in which the challenger is the first model and the champion, if any, the second."""
    found = {(row.model, row.slice, row.metric, row.k): row for row in finish(partials)}
    return Figures(
        epochs=epochs,
        users=found[CHALLENGER, ALL, "ndcg", K].n,
        ndcg=found[CHALLENGER, ALL, "ndcg", K].value,
        calibration=[found[CHALLENGER, ALL, "calibration", decile + 1].value for decile in range(DECILES)],
        coverage={model: found[model, ALL, "coverage", K].value for model in partials.models},
        ratios=ratios(partials, limits) if CHAMPION in partials.models else None,
    )


def ratios(partials: Partials, limits: PromotionConfig) -> list[Ratio]:
    """NDCG@10 of the challenger over the champion's for every slice that has a user.

    The lower end is exp(log ratio - z * standard error), the error being that of the log ratio over the bootstrap's replicates: a
    quantile of the replicates themselves would need many more of them once its level is divided by the number of slices
    (Bonferroni). z is that of `alpha` for all users and of `alpha` / (tested slices) for a slice.
    """
    x = [partials.models.index(name) for name in (CHALLENGER, CHAMPION)]
    means = weighted_means(partials)[:, :, x, METRICS.index("ndcg"), partials.ks.index(K)]  # [R, S, 2]
    users = partials.weights[0].astype(int)
    tested = sum(n >= limits.slice_users for name, n in zip(partials.slices, users, strict=True) if name != ALL)
    found = []
    for s, name in enumerate(partials.slices):
        if users[s]:
            level = limits.alpha / (1 if name == ALL else max(tested, 1))
            found.append(Ratio(name, int(users[s]), *_ratio(means[:, s, 0], means[:, s, 1], NormalDist().inv_cdf(1 - level))))
    return found


def _ratio(challenger: npt.NDArray[np.float64], champion: npt.NDArray[np.float64], z: float) -> tuple[float, float]:
    """Ratio of the first of the [R] means, and its lower end; a champion at 0 cannot be fallen behind."""
    if champion[0] == 0 and np.isfinite(challenger[0]):
        return math.inf, math.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(challenger) - np.log(champion)
        replicates = logs[1:][~np.isnan(logs[1:])]  # NaN: nobody of the slice was drawn, or nobody with a hit in either model
        error = replicates.std(ddof=1) if len(replicates) > 1 else math.nan
    return float(np.exp(logs[0])), float(np.exp(logs[0] - z * error))


def against(figures: Figures, limits: PromotionConfig) -> list[str]:
    """Every reason why the challenger may not become champion; none: it may."""
    return [*_training(figures.epochs), *(_window(figures, limits) if figures.users else ["no user has a target to compare on"])]


def _training(epochs: Sequence[Mapping[str, float]]) -> Iterator[str]:
    if not epochs:
        yield "no figure of its training is known"
    for number, epoch in enumerate(epochs, 1):
        wrong = {name: value for name, value in epoch.items() if not math.isfinite(value)}
        if wrong:
            yield f"its training diverged: {', '.join(f'{name} {value}' for name, value in wrong.items())} in epoch {number}"


def _window(figures: Figures, limits: PromotionConfig) -> Iterator[str]:
    if not 0 < figures.ndcg <= 1:
        yield f"NDCG@10 is {figures.ndcg:.4g}, expected above 0"
    low, high = limits.calibration
    if len(figures.calibration) != DECILES:
        yield f"calibration of {len(figures.calibration)} deciles is known, expected {DECILES}"
    for decile, ratio in enumerate(figures.calibration, 1):
        if not low <= ratio <= high:
            yield f"calibration of decile {decile} is {ratio:.3g}, expected {low:g} to {high:g}"
    yield from _coverage(figures, limits)
    if figures.ratios is not None:
        yield from _ratios(figures.ratios, limits)


def _coverage(figures: Figures, limits: PromotionConfig) -> Iterator[str]:
    coverage = figures.coverage or {}
    own = coverage.get(CHALLENGER, math.nan)
    if not 0 < own <= 1:
        yield f"coverage@10 is {own:.4g}, expected above 0"
    if figures.ratios is not None:
        other = coverage.get(CHAMPION, math.nan)
        if not own >= limits.coverage * other:
            yield f"coverage@10 is {own:.4g}, the champion's {other:.4g}, expected {limits.coverage:g} of it"


def _ratios(ratios: Sequence[Ratio], limits: PromotionConfig) -> Iterator[str]:
    if ALL not in {ratio.slice for ratio in ratios}:
        yield "NDCG@10 of all users is not compared"
    for ratio in ratios:
        need = 1 - (limits.margin if ratio.slice == ALL else limits.slice_margin)
        if is_tested(ratio, limits) and not ratio.low >= need:
            yield (
                f"NDCG@10 of {ratio.slice} is {ratio.value:.4f} of the champion's and proven to be {ratio.low:.4f} of it, "
                f"expected {need:g} ({ratio.users} users)"
            )


def is_tested(ratio: Ratio, limits: PromotionConfig) -> bool:
    """All users always; a slice when it has enough of them."""
    return ratio.slice == ALL or ratio.users >= limits.slice_users


def estimates(ratios: Sequence[Ratio]) -> list[Estimate]:
    """Rows of `evaluation`: their low is what was tested, and they have no high."""
    model = f"{CHALLENGER} / {CHAMPION}"
    return [Estimate(ratio.slice, model, "ndcg", K, ratio.value, ratio.low, math.nan, ratio.users) for ratio in ratios]
