"""Rows of different lengths as flat arrays (CSR), and such arrays in files: what grows with users takes memory only while it is used.

A file has no name, so nothing is left of it when its array is gone, or the process is.
"""

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import is_dataclass
from math import prod
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec_pipeline.errors import StoreError

MALLOC_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


def offsets_of(lengths: npt.NDArray[np.integer | np.bool_]) -> Int:
    """CSR offsets of rows of the given lengths."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def ranges(starts: Int, lengths: Int) -> Int:
    """The numbers [starts[r], starts[r] + lengths[r]) of all rows r, one row after another."""
    offsets = offsets_of(lengths)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])


class Column:
    """An array that is written part by part to a file, and then mapped."""

    def __init__(self, *parts: Array) -> None:
        self.rows = 0
        self._file = TemporaryFile()  # noqa: SIM115 - open until it is mapped
        self._like = np.empty(0)
        for part in parts:
            self.append(part)

    def append(self, part: Array) -> None:
        """Adds rows of one dtype and shape.

        Raises:
            StoreError: the folder of temporary files takes no more.
            ValueError: the rows before are of others.
        """
        try:
            self._file.write(part.tobytes())
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"cannot write {part.nbytes:,} bytes to the folder of temporary files {gettempdir()}: {error.strerror}; training keeps there "
                "what grows with users: make room, or name another folder by the environment variable TMPDIR"
            ) from error
        if not self.rows:
            self._like = part[:0]
        elif len(part) and (part.dtype, part.shape[1:]) != (self._like.dtype, self._like.shape[1:]):
            raise ValueError(
                f"rows of {part.dtype} {part.shape[1:]} cannot follow rows of {self._like.dtype} {self._like.shape[1:]}"
            )
        self.rows += len(part)

    def mapped(self) -> Array:
        """All rows, to be read only; nothing can be added any more."""
        shape = (self.rows, *self._like.shape[1:])
        with self._file as file:
            if not prod(shape):
                return np.empty(shape, self._like.dtype)
            return np.asarray(np.memmap(file, self._like.dtype, "r", shape=shape))


class Ragged:
    """CSR rows with several columns of values, written part by part."""

    def __init__(self, columns: int) -> None:
        self._offsets, self._columns = Column(np.zeros(1, dtype=np.int64)), [Column() for _ in range(columns)]

    @property
    def values(self) -> int:
        """Written so far."""
        return self._columns[0].rows

    def append(self, lengths: npt.NDArray[np.integer], *values: Array) -> None:
        """Adds rows of the given lengths, and their values of each column."""
        self._offsets.append(offsets_of(lengths)[1:] + self.values)
        for column, part in zip(self._columns, values, strict=True):
            column.append(part)

    def mapped(self) -> tuple[Array, ...]:
        """Offsets, then the values of each column."""
        return self._offsets.mapped(), *(column.mapped() for column in self._columns)


def release(*of: Any) -> None:
    """Gives back the memory that mapped arrays among the fields of dataclasses took when they were read; they can be read again."""
    for one in of:
        for mapping in _mappings(one):
            mapping.madvise(mmap.MADV_DONTNEED)


def trim() -> None:
    """Gives back what the allocator keeps of arrays that are gone, where it can be asked to (glibc): left to itself it keeps some more with every batch."""
    if MALLOC_TRIM:
        MALLOC_TRIM(0)


def _mappings(of: Any) -> Iterator[mmap.mmap]:
    for value in vars(of).values():
        if is_dataclass(value):
            yield from _mappings(value)
        base = value
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            yield base
