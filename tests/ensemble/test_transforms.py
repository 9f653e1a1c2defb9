"""The ensemble ops under torch.func, torch.compile, torch.export and on the meta device."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

from helpers import assert_one_graph
from thrifty import batch_ensemble_linear, batch_ensemble_mlp, ensemble_linear
from thrifty.reference.cases import Make, map_tensors
from thrifty.reference.ensemble_cases import layer, network, packed


def make(seed: int = 0) -> Make:
    return Make("cpu", torch.float64, seed)


LAYER = layer(make(), activation="silu")
PACKED = packed(make(), activation="gelu")
OPS = [(batch_ensemble_linear, LAYER), (ensemble_linear, PACKED)]


def call_of(op: Callable, call: dict, **changes: Tensor) -> Tensor:
    return op(**call | changes)


# ---- torch.func


@pytest.mark.parametrize("op, call", OPS)
def test_func_grad_is_autograd(op: Callable, call: dict) -> None:
    weight = call["weight"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(call_of(op, call, weight=weight).square().sum(), weight)
    got = grad(lambda w: call_of(op, call, weight=w).square().sum())(call["weight"])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("op, call", OPS)
def test_gradients_per_sample(op: Callable, call: dict) -> None:
    def loss(weight: Tensor, x: Tensor) -> Tensor:
        return call_of(op, call, weight=weight, x=x.unsqueeze(0)).square().sum()

    got = vmap(grad(loss), (None, 0))(call["weight"], call["x"])
    expected = torch.stack([grad(loss)(call["weight"], x) for x in call["x"]])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("op, call", OPS)
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize("dim", [0, -1])
def test_vmap_over_an_argument(op: Callable, call: dict, name: str, dim: int) -> None:
    values = [call[name], call[name] + 1, call[name] * 2]
    got = vmap(lambda v: call_of(op, call, **{name: v}), in_dims=dim)(torch.stack(values, dim))
    expected = torch.stack([call_of(op, call, **{name: v}) for v in values])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("op, call", OPS)
def test_gradient_through_vmap(op: Callable, call: dict) -> None:
    """z was not asked for, since a batched x does not show that it requires a gradient."""
    x = torch.stack([call["x"], call["x"] - 1])
    got = grad(lambda x: vmap(lambda v: call_of(op, call, x=v))(x).square().sum())(x)
    expected = [grad(lambda v: call_of(op, call, x=v).square().sum())(v) for v in x]
    torch.testing.assert_close(got, torch.stack(expected))


def test_vmap_keeps_each_slice_its_dropout_mask() -> None:
    m = make()
    call = layer(m, dropout=0.5, activation="relu") | {"seed": m.seed()}
    x = torch.stack([call["x"], call["x"] - 1])
    got = vmap(lambda v: batch_ensemble_linear(**call | {"x": v}))(x)
    expected = torch.stack([batch_ensemble_linear(**call | {"x": v}) for v in x])
    torch.testing.assert_close(got, expected)


def test_vmap_of_grouped_rows() -> None:
    call = layer(make(), group=2)
    x = torch.stack([call["x"], call["x"] - 1])  # 5 rows: the members of slice 1 begin anew
    got = vmap(lambda v: batch_ensemble_linear(**call | {"x": v}))(x)
    expected = torch.stack([batch_ensemble_linear(**call | {"x": v}) for v in x])
    torch.testing.assert_close(got, expected)


def test_vmap_over_networks() -> None:
    call = network(make(), head=2)
    x = torch.stack([call["x"], call["x"] - 1])
    got = vmap(lambda v: batch_ensemble_mlp(**call | {"x": v}))(x)
    expected = torch.stack([batch_ensemble_mlp(**call | {"x": v}) for v in x])
    torch.testing.assert_close(got, expected)


def test_jacobian() -> None:
    got = jacrev(lambda b: call_of(batch_ensemble_linear, LAYER, bias=b, activation="none"))(
        LAYER["bias"]
    )
    assert got.shape == (5, 3, 6, 3, 6)
    unit = torch.einsum("jo,jl,op->jolp", LAYER["r_next"], torch.eye(3), torch.eye(6))
    torch.testing.assert_close(got, unit.expand_as(got))


def test_hessian_is_refused() -> None:
    def slope(w: Tensor) -> Tensor:
        return grad(lambda w: call_of(batch_ensemble_linear, LAYER, weight=w).sum())(w).sum()

    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad(slope)(LAYER["weight"])


# ---- compile and export

# None is another size of the calls: the tracer takes equal sizes for one.
BATCHES = (4, 11, 5, 33)


@pytest.mark.parametrize("op, call", OPS)
def test_one_graph_serves_every_batch_size(op: Callable, call: dict) -> None:
    inputs = [(make(b).normal(b, *call["x"].shape[1:]),) for b in BATCHES]
    weight = call["weight"].clone().requires_grad_()
    assert_one_graph(lambda x: call_of(op, call, x=x, weight=weight), inputs, [weight])


def test_one_graph_serves_every_batch_size_of_a_network() -> None:
    call = network(make(), head=2, reduce="mean")
    inputs = [(make(b).normal(b, 7),) for b in BATCHES]
    assert_one_graph(lambda x: batch_ensemble_mlp(**call | {"x": x}), inputs)


def test_compiled_autocast() -> None:
    call = layer(Make("cpu", torch.float32), activation="relu")

    def cast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return batch_ensemble_linear(**call | {"x": x})

    assert_one_graph(cast, [(call["x"],)], dynamic=False)


class Model(torch.nn.Module):
    def __init__(self, op: Callable, call: dict) -> None:
        super().__init__()
        self.op, self.call = op, {name: v for name, v in call.items() if name != "x"}

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x, **self.call)


EXPORTED = [*OPS, (batch_ensemble_mlp, network(make(), head=2, reduce="softmax_mean"))]


@pytest.mark.parametrize("op, call", EXPORTED)
def test_export_with_a_dynamic_batch(op: Callable, call: dict) -> None:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Model(op, call), (call["x"],), dynamic_shapes=shapes)
    native = [node for node in program.graph.nodes if "thrifty" in str(node.target)]
    assert len(native) == 1
    for batch in (1, 4, 17):
        x = make(batch).normal(batch, *call["x"].shape[1:])
        torch.testing.assert_close(program.module()(x), op(**call | {"x": x}), rtol=0, atol=0)


@pytest.mark.compile
def test_inductor_training_step() -> None:
    """Two layers, a drawn dropout seed, backward; in between Inductor's own code."""
    torch.compiler.reset()
    m = Make("cpu", torch.float32)
    first, second = layer(m, shared=True), layer(m, n_in=6, shared=False, vectors=("s", "bias"))
    leaves = [first["weight"].requires_grad_(), second["weight"].requires_grad_()]

    def network_of(x: Tensor, dropout: float) -> Tensor:
        h = batch_ensemble_linear(**first | {"x": x}, activation="relu", dropout=dropout)
        return (batch_ensemble_linear(**second | {"x": h}) * 2 + 1).tanh()

    compiled = torch.compile(network_of, fullgraph=True)
    out, expected = compiled(first["x"], 0.0), network_of(first["x"], 0.0)
    torch.testing.assert_close(out, expected)
    for got, right in zip(torch.autograd.grad(out.sum(), leaves),
                          torch.autograd.grad(expected.sum(), leaves), strict=True):  # fmt: skip
        torch.testing.assert_close(got, right)
    masks = [compiled(first["x"], 0.5) for _ in range(2)]
    assert not torch.equal(*masks)
    torch.autograd.grad(masks[0].sum(), leaves)


@pytest.mark.parametrize("op, call", EXPORTED)
def test_meta_device_gives_shapes(op: Callable, call: dict) -> None:
    out = op(**map_tensors(lambda t: t.to("meta"), call))
    assert out.device.type == "meta"
    assert out.shape == op(**call).shape


def test_functional_call_of_a_module() -> None:
    """A module's parameters replaced by others, as torch.func does with ensembles of models."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(LAYER["weight"].clone())

        def forward(self, x: Tensor) -> Tensor:
            return call_of(batch_ensemble_linear, LAYER, weight=self.weight, x=x)

    module = Layer()
    other = {"weight": torch.stack([LAYER["weight"], -LAYER["weight"]])}
    got = vmap(lambda p: functional_call(module, p, (LAYER["x"],)))(other)
    torch.testing.assert_close(got[0], module(LAYER["x"]))
