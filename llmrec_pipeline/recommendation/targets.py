"""Target events of a block of users as CSR rows.

Legend: U users of a block, N items, P target events.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.errors import InputError

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """What each user did in the period that is predicted; user u owns [offsets[u], offsets[u + 1])."""

    offsets: Int  # [U + 1]
    item: npt.NDArray[np.int32]  # [P] row in the catalogue; -1: an item the catalogue lacks

    @staticmethod
    def of(rows: list[list[int]]) -> "Targets":
        """Targets from one list of item rows per user."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return Targets(
            np.concatenate([[0], np.cumsum(lengths)]), np.array([item for row in rows for item in row], dtype=np.int32)
        )

    @property
    def user(self) -> Int:
        """[P] the user of each target event."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def per_user(self) -> Int:
        """[U] number of target events."""
        return np.diff(self.offsets)

    def distinct(self) -> "Targets":
        """Each of a user's items once, in item order; events with items that the catalogue lacks all stay, as nothing tells these apart."""
        known = self.item >= 0
        pairs = np.unique(np.stack([self.user[known], self.item[known].astype(np.int64)], axis=1), axis=0)
        user, item = np.concatenate([self.user[~known], pairs[:, 0]]), np.concatenate([self.item[~known], pairs[:, 1]])
        by_user = np.argsort(user, kind="stable")
        return self._from_pairs(user[by_user], item[by_user].astype(np.int32))

    def within(self, mask: npt.NDArray[np.bool_]) -> "Targets":
        """Only the targets that are candidates: a masked target is no target (DESIGN 1.5). `mask` is [U, N], True = candidate.

        Raises:
            InputError: targets and mask have different numbers of users, or an item row is outside the mask.
        """
        if len(self.offsets) - 1 != len(mask):
            raise InputError(
                f"targets are given for {len(self.offsets) - 1} users, the mask for {len(mask)}; pass the same block to both"
            )
        if len(self.item) and self.item.max() >= mask.shape[1]:
            raise InputError(
                f"target item row {self.item.max()} is outside the catalogue of {mask.shape[1]} items; use -1 for unknown items"
            )
        keep = (self.item >= 0) & mask[self.user, self.item]
        return self._from_pairs(self.user[keep], self.item[keep])

    def _from_pairs(self, user: Int, item: npt.NDArray[np.int32]) -> "Targets":
        lengths = np.bincount(user, minlength=len(self.offsets) - 1)
        return Targets(np.concatenate([[0], np.cumsum(lengths)]), item)
