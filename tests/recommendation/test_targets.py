"""Target events as CSR rows."""

import numpy as np
import pytest

from llmrec_pipeline.errors import InputError
from llmrec_pipeline.recommendation import Targets


def test_distinct_keeps_each_item_once_and_within_only_candidates() -> None:
    targets = Targets.of([[3, 1, 3], [], [0, -1, -1]])
    assert targets.user.tolist() == [0, 0, 0, 2, 2, 2]
    once = targets.distinct()
    assert (once.offsets.tolist(), once.item.tolist()) == ([0, 2, 2, 5], [1, 3, -1, -1, 0])
    mask = np.array([[True, True, True, False]] * 3)
    inside = targets.within(mask)
    assert (inside.offsets.tolist(), inside.item.tolist()) == ([0, 1, 1, 2], [1, 0])


def test_targets_of_another_block_or_catalogue_are_refused() -> None:
    with pytest.raises(InputError, match="given for 1 users, the mask for 2"):
        Targets.of([[0]]).within(np.ones((2, 3), dtype=bool))
    with pytest.raises(InputError, match="item row 3 is outside the catalogue of 3 items"):
        Targets.of([[3]]).within(np.ones((1, 3), dtype=bool))
