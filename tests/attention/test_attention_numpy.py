"""The attention family in thrifty.numpy: the bits of the torch ops."""

from typing import Any

import numpy as np
import pytest
import torch

import thrifty
import thrifty.numpy as tn
from helpers import assert_rejects, same_bits, to_numpy
from thrifty.reference.attention_cases import core, hyper
from thrifty.reference.cases import Call, Make, OpCase, all_cases, tensors

OPS = ("lsh_bucket", "centroid_bucket", "hyper_core", "hyper_attention")


def in_numpy(call: Call) -> Call:
    return {name: to_numpy(value) for name, value in call.items()}


CASES = [(case, dtype) for case in all_cases() if case.op in OPS for dtype in case.dtypes]


@pytest.mark.parametrize("case, dtype", CASES, ids=str)
def test_bits_of_the_torch_op(case: OpCase, dtype: torch.dtype) -> None:
    call = case.call("cpu", dtype)
    got = getattr(tn, case.op)(**in_numpy(call))
    got = got if isinstance(got, tuple) else (got,)
    for a, b in zip(got, tensors(case.function(**call)), strict=True):
        assert same_bits(a, b)


def test_bucket_sort() -> None:
    ids = torch.randint(-1, 9, (3, 2, 100), dtype=torch.int32)
    for got, expected in zip(tn.bucket_sort(ids.numpy(), 8), thrifty.bucket_sort(ids, 8),
                             strict=True):  # fmt: skip
        assert same_bits(got, expected)
    assert_rejects("buckets", tn.bucket_sort, ids.numpy(), 0)
    assert_rejects("ids", tn.bucket_sort, ids.float().numpy(), 8)


@pytest.mark.parametrize("cuts", [None, [0, 40, 40, 90]])
def test_seed_and_offset(cuts: list[int] | None) -> None:
    call = hyper(Make("cpu", torch.float32), mode="paper", causal=True)
    if cuts is not None:
        call["cu_seqlens"] = torch.tensor(cuts)
    expected = thrifty.hyper_attention(**call | {"seed": torch.tensor([3, 2**40 + 1])})
    got = tn.hyper_attention(**in_numpy(call) | {"seed": (3, 2**40 + 1)})
    assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))
    other = tn.hyper_attention(**in_numpy(call))
    assert not same_bits(other[0], expected[0])


@pytest.mark.parametrize("causal", [False, True])
def test_short_input_is_exact_by_default(causal: bool) -> None:
    call = hyper(Make("cpu", torch.float64), causal=causal) | {"min_len": None}
    expected = thrifty.hyper_attention(**call)
    for got, wanted in zip(tn.hyper_attention(**in_numpy(call)), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-12)
    packed = in_numpy(call) | {"cu_seqlens": np.array([0, 40, 90])}
    out, _ = tn.hyper_attention(**packed)
    first = {name: call[name][:, :, 40:] for name in ("q", "k", "v")}
    last, _ = thrifty.hyper_attention(**call | first)
    np.testing.assert_allclose(out[:, :, 40:], last.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_thread_count_changes_nothing(threads: int) -> None:
    make = Make("cpu", torch.float32)
    call = in_numpy(hyper(make, shape={"nq": 700}, causal=True))
    before = tn.get_num_threads()
    expected = tn.hyper_attention(**call)
    try:
        tn.set_num_threads(threads)
        for a, b in zip(tn.hyper_attention(**call), expected, strict=True):
            assert a.tobytes() == b.tobytes()
    finally:
        tn.set_num_threads(before)


def test_strided_arrays() -> None:
    call = in_numpy(hyper(Make("cpu", torch.float32)))
    strided = {name: np.repeat(call[name], 2, -1)[..., ::2] for name in ("q", "k", "v")}
    for a, b in zip(tn.hyper_attention(**call | strided), tn.hyper_attention(**call), strict=True):
        assert a.tobytes() == b.tobytes()


WRONG: dict[str, list[Any]] = {
    "q": [np.ones((2, 90, 8), np.float32), np.ones((1, 2, 90, 8), np.int64)],
    "k": [np.ones((1, 2, 90, 7), np.float32), np.ones((1, 2, 90, 8))],
    "v": [np.ones((1, 2, 89, 8), np.float32), np.ones((1, 2, 90, 257), np.float32)],
    "mode": ["fast"],
    "window": [0, -1],
    "num_buckets": [0],
    "residual": [-1],
    "keep": [-1],
    "leaf": [0],
    "planes": [0, 17],
    "min_len": [-1],
    "scale": [float("nan")],
    "seed": [(1, 2, 3)],
    "cu_seqlens": [np.array([0, 50, 40, 90]), np.array([0, 50]), np.array([0.0, 90.0])],
}


@pytest.mark.parametrize("argument", WRONG)
def test_wrong_arguments_are_named(argument: str) -> None:
    call = in_numpy(hyper(Make("cpu", torch.float32)))
    for value in WRONG[argument]:
        assert_rejects(argument, tn.hyper_attention, **call | {argument: value})


def test_wrong_integers_of_the_core_are_named() -> None:
    call = in_numpy(core(Make("cpu", torch.float32)))
    for name in ("q_order", "k_order", "windows"):
        wrong = call[name].copy()
        wrong[(0,) * wrong.ndim] = 1000
        assert_rejects(name, tn.hyper_core, **call | {name: wrong})
    assert_rejects("planes", tn.lsh_bucket, call["q"], np.ones((3, 2), np.float32))
    assert_rejects("centroids", tn.centroid_bucket, call["q"], call["q"][:, :, :0])
