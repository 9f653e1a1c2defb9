"""OpCase: one call of one op, with the dtypes, tolerances and gradients that belong to it.

A family lists its cases as `CASES` in `thrifty.reference.<family>_cases` and adds its name to
`thrifty.FAMILIES`. The tests (`tests/helpers.py`) and `python -m thrifty selfcheck` run them all.
"""

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thrifty import FAMILIES

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Bounds of `relative_error`, from torch.testing's defaults: the absolute one for float32, the
# relative ones for 16 bits. A case that needs more says which roundings it counts.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 1.6e-2,
    torch.float16: 1e-3,
}

Call = dict[str, Any]  # keyword arguments of an op


class Make:
    """The seeded source of a case's tensors.

    Numbers are drawn on the CPU in float64 and then cast, so every dtype and device gets the same.
    """

    def __init__(self, device: torch.device | str, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._generator = torch.Generator().manual_seed(seed)

    def _cast(self, values: Tensor, dtype: torch.dtype | None) -> Tensor:
        return values.to(self.device, dtype or self.dtype)

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.randn(shape, generator=self._generator, dtype=torch.float64)
        return self._cast(values * scale, dtype)

    def lattice(self, *shape: int, step: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """step * {-3, -2, -1, 1, 2, 3}: sums of products stay exact even in 16 bits.

        For functions with a kink or a jump, where a rounding could change the branch.
        """
        values = torch.randint(1, 4, shape, generator=self._generator)
        signs = 1 - 2 * torch.randint(0, 2, shape, generator=self._generator)
        return self._cast((values * signs).double() * step, dtype)

    def seed(self) -> Tensor:
        """An int64[2] tensor (seed, offset) that uses the high halves, too."""
        return self._cast(
            torch.randint(-(2**62), 2**62, (2,), generator=self._generator), torch.int64
        )


@dataclass(frozen=True)
class OpCase:
    """One call of the op `thrifty.<oracle's name>`, as every check of that op wants it."""

    oracle: Callable[..., Any]  # its name is the op's, its module is named after the family
    name: str  # what the case exercises; unique within the op
    build: Callable[[Make], Call]
    grad: Sequence[str] = ()  # arguments with a gradient, those that the call passes
    dtypes: Sequence[torch.dtype] = FLOATS
    tolerance: Mapping[torch.dtype, float] = field(default_factory=dict)  # over TOLERANCE
    grad_tolerance: Mapping[torch.dtype, float] = field(default_factory=dict)  # over both

    @property
    def op(self) -> str:
        return self.oracle.__name__

    @property
    def family(self) -> str:
        return self.oracle.__module__.rpartition(".")[2]

    @property
    def function(self) -> Callable[..., Any]:
        """The op under test."""
        return getattr(importlib.import_module(f"thrifty.{self.family}"), self.op)

    def call(self, device: torch.device | str, dtype: torch.dtype) -> Call:
        return self.build(Make(device, dtype))

    def bound(self, dtype: torch.dtype, grad: bool = False) -> float:
        bounds = {**TOLERANCE, **self.tolerance, **(self.grad_tolerance if grad else {})}
        return bounds[dtype]

    def __str__(self) -> str:
        return f"{self.op}[{self.name}]"


@dataclass(frozen=True)
class Outcome:
    """One comparison: the result or the gradient of one argument."""

    what: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


def all_cases() -> Iterator[OpCase]:
    for family in FAMILIES:
        yield from importlib.import_module(f"thrifty.reference.{family}_cases").CASES


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a result, however deep in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of nested dicts, tuples and lists with the function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(function, item) for item in value)
    return value


def to_double(value: Any) -> Any:
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, value)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """max |got - expected| / max(|expected|, root mean square of expected).

    The floor is there because a sum that cancels keeps the roundings of its terms. NaN and infinity
    agree only with themselves; a wrong shape is an infinite error.
    """
    if got.shape != expected.shape:
        return math.inf
    got, expected = got.detach().double(), expected.detach().double().to(got.device)
    finite = expected.isfinite()
    same = torch.where(finite, got.isfinite(), (got == expected) | (got.isnan() & expected.isnan()))
    if not same.all():
        return math.inf
    got, expected = got[finite], expected[finite]
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().clamp_min(max(expected.square().mean().sqrt().item(), 1e-300))
    return ((got - expected).abs() / scale).max().item()


def run(
    function: Callable[..., Any], call: Call, grad: Sequence[str], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Results as {"out": ...} ("out 1" on for more) and gradients as {"grad <argument>": ...}.

    The gradient is that of <results, v> for a fixed random v that is rounded to `dtype`, so that
    the oracle sees the very numbers that the op sees.
    """
    leaves = {
        name: call[name].detach().requires_grad_() for name in grad if call.get(name) is not None
    }
    with torch.set_grad_enabled(bool(leaves)):
        outs = list(tensors(function(**{**call, **leaves})))
    found = {f"out {i}" if i else "out": out.detach() for i, out in enumerate(outs)}
    if leaves:
        outs = [out for out in outs if out.requires_grad]
        make = Make(outs[0].device, dtype, seed=1)
        v = [make.normal(*out.shape).to(out.dtype) for out in outs]
        grads = torch.autograd.grad(outs, list(leaves.values()), v)
        found |= {f"grad {name}": g for name, g in zip(leaves, grads, strict=True)}
    return found


def check(case: OpCase, device: torch.device | str, dtype: torch.dtype) -> list[Outcome]:
    """Runs the op, and its oracle in float64 on the same numbers; dtypes and shapes count, too."""
    call = case.call(device, dtype)
    got = run(case.function, call, case.grad, dtype)
    expected = run(case.oracle, to_double(case.call(device, dtype)), case.grad, dtype)
    outcomes = []
    for what, exact in expected.items():
        is_grad = what.startswith("grad ")
        argument = call[what.removeprefix("grad ")] if is_grad else None
        right_dtype = argument is None or got[what].dtype == argument.dtype
        error = relative_error(got[what], exact) if right_dtype else math.inf
        outcomes.append(Outcome(what, error, case.bound(dtype, is_grad)))
    return outcomes
