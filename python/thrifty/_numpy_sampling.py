"""The sampling ops of `thrifty.numpy`."""

from typing import NamedTuple

import numpy as np

from thrifty import _native

Number = float | np.ndarray | None  # of all rows, or (B,) of each


class MaskedSample(NamedTuple):
    """One draw per row; see `masked_sample`."""

    token: np.ndarray
    logp: np.ndarray
    log_z: np.ndarray
    status: np.ndarray


def _per_row(value: Number, dtype: type = np.float32) -> np.ndarray | None:
    return None if value is None else np.atleast_1d(np.asarray(value, dtype))


def apply_token_bitmask_(
    logits: np.ndarray,
    bitmask: np.ndarray,
    indices: np.ndarray | None = None,
    row_map: np.ndarray | None = None,
    vocab_size: int | None = None,
) -> np.ndarray:
    """Sets logits that a bit mask does not allow to -inf, in place; returns them.

    `logits` has contiguous rows, which may lie apart. See `thrifty.apply_token_bitmask_`.
    """
    rows, masks = np.atleast_2d(logits), np.atleast_2d(bitmask)
    _native.apply_token_bitmask_(rows, masks, indices, row_map, vocab_size)
    return logits


def masked_sample(
    logits: np.ndarray,
    bitmask: np.ndarray | None = None,
    *,
    inv_temperature: float | np.ndarray = 1.0,
    top_k: int | np.ndarray | None = None,
    top_p: Number = None,
    min_p: Number = None,
    top_n_sigma: Number = None,
    top_h: Number = None,
    top_h_variant: str = "hf",
    threshold: Number = None,
    mask_rows: np.ndarray | None = None,
    seeds: np.ndarray,
    offsets: np.ndarray,
    fallback_token: int = -1,
) -> MaskedSample:
    """One exact draw per row from the allowed and filtered tokens; see `thrifty.masked_sample`.

    The torch op's bits for the same seeds and offsets.

    Example::

        >>> import numpy as np
        >>> import thrifty.numpy
        >>> logits = np.log(np.array([[0.1, 0.2, 0.7]], np.float32))
        >>> mask = np.array([[0b011]], np.int32)
        >>> row = np.zeros(1, np.int64)
        >>> out = thrifty.numpy.masked_sample(logits, mask, seeds=row, offsets=row)
        >>> out.token[0] < 2, round(float(np.exp(out.log_z[0])), 3)
        (np.True_, 0.3)
    """
    return MaskedSample(
        *_native.masked_sample(
            logits,
            bitmask,
            mask_rows,
            _per_row(inv_temperature),
            _per_row(top_k, np.int64),
            _per_row(top_p),
            _per_row(min_p),
            _per_row(top_n_sigma),
            _per_row(top_h),
            top_h_variant,
            _per_row(threshold),
            seeds,
            offsets,
            fallback_token,
        )
    )


def filter_threshold(
    logits: np.ndarray,
    bitmask: np.ndarray | None = None,
    *,
    inv_temperature: float | np.ndarray = 1.0,
    top_k: int | np.ndarray | None = None,
    top_p: Number = None,
    min_p: Number = None,
    top_n_sigma: Number = None,
    top_h: Number = None,
    top_h_variant: str = "hf",
    mask_rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(threshold, log_mass) of the filters; see `thrifty.filter_threshold`."""
    return _native.filter_threshold(
        logits,
        bitmask,
        mask_rows,
        _per_row(inv_temperature),
        _per_row(top_k, np.int64),
        _per_row(top_p),
        _per_row(min_p),
        _per_row(top_n_sigma),
        _per_row(top_h),
        top_h_variant,
    )
