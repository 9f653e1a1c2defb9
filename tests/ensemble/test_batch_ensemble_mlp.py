"""batch_ensemble_mlp: a network in one op, and the same network by layers."""

import pytest
import torch
from torch import Tensor

from helpers import OpContract, assert_rejects
from thrifty import batch_ensemble_linear, batch_ensemble_mlp, ensemble_linear, pack_weight
from thrifty.ensemble import _mlp_by_layers
from thrifty.reference import ensemble as reference
from thrifty.reference.cases import Make, OpCase, all_cases, check, relative_error
from thrifty.reference.ensemble_cases import TOLERANCE, network


class TestContract(OpContract):
    op = "batch_ensemble_mlp"


SIZES = [  # batch, k, widths, head
    (1, 32, (100, 513, 16), 1),
    (5, 1, (7, 7), 3),
    (129, 3, (1, 65, 100, 31), 2),
    (33, 33, (16, 8, 8, 8, 8), 1),
    (700, 2, (8, 24), 5),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: tuple, shared: bool, dtype: torch.dtype, device: str) -> None:
    def build(make: Make) -> dict:
        batch, k, widths, head = sizes
        return network(
            make, batch=batch, k=k, widths=widths, head=head, shared=shared, activation="silu"
        )

    case = OpCase(reference.batch_ensemble_mlp, "size", build, tolerance=TOLERANCE)
    outcomes = check(case, device, dtype)
    assert all(outcome.ok for outcome in outcomes), outcomes


# ---- against the layers


def test_is_the_chain_of_its_layers(device: str) -> None:
    call = network(Make(device, torch.float64), widths=(7, 9, 8, 5), head=2, activation="gelu")
    h = call["x"]
    for weight, r, s, bias in zip(*(call[n] for n in ("weight", "r", "s", "bias")), strict=True):
        h = batch_ensemble_linear(h, weight, r, s, bias, "gelu")
    expected = ensemble_linear(h, call["head_weight"], call["head_bias"])
    torch.testing.assert_close(batch_ensemble_mlp(**call), expected)


NETWORKS = [case for case in all_cases() if case.op == "batch_ensemble_mlp"]


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case.name)
def test_by_layers_for_other_devices(case: OpCase) -> None:
    """The way without the native op, which the CPU does not take by itself."""
    dtype = case.dtypes[0]
    call = case.call("cpu", dtype)
    absent: list[None] = [None] * len(call["weight"])
    vectors = {name: list(call.get(name) or absent) for name in ("r", "s", "bias")}
    got = _mlp_by_layers(
        call["x"],
        call["weight"],
        vectors,
        call.get("activation", "relu"),
        call.get("head_weight"),
        call.get("head_bias"),
        call.get("reduce", "none"),
    )
    expected = batch_ensemble_mlp(**call)
    assert got.dtype == expected.dtype
    assert relative_error(got, expected) <= case.bound(dtype)


# ---- rows, packed weights, reductions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_row_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    call = network(Make("cpu", dtype), batch=300, widths=(7, 70, 40), head=3, reduce="mean")
    whole = batch_ensemble_mlp(**call)
    for rows in (slice(0, 1), slice(17, 140), slice(299, 300)):
        part = batch_ensemble_mlp(**call | {"x": call["x"][rows]})
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 31, 32, 33, 100])
def test_packed_weights_change_nothing(width: int, dtype: torch.dtype) -> None:
    call = network(Make("cpu", dtype), widths=(7, width, 19), head=2)
    packed = [pack_weight(weight) for weight in call["weight"]]
    expected = batch_ensemble_mlp(**call)
    torch.testing.assert_close(batch_ensemble_mlp(**call, packed=packed), expected, rtol=0, atol=0)


def test_packing_reads_any_strides_and_parameters() -> None:
    weight = Make("cpu", torch.float32).normal(40, 9)
    expected = pack_weight(weight)
    assert expected.dtype == torch.uint8
    assert expected.shape == (64 * 32 * 4,)
    transposed = torch.nn.Parameter(weight.T.contiguous().T)
    assert torch.equal(pack_weight(transposed), expected)


def test_softmax_of_large_logits(device: str) -> None:
    """Logits around 10^4: exp of them overflows, the probabilities do not."""
    call = network(Make(device, torch.float32), head=4, reduce="softmax_mean")
    call["head_bias"] = call["head_bias"] * 1e4
    out = batch_ensemble_mlp(**call)
    torch.testing.assert_close(out.sum(-1), torch.ones(5, device=device))
    torch.testing.assert_close(out, reference.batch_ensemble_mlp(**call))


@pytest.mark.parametrize("reduce", ["none", "mean", "softmax_mean"])
def test_nan_stays_in_its_row(reduce: str, device: str) -> None:
    call = network(Make(device, torch.float32), head=4, reduce=reduce)
    call["x"][2, 3] = torch.nan
    nan = batch_ensemble_mlp(**call).isnan()
    assert nan[2].all()
    assert not nan[:2].any()
    assert not nan[3:].any()


def test_autocast(device: str) -> None:
    call = network(Make(device, torch.float32), head=3)
    halves = {name: [w.bfloat16() for w in call[name]] for name in ("weight",)}
    halves |= {name: call[name].bfloat16() for name in ("x", "head_weight")}
    with torch.autocast(device, torch.bfloat16):
        got = batch_ensemble_mlp(**call)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, batch_ensemble_mlp(**call | halves), rtol=0, atol=0)


# ---- errors


@pytest.mark.parametrize("name", ["x", "weight", "r", "s", "bias", "head_weight", "head_bias"])
def test_gradients_are_refused(name: str) -> None:
    call = network(Make("cpu", torch.float32), head=3)
    value = call[name][-1] if isinstance(call[name], list) else call[name]
    value.requires_grad_()
    assert_rejects(name, batch_ensemble_mlp, **call)
    with torch.no_grad():
        assert not batch_ensemble_mlp(**call).requires_grad


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


def entry(name: str, index: int, value: object) -> dict:
    """The valid list of `name` with one entry replaced."""
    values = list(network(Make("cpu", torch.float32), head=3)[name])
    values[index] = value
    return {name: values}


ERRORS = [
    ("x", {"x": ones(5, 4, 7)}),
    ("x", {"x": ones(7)}),
    ("weight", {"x": ones(5, 8)}),
    ("weight", {"weight": [], "r": [], "s": [], "bias": []}),
    ("weight", entry("weight", 1, ones(8, 10))),
    ("weight", entry("weight", 0, ones(9, 7, dtype=torch.float64))),
    ("r", entry("r", 1, ones(3, 8))),
    ("s", entry("s", 0, ones(2, 9))),
    ("bias", entry("bias", 1, ones(9))),
    ("r", {"r": [ones(3, 7)]}),
    ("s", {"s": []}),
    ("bias", {"bias": [None] * 3}),
    ("head_weight", {"head_weight": ones(3, 9, 3)}),
    ("head_weight", {"head_weight": ones(8, 3)}),
    ("head_weight", {"head_weight": ones(3, 8, 3, dtype=torch.float64)}),
    ("head_bias", {"head_bias": ones(3)}),
    ("head_bias", {"head_weight": None}),
    ("reduce", {"reduce": "median"}),
    ("reduce", {"reduce": "mean", "head_weight": None, "head_bias": None}),
    ("activation", {"activation": "elu"}),
    ("packed", {"packed": [torch.zeros(4096, dtype=torch.uint8)]}),
    ("packed[0]", {"packed": [torch.zeros(9, dtype=torch.uint8)] * 2}),
    ("packed[0]", {"packed": [ones(1024)] * 2}),
]


@pytest.mark.parametrize("argument, changes", ERRORS, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_argument_is_named(argument: str, changes: dict) -> None:
    call = network(Make("cpu", torch.float32), head=3)
    assert_rejects(argument, batch_ensemble_mlp, **call | changes)


def test_k_must_be_shown_somewhere() -> None:
    assert_rejects("k", batch_ensemble_mlp, ones(5, 7), [ones(6, 7)], bias=[ones(6)])


def test_weight_to_pack_must_be_a_matrix() -> None:
    assert_rejects("weight", pack_weight, ones(7))
    assert_rejects("weight", pack_weight, ones(7, 3, dtype=torch.int32))


def test_head_of_width_0() -> None:
    x, weight, r = torch.randn(5, 7), [torch.randn(6, 7)], [torch.randn(3, 7)]
    out = batch_ensemble_mlp(x, weight, r, head_weight=torch.ones(3, 6, 0))
    assert out.shape == (5, 3, 0)


def test_packed_may_be_strided() -> None:
    x, weight, r = torch.randn(5, 7), [torch.randn(6, 7)], [torch.randn(3, 7)]
    packed = pack_weight(weight[0])
    strided = torch.empty(2 * packed.numel(), dtype=torch.uint8)[::2].copy_(packed)
    want = batch_ensemble_mlp(x, weight, r, packed=[packed])
    assert torch.equal(batch_ensemble_mlp(x, weight, r, packed=[strided]), want)
