"""Cases of the ensemble family: TabM networks (inference, training step) and the single ops.

Networks are TabM's default (k = 32, three blocks of 512, 100 inputs, one output) unless a dim says
otherwise. The training step is forward and backward with dropout 0.1; implementations are compared
with dropout off, since each library draws masks of its own. Peers: the `tabm` package, eager and
compiled; floor: the bare GEMMs of the same shapes with preallocated outputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.bars import Bar
from bench.ensemble_networks import (
    Network,
    gemm_floor,
    infer,
    oracle,
    saved_bytes,
    train_step,
)
from bench.harness import DTYPES, Case, Impl
from bench.peers import require, tabm


def infer_thrifty(net: Network):
    model = net.model("thrifty.nn", 0.0).eval()
    return lambda: infer(model, net)


def train_thrifty(net: Network) -> Impl:
    model, exact = net.model("thrifty.nn", net.dropout), net.model("thrifty.nn", 0.0)
    return Impl(
        lambda: train_step(model, net),
        check=lambda: train_step(exact, net),
        figures=lambda: saved_bytes(model, net),
    )


def network(op: str, batch: int, dtype: str, tier: int, **dims) -> Case:
    """`op` is <tabm|tabm_mini|tabm_packed>_<infer|train>; `dims` say what is not the default."""
    training = op.endswith("_train")
    arch = op.rsplit("_", 1)[0].replace("_", "-")
    shape = Network(batch, dtype, arch, **dims)
    return Case(
        op=op,
        dims={"B": batch, **dims},
        dtype=dtype,
        setup=lambda device: Network(batch, dtype, arch, **dims).fill(device),
        impls={
            "thrifty": train_thrifty if training else infer_thrifty,
            "eager": tabm.train_eager if training else tabm.infer_eager,
            "compile": tabm.train_compiled if training else tabm.infer_compiled,
            "gemm": lambda net: gemm_floor(net, training),
        },
        oracle=lambda net: oracle(net, training),
        bytes=shape.bytes(training),
        flops=shape.forward_flops * (3 if training else 1),
        gradients=training,
        tier=tier,
        size="B",
    )


@dataclass
class Layer:
    """Arguments of one layer with everything on: r, s, bias per member, ReLU."""

    x: Tensor  # (B, in) shared by the members, or (B, k, in)
    weight: Tensor
    r: Tensor
    s: Tensor
    bias: Tensor
    grad: Tensor

    def args(self) -> tuple[Tensor, ...]:
        return self.x, self.weight, self.r, self.s, self.bias

    def double(self) -> "Layer":
        return Layer(*(tensor.double() for tensor in (*self.args(), self.grad)))


def layer_setup(batch: int, n_in: int, n_out: int, k: int, dtype: str, shared: bool):
    def setup(device: torch.device) -> Layer:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device=device).to(DTYPES[dtype])

        x = normal(batch, n_in) if shared else normal(batch, k, n_in)
        weight = normal(n_out, n_in) / n_in**0.5
        return Layer(x, weight, normal(k, n_in), normal(k, n_out), normal(k, n_out),
                     normal(batch, k, n_out))  # fmt: skip

    return setup


REFERENCE = "thrifty.reference.ensemble"


def forward_of(library: str, compiled: bool = False):
    """A factory that calls a library's op(x, weight, r, s, bias, "relu") without gradients."""

    def factory(layer: Layer):
        op = require(library).batch_ensemble_linear
        if compiled:
            op = torch.compile(op, dynamic=False)

        def call() -> Tensor:
            with torch.no_grad():
                return op(*layer.args(), "relu")

        return call

    return factory


def backward_of(library: str):
    """A factory that runs the backward pass alone, again and again on one graph."""

    def factory(layer: Layer):
        args = [tensor.detach().clone().requires_grad_() for tensor in layer.args()]
        out = require(library).batch_ensemble_linear(*args, "relu")
        return lambda: torch.autograd.grad(out, args, layer.grad, retain_graph=True)

    return factory


def layer_floor(backward: bool):
    def factory(layer: Layer) -> Impl:
        batch, k, n_out = layer.grad.shape
        u = torch.rand(batch * k, layer.weight.shape[1], device=layer.x.device).to(layer.x.dtype)
        g, weight = layer.grad.reshape(batch * k, n_out), layer.weight
        out, d_u, d_weight = torch.empty_like(g), torch.empty_like(u), torch.empty_like(weight)

        def forward_call() -> None:
            torch.mm(u, weight.t(), out=out)

        def backward_call() -> None:
            torch.mm(g.t(), u, out=d_weight)
            torch.mm(g, weight, out=d_u)

        return Impl(backward_call if backward else forward_call, compared=False)

    return factory


def linear(op: str, batch: int, n_in: int, d: int, dtype: str, tier: int) -> Case:
    """batch_ensemble_linear_{fwd,bwd}, with an x that all members share where in != d.

    Eager is the definition in plain torch.
    """
    k, backward, shared = 32, op.endswith("_bwd"), n_in != d
    timed, passes = (backward_of, 2) if backward else (forward_of, 1)
    impls = {"thrifty": timed("thrifty"), "eager": timed(REFERENCE), "gemm": layer_floor(backward)}
    if not backward:
        impls["compile"] = forward_of(REFERENCE, compiled=True)
    x_rows = batch if shared else batch * k
    return Case(
        op=op + ("_shared" if shared else ""),
        dims={"B": batch, "in": n_in, "d": d} if shared else {"B": batch, "d": d},
        dtype=dtype,
        setup=layer_setup(batch, n_in, d, k, dtype, shared),
        impls=impls,
        oracle=lambda layer: timed(REFERENCE)(layer.double())(),
        # forward: x, weight -> out; backward: grad, z, x, weight -> dx, dweight
        bytes=DTYPES[dtype].itemsize * passes * (x_rows * n_in + batch * k * d + n_in * d),
        flops=2 * passes * batch * k * n_in * d,
        gradients=backward,
        tier=tier,
        size="in" if shared else "d",
    )


def packed(batch: int, d: int, dtype: str, tier: int) -> Case:
    """ensemble_linear: k separate weights, so a batched GEMM."""
    k = 32

    def setup(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        shapes = ((batch, k, d), (k, d, d), (k, d))
        x, weight, bias = (torch.randn(shape, device=device).to(DTYPES[dtype]) for shape in shapes)
        return x, weight / d**0.5, bias

    def eager(state):
        module = tabm.packed_linear(*state[1:])
        with torch.inference_mode():
            return lambda: torch.relu(module(state[0]))

    def thrifty(state):
        op = require("thrifty").ensemble_linear
        return lambda: op(*state, "relu")

    def floor(state) -> Impl:
        x, weight = state[0].transpose(0, 1).contiguous(), state[1]
        out = torch.empty(k, batch, d, dtype=x.dtype, device=x.device)
        return Impl(lambda: torch.bmm(x, weight, out=out), compared=False)

    def exact(state) -> Tensor:
        op = require(REFERENCE).ensemble_linear
        return op(*(tensor.double() for tensor in state), "relu")

    return Case(
        op="ensemble_linear_fwd",
        dims={"B": batch, "d": d},
        dtype=dtype,
        setup=setup,
        impls={"thrifty": thrifty, "eager": eager, "gemm": floor},
        oracle=exact,
        bytes=DTYPES[dtype].itemsize * (2 * batch * k * d + k * d * d),
        flops=2 * batch * k * d * d,
        tier=tier,
        size="d",
    )


def mlp(batch: int, dtype: str, tier: int) -> Case:
    """batch_ensemble_mlp: the whole network and the mean over members in one call."""
    net = Network(batch, dtype)

    def call_of(library: str):
        def factory(state: Network):
            op = require(library).batch_ensemble_mlp
            names = [f"backbone.blocks.{i}.0" for i in range(state.blocks)]
            lists = [
                [state.params[f"{name}.{part}"] for name in names]
                for part in ("weight", "r", "s", "bias")
            ]
            head = {key: state.params[f"output.{key[5:]}"] for key in ("head_weight", "head_bias")}

            def call() -> Tensor:
                with torch.inference_mode():
                    return op(state.x, *lists, reduce="mean", **head)

            return call

        return factory

    return Case(
        op="batch_ensemble_mlp",
        dims={"B": batch},
        dtype=dtype,
        setup=lambda device: Network(batch, dtype).fill(device),
        impls={
            "thrifty": call_of("thrifty"),
            "eager": call_of(REFERENCE),
            "gemm": lambda state: gemm_floor(state, training=False),
        },
        oracle=lambda state: oracle(state, training=False)[0].mean(1),
        bytes=net.bytes(training=False),
        flops=net.forward_flops,
        tier=tier,
        size="B",
    )


def cases(device: torch.device) -> list[Case]:
    listed = []
    for dtype in ("fp32", "bf16"):
        fwd, bwd = "batch_ensemble_linear_fwd", "batch_ensemble_linear_bwd"
        listed += [network("tabm_infer", b, dtype, 0 if b <= 32 else 1) for b in (1, 32, 256, 1024)]
        listed += [network("tabm_train", b, dtype, 0 if b <= 8 else 1) for b in (8, 32, 256, 1024)]
        listed += [network(f"tabm_{a}_infer", 32, dtype, 1) for a in ("mini", "packed")]
        listed += [network(f"tabm_{a}_train", 256, dtype, 2) for a in ("mini", "packed")]
        listed += [network("tabm_infer", 256, dtype, 2, d=d) for d in (128, 256, 960)]
        listed += [network("tabm_infer", 256, dtype, 2, d_in=d_in) for d_in in (8, 1600)]
        listed += [network("tabm_infer", 256, dtype, 2, blocks=blocks) for blocks in (2, 5)]
        listed += [network("tabm_infer", 256, dtype, 2, k=8), network("tabm_infer", 4096, dtype, 2)]
        listed += [network("tabm_train", 256, dtype, 2, d=d) for d in (128, 256, 960)]
        listed += [network("tabm_train", 256, dtype, 2, dropout=0)]
        listed += [mlp(b, dtype, 0 if b == 1 else 1) for b in (1, 32, 256)]
        for d in (128, 256, 512, 960):
            listed.append(linear(fwd, 64, d, d, dtype, 0 if d == 128 else 1))
            listed.append(linear(bwd, 64, d, d, dtype, 0 if d == 128 else 1))
        for n_in in (8, 100, 1600):
            listed.append(linear(fwd, 64, n_in, 512, dtype, 1))
            listed.append(linear(bwd, 64, n_in, 512, dtype, 2))
        listed += [packed(64, d, dtype, 0 if d == 128 else 1) for d in (128, 256, 512)]
    return listed


INFER, TRAIN = "tabm_infer/B={}/{}", "tabm_train/B={}/{}"
USUAL = ("eager", "compile")  # the better of the two

BARS = (
    Bar("inference bf16 over bare GEMMs", INFER.format(1024, "bf16"), "thrifty", "gemm", 1.3),
    Bar("inference fp32 over bare GEMMs", INFER.format(1024, "fp32"), "thrifty", "gemm", 1.2),
    Bar("inference bf16, compile over thrifty", INFER.format(1024, "bf16"), "compile", "thrifty",
        at_least=1.7),
    Bar("inference bf16, eager over thrifty", INFER.format(1024, "bf16"), "eager", "thrifty",
        at_least=3.0),
    Bar("inference fp32 B=1, eager over thrifty", INFER.format(1, "fp32"), "eager", "thrifty",
        at_least=2.0),
    Bar("training bf16 over bare GEMMs", TRAIN.format(1024, "bf16"), "thrifty", "gemm", 1.6),
    Bar("training bf16, best of eager and compile over thrifty", TRAIN.format(1024, "bf16"),
        USUAL, "thrifty", at_least=3.5),
    Bar("training fp32, best of eager and compile over thrifty", TRAIN.format(1024, "fp32"),
        USUAL, "thrifty", at_least=1.6),
    Bar("training bf16 B=256, best of eager and compile over thrifty", TRAIN.format(256, "bf16"),
        USUAL, "thrifty", at_least=3.0),
    Bar("training bf16, bytes saved for backward", TRAIN.format(1024, "bf16"), "thrifty",
        at_most=210e6, value="saved_bytes"),
    Bar("inference fp32, error", INFER.format(1024, "fp32"), "thrifty", at_most=2e-6,
        value="error"),
    Bar("inference bf16, error over eager's", INFER.format(1024, "bf16"), "thrifty", "eager", 1.1,
        value="error"),
)  # fmt: skip
