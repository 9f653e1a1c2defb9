"""TabM networks for the bench: parameters, steps, the bare GEMM floor, bytes that autograd keeps.

One set of random parameters, in the names of the `tabm` package, feeds every implementation and the
float64 oracle. All of r, s and bias are random: the package starts deep layers at r = s = 1 and all
members at one bias, where a swapped or forgotten vector changes nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.harness import DTYPES, Impl
from bench.peers import require


@dataclass
class Network:
    """TabM's default shape unless said otherwise: k = 32, three blocks of 512, one output."""

    batch: int
    dtype: str
    arch: str = "tabm"
    d_in: int = 100
    d: int = 512
    blocks: int = 3
    k: int = 32
    dropout: float = 0.1
    params: dict[str, Tensor] = field(default_factory=dict, repr=False)
    x: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    grad: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(in, out) of the hidden layers."""
        return [(self.d_in, self.d)] + [(self.d, self.d)] * (self.blocks - 1)

    @property
    def forward_flops(self) -> float:
        hidden = sum(2 * n_in * n_out for n_in, n_out in self.layers)
        return self.batch * self.k * (hidden + 2 * self.d)

    def bytes(self, training: bool) -> float:
        """Inference may keep activations in cache: x, parameters, output. Training cannot.

        Per layer, forward reads u, writes z and the next u; backward reads dz for each of its two
        GEMMs, z and u, and writes the next dz: eight activations of batch * k * d.
        """
        size = DTYPES[self.dtype].itemsize
        copies = self.k if self.arch == "tabm-packed" else 1
        weights = copies * sum(n_in * n_out for n_in, n_out in self.layers)
        once = self.batch * self.d_in + weights + self.batch * self.k
        activations = 8 * self.blocks * self.batch * self.k * self.d if training else 0
        return size * (once + activations)

    def fill(self, device: torch.device) -> "Network":
        """Draws parameters and data, rounded to dtype once, so that all start from equal bits."""
        generator = torch.Generator().manual_seed(1)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            drawn = torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=generator)
            return drawn.to(device, DTYPES[self.dtype])

        def scaling(*shape: int) -> Tensor:
            # magnitudes around one, both signs: activations neither grow nor vanish with depth
            return uniform(0.5, 1.5, *shape) * torch.sign(uniform(-1.0, 1.0, *shape))

        if self.arch == "tabm-mini":
            self.params["backbone.affine.weight"] = scaling(self.k, self.d_in)
        for i, (n_in, n_out) in enumerate(self.layers):
            bound, name = math.sqrt(3.0 / n_in), f"backbone.blocks.{i}.0"
            packed = self.arch == "tabm-packed"
            shape = (self.k, n_in, n_out) if packed else (n_out, n_in)
            self.params[f"{name}.weight"] = uniform(-bound, bound, *shape)
            if self.arch == "tabm":
                self.params[f"{name}.r"] = scaling(self.k, n_in)
                self.params[f"{name}.s"] = scaling(self.k, n_out)
            bias = (n_out,) if self.arch == "tabm-mini" else (self.k, n_out)
            self.params[f"{name}.bias"] = uniform(-0.5, 0.5, *bias)
        bound = math.sqrt(3.0 / self.d)
        self.params["output.weight"] = uniform(-bound, bound, self.k, self.d, 1)
        self.params["output.bias"] = uniform(-0.5, 0.5, self.k, 1)
        self.x = uniform(-1.7, 1.7, self.batch, self.d_in)
        self.grad = uniform(-1.0, 1.0, self.batch, self.k, 1)
        return self

    def model(self, library: str, dropout: float) -> torch.nn.Module:
        """`TabM` of a library (`tabm` or `thrifty.nn`) with these parameters."""
        model = require(library).TabM.make(
            n_num_features=self.d_in,
            d_out=1,
            n_blocks=self.blocks,
            d_block=self.d,
            k=self.k,
            arch_type=self.arch,
            dropout=dropout,
        )
        model.to(self.x.device, self.x.dtype).load_state_dict(self.params)
        return model


def infer(model: Callable[[Tensor], Tensor], net: Network) -> Tensor:
    with torch.inference_mode():
        return model(net.x)


def train_step(model: torch.nn.Module, net: Network) -> list[Tensor]:
    """Forward and backward; the output, then the gradients in the order of net.params."""
    named = dict(model.named_parameters())
    out = model(net.x)
    return [out, *torch.autograd.grad(out, [named[name] for name in net.params], net.grad)]


def oracle(net: Network, training: bool) -> list[Tensor]:
    """The definition, in float64 on the same rounded parameters, without dropout."""
    reference = require("thrifty.reference.ensemble")
    p = {name: value.double().requires_grad_(training) for name, value in net.params.items()}
    h = net.x.double()
    if net.arch != "tabm":
        h = h[:, None, :].expand(-1, net.k, -1)
    if net.arch == "tabm-mini":
        h = h * p["backbone.affine.weight"]
    for i in range(net.blocks):
        name = f"backbone.blocks.{i}.0"
        weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        if net.arch == "tabm-packed":
            h = reference.ensemble_linear(h, weight, bias, "relu")
        else:
            r, s = p.get(f"{name}.r"), p.get(f"{name}.s")
            h = reference.batch_ensemble_linear(h, weight, r, s, bias, "relu")
    out = reference.ensemble_linear(h, p["output.weight"], p["output.bias"])
    if not training:
        return [out]
    return [out.detach(), *torch.autograd.grad(out, list(p.values()), net.grad.double())]


def gemm_floor(net: Network, training: bool) -> Impl:
    """Nothing but the hidden layers' GEMMs, into memory that already exists.

    Training adds dW and dX of every layer; also the first layer's dX, which autograd needs for r.
    """
    device, dtype = net.x.device, net.x.dtype
    batch_first = net.arch == "tabm-packed"
    rows = (net.k, net.batch) if batch_first else (net.batch * net.k,)
    copies = (net.k,) if batch_first else ()
    multiply = torch.bmm if batch_first else torch.mm

    def fresh(*shape: int) -> Tensor:
        return torch.rand(shape, device=device).sub_(0.5).to(dtype)

    widths = [net.d_in] + [net.d] * net.blocks
    u, g = ([fresh(*rows, width) for width in widths] for _ in range(2))
    weights = [fresh(*copies, n_out, n_in) / n_in**0.5 for n_in, n_out in net.layers]
    d_weights = [torch.empty_like(weight) for weight in weights]

    def call() -> None:
        for i, weight in enumerate(weights):
            multiply(u[i], weight.mT, out=u[i + 1])
        for i in reversed(range(len(weights) if training else 0)):
            multiply(g[i + 1].mT, u[i], out=d_weights[i])
            multiply(g[i + 1], weights[i], out=g[i])

    return Impl(call, compared=False)


def saved_bytes(model: torch.nn.Module, net: Network) -> dict[str, float]:
    """Bytes that autograd keeps from forward to backward, beyond parameters and input."""
    owned = {t.untyped_storage().data_ptr() for t in (net.x, *model.parameters())}
    kept: dict[int, int] = {}
    alive = []  # a freed storage's address could be reused and counted once for two tensors

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(net.x)
    return {"saved_bytes": float(sum(kept.values()))}
