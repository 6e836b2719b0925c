"""Ranking metrics at k with ties scored by their expectation (DESIGN 4): a constant model gets exactly chance.

A target with g candidates strictly above it, in a tie of e candidates, takes each of the ranks g + 1 .. g + e with equal
probability.

Legend: U users of a block, N items, P distinct targets, K cut-offs, M metrics. Masks are [U, N], True = candidate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.recommendation.ranking import require_finite
from llmrec_pipeline.recommendation.targets import Targets

Float = npt.NDArray[np.floating[Any]]
Double = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

RANKING = ("hr", "ndcg", "recall", "mrr", "map")
FEW_TARGETS = 16  # up to here comparing N scores with each target is faster than sorting them (measured at N = 4,500)


@dataclass(frozen=True)
class Places:
    """Where distinct targets stand: each has `above` candidates strictly above it and `tied` at its score, itself included."""

    users: int  # U
    user: Int  # [P]
    item: npt.NDArray[np.int32]  # [P]
    above: Int  # [P]
    tied: Int  # [P]

    @property
    def per_user(self) -> Int:
        """[U] number of targets."""
        return np.bincount(self.user, minlength=self.users)

    def only(self, keep: Bool) -> "Places":
        """Some of the targets, where they stand among all candidates. `keep` is [P]."""
        return Places(self.users, self.user[keep], self.item[keep], self.above[keep], self.tied[keep])


def block_metrics(scores: Float, mask: Bool, targets: Targets, ks: tuple[int, ...]) -> Double:
    """[U, M, K] metrics of each user, see `place_metrics`.

    Args:
        scores: [U, N].
        mask: [U, N] True = candidate.
        targets: target events; an item counts once, and only if it is a candidate.
        ks: cut-offs.

    Raises:
        ModelError: a candidate's score is not finite.
    """
    return place_metrics(find_places(scores, mask, targets), ks)


def place_metrics(places: Places, ks: tuple[int, ...]) -> Double:
    """[U, M, K] metrics of each user, in the order of RANKING; NaN for a user without a target among the candidates.

    hr: a target is in the top k. ndcg: ideal is min(k, number of targets) (Jarvelin and Kekalainen 2002, binary gain).
    recall: share of targets in the top k. mrr: 1 / rank of the first target, 0 beyond k. map: precision at the rank of each target
    in the top k, summed, over min(k, number of targets).
    """
    values = np.full((places.users, len(RANKING), len(ks)), np.nan)
    present = places.per_user > 0
    for column, k in enumerate(ks):
        for row, metric in enumerate(_at(k, places)):
            values[present, row, column] = metric[present]
    return values


def find_places(scores: Float, mask: Bool, targets: Targets) -> Places:
    """Where the targets stand that are candidates; by user, each item once.

    Raises:
        ModelError: a candidate's score is not finite.
    """
    require_finite(scores, mask)
    return _places(np.where(mask, scores, -np.inf), targets.distinct().within(mask))


def _places(inside: Float, targets: Targets) -> Places:
    above, tied = np.empty(len(targets.item), dtype=np.int64), np.empty(len(targets.item), dtype=np.int64)
    for user in np.flatnonzero(targets.per_user):
        own = slice(targets.offsets[user], targets.offsets[user + 1])
        row, value = inside[user], inside[user, targets.item[own]]
        if len(value) <= FEW_TARGETS:
            above[own] = (row > value[:, None]).sum(axis=1)
            tied[own] = (row == value[:, None]).sum(axis=1)
        else:
            ordered = np.sort(row)
            upper = np.searchsorted(ordered, value, side="right")
            above[own] = len(row) - upper
            tied[own] = upper - np.searchsorted(ordered, value, side="left")
    return Places(len(inside), targets.user, targets.item, above, tied)


def _at(k: int, places: Places) -> tuple[Double, Double, Double, Double, Double]:
    """[U] each of RANKING at k."""
    users = places.users
    gain = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])  # [k + 1] DCG of full lists
    first, last = np.minimum(places.above, k), np.minimum(places.above + places.tied, k)
    dcg = np.bincount(places.user, (gain[last] - gain[first]) / places.tied, users)
    hits = np.bincount(places.user, (last - first) / places.tied, users)
    hr, mrr = _first_target(k, places, users)
    count = np.maximum(places.per_user, 1)
    return hr, dcg / gain[np.minimum(count, k)], hits / count, mrr, _precisions(k, places) / np.minimum(count, k)


def _precisions(k: int, places: Places) -> Double:
    """[U] expected sum of the precision at each target's rank, up to rank k (tie-aware average precision,
    McSherry and Najork 2008).

    A target at rank g + p of a tie of e candidates with m targets, h targets above the tie, has before it those h and, of the p - 1
    that precede it in the tie, (m - 1) / (e - 1) each: the precision there is (h + 1 + (p - 1) (m - 1) / (e - 1)) / (g + p).
    """
    order = np.lexsort((places.above, places.user))
    user, above, tied = places.user[order], places.above[order], places.tied[order]
    leads = np.concatenate([[True], (user[1:] != user[:-1]) | (above[1:] != above[:-1])])[: len(user)]  # first of its tie
    tie = np.cumsum(leads) - 1
    start = np.flatnonzero(leads)[tie]
    better = start - np.searchsorted(user, user)  # h
    others = (np.bincount(tie)[tie] - 1) / np.maximum(tied - 1, 1)  # (m - 1) / (e - 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, k + 1))])
    first, last = np.minimum(above, k), np.minimum(above + tied, k)
    inverse = harmonic[last] - harmonic[first]  # sum over p of 1 / (g + p)
    summed = (better + 1) * inverse + others * (last - first - (first + 1) * inverse)
    return np.asarray(np.bincount(user, summed / tied, places.users), dtype=np.float64)


def _first_target(k: int, places: Places, users: int) -> tuple[Double, Double]:
    """[U] P(first target's rank <= k) and E[1 / that rank, 0 beyond k].

    The first target stands in the user's best tie. Of e tied candidates with m targets in it, the j-th is the first target with
    probability C(e - j, m - 1) / C(e, m), which is built up from j = 1 by the ratio of neighbouring terms.
    """
    best = np.full(users, np.iinfo(np.int64).max)
    np.minimum.at(best, places.user, places.above)
    leading = places.above == best[places.user]
    user = places.user[leading]
    m = np.bincount(user, minlength=users).astype(np.float64)
    e = np.ones(users)
    e[user] = places.tied[leading]
    chance = m / e  # [U] probability that the j-th of the tie is the first target
    hr, mrr = np.zeros(users), np.zeros(users)
    for j in range(1, k + 1):
        inside = best <= k - j
        hr += np.where(inside, chance, 0.0)
        mrr += np.where(inside, chance / (best.astype(np.float64) + j), 0.0)
        chance = chance * np.maximum(e - j - m + 1, 0.0) / np.maximum(e - j, 1.0)
    return hr, mrr
