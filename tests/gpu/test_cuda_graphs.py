"""The ops inside a CUDA graph: captured once, replayed with other values in the same memory."""

import pytest
import torch

import thrifty
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

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # lazy initialisation is not for capturing
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()

    for seed in (5, 6):
        with torch.no_grad():
            torch.manual_seed(seed)
            leaves[0].copy_(torch.randn_like(leaves[0]))
            options["seed"][1] = seed  # another mask: the kernels read the seed on the device
        graph.replay()
        got = [t.clone() for t in captured]
        for have, want in zip(got, step(), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=0)
