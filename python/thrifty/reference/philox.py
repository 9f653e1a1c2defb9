"""Philox4x32-10 (Salmon et al., SC 2011, section 3.3) in NumPy, and the dropout mask drawn from it.

A counter-based generator: each word is a function of a 64-bit key and a 128-bit counter, so a mask
can be drawn again, anywhere and in any order, from (seed, offset) and the element's place.
"""

import numpy as np
import torch
from torch import Tensor

_MASK32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)


def philox(key: int, counter: np.ndarray) -> np.ndarray:
    """Ten rounds over counters of shape (..., 4), uint32 words; the key's low half comes first."""
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32 & 0xFFFFFFFF)
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT32) ^ c1 ^ k0,
            p1 & _MASK32,
            (p0 >> _SHIFT32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0 = (k0 + np.uint64(0x9E3779B9)) & _MASK32
        k1 = (k1 + np.uint64(0xBB67AE85)) & _MASK32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def dropout_words(seed: int, offset: int, rows: int, columns: int) -> np.ndarray:
    """One uint32 word for each element of a (rows, columns) matrix.

    64 columns share 16 counters: column c takes word (c // 16) % 4 of counter
    (c // 64 * 16 + c % 16, row, offset's low half, offset's high half).
    """
    column = np.arange(columns)
    counter = np.zeros((rows, columns, 4), np.uint32)
    counter[..., 0] = column // 64 * 16 + column % 16
    counter[..., 1] = np.arange(rows)[:, None]
    counter[..., 2] = offset & 0xFFFFFFFF
    counter[..., 3] = offset >> 32 & 0xFFFFFFFF
    words = philox(seed, counter)
    return np.take_along_axis(words, (column // 16 % 4)[None, :, None], axis=-1)[..., 0]


def dropout_mask(seed: Tensor, p: float, rows: int, columns: int) -> Tensor:
    """Float64 factors of inverted dropout: 0, or 1 / (1 - p) where the word is >= floor(p 2^32).

    seed: int64[2] tensor (seed, offset). The mask lies on its device.
    """
    key, offset = (int(value) % 2**64 for value in seed.tolist())
    kept = dropout_words(key, offset, rows, columns) >= np.uint32(p * 2**32)
    return torch.from_numpy(kept).to(seed.device).double() / (1 - p)
