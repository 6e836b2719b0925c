"""Batches of near-equal length: at most `budget` tokens a forward pass, and little of it padding.

Legend: N texts, B texts of a batch, T tokens of the longest text of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SPREAD = 0.9  # shortest / longest text of a batch
FILLED = 0.5  # of the budget: a batch filled so far ends where the length changes, and has no padding


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, one after the other."""

    values: npt.NDArray[np.int32]  # [offsets[N]]
    offsets: Int  # [N + 1] text n is values[offsets[n] : offsets[n + 1]]

    @property
    def lengths(self) -> Int:
        """Tokens of each text: [N]."""
        return np.diff(self.offsets)

    def repeated(self, times: int) -> "Tokens":
        """The same texts several times over, at least once."""
        times = max(1, times)
        starts = np.arange(times)[:, None] * self.offsets[-1] + self.offsets[:-1]  # [times, N]
        return Tokens(np.tile(self.values, times), np.append(starts.ravel(), times * self.offsets[-1]))

    def take(self, texts: Int) -> "Tokens":
        """Those of the texts at the given positions, in that order."""
        lengths, starts = self.lengths[texts], self.offsets[:-1][texts]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Tokens(self.values[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)], offsets)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Tokens":
        """Of a list of ids for each text."""
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        values = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
        return cls(values, offsets)

    @classmethod
    def from_arrow(cls, rows: pa.ListArray) -> "Tokens":
        """Of a column of lists of int32; null is no tokens."""
        offsets = np.concatenate(
            [[0], np.cumsum(rows.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)]
        )
        return cls(rows.flatten().to_numpy(zero_copy_only=False), offsets)


def plan(lengths: Int, budget: int) -> list[Int]:
    """Splits texts into batches, longest first, so that B * T <= budget and all lengths lie within SPREAD of T.

    Texts of one length go together, without padding; a batch takes shorter ones only where they leave it less than FILLED.
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
        limit = start + max(1, budget // longest)
        stop = min(limit, _end(descending, longest))
        if (stop - start) * longest < FILLED * budget:
            stop = min(limit, _end(descending, SPREAD * longest))
        batches.append(order[start:stop])
        start = stop
    return batches


def _end(descending: Int, least: float) -> int:
    """Where lengths below `least` begin."""
    return int(np.searchsorted(-descending, -least, side="right"))


def pad(tokens: Tokens, batch: Int) -> tuple[Int, Bool]:
    """Some texts' ids as one rectangle, padded on the right whatever the tokenizer's own side is.

    With right padding a token's position is its index in every architecture, so vectors need no position ids
    and do not depend on the batch. What is padded with does not matter, as it is masked: id 0, which every vocabulary has.

    Args:
        tokens: of N texts.
        batch: [B] positions among them, at least one, each of a text with tokens.

    Returns:
        ids [B, T] and mask [B, T], True: a token of the text.
    """
    lengths = tokens.lengths[batch]
    place = np.arange(lengths.max())  # [T]
    mask = place < lengths[:, None]  # [B, T]
    index = np.minimum(tokens.offsets[batch][:, None] + place, len(tokens.values) - 1)
    return np.where(mask, tokens.values[index], 0).astype(np.int64), mask
