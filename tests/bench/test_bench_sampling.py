"""The sampling cases: every implementation agrees with the oracle, and bars name what exists."""

import pytest
import torch

from bench import sampling, sampling_masks
from bench.harness import Impl, Unavailable

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_masks, "VOCAB", 4_000)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_implementations_agree(dtype):
    for case in (
        sampling_masks.sample(3, dtype, "half", 0),
        sampling_masks.sample(3, dtype, "sparse", 0, top_p=0.9),
        sampling_masks.mask(3, dtype, "half", 0),
    ):
        state = case.setup(CPU)
        expected = case.oracle(state)
        for name, factory in case.impls.items():
            try:
                made = factory(state)
            except Unavailable:
                continue
            if isinstance(made, Impl) and made.compared:
                error, tolerance = case.judge(made.check(), expected)
                assert error <= tolerance, (case.name, name, error)


def test_a_banned_token_would_show():
    rows = sampling_masks.rows_of(2, "fp32", 0.5)(CPU)
    banned = (~rows.allowed).long().argmax(-1)
    assert not rows.over_exact(banned, torch.full((2,), -3.0)).eq(1).any()


def test_bars_name_cases_and_implementations(monkeypatch):
    monkeypatch.undo()
    by_name = {case.name: case for case in sampling.cases(CPU)}
    for bar in sampling.BARS:
        of = bar.of if isinstance(bar.of, tuple) else (bar.of,)
        divisor = {bar.over} if bar.over else set()
        assert divisor.union(of) <= set(by_name[bar.case].impls)
        assert (bar.at_least is None) != (bar.at_most is None)
