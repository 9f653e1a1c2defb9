"""hyper_attention: the contract of all ops, arguments that do not fit, lengths, NaN, seeds."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import TrainedOpContract, assert_one_graph, assert_rejects
from thrifty import hyper_attention
from thrifty.reference import attention as reference
from thrifty.reference.attention_cases import GRAD_TOLERANCE, TOLERANCE, heads, hyper
from thrifty.reference.cases import Call, Make, OpCase, check


class TestContract(TrainedOpContract):
    op = "hyper_attention"


def small(**options: int | str | bool) -> Call:
    return hyper(Make("cpu", torch.float32), **options)


SHAPES = [
    *[(n, n, 8, 8) for n in (2, 15, 16, 17, 31, 33, 64, 129)],
    (5, 200, 7, 3),
    (200, 5, 16, 1),
    (33, 33, 64, 80),
    (20, 40, 256, 256),
]


@pytest.mark.parametrize("mode", ["means", "paper"])
@pytest.mark.parametrize("nq, nk, d, dv", SHAPES)
def test_sizes(nq: int, nk: int, d: int, dv: int, mode: str) -> None:
    def build(make: Make) -> Call:
        shape = {"nq": nq, "nk": nk, "d": d, "dv": dv}
        return hyper(make, shape=shape, mode=mode, causal=nq <= nk and nq % 2 == 1)

    dtype = (torch.float32, torch.bfloat16)[(nq + d) % 2]
    case = OpCase(reference.hyper_attention, "size", build, ("q", "k", "v"),
                  tolerance=TOLERANCE, grad_tolerance=GRAD_TOLERANCE)  # fmt: skip
    missed = [outcome for outcome in check(case, "cpu", dtype) if not outcome.ok]
    assert not missed, missed


@pytest.mark.parametrize("mode", ["means", "paper"])
@pytest.mark.parametrize("causal", [False, True])
def test_several_waves(mode: str, causal: bool) -> None:
    """More queries and keys than any block, with the default numbers of buckets and keys."""

    def build(make: Make) -> Call:
        shape = {"nq": 5000, "d": 16, "q_heads": 1, "k_heads": 1}
        return heads(make, **shape) | {
            "mode": mode, "causal": causal, "min_len": 0, "return_lse": True
        }  # fmt: skip

    case = OpCase(reference.hyper_attention, "waves", build, tolerance={torch.float32: 5e-5})
    missed = [outcome for outcome in check(case, "cpu", torch.float32) if not outcome.ok]
    assert not missed, missed


WRONG: dict[str, list[Call]] = {
    "q": [
        {"q": torch.randn(2, 90, 8)},
        {"q": torch.randn(1, 2, 90, 0)},
        {"q": torch.ones(1, 2, 90, 8, dtype=torch.int64)},
        {"q": torch.randn(1, 2, 91, 8), "causal": True},
    ],
    "k": [
        {"k": torch.randn(1, 3, 90, 8)},
        {"k": torch.randn(1, 0, 90, 8)},
        {"k": torch.randn(1, 2, 90, 7)},
        {"k": torch.randn(2, 2, 90, 8)},
        {"k": torch.randn(1, 2, 90, 8).double()},
        {"k": torch.empty(1, 2, 90, 8, device="meta")},
    ],
    "v": [
        {"v": torch.randn(1, 2, 89, 8)},
        {"v": torch.randn(1, 2, 90, 257)},
        {"v": torch.randn(1, 2, 90, 8).half()},
    ],
    "mode": [{"mode": "fast"}],
    "window": [{"window": 0}, {"window": -3}],
    "num_buckets": [{"num_buckets": 0}],
    "residual": [{"residual": -1}],
    "keep": [{"keep": -1}],
    "leaf": [{"leaf": 0}],
    "planes": [{"planes": 0}, {"planes": 17}],
    "min_len": [{"min_len": -1}],
    "scale": [{"scale": math.nan}, {"scale": math.inf}],
    "seed": [{"seed": torch.tensor([1, 2, 3])}, {"seed": torch.tensor([1.0, 2.0])}],
    "cu_seqlens": [
        {"cu_seqlens": torch.tensor([0, 50, 40, 90])},
        {"cu_seqlens": torch.tensor([0, 50])},
        {"cu_seqlens": torch.tensor([1, 90])},
        {"cu_seqlens": torch.tensor([0.0, 90.0])},
        {"cu_seqlens": torch.tensor([[0, 90]])},
    ],
}


@pytest.mark.parametrize("argument", WRONG)
def test_wrong_arguments(argument: str) -> None:
    for wrong in WRONG[argument]:
        assert_rejects(argument, hyper_attention, **small() | wrong)
        if argument != "min_len":  # the same where attention is exact
            assert_rejects(argument, hyper_attention, **small(min_len=1000) | wrong)


def test_too_many_dimensions() -> None:
    call = {name: torch.randn(1, 1, 4, 257) for name in ("q", "k", "v")}
    assert_rejects("q", hyper_attention, **call)


def exact(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


@pytest.mark.parametrize("causal", [False, True])
def test_short_sequences_are_exact_by_default(causal: bool) -> None:
    call = heads(Make("cpu", torch.float32), nq=200)
    torch.testing.assert_close(
        hyper_attention(**call, causal=causal), exact(**call, causal=causal), rtol=0, atol=0
    )
    out, lse = hyper_attention(**call, causal=causal, return_lse=True)
    torch.testing.assert_close(out, exact(**call, causal=causal))
    score = call["q"] @ call["k"].mT * 8**-0.5
    later = torch.ones(200, 200, dtype=torch.bool).triu(1)
    score = score.masked_fill(later, -torch.inf) if causal else score
    torch.testing.assert_close(lse, score.logsumexp(-1))


def test_one_query_is_exact_by_default() -> None:
    """A decoding step, whatever the number of keys."""
    call = heads(Make("cpu", torch.float32), nq=1, nk=20_000)
    torch.testing.assert_close(hyper_attention(**call, causal=True), exact(**call))


def test_the_default_scale() -> None:
    call = small()
    assert torch.equal(hyper_attention(**call)[0], hyper_attention(**call, scale=8**-0.5)[0])


def test_a_seed_as_a_tensor() -> None:
    call = small(mode="paper")
    pair = call | {"seed": torch.tensor([3, 0])}
    assert torch.equal(hyper_attention(**call)[0], hyper_attention(**pair)[0])
    other = call | {"seed": torch.tensor([3, 1])}
    assert not torch.equal(hyper_attention(**call)[0], hyper_attention(**other)[0])


@pytest.mark.parametrize("mode", ["means", "paper"])
def test_nan_reaches_only_rows_that_see_it(mode: str) -> None:
    """In "paper" a query with NaN also changes the blocks of others: see the causal invariants."""
    call = small(mode=mode, causal=True, keep=0)
    clean = hyper_attention(**call)[0]
    for name in ("k", "v", "q"):
        dirty = call[name].clone()
        dirty[:, 0, 40] = torch.nan
        out = hyper_attention(**call | {name: dirty})[0]
        assert torch.equal(out[:, 1], clean[:, 1])
        assert out[:, 0, 40].isnan().all()
        if (name, mode) != ("q", "paper"):
            assert torch.equal(out[:, :, :40], clean[:, :, :40])
        if (name, mode) == ("q", "means"):  # without kept keys no query knows another
            assert torch.equal(out[:, :, 41:], clean[:, :, 41:])


def test_huge_scores() -> None:
    for mode in ("means", "paper"):
        call = small(mode=mode)
        out, lse = hyper_attention(**call | {"scale": 1e4})
        assert out.isfinite().all()
        assert lse.isfinite().all()


def test_16_bit_gradients_point_where_float32_ones_do() -> None:
    def gradients(dtype: torch.dtype) -> list[Tensor]:
        call = hyper(Make("cpu", torch.bfloat16), shape={"nq": 200, "d": 32}, causal=True)
        leaves = [call[name].to(dtype).requires_grad_() for name in ("q", "k", "v")]
        out, _ = hyper_attention(**call | dict(zip(("q", "k", "v"), leaves, strict=True)))
        return list(torch.autograd.grad(out.float().square().sum(), leaves))

    for half, wide in zip(gradients(torch.bfloat16), gradients(torch.float32), strict=True):
        assert F.cosine_similarity(half.float().flatten(), wide.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("mode", ["means", "paper"])
def test_compiles_with_a_seed_in_a_tensor(mode: str) -> None:
    """One graph for all seeds: none is a constant of it."""
    call = small(mode=mode, causal=True)
    q, k, v = (call.pop(name).requires_grad_() for name in ("q", "k", "v"))
    del call["seed"]

    def attend(seed: Tensor) -> Tensor:
        return hyper_attention(q, k, v, seed=seed, **call)[0]

    seeds = [(torch.tensor([3, offset]),) for offset in (0, 1)]
    assert_one_graph(attend, seeds, (q, k, v), dynamic=False)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", ["means", "paper"])
def test_export(mode: str, causal: bool) -> None:
    call = small(mode=mode, causal=causal)
    heads = tuple(call.pop(name) for name in ("q", "k", "v"))

    class Attend(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return hyper_attention(q, k, v, **call)[0]

    program = torch.export.export(Attend(), heads)
    assert torch.equal(program.module()(*heads), Attend()(*heads))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", ["means", "paper"])
def test_gradients_by_differences(mode: str, causal: bool) -> None:
    """Of out and lse at once, with several nodes of several windows each."""
    shape = {"nq": 22, "d": 3, "dv": 2, "q_heads": 2, "k_heads": 1}
    options = {"window": 3, "leaf": 4, "residual": 5, "keep": 2, "mode": mode, "causal": causal}
    call = hyper(Make("cpu", torch.float64), shape=shape, **options)
    leaves = tuple(call.pop(name).requires_grad_() for name in ("q", "k", "v"))
    assert torch.autograd.gradcheck(lambda q, k, v: hyper_attention(q, k, v, **call), leaves)


@pytest.mark.parametrize("min_len", [None, 0])
@pytest.mark.parametrize("mode", ["means", "paper"])
def test_no_keys(mode: str, min_len: int | None) -> None:
    call = hyper(Make("cpu", torch.float32), shape={"nq": 3, "nk": 0}, mode=mode)
    out, lse = hyper_attention(**call | {"min_len": min_len})
    assert (out == 0).all()
    assert (lse == -torch.inf).all()


@pytest.mark.parametrize("length", [1024, 1500])
def test_gradients_of_one_long_leaf(length: int) -> None:
    """One leaf that several tasks share, beside torch's exact attention."""
    call = heads(Make("cpu", torch.float32), nq=length, d=16, q_heads=1, k_heads=1)
    leaves = tuple(call[name].requires_grad_() for name in ("q", "k", "v"))
    out, _ = hyper_attention(*leaves, causal=True, return_lse=True)
    grads = [
        torch.autograd.grad(x.square().sum(), leaves)
        for x in (out, F.scaled_dot_product_attention(*leaves, is_causal=True))
    ]
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
