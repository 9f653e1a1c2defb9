"""batch_ensemble_linear: sizes, row order, memory, autocast, special values, errors."""

import pytest
import torch
from torch import Tensor

from helpers import Recorder, TrainedOpContract, assert_bitwise, assert_rejects
from thrifty import batch_ensemble_linear
from thrifty.reference import ensemble as reference
from thrifty.reference.cases import Make, OpCase, check, run
from thrifty.reference.ensemble_cases import GRAD_TOLERANCE, TOLERANCE, VECTORS, layer

GRADS = ("x", "weight", *VECTORS)


class TestContract(TrainedOpContract):
    op = "batch_ensemble_linear"


# Blocks, vectors and their tails: around multiples of 16 and 64 in each dimension, and nothing.
SIZES = [  # batch, k, in, out
    (1, 32, 100, 513),
    (5, 1, 513, 16),
    (127, 3, 16, 7),
    (129, 2, 65, 100),
    (3, 33, 7, 1),
    (64, 4, 1, 64),
    (33, 5, 128, 31),
    (2, 3, 0, 5),
    (2, 3, 5, 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: tuple, shared: bool, dtype: torch.dtype, device: str) -> None:
    def build(make: Make) -> dict:
        batch, k, n_in, n_out = sizes
        call = layer(make, batch, k, n_in or 1, n_out, shared=shared, activation="silu")
        if n_in == 0:
            call |= {name: call[name][..., :0] for name in ("x", "weight", "r")}
        return call

    case = OpCase(reference.batch_ensemble_linear, "size", build, GRADS,
                  tolerance=TOLERANCE, grad_tolerance=GRAD_TOLERANCE)  # fmt: skip
    outcomes = check(case, device, dtype)
    assert len(outcomes) == 7
    assert all(outcome.ok for outcome in outcomes), outcomes


# ---- rows and members


def test_expanded_x_is_shared_x(device: str) -> None:
    call = layer(Make(device, torch.float32), activation="silu")
    wide = call | {"x": call["x"].unsqueeze(1).expand(-1, 3, -1)}
    shared = run(batch_ensemble_linear, call, GRADS, torch.float32)
    own = run(batch_ensemble_linear, wide, GRADS, torch.float32)
    torch.testing.assert_close(own["out"], shared["out"], rtol=0, atol=0)
    assert own["grad x"].shape == (5, 3, 7)
    own["grad x"] = own["grad x"].sum(1)
    for what in shared:
        torch.testing.assert_close(own[what], shared[what], rtol=1e-5, atol=1e-5, msg=what)


def test_group_1_is_the_flattened_batch_and_has_its_dropout_mask(device: str) -> None:
    make = Make(device, torch.float32)
    call = layer(make, shared=False, activation="silu", dropout=0.3) | {"seed": make.seed()}
    flat = call | {"x": call["x"].flatten(0, 1), "group": 1}
    expected = run(batch_ensemble_linear, call, (), torch.float32)["out"]
    got = run(batch_ensemble_linear, flat, (), torch.float32)["out"]
    torch.testing.assert_close(got, expected.flatten(0, 1), rtol=0, atol=0)


def test_group_of_the_batch_is_member_major(device: str) -> None:
    call = layer(Make(device, torch.float64), shared=False, activation="gelu")
    expected = run(batch_ensemble_linear, call, GRADS, torch.float64)
    x = call["x"].transpose(0, 1).flatten(0, 1).requires_grad_()
    out = batch_ensemble_linear(**call | {"x": x, "group": 5})
    torch.testing.assert_close(out.detach().unflatten(0, (3, 5)).transpose(0, 1), expected["out"])
    v = Make(device, torch.float64, seed=1).normal(5, 3, 6)  # the v of `run`, in this order
    (grad,) = torch.autograd.grad(out, x, v.transpose(0, 1).flatten(0, 1))
    torch.testing.assert_close(grad.unflatten(0, (3, 5)).transpose(0, 1), expected["grad x"])


@pytest.mark.parametrize("rows", [1, 4, 7, 13])
def test_rows_need_not_be_a_multiple_of_the_members(rows: int, device: str) -> None:
    """The last rows are those that a complete set would begin with."""
    call = layer(Make(device, torch.float32), activation="silu")
    x = Make(device, torch.float32, seed=2).normal(24, 7)
    full = batch_ensemble_linear(**call | {"x": x, "group": 4})
    part = batch_ensemble_linear(**call | {"x": x[:rows], "group": 4})
    torch.testing.assert_close(part, full[:rows], rtol=0, atol=0)


def test_strides_beyond_32_bits() -> None:
    try:
        memory = torch.empty(2**31 + 64, dtype=torch.float16)  # two pages of it are touched
    except RuntimeError:
        pytest.skip("this machine has no 4 GB of address space, which strides of 2^31 need")
    call = layer(Make("cpu", torch.float16), batch=2)
    far = memory.as_strided((2, 7), (2**31, 1)).copy_(call["x"])
    expected = batch_ensemble_linear(**call)
    torch.testing.assert_close(batch_ensemble_linear(**call | {"x": far}), expected, rtol=0, atol=0)


# ---- what is saved, and gradients that arrive in odd ways


def saved_bytes(**call: object) -> int:
    """Bytes that autograd keeps, besides the arguments themselves."""
    inputs = {value.data_ptr() for value in call.values() if isinstance(value, Tensor)}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() not in inputs:
            kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        batch_ensemble_linear(**call)
    return sum(kept.values())


@pytest.mark.parametrize(
    "trained, options, saves",
    [
        (GRADS, {"activation": "relu"}, True),
        (("weight",), {"activation": "relu"}, True),
        (("s",), {}, True),
        (("r_next",), {}, True),
        (("x", "weight", "r", "bias"), {}, False),
        ((), {"activation": "relu"}, False),
    ],
    ids=str,
)
def test_z_is_saved_only_where_backward_reads_it(
    trained: tuple, options: dict, saves: bool
) -> None:
    call = layer(Make("cpu", torch.bfloat16), **options)
    for name in trained:
        call[name].requires_grad_()
    assert saved_bytes(**call) == (2 * 5 * 3 * 6 if saves else 0)


@pytest.mark.parametrize("trained", [(), *((name,) for name in GRADS), ("x", "s"), GRADS], ids=str)
def test_backward_is_asked_for_wanted_gradients_alone(trained: tuple) -> None:
    """`needs`, the last argument of the native backward op, has a bit per tensor."""
    with Recorder() as recorder:
        run(batch_ensemble_linear, layer(Make("cpu", torch.float32)), trained, torch.float32)
    needs = [args[-1] for op, args, _ in recorder.calls if "bwd" in str(op)]
    assert needs == ([sum(1 << GRADS.index(name) for name in trained)] if trained else [])


def test_no_grad_and_inference_mode_record_nothing(device: str) -> None:
    call = layer(Make(device, torch.float32), activation="relu")
    call["weight"].requires_grad_()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not batch_ensemble_linear(**call).requires_grad


def test_incoming_gradient_may_be_expanded(device: str) -> None:
    """out.sum() hands back one number with strides 0."""
    make = Make(device, torch.float64)
    call = layer(make, activation="silu")
    x = call["x"].requires_grad_()
    (got,) = torch.autograd.grad(batch_ensemble_linear(**call).sum(), x)
    ones = torch.ones(5, 3, 6, dtype=torch.float64, device=device)
    (expected,) = torch.autograd.grad(batch_ensemble_linear(**call), x, ones)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_changed_weight_is_noticed_before_backward(device: str) -> None:
    call = layer(Make(device, torch.float32), activation="relu")
    call["x"].requires_grad_()
    out = batch_ensemble_linear(**call)
    call["weight"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# ---- autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_autocast_casts_the_matrices_alone(dtype: torch.dtype, device: str) -> None:
    call = layer(Make(device, torch.float32), activation="gelu")
    by_hand = call | {name: call[name].to(dtype) for name in ("x", "weight")}
    expected = run(batch_ensemble_linear, by_hand, GRADS, torch.float32)
    with torch.autocast(device, dtype):
        got = run(batch_ensemble_linear, call, GRADS, torch.float32)
    assert got["out"].dtype == dtype
    assert all(got[f"grad {name}"].dtype == torch.float32 for name in GRADS)
    assert_bitwise({what: value.to(expected[what].dtype) for what, value in got.items()}, expected)


def test_autocast_leaves_float64_alone(device: str) -> None:
    call = layer(Make(device, torch.float64))
    with torch.autocast(device, torch.bfloat16):
        assert batch_ensemble_linear(**call).dtype == torch.float64


# ---- special values


@pytest.mark.parametrize("activation", ["none", "relu", "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_nan_stays_in_its_row_and_is_not_swallowed(
    activation: str, dtype: torch.dtype, device: str
) -> None:
    call = layer(Make(device, dtype), batch=9, n_out=37, activation=activation)
    call["x"][4, 2] = torch.nan
    out = batch_ensemble_linear(**call)
    assert out[4].isnan().all()
    assert out[:4].isfinite().all()
    assert out[5:].isfinite().all()


@pytest.mark.parametrize("activation", ["none", "relu", "silu", "gelu", "gelu_tanh"])
def test_infinity(activation: str, device: str) -> None:
    """What the activation makes of +-inf: itself, 0, or torch's NaN for -inf * 0."""
    call = layer(Make(device, torch.float32), vectors=("bias",), activation=activation)
    call["x"][1, 3], call["x"][2, 3] = torch.inf, -torch.inf
    out, expected = batch_ensemble_linear(**call), reference.batch_ensemble_linear(**call)
    up = expected == torch.inf
    assert up.any()
    assert (out[up] == torch.inf).all()
    down = expected == -torch.inf
    assert (out[down] == -torch.inf).all()
    assert (down.any()) == (activation == "none")
    fine = expected.isfinite()
    torch.testing.assert_close(out[fine], expected[fine], rtol=1e-5, atol=1e-5)


def test_gradients_of_nan_are_nan(device: str) -> None:
    call = layer(Make(device, torch.float32), activation="relu")
    call["x"][4, 2] = torch.nan
    grads = run(batch_ensemble_linear, call, GRADS, torch.float32)
    assert grads["grad weight"][:, 2].isnan().all()
    assert grads["grad s"].isnan().all()


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_activations_far_from_zero(activation: str, device: str) -> None:
    """|y| up to 10^4, where a careless exp overflows: y and 0, with gradients 1 and 0."""
    y = torch.tensor([[-1e4, -90.0, -30.0, 30.0, 90.0, 1e4]], device=device).T
    weight = torch.ones(1, 1, device=device)
    x = y.clone().requires_grad_()
    out = batch_ensemble_linear(x, weight, activation=activation, k=1)[:, 0]
    torch.testing.assert_close(out, y.clamp_min(0), rtol=1e-6, atol=1e-9)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, (y > 0).float(), rtol=1e-6, atol=1e-9)


# ---- errors


def bad(argument: str, name: str = "", **changes: object) -> object:
    """A change of a valid call, and the argument that the message has to name."""
    return pytest.param(argument, changes, id=name or argument)


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ERRORS = [
    bad("x", "x of rank 1", x=ones(7)),
    bad("x", "x of rank 4", x=ones(2, 2, 3, 7)),
    bad("x", "x of 4 members", x=ones(5, 4, 7)),
    bad("x", "3-D x with group", x=ones(5, 3, 7), group=1),
    bad("x", "integer x", x=ones(5, 7, dtype=torch.int64)),
    bad("weight", "weight of rank 1", weight=ones(7)),
    bad("weight", "weight of other in", weight=ones(6, 8)),
    bad("weight", "mixed dtypes", weight=ones(6, 7, dtype=torch.float64)),
    bad("r", "r of rank 1", r=ones(7)),
    bad("r", "r of other in", r=ones(3, 8)),
    bad("s", "s of other k", s=ones(4, 6)),
    bad("s", "s of other dtype", s=ones(3, 6, dtype=torch.bfloat16)),
    bad("bias", "bias of other out", bias=ones(7)),
    bad("bias", "bias of other k", bias=ones(2, 6)),
    bad("r_next", "r_next of other out", r_next=ones(3, 7)),
    bad("activation", activation="tanh"),
    bad("dropout", "dropout 1", dropout=1.0, seed=torch.zeros(2, dtype=torch.int64)),
    bad("dropout", "negative dropout", dropout=-0.1),
    bad("dropout", "dropout NaN", dropout=float("nan")),
    bad("seed", "float seed", dropout=0.5, seed=ones(2)),
    bad("seed", "one number as seed", dropout=0.5, seed=torch.zeros(1, dtype=torch.int64)),
    bad("group", "group 0", group=0),
    bad("group", "negative group", group=-2),
    bad("k", "negative k", k=-1),
    bad("r", "k that is not r's", k=4),
]


@pytest.mark.parametrize("argument, changes", ERRORS)
def test_wrong_argument_is_named(argument: str, changes: dict) -> None:
    call = layer(Make("cpu", torch.float32)) | changes
    assert_rejects(argument, batch_ensemble_linear, **call)


def test_k_must_be_shown_somewhere() -> None:
    assert_rejects("k", batch_ensemble_linear, ones(5, 7), ones(6, 7), bias=ones(6))


def test_error_tells_shapes() -> None:
    with pytest.raises(ValueError, match=r"weight: expected .*in = 7, got \(6, 8\)"):
        batch_ensemble_linear(ones(5, 7), ones(6, 8), k=3)


def test_float32_vectors_are_for_16_bits_only() -> None:
    call = layer(Make("cpu", torch.float64), vector_dtype=torch.float32)
    assert_rejects("r", batch_ensemble_linear, **call)


@pytest.mark.parametrize("group", [2**31, 2**61, 2**62, 2**63 - 1])
def test_group_beyond_the_rows_is_one_member(group: int, device: str) -> None:
    x, weight = torch.randn(5, 7, device=device), torch.randn(6, 7, device=device)
    r = torch.randn(4, 7, device=device)
    want = batch_ensemble_linear(x, weight, r, group=5)
    assert torch.equal(batch_ensemble_linear(x, weight, r, group=group), want)


@pytest.mark.parametrize(("rows", "k", "argument"), [(2**27, 33, "x"), (4, 2**62, "k")])
def test_number_of_rows_is_bounded(rows: int, k: int, argument: str) -> None:
    x = torch.zeros(1, 1).expand(rows, 1)
    with pytest.raises(ValueError, match=f"batch_ensemble_linear: {argument}: expected fewer"):
        batch_ensemble_linear(x, torch.ones(1, 1), k=k)
