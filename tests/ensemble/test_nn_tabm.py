"""TabM against the `tabm` package: state dicts, values, gradients, dtypes, inputs, randomness."""

import copy
import pickle

import pytest
import torch
from nn_models import ARCHS, arguments, batch, gradients, pair, randomise_, relative_error
from torch import nn

import thrifty.nn as tnn

tabm = pytest.importorskip("tabm")


def embeddings(kind: str) -> nn.Module:
    package = pytest.importorskip("rtdl_num_embeddings")
    if kind == "piecewise":
        x = torch.randn(200, 4, generator=torch.Generator().manual_seed(5))
        return tnn.piecewise_linear_embeddings(x, n_bins=6, d_embedding=3)
    if kind == "periodic":
        return package.PeriodicEmbeddings(4, 3, lite=False)
    return package.LinearReLUEmbeddings(4, 3)


@pytest.mark.parametrize("arch", ARCHS)
def test_one_seed_gives_the_package_and_thrifty_the_same_start(arch):
    states = []
    for kind in (tabm.TabM, tnn.TabM):
        torch.manual_seed(4)
        states.append(kind.make(**arguments(arch)).state_dict())
    assert list(states[0]) == list(states[1])
    for key in states[0]:
        assert torch.equal(states[0][key], states[1][key]), key


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("members", [None, 5])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_values_and_gradients_equal_the_package(arch, members, dtype, tolerance):
    package, ours = pair(arch, dtype)
    inputs = batch(9, dtype, members)
    expected, got = gradients(package, *inputs), gradients(ours, *inputs)
    assert relative_error(ours(*inputs), package(*inputs)) <= tolerance
    for key, gradient in expected.items():
        assert relative_error(got[key], gradient) <= 2 * tolerance, key


@pytest.mark.filterwarnings("ignore:.*separate input per member")
@pytest.mark.filterwarnings("ignore:.*When training=False")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("members", [None, 5])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("rows", [0, 1, 33])
def test_inference_equals_the_package(arch, members, dtype, tolerance, rows):
    package, ours = (model.eval() for model in pair(arch, dtype))
    inputs = batch(rows, dtype, members)
    with torch.no_grad():
        expected, got = package(*inputs), ours(*inputs)
    assert got.shape == expected.shape == (rows, 5, 2)
    assert rows == 0 or relative_error(got, expected) <= tolerance


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_error_is_at_most_the_package_s(arch, training):
    package, ours = pair(arch, torch.bfloat16, d_block=64)
    exact_model = copy.deepcopy(package).double()
    x_num, x_cat = batch(128, torch.bfloat16)
    with torch.set_grad_enabled(training):
        exact = exact_model.train(training)(x_num.double(), x_cat)
        expected, got = (m.train(training)(x_num, x_cat) for m in (package, ours))
    assert got.dtype == torch.bfloat16
    assert (got - exact).norm() <= 1.1 * (expected - exact).norm()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("training", [True, False])
def test_autocast_runs_the_backbone_in_bfloat16_and_returns_float32(arch, training):
    package, ours = pair(arch, torch.float32, d_block=64)
    inputs = batch(128, torch.float32)
    seen = []
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16):
        expected, got = (m.train(training)(*inputs) for m in (package, ours))
        seen.append(ours.backbone(ours._encode(*inputs)).dtype)
    exact = copy.deepcopy(package).double()(inputs[0].double(), inputs[1])
    assert seen == [torch.bfloat16]
    assert got.dtype == expected.dtype == torch.float32
    assert (got - exact).norm() <= 1.5 * (expected - exact).norm()
    if training:
        got.square().mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in ours.parameters())


@pytest.mark.parametrize("kind", ["piecewise", "periodic", "linear"])
@pytest.mark.parametrize("members", [None, 5])
def test_numerical_embeddings(kind, members):
    torch.manual_seed(6)
    module = embeddings(kind)
    package, ours = (
        make(**arguments("tabm", num_embeddings=copy.deepcopy(module)))
        for make in (tabm.TabM.make, tnn.TabM.make)
    )
    randomise_(package)
    ours.load_state_dict(package.state_dict())
    inputs = batch(9, torch.float32, members)
    expected, got = gradients(package, *inputs), gradients(ours, *inputs)
    assert relative_error(ours(*inputs), package(*inputs)) <= 2e-6
    for key, gradient in expected.items():
        assert relative_error(got[key], gradient) <= 1e-5, key


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("activation", ["SiLU", "GELU", "Identity", "Tanh", "PReLU"])
def test_activations_fused_or_not(arch, activation):
    package, ours = pair(arch, activation=activation)
    expected, got = gradients(package, *batch()), gradients(ours, *batch())
    for key, gradient in expected.items():
        assert relative_error(got[key], gradient) <= 1e-11, key
    with torch.no_grad():
        assert relative_error(ours.eval()(*batch()), package.eval()(*batch())) <= 1e-12


@pytest.mark.parametrize(
    "change", ["bias-affine", "hook", "layer-norm", "no-dropout", "weight-norm", "naive"]
)
def test_other_backbones_equal_the_package(change):
    """Networks that the fused path has to leave, wholly or in part, to their modules."""
    backbones = []
    for package in (tabm, tnn):
        sizes = {"d_in": 6, "n_blocks": 3, "d_block": 8, "dropout": 0.0, "k": 4}
        if change == "bias-affine":
            module = package.MLPBackboneMiniEnsemble(
                **sizes, affine_bias=True, affine_scaling_init="normal"
            )
        else:
            module = package.MLPBackboneBatchEnsemble(
                **sizes,
                tabm_init=change != "naive",
                scaling_init="normal",
                start_scaling_init_chunks=None,
            )
        if change == "hook":
            module.blocks[1][1].register_forward_hook(lambda m, args, out: 2 * out)
        elif change == "layer-norm":
            module.blocks[1].insert(1, tabm.LayerNormEnsemble(8, k=4))
        elif change == "weight-norm":
            nn.utils.parametrizations.weight_norm(module.blocks[1][0])
        elif change == "no-dropout":
            module.blocks[1][2] = nn.Identity()
        backbones.append(randomise_(module).double())
    x = torch.randn(7, 6, dtype=torch.float64)
    view = x[:, None].expand(-1, 4, -1)
    expected, got = gradients(backbones[0], view), gradients(backbones[1], x)
    for key, gradient in expected.items():
        assert relative_error(got[key], gradient) <= 1e-11, key
    with torch.no_grad():
        assert relative_error(backbones[1].eval()(x), backbones[0].eval()(view)) <= 1e-12


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("reduce", ["mean", "softmax_mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_predict_reduces_over_members(arch, reduce, dtype):
    package, ours = (m.eval() for m in pair(arch, dtype, d_out=3))
    inputs = batch(9, dtype)
    expected = package(*inputs)
    if reduce == "softmax_mean":
        expected = expected.softmax(-1)
    expected = expected if reduce == "none" else expected.mean(1)
    got = ours.predict(*inputs, reduce=reduce)
    assert not got.requires_grad
    assert relative_error(got, expected) <= (1e-12 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("arch", ARCHS)
def test_no_head_returns_the_backbone_s_output(arch):
    package, ours = pair(arch, d_out=None)
    assert relative_error(ours(*batch()), package(*batch())) <= 1e-12
    with torch.no_grad():
        assert relative_error(ours.eval()(*batch()), package.eval()(*batch())) <= 1e-12
    expected = package(*batch()).mean(1)
    assert relative_error(ours.predict(*batch()), expected) <= 1e-12


@pytest.mark.parametrize("arch", ARCHS)
def test_dropout_follows_the_seed_and_has_the_right_rate(arch):
    _, ours = pair(arch, torch.float32, dropout=0.3, d_block=64, activation="Identity")
    inputs = batch(256, torch.float32)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(ours(*inputs))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    torch.manual_seed(3)
    dropped = (ours.backbone(ours._encode(*inputs)) == 0).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.005)  # 81920 draws: 3 standard deviations
    assert torch.equal(ours.eval()(*inputs), ours(*inputs))


@pytest.mark.parametrize("arch", ARCHS)
def test_dropout_in_training_mode_acts_without_gradients_too(arch):
    """Monte Carlo dropout."""
    _, ours = pair(arch, torch.float32, dropout=0.3)
    with torch.no_grad():
        outs = [ours(*batch(9, torch.float32)) for _ in range(2)]
    assert not torch.equal(*outs)


def test_dropout_masks_differ_between_layers_and_calls():
    backbone = pair("tabm", torch.float32, dropout=0.5, activation="Identity", d_block=64)[
        1
    ].backbone
    for block in backbone.blocks:
        linear = block[0]
        linear.weight.data = torch.eye(*linear.weight.shape)
        linear.r.data, linear.s.data, linear.bias.data = (
            torch.ones_like(linear.r),
            torch.ones_like(linear.s),
            torch.zeros_like(linear.bias)
            if linear.in_features == 64
            else torch.ones_like(linear.bias),
        )
    kept = [(backbone(torch.ones(512, 12)) != 0).float() for _ in range(2)]
    # Three independent masks in a row keep an eighth; one mask used thrice would keep a half.
    assert kept[0].mean().item() == pytest.approx(0.125, abs=0.005)
    both = (kept[0] * kept[1]).mean().item()
    assert both == pytest.approx(0.125**2, abs=0.003)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("grad", [True, False])
def test_shapes_on_the_meta_device(arch, grad):
    ours = tnn.TabM.make(**arguments(arch, cat_cardinalities=None)).to("meta")
    with torch.set_grad_enabled(grad):
        out = ours(torch.empty(7, 4, device="meta"))
    assert out.shape == (7, 5, 2)
    assert out.device.type == "meta"


@pytest.mark.parametrize("arch", ARCHS)
def test_state_dicts_load_both_ways_and_copies_work(arch):
    package, ours = pair(arch)
    package.load_state_dict(randomise_(ours, seed=8).state_dict())
    expected = package(*batch())
    for model in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert relative_error(model(*batch()), expected) <= 1e-12


def test_double_backward_is_a_clear_error():
    _, ours = pair("tabm")
    x_num, x_cat = batch()
    x_num.requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x_num, x_cat).square().sum(), x_num, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives are not implemented"):
        gradient.sum().backward()


def test_saved_for_backward_in_bfloat16():
    """Default TabM at B = 1024: two activations of 33.6 MB a block and nothing else."""
    model = tnn.TabM.make(n_num_features=100, d_out=1, dropout=0.1).bfloat16()
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(torch.randn(1024, 100, dtype=torch.bfloat16))
    assert out.shape == (1024, 32, 1)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total = sum(size for address, size in saved.items() if address not in parameters)
    assert 190e6 < total <= 210e6


@pytest.mark.parametrize(
    "make, match",
    [
        ({"n_num_features": 0, "cat_cardinalities": None}, "n_num_features: expected at least one"),
        ({"n_num_features": 0, "num_embeddings": nn.Identity()}, "num_embeddings: expected None"),
        ({"num_embeddings": nn.Identity()}, "num_embeddings: expected a module of rtdl_num"),
        ({"activation": "Cube"}, "activation: expected the name of a torch.nn module, got 'Cube'"),
        ({"arch_type": "tabm-maxi"}, "arch_type: expected one of .* got 'tabm-maxi'"),
        ({"start_scaling_init": None}, "start_scaling_init: expected a distribution"),
        (
            {"arch_type": "tabm-packed", "start_scaling_init": "normal"},
            "start_scaling_init: expected None with arch_type 'tabm-packed'",
        ),
        ({"k": 0}, "k: expected a positive integer, got 0"),
        ({"cat_cardinalities": [3, 0]}, "cardinalities: expected positive integers"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        tnn.TabM.make(**arguments("tabm") | make)


def test_bad_inputs():
    model = tnn.TabM.make(**arguments("tabm"))
    x_num, x_cat = batch(7, torch.float32)
    for inputs, match in [
        ((x_num, None), r"TabM: x_cat: expected shape \(B, 2\) or \(B, k, 2\), got None"),
        ((x_num[:, :3], x_cat), r"TabM: x_num: expected shape \(B, 4\) .* got \(7, 3\)"),
        ((x_num[:5], x_cat), r"TabM: x_cat: expected batch shape \(5,\), as x_num, got \(7,\)"),
        ((x_num[:, None], x_cat[:, None]), r"ensemble_view: x: expected shape .* got \(7, 1, 12\)"),
        ((x_num.double(), x_cat), "weight: expected float64 like x, got float32"),
    ]:
        with pytest.raises(ValueError, match=match):
            model(*inputs)
    numeric = tnn.TabM.make(n_num_features=4, d_out=1, k=2, d_block=3)
    with pytest.raises(ValueError, match="TabM: x_cat: expected None"):
        numeric(x_num, x_cat)
    with pytest.raises(ValueError, match="reduce"):
        numeric.eval().predict(x_num, reduce="max")
