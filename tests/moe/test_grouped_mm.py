"""grouped_mm: products over groups of rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import TrainedOpContract, assert_rejects
from thrifty import grouped_mm
from thrifty.reference.cases import Make, OpCase
from thrifty.reference.moe_cases import by_depth, grouped


class TestContract(TrainedOpContract):
    op = "grouped_mm"

    def test_second_derivative_is_refused(self, trained_case: OpCase, device: str) -> None:
        """It is not: the gradients are made of the op itself."""
        case = trained_case
        call = case.call(device, torch.float64)
        names = [name for name in case.grad if call.get(name) is not None]
        leaves = [call[name].requires_grad_() for name in names]

        def function(*values: Tensor) -> Tensor:
            return case.function(**{**call, **dict(zip(names, values, strict=True))})

        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="torch without grouped_mm")
def test_agrees_with_torch() -> None:
    make = Make("cpu", torch.float32)
    call = grouped(make, (8, 8, 24, 32), 32, k=16, n=24)
    expected = F.grouped_mm(call["a"], call["b"], offs=call["offs"])
    torch.testing.assert_close(grouped_mm(**call), expected)
    call = by_depth(make, 16, 24, (8, 8, 32), 32) | {"offs": torch.tensor([8, 8, 32]).int()}
    expected = F.grouped_mm(call["a"], call["b"], offs=call["offs"])
    torch.testing.assert_close(grouped_mm(**call), expected)


def test_a_low_rank_residual_over_a_frozen_base() -> None:
    """LoRA of experts: y = x W_e + (x A_e) B_e, the sum taken by the second product."""
    make = Make("cpu", torch.float64)
    call = grouped(make)
    down, up = make.normal(4, 7, 2).requires_grad_(), make.normal(4, 2, 6).requires_grad_()
    a, offs = call["a"], call["offs"]
    base = grouped_mm(a, call["b"], offs)
    out = grouped_mm(grouped_mm(a, down, offs), up, offs, accumulate=base)
    merged = grouped_mm(a, call["b"] + down @ up, offs)
    torch.testing.assert_close(out, merged)
    grads = torch.autograd.grad(out.square().sum(), (down, up), retain_graph=True)
    torch.testing.assert_close(grads, torch.autograd.grad(merged.square().sum(), (down, up)))


def test_float32_result_of_16_bits() -> None:
    call = grouped(Make("cpu", torch.bfloat16))
    out = grouped_mm(**call, out_dtype=torch.float32)
    exact = grouped_mm(**{k: v.double() if v.is_floating_point() else v for k, v in call.items()})
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, exact.float(), rtol=1e-5, atol=1e-5)


def test_rows_behind_the_last_offset_are_zeros() -> None:
    out = grouped_mm(**grouped(Make("cpu", torch.float32)))
    assert torch.equal(out[13:], torch.zeros(2, 6))
    empty = by_depth(Make("cpu", torch.float32), 6, 5, (4, 4, 10), 15)
    assert torch.equal(grouped_mm(**empty)[1], torch.zeros(6, 5))


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ERRORS = [
    ("a", {"a": ones(15)}),
    ("a", {"a": ones(15, 7, dtype=torch.int32)}),
    ("b", {"b": ones(4, 6, 6)}),
    ("b", {"b": ones(3, 7, 6)}),
    ("b", {"b": ones(4, 7, 6, dtype=torch.bfloat16)}),
    ("offs", {"offs": torch.tensor([4, 3, 10, 13])}),
    ("offs", {"offs": torch.tensor([4, 4, 10, 16])}),
    ("offs", {"offs": torch.tensor([-1, 4, 10, 13])}),
    ("offs", {"offs": ones(4)}),
    ("a_idx", {"a_idx": torch.tensor([0] * 14 + [15])}),
    ("a_idx", {"a_idx": ones(15)}),
    ("bias", {"bias": ones(4, 7)}),
    ("row_scale", {"row_scale": ones(14)}),
    ("accumulate", {"accumulate": ones(15, 7)}),
    ("accumulate", {"accumulate": ones(15, 6, dtype=torch.float64)}),
    ("out_dtype", {"out_dtype": torch.float16}),
]


@pytest.mark.parametrize("argument, changes", ERRORS, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_argument_is_named(argument: str, changes: dict) -> None:
    assert_rejects(argument, grouped_mm, **grouped(Make("cpu", torch.float32)) | changes)
