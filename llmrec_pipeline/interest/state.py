"""The carried state of users: what the interest model needs of the past, exact under any split of it (DESIGN 1.4, law 5).

Legend: U users, G units of the recurrent state, Q attention queries, D item dimensions, E behaviour types, H half-lives of
the long part, K text dimensions, A all accumulators of a user, flat.
"""

from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llmrec_pipeline.errors import ModelError
from llmrec_pipeline.interest.data import rows_of
from llmrec_pipeline.interest.own import OwnItems

Float = npt.NDArray[np.float64]

OWN_TYPE = pa.list_(
    pa.struct([("item_id", pa.string()), *((name, pa.list_(pa.float64())) for name in ("decayed", "recent", "total"))])
)
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("h", pa.list_(pa.float32())),
        ("c", pa.list_(pa.float32())),
        ("accumulators", pa.list_(pa.float64())),
        ("steps", pa.int64()),
        ("last_day", pa.int32()),
        ("last_time", pa.float64()),
        ("own", OWN_TYPE),
    ]
)
LOWEST = -1e30  # running maximum before any step; finite, so that differences of maxima stay numbers


@dataclass(frozen=True)
class Layout:
    """Sizes of a model's carried state."""

    hidden: int  # G
    has_cell: bool  # True: LSTM, with a cell state beside h
    queries: int  # Q
    item_dim: int  # D
    types: int  # E
    half_lives: int  # H
    text_dim: int  # K
    repeat_half_lives: int  # of own counts
    snapshot_dim: int  # K, 0 without profile texts

    @property
    def blocks(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each accumulator of one user, in the order in which they are stored."""
        return {
            "peak": (self.queries,),
            "numerator": (self.queries, self.item_dim),
            "denominator": (self.queries,),
            "sums": (self.half_lives, self.types, self.item_dim),
            "counts": (self.half_lives, self.types),
            "profile": (self.text_dim,),
            "snapshot": (self.snapshot_dim,),
        }

    @property
    def accumulators(self) -> int:
        """A, numbers per user."""
        return sum(prod(shape) for shape in self.blocks.values())

    @property
    def cell_size(self) -> int:
        return self.hidden if self.has_cell else 0


@dataclass(frozen=True)
class States:
    """Interest states of U users as of each user's last step."""

    user_ids: npt.NDArray[np.str_]  # [U]
    h: npt.NDArray[np.float32]  # [U, G]
    c: npt.NDArray[np.float32]  # [U, G]; [U, 0] for a GRU
    accumulators: Float  # [U, A], see Layout.blocks
    steps: npt.NDArray[np.int64]  # [U] steps seen
    last_day: npt.NDArray[np.int32]  # [U] date of the last step; 0 without steps
    last_time: Float  # [U] instant of the last step, days since the epoch, UTC; 0 without steps
    own: OwnItems  # decayed to last_time

    @staticmethod
    def empty(user_ids: npt.NDArray[np.str_], layout: Layout) -> "States":
        """Users of whom nothing is known yet."""
        n = len(user_ids)
        accumulators = np.zeros((n, layout.accumulators))
        accumulators[:, : layout.queries] = LOWEST
        return States(
            user_ids=np.asarray(user_ids, dtype=np.str_),
            h=np.zeros((n, layout.hidden), dtype=np.float32),
            c=np.zeros((n, layout.cell_size), dtype=np.float32),
            accumulators=accumulators,
            steps=np.zeros(n, dtype=np.int64),
            last_day=np.zeros(n, dtype=np.int32),
            last_time=np.zeros(n),
            own=OwnItems.empty(n, layout.types, layout.repeat_half_lives),
        )

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    def take(self, rows: npt.NDArray[np.int64]) -> "States":
        """The users of the given rows, in the given order."""
        plain = {name: getattr(self, name)[rows] for name in _names() if name != "own"}
        return States(**plain, own=self.own.take(rows))

    def for_users(self, user_ids: npt.NDArray[np.str_], layout: Layout) -> "States":
        """States of exactly these users, in this order; who is not known here gets an empty state."""
        order = np.argsort(self.user_ids, kind="stable")
        position = rows_of(user_ids, self.user_ids[order])
        rows = np.where(position >= 0, order[position] if len(order) else 0, self.n_users + np.arange(len(user_ids)))
        return _joined(self, States.empty(user_ids, layout)).take(rows.astype(np.int64))

    def to_arrow(self) -> pa.Table:
        """The states as rows of the table interest_states, without its version column."""
        own = pa.StructArray.from_arrays(
            [
                pa.array(self.own.item_id, pa.string()),
                _lists(self.own.decayed.reshape(len(self.own.item_id), prod(self.own.decayed.shape[1:]))),
                _lists(self.own.recent),
                _lists(self.own.total),
            ],
            fields=list(OWN_TYPE.value_type),
        )
        columns = [
            pa.array(self.user_ids, pa.string()),
            _lists(self.h),
            _lists(self.c),
            _lists(self.accumulators),
            pa.array(self.steps),
            pa.array(self.last_day),
            pa.array(self.last_time),
            pa.ListArray.from_arrays(pa.array(self.own.offsets, pa.int32()), own),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    @staticmethod
    def from_arrow(table: pa.Table, layout: Layout) -> "States":
        """The states of `to_arrow`'s rows, bit for bit; further columns are left alone.

        Raises:
            ModelError: a column is missing, or a user's numbers do not fit the model's sizes.
        """
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise ModelError(f"interest states lack the columns {missing}; expected {SCHEMA.names}; rebuild them with train")
        table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
        column = {name: table[name].combine_chunks() for name in SCHEMA.names}
        own = column["own"]
        rows = own.flatten()
        types, lives = layout.types, layout.repeat_half_lives
        decayed = _matrix(rows.field("decayed"), types * lives, "own.decayed").reshape(-1, types, lives)
        recent, total = (_matrix(rows.field(name), types, f"own.{name}") for name in ("recent", "total"))
        lengths = np.diff(own.offsets.to_numpy())
        return States(
            user_ids=_strings(column["user_id"]),
            h=_matrix(column["h"], layout.hidden, "h"),
            c=_matrix(column["c"], layout.cell_size, "c"),
            accumulators=_matrix(column["accumulators"], layout.accumulators, "accumulators"),
            steps=column["steps"].to_numpy().copy(),
            last_day=column["last_day"].to_numpy().copy(),
            last_time=column["last_time"].to_numpy().copy(),
            own=OwnItems(
                np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), _strings(rows.field("item_id")), decayed, recent, total
            ),
        )


def _names() -> list[str]:
    return [field.name for field in fields(States)]


def _joined(one: States, other: States) -> States:
    plain = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in _names() if name != "own"}
    own = OwnItems(
        np.concatenate([one.own.offsets, one.own.offsets[-1] + other.own.offsets[1:]]),
        np.concatenate([one.own.item_id, other.own.item_id]),
        np.concatenate([one.own.decayed, other.own.decayed]),
        np.concatenate([one.own.recent, other.own.recent]),
        np.concatenate([one.own.total, other.own.total]),
    )
    return States(**plain, own=own)


def _lists(matrix: npt.NDArray[Any]) -> pa.ListArray:
    n, width = matrix.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * width, pa.int32()), pa.array(matrix.reshape(-1)))


def _matrix(column: pa.ListArray, width: int, name: str) -> npt.NDArray[Any]:
    lengths = np.diff(column.offsets.to_numpy())
    odd = lengths[lengths != width]
    if len(odd):
        raise ModelError(
            f"interest states: {name} has {odd[0]} numbers, this model has {width}; use states of the model's own state_version"
        )
    return np.array(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(lengths), width)


def _strings(column: pa.StringArray) -> npt.NDArray[np.str_]:
    return np.array(column.to_pylist(), dtype=np.str_)
