"""Seeded 64-bit hashes of ids, the same on every machine and in every row order; for ties and bootstrap, not for secrets."""

import numpy as np
import numpy.typing as npt

Hash = npt.NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(value: Hash) -> Hash:
    """Scrambles 64-bit integers (finaliser of splitmix64: Steele, Lea and Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash_ids(ids: npt.NDArray[np.str_], seed: int) -> Hash:
    """[n] hash of each id's characters; the width of the string array plays no part."""
    text = np.ascontiguousarray(ids, dtype=np.str_)
    codes = text.view(np.uint32).reshape(len(text), -1) if text.size and text.itemsize else np.zeros((len(text), 0), np.uint32)
    state = mix(np.full(len(text), seed, dtype=np.uint64) + GOLDEN)
    for code in codes.T.astype(np.uint64):
        state = np.where(code > 0, mix((state ^ code) * GOLDEN + np.uint64(1)), state)
    return state


def hash_pairs(left: Hash, right: Hash) -> Hash:
    """Hash of (left, right) pairs, element by element; the two sides are not interchangeable."""
    return mix(left * GOLDEN + mix(right + GOLDEN))


def counter_bits(keys: Hash, draws: int) -> Hash:
    """[n, draws] random 64-bit words: word d of a key depends on the key and on d alone."""
    counter = np.arange(1, draws + 1, dtype=np.uint64) * GOLDEN
    return mix(mix(keys[:, None] + counter[None, :]))
