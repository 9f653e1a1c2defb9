"""Which keys attention looks at, on CUDA beside the CPU: the same, but for products that tie."""

import pytest
import torch
from torch import Tensor

import thrifty
from helpers import capture
from thrifty.reference.attention_plan import bucket_count
from thrifty.selfcheck import devices

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in devices(), reason="no GPU that the CUDA kernels can use"),
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of 16-bit rows, products with a direction are off by some 2^-17 |x|: one row of 10^4 may have its
# two best ones closer than that. Centroids move with their members, so a little more.
DIFFER = 2e-3


def heads(n: int, heads: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, heads, n, 64, generator=generator).to(dtype)


def plan(
    q: Tensor,
    k: Tensor,
    *,
    mode: str = "means",
    causal: bool = False,
    cuts: Tensor | None = None,
    seed: Tensor | None = None,
) -> tuple[Tensor, ...]:
    planes = torch.randn(64, 7, generator=torch.Generator().manual_seed(9)).to(q.device)
    seed = torch.tensor([3, 4]) if seed is None else seed
    return torch.ops.thrifty.hyper_plan(
        q, k, planes if mode == "paper" else None, cuts, cuts, mode, causal, True, 64, 64, 32, 16,
        512, seed,
    )  # fmt: skip


def key_buckets(order: Tensor, offsets: Tensor) -> Tensor:
    """The bucket of each key of the one node; the number of buckets where it is kept."""
    rank = torch.arange(order.shape[-1], device=order.device).expand(order.shape).contiguous()
    bucket = torch.searchsorted(offsets[:, :, 0, 1:].contiguous(), rank, right=True)
    return torch.empty_like(bucket).scatter(-1, order.long(), bucket)


def differing(a: Tensor, b: Tensor) -> float:
    return float((a.cpu() != b.cpu()).double().mean())


@pytest.mark.parametrize("dtype", DTYPES)
def test_means_is_the_cpus(dtype: torch.dtype) -> None:
    q, k = heads(3000, 4, dtype, 1), heads(4001, 2, dtype, 2)
    expected = plan(q, k)
    got = plan(q.cuda(), k.cuda())
    assert bucket_count(4001, 64) == 64
    assert differing(key_buckets(got[0], got[1]), key_buckets(*expected[:2])) <= DIFFER
    assert differing(got[2], expected[2]) <= DIFFER


@pytest.mark.parametrize("dtype", DTYPES)
def test_paper_is_the_cpus(dtype: torch.dtype) -> None:
    q, k = heads(3000, 4, dtype, 3), heads(3000, 2, dtype, 4)
    expected = plan(q, k, mode="paper", causal=True)
    got = plan(q.cuda(), k.cuda(), mode="paper", causal=True)
    torch.testing.assert_close(got[3].cpu(), expected[3])
    # A sign that differs moves all ranks between its two buckets by one.
    assert differing(got[2], expected[2]) <= 0.02


@pytest.mark.parametrize("mode", ["means", "paper"])
def test_repeats_bit_for_bit_and_per_head(mode: str) -> None:
    q, k = heads(3000, 4, torch.bfloat16, 5).cuda(), heads(3000, 4, torch.bfloat16, 6).cuda()
    first = plan(q, k, mode=mode, causal=True)
    for again in (plan(q, k, mode=mode, causal=True), plan(q, k, mode=mode, causal=True)):
        for a, b in zip(first, again, strict=True):
            assert torch.equal(a, b)
    for a, b in zip(first, plan(q[:, 1:2], k[:, 1:2], mode=mode, causal=True), strict=True):
        assert torch.equal(a[:, 1:2], b)


@pytest.mark.parametrize("mode", ["means", "paper"])
def test_replay(mode: str) -> None:
    """Captured once, with other rows and another seed in the same memory."""
    q, k = heads(2000, 2, torch.bfloat16, 7).cuda(), heads(2000, 2, torch.bfloat16, 8).cuda()
    cuts, seed = torch.tensor([0, 700, 2000]), torch.tensor([1, 2], device="cuda")
    cuts_there = cuts.cuda()
    planes = torch.randn(64, 7, device="cuda")

    def step() -> tuple[Tensor, ...]:
        return torch.ops.thrifty.hyper_plan(
            q, k, planes if mode == "paper" else None, cuts, cuts, mode, True, True, 64, 64, 32,
            16, 512, seed,
        )  # fmt: skip

    graph, captured = capture(step)
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(ValueError, match="cu_q"):
        torch.ops.thrifty.hyper_plan(
            q, k, None, cuts_there, cuts, "means", True, True, 64, 64, 32, 16, 512, seed
        )
    for value in (5, 6):
        q.copy_(torch.randn_like(q))
        k.copy_(torch.randn_like(k))
        seed.fill_(value)
        graph.replay()
        got = [t.clone() for t in captured]
        for have, want in zip(got, step(), strict=True):
            assert torch.equal(have, want)


def test_rows_with_nan_stay_inside() -> None:
    q, k = heads(2000, 2, torch.bfloat16, 1).cuda(), heads(2000, 2, torch.bfloat16, 2).cuda()
    k[..., ::7, 3] = torch.nan
    q[..., ::5, 0] = torch.inf
    order, offsets, q_window, _ = plan(q, k)
    assert torch.equal(order.sort(-1).values, torch.arange(2000, device="cuda").expand_as(order))
    assert int(offsets.min()) >= 0
    assert int(offsets.max()) <= 2000
    assert int(q_window.min()) >= 0
    assert int(q_window.max()) < 64


def test_buckets_are_the_cpus() -> None:
    x, planes = heads(5000, 2, torch.float32, 1), torch.randn(64, 12)
    got = thrifty.lsh_bucket(x.cuda(), planes.cuda())
    assert differing(got, thrifty.lsh_bucket(x, planes)) <= DIFFER
    for dtype in DTYPES:
        centroids, mean = heads(200, 2, dtype, 2), heads(1, 2, dtype, 3)[:, :, 0]
        rows = x.to(dtype)
        got = thrifty.centroid_bucket(rows.cuda(), centroids.cuda(), mean.cuda())
        assert differing(got, thrifty.centroid_bucket(rows, centroids, mean)) <= DIFFER
