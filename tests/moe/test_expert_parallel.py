"""expert_parallel_mlp: two processes over gloo against one with all experts."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from helpers import assert_rejects
from thrifty import expert_parallel_mlp, moe_mlp
from thrifty.reference.cases import Make
from thrifty.reference.moe_cases import mlp

SPLIT = (13, 7)  # tokens of each process
GRADS = ("x", "w1", "w2", "weights", "b1", "b2")


def problem(dtype: torch.dtype) -> dict[str, Any]:
    call = mlp(Make("cpu", dtype), sum(SPLIT), 24, 17, 6, 3)
    call["ids"][2, 1], call["ids"][15, 0] = -1, 6  # of no expert
    return call


def part(call: dict[str, Any], rank: int) -> dict[str, Any]:
    """The tokens and the experts of one process."""
    tokens = slice(0, SPLIT[0]) if rank == 0 else slice(SPLIT[0], None)
    experts = slice(3 * rank, 3 * rank + 3)
    rows = {name: call[name][tokens] for name in ("x", "ids", "weights")}
    return call | rows | {name: call[name][experts] for name in ("w1", "w2", "b1", "b2")}


def with_grads(function: Any, call: dict[str, Any], grad: Tensor) -> list[Tensor]:
    leaves = {name: call[name].detach().clone().requires_grad_() for name in GRADS}
    out = function(**call | leaves)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        call = problem(dtype)
        grad = torch.randn(sum(SPLIT), 24, generator=torch.Generator().manual_seed(1)).to(dtype)
        mine = grad[: SPLIT[0]] if rank == 0 else grad[SPLIT[0] :]
        results = with_grads(expert_parallel_mlp, part(call, rank), mine)
        torch.save(results, f"{folder}/{rank}-{dtype}")
    # One process without tokens, and all tokens on the other's experts.
    call = part(problem(torch.float32), rank)
    if rank == 0:
        call |= {name: call[name][:0] for name in ("x", "ids", "weights")}
    else:
        call["ids"] = call["ids"] % 3
    out = expert_parallel_mlp(**call)
    torch.save(out, f"{folder}/{rank}-uneven")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        call = problem(dtype)
        grad = torch.randn(sum(SPLIT), 24, generator=torch.Generator().manual_seed(1)).to(dtype)
        whole = with_grads(moe_mlp, call, grad)
        parts = [torch.load(tmp_path / f"{rank}-{dtype}") for rank in range(2)]
        for name, expected, *halves in zip(("out", *GRADS), whole, *parts, strict=True):
            got = torch.cat(halves)
            if name == "out" and dtype != torch.bfloat16:
                assert torch.equal(got, expected)
            elif dtype == torch.bfloat16:
                assert (got - expected).norm() < 1.6e-2 * expected.norm(), name
            else:
                torch.testing.assert_close(got, expected, msg=lambda m: f"{name}: {m}")  # noqa: B023
    call = part(problem(torch.float32), 1)
    ids = call["ids"] % 3
    weights = problem(torch.float32)
    first = {name: weights[name][:3] for name in ("w1", "w2", "b1", "b2")}
    assert torch.load(tmp_path / "0-uneven").shape == (0, 24)
    assert torch.equal(torch.load(tmp_path / "1-uneven"), moe_mlp(**call | first | {"ids": ids}))


@pytest.mark.skipif(dist.is_initialized(), reason="a process group is there")
def test_no_group_is_told() -> None:
    assert_rejects("group", expert_parallel_mlp, **mlp(Make("cpu", torch.float32)))
