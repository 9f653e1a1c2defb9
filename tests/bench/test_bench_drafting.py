"""The drafting cases: bars name what exists; the peer that is written here finds what it should."""

import numpy as np
import pytest
import torch

from bench import drafting
from bench.peers import prompt_lookup


def test_bars_name_cases_and_implementations():
    by_name = {case.name: case for case in drafting.cases(torch.device("cpu"))}
    for bar in drafting.BARS:
        of = bar.of if isinstance(bar.of, tuple) else (bar.of,)
        divisor = {bar.over} if bar.over else set()
        assert divisor.union(of) <= set(by_name[bar.case].impls)
        assert (bar.at_least is None) != (bar.at_most is None)


def test_prompt_lookup():
    pytest.importorskip("numba")
    look_up, rng = prompt_lookup.compiled(), np.random.default_rng(0)
    for turn in range(300):
        text = rng.integers(0, 3 + turn % 5, rng.integers(2, 40)).astype(np.int32)
        expected: list[int] = []
        for n in range(min(4, len(text) - 1), 0, -1):
            found = [i for i in range(len(text) - n) if (text[i : i + n] == text[-n:]).all()]
            if found:
                expected = text[found[0] + n : found[0] + n + 5].tolist()
                break
        assert look_up(text, 1, 4, 5).tolist() == expected
