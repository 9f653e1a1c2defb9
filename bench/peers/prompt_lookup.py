"""Prompt look-up in compiled Python: what followed the longest earlier match of a text's last
tokens, as vLLM's "ngram" drafts a chain. One scan per step by the failure function of Knuth, Morris
and Pratt over the reversed text, cut at the longest match asked for; time grows with the text.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from bench.peers import require


@cache
def compiled() -> Callable[..., np.ndarray]:
    """look_up(text, n_min, n_max, count) -> at most `count` tokens. Compiling takes seconds."""
    njit = require("numba").njit

    def look_up(text: np.ndarray, n_min: int, n_max: int, count: int) -> np.ndarray:
        size = len(text)
        failure = np.zeros(n_max, np.int64)  # of the reversed text's first n_max tokens
        matched = best = end = 0
        for i in range(1, size):
            token = text[size - 1 - i]
            while matched > 0 and text[size - 1 - matched] != token:
                matched = failure[matched - 1]
            matched += text[size - 1 - matched] == token
            if i < n_max:
                failure[i] = matched
            if matched >= best:  # the last is the earliest in the text
                best, end = matched, size - 1 - i + matched
            if matched == n_max:
                matched = failure[n_max - 1]
        if best < n_min:
            return text[:0]
        return text[end : end + count]

    return njit(look_up)
