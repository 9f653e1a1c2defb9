"""Adaptive weighted rejection sampling and resampling for `thrifty.numpy`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from thrifty import _native
from thrifty._byte_dfa import ByteDFA
from thrifty._numpy_sampling import _per_row


class Candidates(NamedTuple):
    """Tokens in without-replacement order; see `sample_candidates`."""

    ids: np.ndarray
    logp: np.ndarray
    log_rest: np.ndarray
    log_tail: np.ndarray
    lse: np.ndarray
    status: np.ndarray


class AwrsWeights(NamedTuple):
    """What the verdicts on candidates say; see `awrs_weights`."""

    pos: np.ndarray
    logw: np.ndarray
    need_more: np.ndarray
    n_checked: np.ndarray


class AwrsSample(NamedTuple):
    """One token per row; see `awrs_sample`."""

    token: np.ndarray
    logw: np.ndarray
    n_checked: np.ndarray
    status: np.ndarray


class AwrsDfaSample(NamedTuple):
    """One token per row; see `awrs_sample_dfa`."""

    token: np.ndarray
    logw: np.ndarray
    new_state: np.ndarray
    n_checked: np.ndarray
    status: np.ndarray


class Resampled(NamedTuple):
    """Who goes on; see `smc_resample`."""

    ancestors: np.ndarray
    logw: np.ndarray
    ess: np.ndarray
    log_ml_increment: np.ndarray


def sample_candidates(
    logits: np.ndarray,
    k: int,
    *,
    bitmask: np.ndarray | None = None,
    mask_rows: np.ndarray | None = None,
    inv_temperature: float | np.ndarray = 1.0,
    drawn: np.ndarray | None = None,
    seeds: np.ndarray,
    offsets: np.ndarray,
) -> Candidates:
    """The first k tokens of each row in without-replacement order; see
    `thrifty.sample_candidates`."""
    inv = _per_row(inv_temperature)
    return Candidates(
        *_native.sample_candidates(logits, k, bitmask, mask_rows, inv, drawn, seeds, offsets)
    )


def awrs_weights(
    allowed: np.ndarray,
    logp: np.ndarray,
    log_rest: np.ndarray,
    log_tail: np.ndarray,
    *,
    estimator: str = "desraj",
    extra: int = 4,
    budget: int | None = None,
    coins: np.ndarray | None = None,
) -> AwrsWeights:
    """The sample among candidates and its log-weight, from verdicts; see `thrifty.awrs_weights`.

    Example, one step under any check, without torch::

        >>> import numpy as np
        >>> import thrifty.numpy as tn
        >>> check = lambda token: token % 2 == 0
        >>> row = np.array([7])
        >>> c = tn.sample_candidates(np.zeros((1, 6), np.float32), 6, seeds=row, offsets=row)
        >>> verdicts = check(c.ids).astype(np.uint8)
        >>> found = tn.awrs_weights(verdicts, c.logp, c.log_rest, c.log_tail, extra=5)
        >>> bool(check(c.ids[0, found.pos[0]])), bool(0 < np.exp(found.logw[0]) <= 1)
        (True, True)
    """
    return AwrsWeights(
        *_native.awrs_weights(
            allowed, logp, log_rest, log_tail, coins, estimator, extra, budget or 0
        )
    )


def awrs_sample(
    logits: np.ndarray,
    check: Callable[[int, list[int]], Sequence[bool]],
    *,
    estimator: str = "desraj",
    extra: int = 4,
    budget: int | None = None,
    lookahead: int = 1,
    inv_temperature: float | np.ndarray = 1.0,
    seeds: np.ndarray,
    offsets: np.ndarray,
    fallback_token: int = -1,
) -> AwrsSample:
    """One properly weighted token per row under any check; see `thrifty.awrs_sample`.

    Example::

        >>> import numpy as np
        >>> import thrifty.numpy as tn
        >>> row = np.array([7])
        >>> even = lambda row, ids: [i % 2 == 0 for i in ids]
        >>> out = tn.awrs_sample(np.zeros((1, 6), np.float32), even, seeds=row, offsets=row)
        >>> int(out.token[0]) % 2
        0
    """
    return AwrsSample(
        *_native.awrs_sample(
            logits, False, check, estimator, extra, budget or 0, lookahead,
            _per_row(inv_temperature), seeds, offsets, fallback_token, _native.get_num_threads(),
        )
    )  # fmt: skip


def awrs_sample_dfa(
    logits: np.ndarray,
    dfa: ByteDFA,
    state: np.ndarray,
    *,
    estimator: str = "desraj",
    extra: int = 4,
    budget: int | None = None,
    inv_temperature: float | np.ndarray = 1.0,
    seeds: np.ndarray,
    offsets: np.ndarray,
    fallback_token: int = -1,
) -> AwrsDfaSample:
    """One properly weighted token per row under a regular language; see `thrifty.awrs_sample_dfa`.

    Example::

        >>> import numpy as np
        >>> import thrifty.numpy as tn
        >>> dfa = tn.ByteDFA.from_regex("a+", [b"a", b"b", b""], eos_ids=2)
        >>> row, state = np.array([7]), np.array([dfa.start], np.int32)
        >>> logits = np.zeros((1, 3), np.float32)
        >>> out = tn.awrs_sample_dfa(logits, dfa, state, seeds=row, offsets=row)
        >>> dfa.vocabulary[out.token[0]]
        b'a'
    """
    return AwrsDfaSample(
        *_native.awrs_sample_dfa(
            logits, *dfa.arrays(), state, _per_row(inv_temperature), seeds, offsets,
            estimator, extra, budget or 0, fallback_token,
        )
    )  # fmt: skip


def smc_resample(
    logw: np.ndarray,
    seeds: np.ndarray,
    offsets: np.ndarray,
    *,
    method: str = "stratified",
    ess_threshold: float = 0.5,
) -> Resampled:
    """Which particles go on; see `thrifty.smc_resample`."""
    return Resampled(*_native.smc_resample(logw, seeds, offsets, method, ess_threshold))
