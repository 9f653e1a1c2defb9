"""`python -m thrifty selfcheck`: passes here, and fails when an op or its definition is wrong."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from thrifty import __main__ as command_line
from thrifty import selfcheck
from thrifty.reference.cases import OpCase, all_cases

CASE = next(case for case in all_cases() if case.name == "relu")


def broken(case: OpCase, change: Any) -> OpCase:
    """The case, compared with a definition whose result is changed."""

    def oracle(**call: Any) -> Any:
        return change(case.oracle(**call))

    oracle.__name__, oracle.__module__ = case.oracle.__name__, case.oracle.__module__
    return dataclasses.replace(case, oracle=oracle)


class DoubledGradient(torch.autograd.Function):
    """The identity, with a wrong gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def verdicts(case: OpCase) -> dict[tuple[str, str], bool]:
    return {(line.op, line.dtype): line.worst.ok for line in selfcheck.lines([case], ["cpu"])}


def test_right_op_passes() -> None:
    found = verdicts(CASE)
    assert len(found) == 8  # four dtypes, result and gradient
    assert all(found.values())


@pytest.mark.parametrize(
    "change",
    [lambda out: out * 1.05, lambda out: out.flip(0), lambda out: out[:, :1], lambda out: out / 0],
    ids=["scaled", "permuted", "shape", "infinite"],
)
def test_wrong_result_is_a_miss_in_every_dtype(change: Any) -> None:
    found = verdicts(broken(CASE, change))
    assert not any(ok for (op, _), ok in found.items() if not op.endswith("grad"))


def test_wrong_gradient_is_a_miss() -> None:
    found = verdicts(broken(CASE, DoubledGradient.apply))
    for (op, dtype), ok in found.items():
        assert ok == (not op.endswith("grad")), (op, dtype)


def test_an_op_that_raises_is_a_miss_and_the_others_count() -> None:
    crashing = dataclasses.replace(CASE, build=lambda make: {"x": make.normal(3)})
    lines = list(selfcheck.lines([crashing, CASE], ["cpu"]))
    assert "TypeError" in str(lines[0])
    assert not lines[0].worst.ok
    assert lines[-1].worst.ok


def test_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [CASE, broken(CASE, lambda out: out + 1000)]
    monkeypatch.setattr(selfcheck, "all_cases", lambda: iter(cases[:1]))
    assert selfcheck.selfcheck(on=["cpu"]) == 0
    monkeypatch.setattr(selfcheck, "all_cases", lambda: iter(cases))
    assert selfcheck.selfcheck(on=["cpu"]) == 1
    printed = capsys.readouterr().out
    assert "16 checks, 4 missed" in printed
    assert printed.count("MISS out") == 4
    assert selfcheck.selfcheck(["no such family"]) == 1


def test_command_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "thrifty", "selfcheck", "--family", "ensemble", "--device", "cpu"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert " ".join(lines[0].split()) == "op case device dtype max error tolerance verdict"
    assert lines[-1].endswith(" 0 missed")
    assert len(lines) > 200


def test_bench_is_that_of_the_clone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "thrifty", "bench", "--no-such-option"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2
    assert "python -m bench" in run.stderr
    monkeypatch.setattr(command_line, "__file__", str(tmp_path / "python/thrifty/__main__.py"))
    assert command_line.bench([]) == 2
    assert "make bench" in capsys.readouterr().err
