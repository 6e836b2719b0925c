"""Rows of `user_sequences`, as Arrow, to Histories.

Legend: R rows (a user and date each), U users, S steps, E behaviours, J profile texts, K text dimensions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmrec_pipeline.errors import InputError
from llmrec_pipeline.interest.data import Histories

MICROS_PER_DAY = 86_400_000_000
COLUMNS = ("user_id", "event_date", "steps", "profiles")
PROFILES = "array<struct<step:int,embedding:array<float>>>"  # profile texts of a date, by step; null: none


def to_histories(
    rows: pa.Table,
    item_ids: pa.Array,
    text_hashes: pa.Array,
    event_types: tuple[str, ...],
    cancels: tuple[int, ...] = (),
    text_dim: int = 0,
) -> Histories:
    """Histories of the users in `rows`.

    Args:
        rows: COLUMNS of `user_sequences`, in ascending order of (user_id, event_date), with the vectors of their profile texts.
        item_ids: [N] of the catalogue; its positions become item rows.
        text_hashes: positions become text rows.
        event_types: the domain's types in their order.
        cancels: as `Histories.cancels`.
        text_dim: K.

    Raises:
        InputError: rows are not in order, or hold an event type that the domain lacks.
    """
    rows = rows.select(COLUMNS).combine_chunks()
    users = _numpy_strings(rows["user_id"])
    dates = rows["event_date"].combine_chunks().cast(pa.int32()).to_numpy()  # [R] days since 1970-01-01
    new_user = np.concatenate([[True], users[1:] != users[:-1]]) if len(users) else np.zeros(0, dtype=bool)  # [R]
    _require_order(users, dates, new_user)
    steps = rows["steps"].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(steps), 0).to_numpy()  # [R]
    row = np.repeat(np.arange(len(rows)), lengths)  # [E]
    behaviours = steps.flatten()
    number = _field(behaviours, "step").to_numpy()  # [E] number of the step within its row
    starts = np.flatnonzero(_changes(row) | _changes(number))  # [S] first behaviour of each step
    time = _field(behaviours, "event_time").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() / MICROS_PER_DAY
    features = _field(behaviours, "features")
    step_row = row[starts]
    user = np.cumsum(new_user) - 1  # [R]
    first = np.minimum.reduceat(time, starts) if len(starts) else np.zeros(0)
    snapshot_step, snapshots = _snapshots(rows["profiles"].combine_chunks(), step_row, text_dim)
    return Histories(
        user_ids=users[new_user],
        step_offsets=np.searchsorted(user[step_row], np.arange(int(new_user.sum()) + 1)).astype(np.int64),
        step_day=dates[step_row].astype(np.int32),
        step_time=first.astype(np.float64),
        step_session=pc.fill_null(_field(features, "same_session"), False).to_numpy(zero_copy_only=False)[starts],
        event_offsets=np.concatenate([starts, [len(row)]]).astype(np.int64),
        item=_positions(_field(behaviours, "item_id"), item_ids, np.int32),
        event_type=_types(_field(behaviours, "event_type"), event_types),
        text=_positions(_field(behaviours, "text_hash"), text_hashes, np.int32),
        quantity=pc.fill_null(_field(features, "quantity"), np.nan).to_numpy().astype(np.float32),
        cancels=cancels,
        snapshot_step=snapshot_step,
        snapshots=snapshots,
    )


def _snapshots(profiles: pa.Array, step_row: npt.NDArray[Any], text_dim: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The steps [J] that profile texts [R] are of, from the row that each step [S] is in, and their vectors [J, K].

    Raises:
        InputError: there is no such step.
    """
    lengths = pc.fill_null(pc.list_value_length(profiles), 0).to_numpy()
    flat = profiles.flatten()
    if not len(flat):
        return np.zeros(0, dtype=np.int64), np.zeros((0, text_dim), dtype=np.float32)
    row = np.repeat(np.arange(len(profiles)), lengths)
    step = np.searchsorted(step_row, row) + _field(flat, "step").to_numpy()
    if (step >= np.searchsorted(step_row, row, side="right")).any():
        raise InputError("user_profiles name steps that user_sequences lack; run textualise --rebuild")
    vectors = _field(flat, "embedding").flatten().to_numpy().astype(np.float32)
    return step.astype(np.int64), vectors.reshape(len(flat), text_dim)


def _field(values: pa.Array, name: str) -> pa.Array:
    return pc.struct_field(values, name)


def _numpy_strings(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return np.asarray(column.to_pylist(), dtype=np.str_) if len(column) else np.zeros(0, dtype=np.str_)


def _changes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([[True], values[1:] != values[:-1]]) if len(values) else np.zeros(0, dtype=bool)


def _positions(values: pa.Array, known: pa.Array, dtype: type) -> npt.NDArray[Any]:
    """Position of each value in `known`; -1 where it is null or not there."""
    found = pc.fill_null(pc.index_in(values, value_set=known), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=dtype)


def _types(values: pa.Array, event_types: tuple[str, ...]) -> npt.NDArray[Any]:
    found = _positions(values, pa.array(event_types), np.int8)
    if (found < 0).any():
        odd = values[int(np.flatnonzero(found < 0)[0])].as_py()
        raise InputError(f"user_sequences hold event type {odd!r}, the domain has {list(event_types)}; run textualise --rebuild")
    return found


def _require_order(users: npt.NDArray[Any], dates: npt.NDArray[Any], new_user: npt.NDArray[Any]) -> None:
    later = (dates[1:] > dates[:-1]) & ~new_user[1:] | (users[1:] > users[:-1])
    if not later.all():
        place = int(np.flatnonzero(~later)[0]) + 1
        raise InputError(
            f"rows of user_sequences are not in order at row {place} (user {users[place]!r}); sort by (user_id, event_date)"
        )
