"""Layers against the `tabm` package: state dicts, initial draws, values, inputs, errors."""

import copy

import pytest
import torch
from nn_models import randomise_, relative_error
from torch import nn

import thrifty.nn as tnn

tabm = pytest.importorskip("tabm")

LAYERS = {
    "batch": ("LinearBatchEnsemble", (6, 9), {"k": 4, "scaling_init": "normal"}),
    "batch-chunks": (
        "LinearBatchEnsemble",
        (6, 9),
        {
            "k": 4,
            "scaling_init": ("random-signs", "normal"),
            "first_scaling_init_chunks": [1, 2, 3],
        },
    ),
    "batch-no-bias": ("LinearBatchEnsemble", (6, 9, False), {"k": 4, "scaling_init": "ones"}),
    "separate": ("LinearEnsemble", (6, 9), {"k": 4}),
    "separate-no-bias": ("LinearEnsemble", (6, 9, False), {"k": 4}),
    "affine": ("ElementwiseAffine", ((4, 6),), {"bias": True, "scaling_init": "normal"}),
    "affine-chunks": (
        "ElementwiseAffine",
        ((4, 6),),
        {"bias": False, "scaling_init": "random-signs", "scaling_init_chunks": [4, 2]},
    ),
}


def both(name: str) -> tuple[nn.Module, nn.Module]:
    kind, args, kwargs = LAYERS[name]
    torch.manual_seed(3)
    package = getattr(tabm, kind)(*args, **kwargs)
    torch.manual_seed(3)
    return package, getattr(tnn, kind)(*args, **kwargs)


@pytest.mark.parametrize("name", LAYERS)
def test_one_seed_gives_the_package_and_thrifty_the_same_start(name):
    package, ours = both(name)
    assert list(package.state_dict()) == list(ours.state_dict())
    for key, value in package.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_all_members_start_with_one_bias():
    _, ours = both("batch")
    assert torch.equal(ours.bias, ours.bias[:1].expand(4, -1))
    assert ours.bias.abs().max() <= 6**-0.5


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_equal_the_package(name, dtype):
    package, ours = both(name)
    randomise_(package).to(dtype)
    ours.to(dtype).load_state_dict(package.state_dict())
    x = torch.randn(7, 4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    outs = [model(x_) for model, x_ in zip((package, ours), xs, strict=True)]
    assert relative_error(outs[1], outs[0]) <= tolerance
    direction = torch.randn(outs[0].shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for out in outs:
        out.backward(direction)
    assert relative_error(xs[1].grad, xs[0].grad) <= tolerance
    for (key, p), q in zip(package.named_parameters(), ours.parameters(), strict=True):
        assert relative_error(q.grad, p.grad) <= tolerance, key


def test_shared_expanded_and_repeated_inputs_agree():
    layer = randomise_(tnn.LinearBatchEnsemble(6, 9, k=4, scaling_init="normal")).double()
    x = torch.randn(7, 6, dtype=torch.float64)
    views = [x, tnn.EnsembleView(k=4)(x), x[:, None].repeat(1, 4, 1)]
    outs, grads = [], []
    for view in views:
        outs.append(layer(view))
        grads.append(torch.autograd.grad(outs[-1].square().sum(), list(layer.parameters())))
    for out, grad in zip(outs[1:], grads[1:], strict=True):
        torch.testing.assert_close(out, outs[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(grad, grads[0], rtol=1e-11, atol=1e-11)


def test_the_gradient_of_an_expanded_input_reaches_its_source():
    layer = randomise_(tnn.LinearBatchEnsemble(6, 9, k=4, scaling_init="normal")).double()
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    (expanded,) = torch.autograd.grad(layer(x[:, None].expand(-1, 4, -1)).square().sum(), x)
    (repeated,) = torch.autograd.grad(layer(x[:, None].repeat(1, 4, 1)).square().sum(), x)
    torch.testing.assert_close(expanded, repeated, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["batch", "batch-no-bias", "separate", "separate-no-bias"])
def test_autocast_gives_the_dtype_and_the_accuracy_of_the_package(name):
    package, ours = both(name)
    ours.load_state_dict(randomise_(package).state_dict())
    x = torch.randn(64, 4, 6, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(package).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = package(x), ours(x)
    assert got.dtype == expected.dtype
    # One rounding more than the package, of x, where r is applied: sqrt(4 / 3).
    bound = 1.25 if name.startswith("batch") else 1.01
    assert (got - exact).norm() <= bound * (expected - exact).norm()


def test_autocast_leaves_float64_alone():
    layer = tnn.LinearBatchEnsemble(6, 9, k=4, scaling_init="normal", dtype=torch.float64)
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.clone()))
        assert layer(x).dtype == torch.float64


def test_from_linear_takes_sizes_dtype_and_bias():
    source = nn.Linear(3, 5, bias=False, dtype=torch.float64)
    for kind, kwargs in (
        (tnn.LinearEnsemble, {}),
        (tnn.LinearBatchEnsemble, {"scaling_init": "ones"}),
    ):
        layer = kind.from_linear(source, k=2, **kwargs)
        assert (layer.in_features, layer.out_features, layer.k) == (3, 5, 2)
        assert layer.bias is None
        assert layer.weight.dtype == torch.float64


def test_ensemble_view_warns_in_eval_mode_only():
    view = tnn.EnsembleView(k=2)
    x = torch.randn(3, 2, 4)
    assert view(x) is x
    with pytest.warns(UserWarning, match="separate input per member"):
        view.eval()(x)
    assert view(x[:, 0]).stride(1) == 0


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: tnn.LinearEnsemble(0, 3, k=2), "LinearEnsemble: in_features: expected a positive"),
        (
            lambda: tnn.LinearBatchEnsemble(2, 3, k=0, scaling_init="ones"),
            "LinearBatchEnsemble: k: expected a positive",
        ),
        (
            lambda: tnn.LinearBatchEnsemble(2, 3, k=2, scaling_init="zeros"),
            "distribution: expected one of .* got 'zeros'",
        ),
        (
            lambda: tnn.init_scaling_(torch.empty(2, 3), "ones", [1, 2]),
            "chunks: expected None",
        ),
        (
            lambda: tnn.init_scaling_(torch.empty(2, 3), "normal", [1, 1]),
            "chunks: expected sizes that sum to the last dimension",
        ),
        (lambda: tnn.LinearEnsemble(2, 3, k=2)(torch.ones(4, 2)), r"x: expected shape \(B, 2, 2\)"),
        (
            lambda: tnn.LinearEnsemble(2, 3, k=2)(torch.ones(4, 1, 2)),
            r"LinearEnsemble: x: .* got \(4, 1, 2\)",
        ),
        (
            lambda: tnn.LinearBatchEnsemble(2, 3, k=2, scaling_init="ones")(torch.ones(4, 3, 2)),
            "batch_ensemble_linear: .*expected",
        ),
        (
            lambda: tnn.ElementwiseAffine((2, 3), bias=True, scaling_init="ones")(torch.ones(4, 3)),
            r"ElementwiseAffine: x: expected shape \(\*, 2, 3\), got \(4, 3\)",
        ),
        (lambda: tnn.EnsembleView(k=2)(torch.ones(4, 3, 5)), r"\(B, d\) or \(B, 2, d\), got"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
