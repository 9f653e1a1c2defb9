"""The `tabm` package, eager and under torch.compile: what a TabM user runs today."""

import torch

from bench.ensemble_networks import Network, infer, saved_bytes, train_step
from bench.harness import Impl
from bench.peers import require


def infer_eager(net: Network):
    model = net.model("tabm", 0.0).eval()
    return lambda: infer(model, net)


def infer_compiled(net: Network):
    model = torch.compile(net.model("tabm", 0.0).eval(), dynamic=False)

    def call() -> torch.Tensor:
        with torch.no_grad():  # as upstream does: compiled code and inference_mode do not mix
            return model(net.x)

    return call


def train_eager(net: Network) -> Impl:
    model, exact = net.model("tabm", net.dropout), net.model("tabm", 0.0)
    return Impl(
        lambda: train_step(model, net),
        check=lambda: train_step(exact, net),
        figures=lambda: saved_bytes(model, net),
    )


def train_compiled(net: Network) -> Impl:
    model, exact = net.model("tabm", net.dropout), net.model("tabm", 0.0)
    for module in (model, exact):
        module.compile(dynamic=False)
    return Impl(lambda: train_step(model, net), check=lambda: train_step(exact, net))


def packed_linear(weight: torch.Tensor, bias: torch.Tensor) -> torch.nn.Module:
    layer = require("tabm").LinearEnsemble(*weight.shape[1:], k=weight.shape[0])
    layer.to(weight.device, weight.dtype).load_state_dict({"weight": weight, "bias": bias})
    return layer
