"""Batches of near-equal length: at most `budget` tokens a forward pass, and little of it padding.

Legend: N texts, B texts of a batch, T tokens of the longest text of a batch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SPREAD = 0.875  # shortest / longest text of a batch; padding is thus at most 1 - SPREAD of what is computed


def plan(lengths: Int, budget: int) -> list[Int]:
    """Splits texts into batches, longest first, so that B * T <= budget and all lengths lie within SPREAD of T.

    The longest come first so that the largest buffers are allocated once. Texts of equal length keep their order.

    Args:
        lengths: [N] tokens of each text, at least 1.
        budget: padded tokens of a batch, at least the longest text.

    Returns:
        For each batch the positions [B] of its texts; each of the N positions occurs once.
    """
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order]
    batches, start = [], 0
    while start < len(order):
        longest = int(descending[start])
        rows = max(1, budget // longest)
        near = int(np.searchsorted(-descending, -SPREAD * longest, side="right"))
        stop = min(start + rows, near)
        batches.append(order[start:stop])
        start = stop
    return batches


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Int, Bool]:
    """Rows of token ids as one rectangle, padded on the right whatever the tokenizer's own side is.

    With right padding a token's position is its index in every architecture, so vectors need no position ids
    and do not depend on the batch.

    Returns:
        ids [B, T] and mask [B, T], True: a token of the text.
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]  # [B, T]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return ids, mask


def padding_share(lengths: Int, batches: Sequence[Int]) -> float:
    """Share of computed tokens that are padding; 0 where nothing is computed."""
    computed = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1 - int(lengths.sum()) / computed if computed else 0.0
