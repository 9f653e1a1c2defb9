"""Cases: what is run, what it must compute, and the bytes and operations that it needs.

A case names its implementations and a float64 oracle. Each implementation is first compared with
the oracle, and only one that agrees is timed: a fast wrong answer gets the word FAIL, not a time.
A floor (bare GEMMs of the same shapes) computes no comparable result and is timed unchecked.
"""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.timing import Plan, Stats, interleave, stats
from thrifty.reference.cases import tensors

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# A network rounds each activation and, in eager, each step between them: several units of the last
# place. A gradient also differs wherever rounding moves an activation across a ReLU's zero: in bf16
# 0.3 % of them, which is 5 % of the norm; in fp32 one in a million, of which the first is 0.6 % of
# the norm in a case of 2e5 activations. A member left out of 32 is 17 %.
TOLERANCE = {"fp64": 1e-12, "fp32": 1e-5, "bf16": 2e-2, "fp16": 1e-2}
GRADIENT_TOLERANCE = {"fp64": 1e-12, "fp32": 2e-2, "bf16": 1.5e-1, "fp16": 5e-2}
COMPILED = "compile"  # name of the torch.compile implementation, which --quick leaves out


class Unavailable(Exception):
    """This implementation cannot run here (a peer is missing); its row says why."""


@dataclass(frozen=True)
class Impl:
    """What a factory returns when the bare call is not all there is to say."""

    call: Callable[[], object]
    check: Callable[[], object] | None = None  # compared with the oracle; None: what `call` returns
    compared: bool = True  # False: a floor
    figures: Callable[[], dict[str, float]] | None = None  # measured once beside the time


Factory = Callable[[Any], "Impl | Callable[[], object]"]


@dataclass(frozen=True)
class Case:
    op: str
    dims: Mapping[str, int]
    dtype: str
    setup: Callable[[torch.device], Any]  # the state that oracle and factories share
    impls: Mapping[str, Factory]
    oracle: Callable[[Any], object]
    bytes: float  # that any implementation has to move once
    flops: float
    baseline: str = "eager"
    gradients: bool = False  # compared by rms_error within GRADIENT_TOLERANCE
    tolerance: float | None = None  # instead of TOLERANCE's, where peers are less exact
    tier: int = 1  # 0 from --quick, 1 by default, 2 only with --full
    size: str = ""  # the dim on the x axis of a plot
    devices: tuple[str, ...] = ("cpu", "cuda")
    threads: int = 0  # of the CPU, for everything in the case; 0: as the command line says

    @property
    def name(self) -> str:
        dims = ",".join(f"{key}={value}" for key, value in self.dims.items())
        return f"{self.op}/{dims}/{self.dtype}"

    @property
    def metric(self) -> str:
        return "rms" if self.gradients else "max"

    def judge(self, got: object, expected: object) -> tuple[float, float]:
        """(error, tolerance) of a result."""
        if self.gradients:
            return rms_error(got, expected), GRADIENT_TOLERANCE[self.dtype]
        return max_error(got, expected), self.tolerance or TOLERANCE[self.dtype]


@dataclass
class Row:
    impl: str
    status: str = "ok"  # ok | FAIL | skip
    reason: str = ""
    error: float | None = None
    stats: Stats | None = None
    samples: list[float] = field(default_factory=list)  # seconds per call
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Result:
    case: Case
    rows: dict[str, Row]

    def median(self, impl: str) -> float | None:
        row = self.rows.get(impl)
        return row.stats.median if row and row.stats else None


def pairs(got: object, expected: object) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors to compare, in float64; ValueError when their number or shapes differ."""
    got_list, expected_list = list(tensors(got)), list(tensors(expected))
    if len(got_list) != len(expected_list):
        raise ValueError(f"expected {len(expected_list)} tensors, got {len(got_list)}")
    for index, (a, b) in enumerate(zip(got_list, expected_list, strict=True)):
        if a.shape != b.shape:
            raise ValueError(f"tensor {index}: expected {tuple(b.shape)}, got {tuple(a.shape)}")
        if b.numel():
            yield a.detach().double(), b.detach().double()


def worst(ratios: Iterable[torch.Tensor]) -> float:
    return max((math.inf if math.isnan(r) else r for r in map(float, ratios)), default=0.0)


def max_error(got: object, expected: object) -> float:
    """Largest |got - expected| over the largest |expected|, the worst of all tensors."""
    return worst(
        (a - b).abs().max() / b.abs().max().clamp_min(1e-300) for a, b in pairs(got, expected)
    )


def rms_error(got: object, expected: object) -> float:
    """Norm of the difference over the norm of expected, the worst of all tensors.

    For gradients through a ReLU: an activation that rounding moves across zero changes single
    elements by as much as they are large, in every implementation, but few of them.
    """
    return worst((a - b).norm() / b.norm().clamp_min(1e-300) for a, b in pairs(got, expected))


def describe(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:160]


def prepare(row: Row, case: Case, state: Any, expected: object, timer):
    """Makes and checks one implementation; the call to time, or None with the reason in `row`."""
    try:
        made = case.impls[row.impl](state)
        impl = made if isinstance(made, Impl) else Impl(made)
        if impl.compared:
            row.error, tolerance = case.judge((impl.check or impl.call)(), expected)
            if not row.error <= tolerance:
                row.status = "FAIL"
                row.reason = f"{case.metric} error {row.error:.1e} is above {tolerance:.0e}"
                return None
        if impl.figures is not None:
            row.figures = impl.figures()
        warm = impl.compared and impl.check is None  # then the check was a first call
        call, row.reason = timer.prepare(impl.call, warm)
    except Unavailable as missing:
        row.status, row.reason = "skip", str(missing)
    except Exception as error:  # a peer may break in any way; the other rows still count
        row.status, row.reason = "FAIL", describe(error)
    else:
        return call
    return None


def run_case(case: Case, device: torch.device, timer, plan: Plan, compiled: bool = True) -> Result:
    """Checks, then times. With compiled=False the torch.compile row is marked as skipped."""
    usual = torch.get_num_threads()
    torch.set_num_threads(case.threads or usual)
    try:
        with timer.session():
            rows = run_rows(case, device, timer, plan, compiled)
    finally:
        torch.set_num_threads(usual)
    if compiled and COMPILED in rows:
        torch.compiler.reset()
    gc.collect()
    return Result(case, rows)


def run_rows(case: Case, device: torch.device, timer, plan: Plan, compiled: bool) -> dict[str, Row]:
    rows = {name: Row(name) for name in case.impls}
    if not compiled and COMPILED in rows:
        rows[COMPILED] = Row(COMPILED, "skip", "compiling takes longer than a quick run")
    torch.manual_seed(0)
    calls = {}
    try:
        state = case.setup(device)
        expected = case.oracle(state)
    except Exception as error:
        status = "skip" if isinstance(error, Unavailable) else "FAIL"
        rows = {name: Row(name, status, f"setup: {describe(error)}") for name in rows}
    else:
        for name, row in rows.items():
            if row.status == "ok":
                call = prepare(row, case, state, expected, timer)
                if call is not None:
                    calls[name] = call
        del state, expected
    for name, samples in interleave(calls, timer, plan).items():
        rows[name].samples, rows[name].stats = samples, stats(samples)
    return rows
