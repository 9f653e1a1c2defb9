"""TabM under export, torch.compile and torch.func."""

import copy

import pytest
import torch
from nn_models import ARCHS, batch, gradients, pair, relative_error

pytest.importorskip("tabm")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()  # all models share one forward, and so its limit of recompilations


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("grad", [True, False])
def test_export_with_a_dynamic_batch(arch, grad):
    package, ours = (m.eval() for m in pair(arch))
    rows = torch.export.Dim("rows", min=1, max=4096)
    with torch.set_grad_enabled(grad):
        program = torch.export.export(ours, batch(7), dynamic_shapes=({0: rows}, {0: rows}))
    for n in (1, 2, 33):
        assert relative_error(program.module()(*batch(n)), package(*batch(n))) <= 1e-12


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("grad", [True, False])
def test_one_graph_serves_all_batches(arch, grad):
    package, ours = pair(arch)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(ours.train(grad), backend=count, fullgraph=True, dynamic=True)
    with torch.set_grad_enabled(grad):
        for rows in (7, 3, 9, 33):
            assert relative_error(compiled(*batch(rows)), package(*batch(rows))) <= 1e-12
    assert len(graphs) == 1


@pytest.mark.compile
@pytest.mark.parametrize("arch", ARCHS)
def test_inductor_gives_the_values_and_gradients_of_eager(arch):
    _, ours = pair(arch, torch.float32)
    inputs = batch(16, torch.float32)
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True)
    expected, got = gradients(ours, *inputs), gradients(compiled, *inputs)
    for key, gradient in expected.items():
        assert relative_error(got["_orig_mod." + key], gradient) <= 1e-5, key
    with torch.no_grad():
        assert relative_error(compiled.eval()(*inputs), ours.eval()(*inputs)) <= 1e-6


@pytest.mark.compile
def test_inductor_draws_new_masks_each_call():
    _, ours = pair("tabm", torch.float32, dropout=0.5)
    compiled = torch.compile(ours, fullgraph=True)
    inputs = batch(16, torch.float32)
    torch.manual_seed(0)
    first, second = compiled(*inputs), compiled(*inputs)
    torch.manual_seed(0)
    assert torch.equal(compiled(*inputs), first)
    assert not torch.equal(first, second)


def test_a_compiled_model_sees_new_weights():
    package, ours = (m.eval() for m in pair("tabm"))
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled(*batch())
        for model in (package, ours):
            for parameter in model.parameters():
                parameter.mul_(1.5)
        assert relative_error(compiled(*batch()), package(*batch())) <= 1e-12


@pytest.mark.parametrize("arch", ARCHS)
def test_functional_call_with_gradients(arch):
    package, ours = pair(arch)
    x_num, x_cat = batch()

    def loss(parameters, model):
        return torch.func.functional_call(model, parameters, (x_num, x_cat)).square().mean()

    expected = torch.func.grad(loss)(dict(package.named_parameters()), package)
    got = torch.func.grad(loss)(dict(ours.named_parameters()), ours)
    for key, gradient in expected.items():
        assert relative_error(got[key], gradient) <= 1e-11, key


@pytest.mark.parametrize("arch", ARCHS)
def test_gradients_per_sample(arch):
    _, ours = pair(arch)
    x_num, x_cat = batch(3)
    parameters = dict(ours.named_parameters())

    def loss(parameters, num, cat):
        out = torch.func.functional_call(ours, parameters, (num[None], cat[None]))
        return out.square().mean()

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x_num, x_cat)
    for i in range(3):
        expected = torch.func.grad(loss)(parameters, x_num[i], x_cat[i])
        for key, gradient in expected.items():
            assert relative_error(got[key][i], gradient) <= 1e-11, key
