"""grouped_mm on a GPU: bf16 rows of 64 experts' up projection at H = 1024, 2 I = 1024, with the
weights as a checkpoint has them, from one row an expert (decode) to many (prefill).

Peers: torch's own grouped_mm, and CUTLASS's grouped GEMM under both of its schedules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.harness import DTYPES, Case, Impl
from bench.peers import cutlass_grouped, require

GROUPS, DEPTH, COLUMNS = 64, 1024, 1024


@dataclass
class Product:
    a: Tensor  # [S, K]
    w: Tensor  # [E, N, K]
    ends: Tensor  # int32 [E]


def setup(rows: int, dtype: str) -> Callable[[torch.device], Product]:
    def make(device: torch.device) -> Product:
        groups = torch.randint(GROUPS, (rows,), device=device)
        ends = torch.bincount(groups, minlength=GROUPS).cumsum(0).int()
        a = torch.randn(rows, DEPTH, device=device).to(DTYPES[dtype])
        w = torch.randn(GROUPS, COLUMNS, DEPTH, device=device) / DEPTH**0.5
        return Product(a, w.to(DTYPES[dtype]), ends)

    return make


def run(op: Callable[..., Tensor], state: Product) -> Impl:
    def call() -> Tensor:
        with torch.inference_mode():
            return op(state.a, state.w.mT, state.ends)

    return Impl(call)


def exact(state: Product) -> Tensor:
    op = require("thrifty.reference.moe").grouped_mm
    return op(state.a.double(), state.w.mT.double(), state.ends)


def torchs(a: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    return torch.nn.functional.grouped_mm(a, w, offs=ends)


def cutlass(schedule: str, state: Product) -> Impl:
    return Impl(cutlass_grouped.grouped_mm(schedule, state.a, state.w, state.ends))


def grouped_mm(rows: int, dtype: str, tier: int) -> Case:
    touched = GROUPS * (1 - (1 - 1 / GROUPS) ** rows)
    return Case(
        op="grouped_mm",
        dims={"S": rows},
        dtype=dtype,
        setup=setup(rows, dtype),
        impls={
            "thrifty": lambda s: run(require("thrifty").grouped_mm, s),
            "torch": lambda s: run(torchs, s),
            **{name: partial(cutlass, name) for name in cutlass_grouped.SCHEDULES},
        },
        oracle=exact,
        bytes=DTYPES[dtype].itemsize * (touched * DEPTH * COLUMNS + rows * (DEPTH + COLUMNS)),
        flops=2 * rows * DEPTH * COLUMNS,
        baseline="torch",
        tier=tier,
        size="S",
        devices=("cuda",),
    )


def cases() -> list[Case]:
    return [grouped_mm(rows, "bf16", int(rows != 512)) for rows in (64, 512, 4096, 32768)]
