from dataclasses import replace

import numpy as np
import torch
from interest_cases import histories_of

from llmrec_pipeline.interest.window import log_bucket, window_of

TEXT = np.eye(4, dtype=np.float32)
ITEM_ROW = np.array([1, 2, 0, 3])  # the third item was not trained


def test_a_window_is_padded_behind_and_points_back_to_its_steps() -> None:
    histories = histories_of(
        {"a": [(10.0, [(0, 0)]), (11.5, [(1, 1), (2, 0), (-1, 0)]), (12.0, [(3, 0)])], "b": [(20.0, [(2, 0)])], "c": []}
    )
    window = window_of(histories, np.array([0, 1, 2]), first=1, width=5, item_row=ITEM_ROW, text=TEXT)
    assert window.length.tolist() == [2, 0, 0]
    assert window.time.tolist() == [[11.5, 12.0], [0.0, 0.0], [0.0, 0.0]]
    assert window.steps.tolist() == [1, 2]
    assert window.cells.tolist() == [0, 1]
    assert window.event_cell.tolist() == [0, 0, 0, 1]
    assert window.event_item.tolist() == [2, 0, 0, 3]  # trained row, untrained, unknown, trained
    assert window.event_text.tolist() == [2, 3, 0, 4]  # row + 1; the unknown item has no text here
    assert window.event_type.tolist() == [1, 0, 0, 0]
    assert window.profile[0].tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert window.size[0].tolist() == [3, 2]  # 1 + floor(log2(1 + 3)), 1 + floor(log2(1 + 1))
    assert window.size[1:].sum() == 0


def test_a_window_holds_the_profile_texts_of_its_own_steps() -> None:
    one_each = {name: [(10.0 + day, [(0, 0)]) for day in range(4)] for name in ("a", "b")}
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    histories = replace(histories_of(one_each), snapshot_step=np.array([0, 2, 2, 5, 7]), snapshots=vectors)
    window = window_of(histories, np.array([1, 0]), first=1, width=2, item_row=ITEM_ROW, text=TEXT)
    assert window.snapshot.tolist() == [[1, 0], [0, 2]]
    assert window.snapshots.tolist() == [[6, 7], [4, 5]]  # of a step with two the later one
    assert histories.users(1, 2).snapshot_step.tolist() == [1, 3]
    assert histories.without_last(1).snapshot_step.tolist() == [0, 2, 2, 4]  # steps 0 to 2 of each are left
    assert histories.take(np.array([1])).snapshots.tolist() == [[6, 7], [8, 9]]


def test_padding_repeats_the_last_instant() -> None:
    histories = histories_of({"a": [(10.0, [(0, 0)])], "b": [(20.0, [(1, 0)]), (21.0, [(0, 0)])]})
    window = window_of(histories, np.array([0, 1]), first=0, width=8, item_row=ITEM_ROW, text=TEXT)
    assert window.time.tolist() == [[10.0, 10.0], [20.0, 21.0]]
    assert window.length.tolist() == [1, 2]


def test_quantities_are_bucketed_by_their_mean_and_missing_ones_have_a_bucket_of_their_own() -> None:
    histories = histories_of({"a": [(10.0, [(0, 0), (1, 0), (2, 0)]), (11.0, [(0, 0)]), (12.0, [(0, 0)])]})
    histories.quantity[:] = [-6.0, 8.0, np.nan, np.nan, 0.0]
    window = window_of(histories, np.array([0]), first=0, width=3, item_row=ITEM_ROW, text=TEXT)
    assert window.quantity.tolist() == [[4, 0, 1]]  # mean of |-6| and |8|: 1 + floor(log2(1 + 7))


def test_buckets_grow_by_doubling_and_end_at_the_last() -> None:
    assert log_bucket(np.array([0.0, 1.0, 2.9, 3.0, 1e9])).tolist() == [1, 2, 2, 3, 23]
    assert log_bucket(torch.tensor([0, 1, 7]), start=0).tolist() == [0, 1, 3]
