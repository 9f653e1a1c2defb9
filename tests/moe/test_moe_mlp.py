"""moe_mlp: the experts of a layer."""

import pytest
import torch
from torch import Tensor

from helpers import TrainedOpContract, assert_bitwise, assert_rejects, threads
from thrifty import moe_mlp
from thrifty.reference import moe as reference
from thrifty.reference.cases import Make, OpCase, check, run
from thrifty.reference.moe_cases import GRAD_TOLERANCE, GRADS, TOLERANCE, mlp, routing, skewed


class TestContract(TrainedOpContract):
    op = "moe_mlp"


SIZES = [1, 7, 8, 31, 33, 64, 100]


@pytest.mark.parametrize("inner", SIZES)
@pytest.mark.parametrize("hidden", SIZES)
def test_sizes(hidden: int, inner: int) -> None:
    dtype = (torch.float32, torch.bfloat16)[(hidden + inner) % 2]
    build = lambda m: mlp(m, 20, hidden, inner, 3, 2, transposed=inner % 2 == 0)
    case = OpCase(
        reference.moe_mlp, "size", build, GRADS, tolerance=TOLERANCE, grad_tolerance=GRAD_TOLERANCE
    )
    # Rounding moves a weight's gradient, a sum over H terms that may cancel, by more of its size.
    outcomes = [o for o in check(case, "cpu", dtype) if not o.ok and o.what != "grad weights"]
    assert not outcomes, outcomes


@pytest.mark.parametrize("experts, top_k", [(1, 1), (3, 3), (60, 4), (512, 2)])
def test_numbers_of_experts(experts: int, top_k: int) -> None:
    case = OpCase(reference.moe_mlp, "experts", lambda m: mlp(m, 9, 8, 4, experts, top_k), GRADS)
    outcomes = check(case, "cpu", torch.float32)
    assert all(outcome.ok for outcome in outcomes), outcomes


@pytest.mark.parametrize("rows", [7, 8, 9, 15, 16, 17, 31, 32, 33, 511, 512, 513])
def test_rows_of_one_expert(rows: int) -> None:
    """Around the limits of the decode kernel, of a panel and of a chunk."""
    build = lambda m: skewed(m, (rows + 1) // 2)
    case = OpCase(reference.moe_mlp, "rows", build, GRADS)
    outcomes = check(case, "cpu", torch.float32)
    assert all(outcome.ok for outcome in outcomes), outcomes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_token_alone_or_in_a_batch(transposed: bool, dtype: torch.dtype) -> None:
    """The decode kernel and the tiles sum in the same order."""
    call = mlp(Make("cpu", dtype), 60, 300, 37, 3, 2, transposed=transposed)
    whole = moe_mlp(**call)
    rows = ("x", "ids", "weights")
    for start, stop in ((0, 1), (5, 7), (20, 33)):
        part = call | {name: call[name][start:stop] for name in rows}
        assert torch.equal(moe_mlp(**part), whole[start:stop])


def test_recompute_and_kept_z_give_the_same_bits() -> None:
    call = mlp(Make("cpu", torch.bfloat16), 40, 33, 20)
    kept = run(moe_mlp, call, GRADS, torch.bfloat16)
    again = run(moe_mlp, call | {"recompute": True}, GRADS, torch.bfloat16)
    assert_bitwise({k: v for k, v in again.items() if k != "out"},
                   {k: v for k, v in kept.items() if k != "out"})  # fmt: skip


def saved_bytes(call: dict, **options: bool) -> int:
    saved: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.data_ptr()] = t.nbytes
        return t

    known = {t.data_ptr() for t in call.values() if isinstance(t, Tensor)}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        moe_mlp(**call, **options)
    return sum(size for pointer, size in saved.items() if pointer not in known)


def test_memory_kept_for_backward() -> None:
    """Z alone: 4 S I bytes in bfloat16; nothing with recompute."""
    call = mlp(Make("cpu", torch.bfloat16), 40, 32, 16)
    call["w1"].requires_grad_()
    assert saved_bytes(call) == 4 * 40 * 3 * 16
    assert saved_bytes(call, recompute=True) == 0


def test_idle_experts_have_zero_gradients() -> None:
    call = skewed(Make("cpu", torch.float32))
    grads = run(moe_mlp, call, GRADS, torch.float32)
    for name in ("w1", "w2", "b1", "b2"):
        grad = grads[f"grad {name}"]
        assert grad[1].abs().sum() > 0
        assert torch.equal(grad[[0, 2, 3, 4]], torch.zeros_like(grad[[0, 2, 3, 4]]))


def test_ids_of_no_expert_contribute_nothing() -> None:
    call = mlp(Make("cpu", torch.float32))
    call["ids"][0] = torch.tensor([-1, 5, 2**31 - 1])
    call["ids"][1, 1] = -(2**31)
    call["weights"][0] = torch.nan  # masks what is no expert's, too
    for name in ("x", "weights"):
        call[name].requires_grad_()
    out = moe_mlp(**call)
    assert torch.equal(out[0], torch.zeros(11))
    out.sum().backward()
    assert torch.equal(call["x"].grad[0], torch.zeros(11))
    assert torch.equal(call["weights"].grad[0], torch.zeros(3))
    assert call["weights"].grad[1, 1] == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_stays_in_its_token(value: float) -> None:
    call = mlp(Make("cpu", torch.float32), 40, experts=2, top_k=2)
    expected = moe_mlp(**call)
    call["x"][3, 2] = value
    out = moe_mlp(**call)
    assert not out[3].isfinite().any()
    others = torch.arange(40) != 3
    assert torch.equal(out[others], expected[others])
    call = mlp(Make("cpu", torch.float32), 40)
    expected = moe_mlp(**call)
    call["weights"][5, 1] = value
    out = moe_mlp(**call)
    others = torch.arange(40) != 5
    assert not out[5].isfinite().any()
    assert torch.equal(out[others], expected[others])


def test_threads_and_repeats_change_nothing() -> None:
    call = mlp(Make("cpu", torch.float32), 300, 70, 130, 6, 2)
    results = []
    for count in (1, 2, 4, 2):
        with threads(count):
            results.append(run(moe_mlp, call, GRADS, torch.float32))
    for result in results[1:]:
        assert_bitwise(result, results[0])


def test_weights_may_lie_anywhere() -> None:
    """Misaligned as in a mapped file, transposed views, expanded and strided x."""
    call = mlp(Make("cpu", torch.float32), 20, 16, 8)
    expected = moe_mlp(**call)
    for name in ("w1", "w2", "x"):
        raw = torch.zeros(call[name].nbytes + 1, dtype=torch.uint8)
        raw[1:] = call[name].view(-1).view(torch.uint8)
        shifted = torch.frombuffer(raw.numpy(), dtype=torch.float32, offset=1)
        assert torch.equal(moe_mlp(**call | {name: shifted.view(call[name].shape)}), expected)
    swapped = {name: call[name].mT for name in ("w1", "w2")}
    assert torch.equal(moe_mlp(**call | swapped | {"transposed": True}), expected)


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ERRORS = [
    ("x", {"x": ones(11)}),
    ("x", {"x": ones(9, 11, dtype=torch.int64)}),
    ("w1", {"w1": ones(5, 13, 11)}),
    ("w1", {"w1": ones(5, 14, 12)}),
    ("w1", {"w1": ones(14, 11)}),
    ("w1", {"w1": ones(5, 14, 11, dtype=torch.float64)}),
    ("w2", {"w2": ones(5, 11, 14)}),
    ("w2", {"w2": ones(4, 11, 7)}),
    ("w2", {"w2": ones(5, 11, 7, dtype=torch.bfloat16)}),
    ("ids", {"ids": ones(8, 3, dtype=torch.int64)}),
    ("ids", {"ids": ones(9, 3)}),
    ("weights", {"weights": ones(9, 2)}),
    ("weights", {"weights": ones(9, 3, dtype=torch.float64)}),
    ("b1", {"b1": ones(5, 7)}),
    ("b2", {"b2": ones(5, 11, dtype=torch.float64)}),
    ("activation", {"activation": "elu"}),
    ("limit", {"activation": "swiglu_clamp", "limit": 0.0}),
]


@pytest.mark.parametrize("argument, changes", ERRORS, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_argument_is_named(argument: str, changes: dict) -> None:
    assert_rejects(argument, moe_mlp, **mlp(Make("cpu", torch.float32)) | changes)


def test_tolerances_of_section_f() -> None:
    """Relative Frobenius error on a layer of usual width."""
    bounds = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 8e-3}
    for dtype, bound in bounds.items():
        make = Make("cpu", dtype)
        call = mlp(make, 64, 256, 128, 8, 2, biases=False)
        call["ids"] = routing(make, 64, 2, 8)
        exact = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
                 for k, v in call.items()}  # fmt: skip
        expected = reference.moe_mlp(**exact)
        error = (moe_mlp(**call).double() - expected).norm() / expected.norm()
        assert error <= bound, (dtype, error)
