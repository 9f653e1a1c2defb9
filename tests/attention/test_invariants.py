"""What holds whatever the numbers are. Causal ones, and those of batches and heads, bit for bit."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import threads
from thrifty import bucket_sort, hyper_attention, hyper_core
from thrifty.reference import attention as reference
from thrifty.reference.attention_cases import heads, hyper
from thrifty.reference.cases import Call, Make

MODES = ["means", "paper"]


def make(dtype: torch.dtype = torch.float32) -> Make:
    return Make("cpu", dtype)


def exact(call: Call, causal: bool = False) -> tuple[Tensor, Tensor]:
    q, k, v = (call[name].double() for name in ("q", "k", "v"))
    return reference._exact(q, k, v, q.shape[-1] ** -0.5, causal)


def by_cpu_threads(call: Call) -> tuple[Tensor, Tensor]:
    with threads(2):
        return hyper_attention(**call)


def assert_close(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], atol: float = 1e-5) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=atol)


# ---- 1, 2: when everything is looked at, everything is exact


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_window_of_all_keys_is_exact(mode: str, causal: bool) -> None:
    call = hyper(make(), mode=mode, causal=causal, window=90)
    assert_close(hyper_attention(**call), exact(call, causal))


def test_all_keys_kept_is_exact() -> None:
    call = hyper(make(), keep=90, window=1)
    assert_close(hyper_attention(**call), exact(call))


def core_call(call: Call, window: int) -> Call:
    """One item of all queries and the first `window` keys."""
    batch, q_heads, nq, _ = call["q"].shape
    k_heads, nk = call["k"].shape[1:3]
    spans = torch.tensor([[0, window]], dtype=torch.int32)
    return call | {
        "q_order": torch.arange(nq).int().expand(batch, q_heads, nq),
        "q_offsets": torch.tensor([0, nq]).int().expand(batch, q_heads, 2),
        "k_order": torch.arange(nk).int().expand(batch, k_heads, nk),
        "windows": spans.expand(batch, k_heads, 1, 2),
    }


@pytest.mark.parametrize("window", [0, 30])
def test_a_list_of_all_keys_is_exact(window: int) -> None:
    """As a sample of every key once, and as buckets of one key; with and without a window."""
    call = heads(make())
    place = torch.arange(90).int().expand(1, 2, 90)
    entries = {
        "list_k": call["k"],
        "list_v": call["v"],
        "list_logw": torch.zeros(1, 2, 90),
        "list_range": torch.stack([place, place + 1], -1),
    }
    got = hyper_core(**core_call(call, window), **entries)
    assert_close(got, exact(call))


# ---- 3: the residual of "paper" is unbiased


def test_small_clusters_get_a_bucket() -> None:
    """96 clusters of keys, the first 32 times as large as the last 64: first centroids that were
    drawn left some of the small ones without, for an error of 0.06 to 0.08 with these seeds."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        centre = F.normalize(torch.randn(96, 32, generator=generator), dim=-1)
        of = torch.arange(96).repeat_interleave(torch.tensor([64] * 32 + [16] * 64))
        of = of[torch.randperm(len(of), generator=generator)]
        k = 8 * centre[of]
        q = 8 * centre[torch.arange(256) % 64 + 32]
        v = centre[of] + 0.1 * torch.randn(len(of), 32, generator=generator)
        call = {name: x[None, None] for name, x in (("q", q), ("k", k), ("v", v))}
        out = hyper_attention(**call, num_buckets=128, window=32, keep=0, seed=seed, min_len=0)
        expected = exact(call)[0]
        assert (out - expected).norm() < 0.01 * expected.norm()


def test_the_residual_is_unbiased() -> None:
    """E[e^lse] is the exact sum: the mean over 300 seeds, in standard errors, over rows.

    Every row's z-score is standard normal but for the rows' common sample; their mean has a
    standard deviation below 1. alpha 1e-6: 4.9 of them.
    """
    call = heads(make(), nq=256, q_heads=1, k_heads=1)
    options = {"mode": "paper", "window": 32, "residual": 16, "min_len": 0, "planes": 4}
    total = exact(call)[1]
    ratio = torch.stack(
        [
            (hyper_attention(**call, **options, seed=s, return_lse=True)[1].double() - total).exp()
            for s in range(300)
        ]
    )
    z = (ratio.mean(0) - 1) / (ratio.std(0) / 300**0.5)
    assert abs(z.mean()) < 4.9
    assert ((ratio.mean(0) - 1).abs() < 0.2).all()


# ---- 4: causality


CHANGES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "later values": lambda x, i: torch.cat([x[:, :, :i], x[:, :, i:] * -7 + 3], 2),
    "no later rows": lambda x, i: x[:, :, :i],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("position", [1, 15, 16, 17, 48, 64, 77, 95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_later_rows_change_no_earlier_one(dtype: torch.dtype, position: int, change: str) -> None:
    """Of keys, values and queries, in mode "means"; nor does the length of the sequence."""
    call = hyper(make(dtype), shape={"nq": 100}, causal=True)
    names = ("q", "k", "v")
    other = call | {name: CHANGES[change](call[name], position) for name in names}
    for got, expected in zip(hyper_attention(**other), hyper_attention(**call), strict=True):
        assert torch.equal(got[:, :, :position], expected[:, :, :position])


@pytest.mark.parametrize("position", [1, 16, 17, 48, 64, 95])
def test_later_keys_change_no_earlier_row_in_paper(position: int) -> None:
    """Later queries may: blocks of equal size depend on the ranks of all."""
    call = hyper(make(), shape={"nq": 100}, causal=True, mode="paper")
    later = CHANGES["later values"]
    other = call | {name: later(call[name], position) for name in ("k", "v")}
    for got, expected in zip(hyper_attention(**other), hyper_attention(**call), strict=True):
        assert torch.equal(got[:, :, :position], expected[:, :, :position])


def test_later_rows_get_no_gradient() -> None:
    call = hyper(make(torch.float64), shape={"nq": 100}, causal=True)
    leaves = [call[name].requires_grad_() for name in ("q", "k", "v")]
    out, _ = hyper_attention(**call)
    for grad in torch.autograd.grad(out[:, :, :50].sum(), leaves):
        assert (grad[:, :, 50:] == 0).all()
        assert (grad[:, :, :50] != 0).any()


# ---- 5: order


def test_permuted_queries_give_permuted_rows() -> None:
    """The kept keys are those that the mean query likes, a sum that rounds by its order: none."""
    call = hyper(make(), keep=0)
    order = torch.randperm(90)
    out = hyper_attention(**call | {"q": call["q"][:, :, order]})[0]
    assert torch.equal(out, hyper_attention(**call)[0][:, :, order])


def test_permuted_keys_change_nothing() -> None:
    """Where no window cuts a bucket: buckets of 16 keys, windows of 16."""
    call = heads(make(), nq=48, nk=64)
    bucket = torch.randperm(64).remainder(4).expand(1, 2, 64)
    order = torch.randperm(64)

    def attend(k: Tensor, v: Tensor, bucket: Tensor) -> tuple[Tensor, Tensor]:
        k_order, offsets = bucket_sort(bucket, 4)
        item = torch.arange(48).remainder(4).expand(1, 2, 48)
        q_order, q_offsets = bucket_sort(item, 4)
        windows = torch.stack([offsets[..., :-1], offsets[..., 1:]], -1)
        return hyper_core(call["q"], k, v, q_order, q_offsets, k_order, windows)

    got = attend(call["k"][:, :, order], call["v"][:, :, order], bucket[..., order])
    assert_close(got, attend(call["k"], call["v"], bucket), 1e-6)


# ---- 6: an offset of all keys


@pytest.mark.parametrize("causal", [False, True])
def test_an_offset_of_all_keys_changes_nothing(causal: bool) -> None:
    """But lse, by its score. In float64: the buckets are the same, the roundings are not."""
    call = hyper(make(torch.float64), causal=causal, keep=4)
    offset = 3 * make(torch.float64).normal(1, 2, 1, 8)
    out, lse = hyper_attention(**call)
    moved, moved_lse = hyper_attention(**call | {"k": call["k"] + offset})
    score = (call["q"] * offset).sum(-1) * 8**-0.5
    assert_close((moved, moved_lse), (out, lse + score), 1e-9)


# ---- 7: values


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_constant_and_sums_of_values(mode: str, causal: bool) -> None:
    call = hyper(make(), mode=mode, causal=causal, return_lse=False)
    ones = torch.ones_like(call["v"])
    torch.testing.assert_close(hyper_attention(**call | {"v": ones}), ones)
    other = torch.randn_like(call["v"])
    both = hyper_attention(**call | {"v": 2 * call["v"] - other})
    parts = 2 * hyper_attention(**call) - hyper_attention(**call | {"v": other})
    torch.testing.assert_close(both, parts, rtol=1e-5, atol=1e-5)


def test_equal_keys_give_a_mean_of_the_values() -> None:
    """Mode "means" with keys all equal: one bucket, and lse counts every key once.

    A query then gives the keys of its window and the kept ones a weight of 1 each, and the mean of
    the bucket's values the rest.
    """
    call = hyper(make(torch.float64), num_buckets=1, keep=4)
    call["k"] = call["k"][:, :, :1].expand(1, 2, 90, 8)
    out, lse = hyper_attention(**call)
    torch.testing.assert_close(lse, exact(call)[1], rtol=0, atol=1e-10)
    v = call["v"]  # equal scores: the first 4 keys are kept, 16 of the other 86 are the window
    bucket, begin = v[:, :, 4:], (86 - 16) // 2
    window = bucket[:, :, begin : begin + 16]
    mean = (v[:, :, :4].sum(2) + window.sum(2) + 70 * bucket.mean(2)) / 90
    torch.testing.assert_close(out, mean.unsqueeze(2).expand_as(out), rtol=0, atol=1e-10)


# ---- 8: lse


def test_parts_merge_by_their_lse() -> None:
    call = heads(make(torch.float64))
    parts = []
    for begin, end in ((0, 40), (40, 90)):
        half = {"q": call["q"], "k": call["k"][:, :, begin:end], "v": call["v"][:, :, begin:end]}
        parts.append(hyper_core(**core_call(half, end - begin)))
    merged = reference._merge(*parts[0], *parts[1])
    assert_close(merged, exact(call), 1e-12)


# ---- 10: the same bits


@pytest.mark.parametrize("mode", MODES)
def test_the_same_bits_again_and_for_other_threads(mode: str) -> None:
    call = hyper(make(), shape={"nq": 700}, mode=mode, causal=True)
    first = hyper_attention(**call)
    for again in (hyper_attention(**call), by_cpu_threads(call)):
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_row_does_not_know_its_batch(mode: str, causal: bool) -> None:
    call = hyper(make(), shape={"batch": 3, "q_heads": 4, "nq": 70}, mode=mode, causal=causal)
    whole = hyper_attention(**call)
    one = call | {name: call[name][1:2] for name in ("q", "k", "v")}
    for got, expected in zip(hyper_attention(**one), whole, strict=True):
        assert torch.equal(got, expected[1:2])


@pytest.mark.parametrize("mode", MODES)
def test_shared_keys_are_repeated_keys(mode: str) -> None:
    """With the same keys kept: the probe is the sum over the heads that share them."""
    shape = {"batch": 2, "q_heads": 4, "k_heads": 2, "nq": 70}
    call = hyper(make(), shape=shape, mode=mode, keep=0)
    repeated = call | {name: call[name].repeat_interleave(2, 1) for name in ("k", "v")}
    for got, expected in zip(hyper_attention(**call), hyper_attention(**repeated), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_packed_sequences_are_a_loop(mode: str, causal: bool) -> None:
    cuts = [0, 40, 40, 43, 44, 111]
    call = hyper(make(), shape={"nq": 111}, mode=mode, causal=causal)
    packed = hyper_attention(**call, cu_seqlens=torch.tensor(cuts))
    for begin, end in pairwise(cuts):
        part = call | {name: call[name][:, :, begin:end] for name in ("q", "k", "v")}
        for got, expected in zip(packed, hyper_attention(**part), strict=True):
            assert torch.equal(got[:, :, begin:end], expected)


def test_packed_sequences_below_min_len_are_exact() -> None:
    call = hyper(make(), shape={"nq": 111}, min_len=50)
    out, _ = hyper_attention(**call, cu_seqlens=torch.tensor([0, 40, 111]))
    first = [call[name][:, :, :40] for name in ("q", "k", "v")]
    torch.testing.assert_close(out[:, :, :40], F.scaled_dot_product_attention(*first))
    rest = call | {name: call[name][:, :, 40:] for name in ("q", "k", "v")}
    assert torch.equal(out[:, :, 40:], hyper_attention(**rest)[0])
