"""What later behaviours take back: a return of an item undoes one purchase of it, once, and never more than there were.

Which of the purchases is meant the log does not say: each of the n that stand loses 1 / n of its weight. So a carried count needs
no list of them, and the result does not depend on where a history is cut (law 5). A return that finds nothing undoes nothing.

Legend: m behaviours, M pairs of user and item with counts from before, E behaviour types. An account is a pair and a type that can be
taken back.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.interest.data import rows_of

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


def taken_types(kind: npt.NDArray[np.integer], cancels: Sequence[int]) -> Int:
    """[m] the type of which each behaviour takes one back, -1: none; `cancels` as in `Histories`."""
    return np.asarray(cancels, dtype=np.int64)[kind] if len(cancels) else np.full(len(kind), -1)


def known_types(is_target: Sequence[bool] | npt.NDArray[np.bool_], cancels: Sequence[int]) -> npt.NDArray[np.bool_]:
    """[E] True: the item of such a behaviour is known to the user; targets, and what takes one back, for it was bought before."""
    target = np.asarray(is_target, dtype=np.bool_)
    taken = taken_types(np.arange(len(target)), cancels)
    known: npt.NDArray[np.bool_] = target | ((taken >= 0) & target[taken])
    return known


def standing(
    pair: Int, kind: npt.NDArray[np.integer], step: Int, cancels: Sequence[int], before_pair: Int, before: Float
) -> tuple[Float, Float]:
    """Which share of each behaviour, and of the counts from before, is not taken back in the end.

    Args:
        pair: [m] user and item of each behaviour, as one number.
        kind: [m] its type.
        step: [m] its step; within one, what takes back comes last.
        cancels: [E] the type of which a behaviour takes one back, -1: none; empty: nothing takes anything back.
        before_pair: [M] pairs that have counts from before, ascending.
        before: [M, E] plain counts.

    Returns:
        [m] and [M, E] shares in [0, 1]; the sum of an account's shares is its balance.
    """
    shares, shares_before = np.ones(len(pair)), np.ones(before.shape)
    taken = taken_types(kind, cancels)
    takes = taken >= 0
    if not takes.any():
        return shares, shares_before
    account = pair * len(cancels) + np.where(takes, taken, kind)
    rows = np.flatnonzero(np.isin(account, account[takes]))
    rows = rows[np.lexsort((takes[rows], step[rows], account[rows]))]
    accounts, first, of = np.unique(account[rows], return_index=True, return_inverse=True)
    held = rows_of(accounts // len(cancels), before_pair)  # [accounts] row in `before`; -1: none
    cell = (held, accounts % len(cancels))
    opening = np.where(held >= 0, before[cell], 0.0) if len(before) else np.zeros(len(accounts))
    last = np.append(first[1:], len(rows)) - 1
    keeps = _keeps(np.where(takes[rows], -1.0, 1.0), first, of, opening)
    nothing_left, logs = np.cumsum(keeps == 0), np.cumsum(np.log(np.where(keeps == 0, 1.0, keeps)))
    later = np.where(nothing_left[last][of] > nothing_left, 0.0, np.exp(logs[last][of] - logs))
    adds = ~takes[rows]
    shares[rows[adds]] = later[adds]
    whole = later[first] * keeps[first]
    shares_before[held[held >= 0], cell[1][held >= 0]] = whole[held >= 0]
    return shares, shares_before


def _keeps(sign: Float, first: Int, of: Int, opening: Float) -> Float:
    """What each row leaves of its account's balance: 1, or (n - 1) / n for a row that takes one of n back.

    The balance is a walk that stays at zero where it would go below: the plain walk less its lowest point so far, if that is negative.
    """
    plain = np.cumsum(sign)
    walk = plain - (plain - sign)[first][of] + opening[of]
    apart = of * (2.0 * (len(sign) + opening.max()) + 1.0)  # lower from account to account, so that each has its own minimum
    balance = walk - np.minimum(np.minimum.accumulate(walk - apart) + apart, 0.0)
    n = np.concatenate([[0.0], balance[:-1]])
    n[first] = opening
    keeps: Float = np.where((sign < 0) & (n > 0), (n - 1) / np.maximum(n, 1.0), 1.0)
    return keeps
