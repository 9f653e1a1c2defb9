"""hyper_core, lsh_bucket and centroid_bucket."""

import pytest
import torch

from helpers import OpContract, TrainedOpContract, assert_rejects
from thrifty import centroid_bucket, hyper_core, lsh_bucket
from thrifty.reference.attention_cases import core
from thrifty.reference.attention_plan import gray_rank
from thrifty.reference.cases import Call, Make


class TestCore(TrainedOpContract):
    op = "hyper_core"


class TestLshBucket(OpContract):
    op = "lsh_bucket"


class TestCentroidBucket(OpContract):
    op = "centroid_bucket"


@pytest.mark.parametrize("bits", range(1, 13))
def test_neighbours_in_gray_order_differ_in_one_bit(bits: int) -> None:
    """Of lsh_bucket: rows whose signs spell all codes."""
    code = torch.arange(2**bits)
    signs = (code[:, None] >> torch.arange(bits) & 1) * 2.0 - 1
    rank = lsh_bucket(signs, torch.eye(bits))
    assert torch.equal(rank, gray_rank(code).int())
    assert torch.equal(rank.sort().values, code.int())
    by_rank = signs[rank.argsort()]
    assert ((by_rank[1:] != by_rank[:-1]).sum(-1) == 1).all()


def test_zero_is_not_greater_than_zero() -> None:
    assert lsh_bucket(torch.zeros(3, 4), torch.randn(4, 5)).tolist() == [0, 0, 0]


def test_the_first_of_equal_centroids_and_nan() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 1.0]])[None, None]
    centroids = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[None, None]
    assert centroid_bucket(x, centroids).tolist() == [[[1, 0, 0]]]


def wrong(call: Call, name: str, index: tuple, value: int) -> Call:
    changed = call[name].clone()
    changed[index] = value
    return call | {name: changed}


def test_wrong_arguments() -> None:
    call = core(Make("cpu", torch.float32))
    for name in ("q_order", "k_order"):
        assert_rejects(name, hyper_core, **wrong(call, name, (0, 0, 3), 1000))
        assert_rejects(name, hyper_core, **wrong(call, name, (0, 0, 3), -1))
        assert_rejects(name, hyper_core, **call | {name: call[name][..., :-1]})
        assert_rejects(name, hyper_core, **call | {name: call[name].long()})
    assert_rejects("windows", hyper_core, **wrong(call, "windows", (0, 0, 1, 1), 71))
    assert_rejects("windows", hyper_core, **wrong(call, "windows", (0, 0, 1, 0), -1))
    assert_rejects("q_offsets", hyper_core, **wrong(call, "q_offsets", (0, 0, 1), 51))
    assert_rejects("list_k", hyper_core, **call | {"list_k": call["list_k"][..., :-1]})
    assert_rejects("list_v", hyper_core, **call | {"list_v": None})
    assert_rejects("list_logw", hyper_core, **call | {"list_logw": call["list_logw"].half()})
    assert_rejects("k", hyper_core, **call | {"k": call["k"][:, :, :, :-1]})


def test_wrong_arguments_of_the_buckets() -> None:
    x = torch.randn(1, 2, 5, 4)
    assert_rejects("planes", lsh_bucket, x, torch.randn(3, 2))
    assert_rejects("planes", lsh_bucket, x, torch.randn(4, 17))
    assert_rejects("mean", lsh_bucket, x, torch.randn(4, 2), torch.randn(1, 2, 3))
    assert_rejects("centroids", centroid_bucket, x, torch.randn(1, 3, 7, 4))
    assert_rejects("centroids", centroid_bucket, x, torch.randn(1, 2, 0, 4))
    assert_rejects("x", centroid_bucket, x[0], torch.randn(1, 2, 7, 4))


def test_queries_without_keys() -> None:
    """In no item, or in one with an empty window, and without a list: 0 and -inf, no gradient."""
    call = core(Make("cpu", torch.float64), entries=0)
    call["windows"][..., 1] = call["windows"][..., 0]
    q = call["q"].requires_grad_()
    out, lse = hyper_core(**call)
    assert (out == 0).all()
    assert (lse == -torch.inf).all()
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert (grad == 0).all()
