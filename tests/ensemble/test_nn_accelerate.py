"""accelerate: same values, same parameters, same optimiser, on thrifty's ops."""

import copy
import pickle

import pytest
import torch
from nn_models import ARCHS, arguments, batch, gradients, randomise_, relative_error
from nn_older_models import (
    BatchLinear,
    LinearEfficientEnsemble,
    Model,
    NLinear,
    ScaleEnsemble,
)
from torch import nn

import thrifty.nn as tnn
from thrifty.nn.accelerate import MemberMajorLinear, ReferenceBackbone

tabm = pytest.importorskip("tabm")
accelerate = tnn.accelerate


def swapped(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(untouched copy, accelerated model)"""
    return copy.deepcopy(model), accelerate(model)


def assert_same(expected: nn.Module, got: nn.Module, *inputs, tolerance: float = 1e-11) -> None:
    """Values and gradients in training mode, values in eval mode without gradients."""
    for (key, a), b in zip(
        gradients(expected, *inputs).items(), gradients(got, *inputs).values(), strict=True
    ):
        assert relative_error(b, a) <= tolerance, key
    expected.eval(), got.eval()
    with torch.no_grad():
        assert relative_error(got(*inputs), expected(*inputs)) <= tolerance
    expected.train(), got.train()


class Wrapper(nn.Module):
    """A user's module with a TabM inside, beside things that are not ours."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"net": tabm.TabM.make(**arguments(arch))})
        self.scale = nn.Linear(2, 2)

    def forward(self, x_num, x_cat):
        return self.scale(self.inner["net"](x_num, x_cat))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("nested", [False, True])
def test_package_model(arch, nested):
    model = Wrapper(arch) if nested else tabm.TabM.make(**arguments(arch))
    randomise_(model).double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected, got = swapped(model)
    assert got is model
    assert tuple(name for name, _ in got.named_parameters()) == names
    assert all(a is b for a, b in zip(got.parameters(), parameters, strict=True))
    assert list(got.state_dict()) == list(expected.state_dict())
    assert isinstance(got.inner["net"] if nested else got, tnn.TabM)
    assert_same(expected, got, *batch())
    got.load_state_dict(expected.state_dict())
    expected.load_state_dict(got.state_dict())


@pytest.mark.parametrize("arch", ARCHS)
def test_an_existing_optimiser_trains_on(arch):
    torch.manual_seed(0)
    expected = tabm.TabM.make(**arguments(arch)).double()
    got = copy.deepcopy(expected)
    pairs = [(m, torch.optim.AdamW(m.parameters(), lr=1e-2)) for m in (expected, got)]
    inputs = batch(32)
    for step in range(6):
        if step == 3:
            accelerate(got)  # in the middle, with the optimiser's moments
        for model, optimiser in pairs:
            optimiser.zero_grad()
            (model(*inputs) - 1).square().mean().backward()
            optimiser.step()
    for (key, p), q in zip(expected.named_parameters(), got.parameters(), strict=True):
        assert relative_error(q, p) <= 1e-9, key


def test_a_subclass_of_the_package_s_model_keeps_its_forward():
    class Doubled(tabm.TabM):
        def forward(self, x_num=None, x_cat=None):
            return 2 * super().forward(x_num, x_cat)

    model = randomise_(Doubled.make(**arguments("tabm")))
    model = randomise_(Doubled(**arguments("tabm"), start_scaling_init="normal")).double()
    expected, got = swapped(model)
    assert type(got) is Doubled
    assert isinstance(got.backbone, tnn.MLPBackboneBatchEnsemble)
    assert_same(expected, got, *batch())


@pytest.mark.parametrize("kind", ["LinearBatchEnsemble", "LinearEnsemble"])
def test_single_layers_anywhere(kind):
    options = {"scaling_init": "normal"} if kind == "LinearBatchEnsemble" else {}
    layer = getattr(tabm, kind)(6, 8, k=3, **options)
    model = randomise_(nn.Sequential(layer, nn.Tanh(), tabm.LayerNormEnsemble(8, k=3))).double()
    expected, got = swapped(model)
    assert type(got[0]) is getattr(tnn, kind)
    assert_same(expected, got, torch.randn(5, 3, 6, dtype=torch.float64))


@pytest.mark.parametrize("r", [True, False])
@pytest.mark.parametrize("s", [True, False])
@pytest.mark.parametrize("bias", ["members", "shared", "none"])
def test_older_layer_with_parts_missing(r, s, bias):
    model = nn.Sequential(LinearEfficientEnsemble(6, 8, 3, r, s, bias), nn.ReLU()).double()
    expected, got = swapped(model)
    assert type(got[0]) is tnn.LinearBatchEnsemble
    x = torch.randn(5, 3, 6, dtype=torch.float64)
    assert_same(expected, got, x)
    with torch.autocast("cpu", torch.bfloat16):
        dtypes = [m(x.float()).dtype for m in (expected.float(), got.float())]
    assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize("bias", [True, False])
def test_older_separate_layers(bias):
    expected, got = swapped(nn.Sequential(NLinear(3, 6, 8, bias)).double())
    assert type(got[0]) is tnn.LinearEnsemble
    assert_same(expected, got, torch.randn(5, 3, 6, dtype=torch.float64))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("shared", [True, False])
def test_older_model(arch, shared):
    torch.manual_seed(1)
    model = Model(arch, cardinalities=(), share_training_batches=shared).double()
    parameters = list(model.parameters())
    names = list(model.state_dict())
    expected, got = swapped(model)
    assert type(got) is Model
    assert isinstance(got.backbone, ReferenceBackbone)
    assert list(got.state_dict()) == names
    assert all(a is b for a, b in zip(got.parameters(), parameters, strict=True))
    assert_same(expected, got, torch.randn(10, 4, dtype=torch.float64))
    for twin in (copy.deepcopy(got), pickle.loads(pickle.dumps(got))):
        assert_same(expected, twin, torch.randn(10, 4, dtype=torch.float64))


@pytest.mark.parametrize("arch", ARCHS)
def test_older_model_with_categories_known_and_unknown(arch):
    torch.manual_seed(1)
    expected, got = swapped(Model(arch))
    x_num, x_cat = batch(10, torch.float32)
    x_cat[0, 1] = 5  # the older code's index of an unknown category
    assert_same(expected, got, x_num, x_cat, tolerance=1e-5)


def test_a_copy_of_an_older_model_scales_by_its_own_adapter():
    got = accelerate(Model("tabm-mini", cardinalities=()))
    twin = copy.deepcopy(got)
    x = torch.randn(3, 4)
    before = got(x)
    with torch.no_grad():
        twin.minimal_ensemble_adapter.weight.mul_(2)
    assert torch.equal(got(x), before)
    assert not torch.allclose(twin(x), before)


def test_a_plain_older_model_is_left_alone():
    with pytest.raises(ValueError, match=r"accelerate: model: expected modules of tabm.*in Model"):
        accelerate(Model("plain", k=None))


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 12, 13, 14])
@pytest.mark.parametrize("bias", [True, False])
def test_member_major_layers(rows, bias):
    model = nn.Sequential(
        BatchLinear(6, 8, 3, bias), nn.ReLU(), BatchLinear(8, 2, 3, bias)
    ).double()
    parameters = list(model.parameters())
    expected, got = swapped(model)
    assert isinstance(got[0], MemberMajorLinear)
    assert all(a is b for a, b in zip(got.parameters(), parameters, strict=True))
    if rows < 3:  # BatchLinear itself cannot
        assert got(torch.randn(rows, 6, dtype=torch.float64)).shape == (rows, 2)
        return
    assert_same(expected, got, torch.randn(rows, 6, dtype=torch.float64))


def test_a_class_with_a_known_name_but_another_meaning_is_left_alone():
    class NLinear(nn.Module):
        """(n, out, in) weights: equal shapes when in = out, other values."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, 4))
            self.bias = None

        def forward(self, x):
            return torch.einsum("bni,noi->bno", x, self.weight)

    model = nn.Sequential(NLinear(), tabm.LinearEnsemble(4, 4, k=3))
    x = torch.randn(2, 3, 4)
    expected = model(x)
    accelerate(model)
    assert [type(m).__module__ for m in model] == [__name__, "thrifty.nn.layers"]
    torch.testing.assert_close(model(x), expected)


def test_the_probe_leaves_the_global_generator_and_gradients_alone():
    model = tabm.TabM.make(**arguments("tabm"))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    accelerate(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_hooks_stay():
    model = tabm.TabM.make(**arguments("tabm"))
    seen = []
    model.backbone.blocks[1][0].register_forward_hook(lambda m, args, out: seen.append("linear"))
    model.output.register_forward_hook(lambda m, args, out: seen.append("head"))
    model.backbone.register_forward_hook(lambda m, args, out: seen.append("backbone"))
    accelerate(model)
    seen.clear()
    model(*batch(3, torch.float32))
    assert seen == ["linear", "backbone", "head"]


def test_twice_is_once_and_foreign_models_are_refused():
    model = accelerate(tabm.TabM.make(**arguments("tabm")))
    assert accelerate(model) is model
    assert accelerate(tnn.TabM.make(**arguments("tabm-mini"))).k == 5
    for foreign in (nn.Linear(2, 3), nn.Sequential(ScaleEnsemble(2, 3), nn.ReLU())):
        with pytest.raises(ValueError, match="accelerate: model: expected modules of tabm"):
            accelerate(foreign)


def test_accelerated_inference_is_one_op(monkeypatch):
    from thrifty.nn import fused

    calls = []
    original = fused.batch_ensemble_mlp
    monkeypatch.setattr(
        fused, "batch_ensemble_mlp", lambda *a, **kw: calls.append(kw) or original(*a, **kw)
    )
    got = accelerate(tabm.TabM.make(**arguments("tabm"))).eval()
    with torch.no_grad():
        got(*batch(3, torch.float32))
    assert [call["head_weight"] is not None for call in calls] == [True]
