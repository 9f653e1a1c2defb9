"""`python -m thrifty selfcheck`: every op on every device against its definition in float64.

Runs the case tables of `thrifty.reference`, in every dtype, results and gradients, on this
machine's own instruction set and GPUs. Takes a few seconds.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from thrifty import _library
from thrifty.reference.cases import OpCase, Outcome, all_cases, check


@dataclass(frozen=True)
class Line:
    """The worst result, or the worst gradient, of one case."""

    op: str
    case: str
    device: str
    dtype: str
    worst: Outcome
    problem: str = ""  # the exception, where the call did not come back

    def __str__(self) -> str:
        verdict = "ok" if self.worst.ok else f"MISS {self.problem or self.worst.what}"
        return (
            f"{self.op:<28} {self.case:<44} {self.device:<5} {self.dtype:<9}"
            f"{self.worst.error:>9.1e} {self.worst.tolerance:>9.1e}  {verdict}"
        )


def devices() -> list[str]:
    """Those that have kernels: the CPU, and CUDA where the library is loaded and finds a GPU."""
    cuda = _library.cuda_loaded and torch.cuda.is_available()
    return ["cpu", "cuda"] if cuda else ["cpu"]


def lines(cases: Iterable[OpCase], on: Sequence[str]) -> Iterator[Line]:
    for case in cases:
        for device in on:
            for dtype in case.dtypes:
                yield from _lines_of(case, device, dtype)


def _lines_of(case: OpCase, device: str, dtype: torch.dtype) -> Iterator[Line]:
    where = case.name, device, str(dtype).removeprefix("torch.")
    try:
        outcomes = check(case, device, dtype)
    except Exception as error:  # an op that raises is a miss of that op, the others still count
        crashed = Outcome("call", math.inf, case.bound(dtype))
        yield Line(case.op, *where, crashed, f"{type(error).__name__}: {error}")
        return
    for suffix in ("", " grad"):
        group = [o for o in outcomes if o.what.startswith("grad ") == bool(suffix)]
        if group:
            worst = max(group, key=lambda o: o.error / o.tolerance)
            yield Line(case.op + suffix, *where, worst)


def selfcheck(families: Sequence[str] | None = None, on: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code, 1 when a line misses its tolerance."""
    cases = [case for case in all_cases() if not families or case.family in families]
    header = f"{'op':<28} {'case':<44} {'device':<5} {'dtype':<9}{'max error':>9} {'tolerance':>9}"
    print(f"{header}  verdict")
    count = misses = 0
    for line in lines(cases, on or devices()):
        print(line, flush=True)
        count += 1
        misses += not line.worst.ok
    print(f"{count} checks, {misses} missed")
    return 1 if misses or not count else 0
