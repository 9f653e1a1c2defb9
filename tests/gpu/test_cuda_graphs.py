"""The ops inside a CUDA graph: captured once, replayed with other values in the same memory."""

import pytest
import torch

import thrifty
from helpers import capture
from thrifty.selfcheck import devices

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in devices(), reason="no GPU that the CUDA kernels can use"),
]


def layer(dropout: float) -> tuple[dict, list[torch.Tensor]]:
    torch.manual_seed(0)
    k, n_in, n_out = 4, 72, 136
    shapes = ((130, n_in), (n_out, n_in), (k, n_in), (k, n_out), (k, n_out))
    tensors = [torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in shapes]
    seed = torch.tensor([3, 0], device="cuda")
    return {"activation": "relu", "dropout": dropout, "seed": seed}, tensors


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_replay_of_forward_and_backward(dropout: float) -> None:
    options, tensors = layer(dropout)
    leaves = [t.requires_grad_() for t in tensors]

    def step() -> tuple[torch.Tensor, ...]:
        out = thrifty.batch_ensemble_linear(*leaves, **options)
        return out, *torch.autograd.grad(out.float().square().sum(), leaves)

    graph, captured = capture(step)

    for seed in (5, 6):
        with torch.no_grad():
            torch.manual_seed(seed)
            leaves[0].copy_(torch.randn_like(leaves[0]))
            options["seed"][1] = seed  # another mask: the kernels read the seed on the device
        graph.replay()
        got = [t.clone() for t in captured]
        for have, want in zip(got, step(), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=0)


def test_replay_of_experts_with_other_routings() -> None:
    torch.manual_seed(0)
    tokens, experts, hidden, inner, top_k = 40, 6, 72, 40, 2
    x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    logits = torch.randn(tokens, experts, device="cuda")
    w1 = torch.randn(experts, 2 * inner, hidden, device="cuda", dtype=torch.bfloat16) / 8
    w2 = torch.randn(experts, hidden, inner, device="cuda", dtype=torch.bfloat16) / 6
    leaves = [x.requires_grad_(), w1.requires_grad_(), w2.requires_grad_()]

    def step() -> tuple[torch.Tensor, ...]:
        weights, ids = thrifty.moe_route(logits, top_k, renorm=True)
        out = thrifty.moe_mlp(x, w1, w2, ids, weights)
        return out, *torch.autograd.grad(out.float().square().sum(), leaves)

    graph, captured = capture(step)

    for shift in (0.0, 100.0):  # any expert, then all tokens to the first two
        with torch.no_grad():
            logits.copy_(torch.randn_like(logits))
            logits[:, :top_k] += shift
        graph.replay()
        got = [t.clone() for t in captured]
        for have, want in zip(got, step(), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=0)
