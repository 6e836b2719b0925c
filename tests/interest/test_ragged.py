"""What lies in files is what was written, part by part, and takes memory only while it is read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interest_cases import histories_of, random_histories, with_snapshots

from llmrec_pipeline.errors import StoreError
from llmrec_pipeline.interest import ragged
from llmrec_pipeline.interest.data import Histories, on_disk
from llmrec_pipeline.interest.ragged import Column, Ragged, ranges, release

MIB = 2**20


def assert_equal(found: Histories, expected: Histories) -> None:
    assert found.cancels == expected.cancels
    for name, value in vars(expected).items():
        if name != "cancels":
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
            assert getattr(found, name).dtype == value.dtype, name


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 4))
def test_histories_written_block_by_block_are_those_of_all_blocks(seed: int, users: int, at_once: int) -> None:
    rng = np.random.default_rng(seed)
    histories = replace(with_snapshots(random_histories(rng, users), rng), cancels=(-1, 0))
    found = on_disk(histories.slices(at_once))
    assert_equal(found, histories)
    release(found)
    some = np.flatnonzero(rng.random(users) < 0.5)
    assert_equal(found.take(some), histories.take(some))


def test_histories_of_nobody_have_the_arrays_of_some() -> None:
    nobody, somebody = on_disk([]), histories_of({"a": [(10.0, [(0, 0)])]})
    assert (nobody.n_users, nobody.n_steps) == (0, 0)
    for name, value in vars(somebody).items():
        assert np.asarray(getattr(nobody, name)).dtype.kind == np.asarray(value).dtype.kind or name == "cancels", name


def test_rows_of_different_lengths_go_on_where_the_last_part_ended() -> None:
    rows = Ragged(2)
    for lengths, item, features in (([2, 0], [7, 8], [[1.0], [2.0]]), ([], [], np.empty((0, 1))), ([1], [9], [[3.0]])):
        rows.append(np.array(lengths, dtype=np.int64), np.array(item, dtype=np.int32), np.array(features, dtype=np.float32))
    offsets, items, values = rows.mapped()
    assert (offsets.tolist(), items.tolist(), values.tolist()) == ([0, 2, 2, 3], [7, 8, 9], [[1.0], [2.0], [3.0]])
    assert (items.dtype, values.dtype) == (np.int32, np.float32)
    with pytest.raises(ValueError, match="read-only"):
        items[0] = 1


def test_what_takes_no_bytes_keeps_its_shape() -> None:
    assert Column(np.empty((3, 0), dtype=np.float32)).mapped().shape == (3, 0)
    assert Column(np.empty((0, 4), dtype=np.int8)).mapped().shape == (0, 4)


def test_rows_of_another_kind_are_refused() -> None:
    column = Column(np.empty((0, 0), dtype=np.float32), np.zeros((2, 3), dtype=np.float32), np.empty((0, 0)))
    for other in (np.zeros((1, 3)), np.zeros((1, 4), dtype=np.float32)):
        with pytest.raises(ValueError, match=r"cannot follow rows of float32 \(3,\)"):
            column.append(other)
    assert column.mapped().shape == (2, 3)


def test_ranges_are_the_numbers_of_each_row() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_a_full_disk_is_told_and_how_to_name_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged, "TemporaryFile", lambda: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(StoreError, match=r"cannot write 40 bytes to .*: No space left on device; .* variable TMPDIR"):
        Column(np.zeros(5))


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_reading_all_of_what_is_mapped_takes_the_memory_of_a_slice() -> None:
    """With its control: the same read without giving anything back."""
    users, behaviours = 40, 100_000

    def blocks() -> Iterator[Histories]:
        one = histories_of({"u": [(10.0, [(0, 0)] * behaviours)]})
        for user in range(users):
            yield replace(one, user_ids=np.array([f"u{user:02}"]))

    before = resident()
    found = on_disk(blocks())
    events = users * behaviours
    assert len(found.item) == events
    read = 0
    most = resident()
    for block in found.slices(1):
        read += int((block.item == 0).sum() + (block.quantity == 1).sum() + (block.text == 0).sum())
        most = max(most, resident())
    assert read == 3 * events
    assert most - before < 16 * MIB
    assert int((found.item == 0).sum() + (found.quantity == 1).sum() + (found.text == 0).sum()) == read
    assert resident() - before > 40 * MIB  # 12 bytes a behaviour
    release(found)
    assert resident() - before < 16 * MIB
