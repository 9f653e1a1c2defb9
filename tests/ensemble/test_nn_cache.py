"""Packed weights are used again while nothing changed, and never after something did."""

import copy
import pickle

import pytest
import torch
from nn_models import arguments, batch, pair, randomise_, relative_error

import thrifty.nn as tnn
from thrifty.nn import cache as cache_module

tabm = pytest.importorskip("tabm")

INPUTS = batch(9, torch.float32)


@pytest.fixture
def packs(monkeypatch):
    """Counts calls of pack_weight, which still runs."""
    calls = []

    def counted(weight):
        calls.append(weight)
        return original(weight)

    original = cache_module.pack_weight
    monkeypatch.setattr(cache_module, "pack_weight", counted)
    return calls


def fresh(model: torch.nn.Module) -> torch.Tensor:
    """What the model's parameters give without any cache: the package's own result."""
    package = tabm.TabM.make(**arguments("tabm", d_block=model.backbone.blocks[0][0].out_features))
    package.load_state_dict({name: p.float() for name, p in model.state_dict().items()})
    with torch.no_grad():
        return package.eval()(*INPUTS)


@torch.no_grad()
def check(model: torch.nn.Module, tolerance: float = 2e-6) -> None:
    inputs = (INPUTS[0].to(model.output.weight.dtype), INPUTS[1])
    assert relative_error(model(*inputs), fresh(model)) <= tolerance


@pytest.fixture
def model():
    # 64 wide: entries are compared in every fourth row and column, not (1, 2) and (-1, -1).
    ours = pair("tabm", torch.float32, d_block=64)[1].eval()
    check(ours)  # fills the cache
    return ours


def backward(model: torch.nn.Module) -> None:
    """Gradients without a forward of the model itself, which would clear its packs."""
    twin = copy.deepcopy(model)
    twin(*INPUTS).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad = q.grad


def test_packs_are_made_once(packs):
    model = pair("tabm", torch.float32)[1].eval()
    for _ in range(3):
        check(model)
    assert len(packs) == 3


def test_mini_uses_packs_too(packs):
    package, ours = (m.eval() for m in pair("tabm-mini", torch.float32))
    with torch.no_grad():
        for _ in range(2):
            assert relative_error(ours(*INPUTS), package(*INPUTS)) <= 2e-6
    assert len(packs) == 3


def test_only_the_changed_layer_is_packed_again(model, packs):
    with torch.no_grad():
        model.backbone.blocks[1][0].weight.mul_(3)
    check(model)
    assert len(packs) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fused": True},  # fused optimisers do not raise the version counter
        {"foreach": True},
        {"foreach": False},
    ],
)
def test_optimiser_step(model, options):
    backward(model)
    torch.optim.AdamW(model.parameters(), lr=0.1, **options).step()
    check(model)


def test_training_step_as_users_write_it(model):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        model.train()
        model(*INPUTS).square().mean().backward()
        optimiser.step()
        model.eval()
        check(model)


@pytest.mark.parametrize("name", ["weight", "r", "s", "bias"])
def test_in_place_edits(model, name):
    parameter = getattr(model.backbone.blocks[1][0], name)
    with torch.no_grad():
        parameter.mul_(2)
    check(model)
    with torch.no_grad():
        parameter[1, 2] = 30.0
    check(model)
    with torch.inference_mode():
        parameter.add_(1)
    check(model)


@pytest.mark.parametrize(
    "edit", [lambda p: p.data.mul_(2), lambda p: p.detach().numpy().__imul__(2)]
)
def test_edits_behind_the_version_counter(model, edit):
    edit(model.backbone.blocks[1][0].weight)
    check(model)


def forward_with_gradients(model: torch.nn.Module) -> None:
    model(*INPUTS)


@pytest.mark.parametrize(
    "event",
    [
        lambda model: model.backbone.clear_cache(),
        lambda model: model.train().eval(),
        lambda model: model.to("cpu"),
        forward_with_gradients,
    ],
)
def test_an_edit_that_nothing_shows_is_seen_after_these(model, event):
    """One entry through .data: neither counted nor compared."""
    weight = model.backbone.blocks[1][0].weight
    before = fresh(model)
    weight.data[-1, -1] = 50.0
    with torch.no_grad():
        assert relative_error(model(*INPUTS), before) <= 2e-6  # the documented limit
    event(model)
    check(model)
    assert relative_error(fresh(model), before) > 1e-3


def test_new_tensors_in_place_of_old_ones(model):
    for block in model.backbone.blocks:
        old = block[0].weight
        block[0].weight = torch.nn.Parameter(old.detach() * 2)
    check(model)
    for _ in range(4):  # freed and allocated again: addresses may repeat
        weight = model.backbone.blocks[1][0].weight
        weight.data = torch.randn_like(weight) / 5
        check(model)


def test_load_state_dict(model):
    other = randomise_(pair("tabm", torch.float32, d_block=64)[1], seed=9)
    model.load_state_dict(other.state_dict())
    check(model)
    model.load_state_dict(
        {name: p.clone() for name, p in randomise_(other, seed=10).state_dict().items()},
        assign=True,
    )
    check(model)


def test_change_of_dtype(model):
    model.bfloat16()
    check(model, 0.1)
    with torch.no_grad():
        got = model(INPUTS[0].bfloat16(), INPUTS[1])
    assert got.dtype == torch.bfloat16
    check(model.double(), 2e-6)


def test_autocast_and_full_precision_in_turn(model):
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rounded = model(*INPUTS)
            assert torch.equal(rounded, copy.deepcopy(model)(*INPUTS))
        assert 1e-5 < relative_error(rounded, fresh(model)) < 0.1
        check(model)


def test_copies_have_their_own_packs(model):
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    with torch.no_grad():
        for weight in (b[0].weight for b in copies[0].backbone.blocks):
            weight.mul_(2)
    for each in [*copies, model]:
        check(each)
    assert copies[0].backbone._packed is not model.backbone._packed
    assert len(pickle.dumps(model)) == len(pickle.dumps(copy.deepcopy(model)))


def test_weights_made_in_inference_mode_are_never_kept(packs):
    """Such tensors have no version counter."""
    with torch.inference_mode():
        model = randomise_(tnn.TabM.make(**arguments("tabm"))).eval()
        for scale in (1.0, 2.0):
            for block in model.backbone.blocks:
                block[0].weight.mul_(scale)
            expected = fresh(model)
            assert relative_error(model(*INPUTS), expected) <= 2e-6
    assert not packs


def test_inference_mode_with_ordinary_weights(model, packs):
    with torch.inference_mode():
        for scale in (1.0, 2.0):
            for block in model.backbone.blocks:
                block[0].weight.mul_(scale)
            assert relative_error(model(*INPUTS), fresh(model)) <= 2e-6
    check(model)


def test_gradients_do_not_go_through_the_packed_path(model):
    assert not model.predict(*INPUTS).requires_grad
    out = model(*INPUTS)
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_stacked_models_under_vmap():
    models = [randomise_(pair("tabm")[1], seed=i).eval() for i in range(2)]
    parameters, buffers = torch.func.stack_module_state(models)
    inputs = batch(3)

    def call(p, b):
        return torch.func.functional_call(models[0], (p, b), inputs)

    with torch.no_grad():
        got = torch.func.vmap(call)(parameters, buffers)
        for i, each in enumerate(models):
            assert relative_error(got[i], each(*inputs)) <= 1e-12
