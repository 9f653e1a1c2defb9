"""ensemble_linear: k separate layers, weight (k, in, out)."""

import pytest
import torch
from torch import Tensor

from helpers import TrainedOpContract, assert_rejects
from thrifty import ensemble_linear
from thrifty.reference import ensemble as reference
from thrifty.reference.cases import Make, OpCase, check, run
from thrifty.reference.ensemble_cases import GRAD_TOLERANCE, TOLERANCE, packed

GRADS = ("x", "weight", "bias")


class TestContract(TrainedOpContract):
    op = "ensemble_linear"


SIZES = [  # batch, k, in, out
    (1, 32, 100, 1),
    (5, 1, 130, 16),
    (127, 3, 16, 7),
    (65, 2, 33, 100),
    (3, 33, 1, 2),
    (2, 3, 0, 5),
    (2, 3, 5, 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: tuple, shared: bool, dtype: torch.dtype, device: str) -> None:
    def build(make: Make) -> dict:
        batch, k, n_in, n_out = sizes
        call = packed(make, batch, k, n_in or 1, n_out, shared=shared, activation="silu")
        if n_in == 0:
            call |= {"x": call["x"][..., :0], "weight": call["weight"][:, :0]}
        return call

    case = OpCase(
        reference.ensemble_linear,
        "size",
        build,
        GRADS,
        tolerance=TOLERANCE,
        grad_tolerance=GRAD_TOLERANCE,
    )
    outcomes = check(case, device, dtype)
    assert len(outcomes) == 4
    assert all(outcome.ok for outcome in outcomes), outcomes


def test_members_are_separate_linear_layers(device: str) -> None:
    call = packed(Make(device, torch.float64))
    out = ensemble_linear(**call)
    for j in range(3):
        expected = call["x"][:, j] @ call["weight"][j] + call["bias"][j]
        torch.testing.assert_close(out[:, j], expected)


def test_expanded_x_is_shared_x(device: str) -> None:
    call = packed(Make(device, torch.float32), shared=True, activation="silu")
    wide = call | {"x": call["x"].unsqueeze(1).expand(-1, 3, -1)}
    torch.testing.assert_close(ensemble_linear(**wide), ensemble_linear(**call), rtol=0, atol=0)


def test_autocast(device: str) -> None:
    call = packed(Make(device, torch.float32), activation="gelu")
    by_hand = call | {name: call[name].to(torch.bfloat16) for name in ("x", "weight")}
    with torch.autocast(device, torch.bfloat16):
        got = run(ensemble_linear, call, GRADS, torch.float32)
    assert got["out"].dtype == torch.bfloat16
    assert got["grad weight"].dtype == torch.float32
    expected = run(ensemble_linear, by_hand, GRADS, torch.float32)
    torch.testing.assert_close(got["out"], expected["out"], rtol=0, atol=0)


def test_nan_stays_in_its_row_and_member(device: str) -> None:
    call = packed(Make(device, torch.float32), activation="relu")
    call["x"][2, 1, 3] = torch.nan
    nan = ensemble_linear(**call).isnan()
    assert nan[2, 1].all()
    assert nan.sum() == 6


def test_z_is_saved_only_for_an_activation() -> None:
    call = packed(Make("cpu", torch.float32))
    call["weight"].requires_grad_()
    shapes: list[tuple[int, ...]] = []

    def pack(t: Tensor) -> Tensor:
        shapes.append(tuple(t.shape))
        return t

    for activation, saved in (("none", False), ("silu", True)):
        shapes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            ensemble_linear(**call, activation=activation)
        assert ((5, 3, 6) in shapes) == saved


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ERRORS = [
    ("x", {"x": ones(7)}),
    ("x", {"x": ones(5, 2, 7)}),
    ("x", {"x": ones(5, 3, 7, dtype=torch.int64)}),
    ("weight", {"weight": ones(7, 6)}),
    ("weight", {"weight": ones(3, 6, 7)}),
    ("weight", {"weight": ones(3, 7, 6, dtype=torch.float64)}),
    ("weight", {"weight": ones(0, 7, 6)}),
    ("bias", {"bias": ones(6)}),
    ("bias", {"bias": ones(3, 7)}),
    ("bias", {"bias": ones(3, 6, dtype=torch.float64)}),
    ("activation", {"activation": "elu"}),
    ("dropout", {"dropout": 1.5}),
    ("seed", {"dropout": 0.5, "seed": torch.zeros(2)}),
]


@pytest.mark.parametrize("argument, changes", ERRORS, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_argument_is_named(argument: str, changes: dict) -> None:
    assert_rejects(argument, ensemble_linear, **packed(Make("cpu", torch.float32)) | changes)
