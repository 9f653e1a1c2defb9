"""The attention cases: bars name what exists, and the figure of memory sees memory."""

import pytest
import torch

from bench import attention

CPU = torch.device("cpu")


def test_bars_name_cases_and_implementations():
    by_name = {case.name: case for case in attention.cases(CPU)}
    for bar in attention.BARS:
        names = (bar.of,) if isinstance(bar.of, str) else bar.of
        assert {*names, *filter(None, [bar.over])} <= set(by_name[bar.case].impls)
        assert (bar.at_least is None) != (bar.at_most is None)


def test_scratch_is_seen_under_the_thresholds_of_the_timings(monkeypatch: pytest.MonkeyPatch):
    """Freed memory that stays in the heap would serve the call and make its scratch look free."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4294967296")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "8589934592")
    assert attention.scratch_bytes(16384, True, "paper") > 10  # a byte a token would be nothing
