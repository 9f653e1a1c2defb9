"""The attention family's cases: each names what it exercises.

Lengths are small and odd, and windows, lists and leaves smaller still, so that every part of the
recipe is reached.
"""

from typing import Any

import torch

from thrifty.reference.attention import centroid_bucket, hyper_attention, hyper_core, lsh_bucket
from thrifty.reference.cases import FLOATS, Call, Make, OpCase

F32 = (torch.float32, torch.float64)

# Rounded to 16 bits: the weights of a softmax where the processor multiplies 16-bit numbers, means
# of keys and values, and the result. A gradient also has the rounded result in it (the row's
# <dout, out>), and its own factors are rounded once more.
TOLERANCE = {torch.bfloat16: 3 * 1.6e-2, torch.float16: 3 * 1e-3}
GRAD_TOLERANCE = {torch.bfloat16: 6 * 1.6e-2, torch.float16: 6 * 1e-3, torch.float32: 5e-5}


def heads(
    make: Make,
    batch: int = 1,
    q_heads: int = 2,
    k_heads: int = 2,
    nq: int = 90,
    nk: int | None = None,
    d: int = 8,
    dv: int | None = None,
) -> Call:
    """Scores of standard deviation 1, values with a mean, so that results are not all near 0."""
    nk, dv = nq if nk is None else nk, d if dv is None else dv
    q, k = make.normal(batch, q_heads, nq, d), make.normal(batch, k_heads, nk, d)
    return {"q": q, "k": k, "v": make.normal(batch, k_heads, nk, dv) + 1}


def hyper(make: Make, *, shape: dict[str, int] | None = None, **options: Any) -> Call:
    small = {"num_buckets": 6, "window": 16, "residual": 12, "keep": 5, "leaf": 16, "min_len": 0}
    return heads(make, **(shape or {})) | {**small, "return_lse": True, "seed": 3} | options


def packed_sequences(make: Make, **options: Any) -> Call:
    cuts = torch.tensor([0, 40, 40, 43, 44, 111], dtype=torch.int32)
    return hyper(make, shape={"nq": 111}, cu_seqlens=cuts, **options)


GQA = {"batch": 2, "q_heads": 4, "k_heads": 2, "nq": 70}

HYPER = {
    "means": hyper,
    "means, causal": lambda m: hyper(m, causal=True),
    "means, one query head of many": lambda m: hyper(m, shape=GQA),
    "means, causal, one query head of many": lambda m: hyper(m, shape=GQA, causal=True),
    "means, fewer queries, Dv": lambda m: hyper(m, shape={"nq": 21, "nk": 83, "dv": 5}),
    "means, causal, last queries": lambda m: hyper(
        m, shape={"nq": 37, "nk": 101, "dv": 11}, causal=True
    ),
    "means, more queries": lambda m: hyper(m, shape={"nq": 83, "nk": 50}),
    "means, not centred, scale": lambda m: hyper(m, center=False, scale=0.7),
    "means, nothing kept": lambda m: hyper(m, keep=0),
    "means, one bucket": lambda m: hyper(m, num_buckets=1),
    "means, window of one": lambda m: hyper(m, window=1),
    "means, window of all": lambda m: hyper(m, window=90),
    "means, all kept": lambda m: hyper(m, keep=90),
    "means, D = 64": lambda m: hyper(m, shape={"nq": 300, "d": 64}, window=64, num_buckets=32),
    "means, causal, D = 64": lambda m: hyper(
        m, shape={"nq": 300, "d": 64}, window=64, num_buckets=32, leaf=64, causal=True
    ),
    "means, packed sequences": packed_sequences,
    "means, packed sequences, causal": lambda m: packed_sequences(m, causal=True),
    "paper": lambda m: hyper(m, mode="paper"),
    "paper, causal": lambda m: hyper(m, mode="paper", causal=True),
    "paper, causal, one query head of many": lambda m: hyper(
        m, shape=GQA, mode="paper", causal=True
    ),
    "paper, fewer queries, Dv": lambda m: hyper(
        m, shape={"nq": 21, "nk": 83, "dv": 5}, mode="paper"
    ),
    "paper, no residual": lambda m: hyper(m, mode="paper", residual=0),
    "paper, many keys drawn": lambda m: hyper(m, mode="paper", residual=120),
    "paper, packed sequences, causal": lambda m: packed_sequences(m, mode="paper", causal=True),
    "exact": lambda m: hyper(m, min_len=1000),
    "exact, causal": lambda m: hyper(m, shape={"nq": 37, "nk": 101}, min_len=1000, causal=True),
    "one of each": lambda m: hyper(m, shape={"q_heads": 1, "k_heads": 1, "nq": 1, "d": 1}),
    "one of each, causal": lambda m: hyper(m, shape={"nq": 1}, causal=True),
}
EMPTY = {
    "no queries": lambda m: hyper(m, shape={"nq": 0, "nk": 30}),
    "no batch": lambda m: hyper(m, shape={"batch": 0}),
    "no batch, causal": lambda m: hyper(m, shape={"batch": 0}, causal=True),
}


def core(
    make: Make,
    *,
    window: int = 20,
    items: int = 5,
    entries: int = 9,
    ranges: bool = True,
    var: bool = True,
    **shape: int,
) -> Call:
    """Windows that overlap, entries that they meet; with a list also queries without a window."""
    call = heads(make, **{"nq": 50, "nk": 70} | shape)
    batch, q_heads, nq, d = call["q"].shape
    k_heads, nk = call["k"].shape[1:3]

    def integers(low: int, high: int, *sizes: int) -> torch.Tensor:
        drawn = torch.randint(low, high, sizes, generator=make._generator)
        return drawn.int().to(make.device)

    def order(heads: int, n: int) -> torch.Tensor:
        drawn = torch.rand(batch, heads, n, generator=make._generator).argsort(-1)
        return drawn.int().to(make.device)

    call["q_order"], call["k_order"] = order(q_heads, nq), order(k_heads, nk)
    cuts = torch.cat([torch.zeros(batch, q_heads, 1, dtype=torch.int32, device=make.device),
                      integers(0, nq, batch, q_heads, items)], -1)  # fmt: skip
    if not entries:
        cuts[..., -1] = nq
    call["q_offsets"] = cuts.sort(-1).values
    begin = integers(0, max(nk - window, 1), batch, k_heads, items)
    end = (begin + window).clamp_max(nk)
    if entries:
        end[..., 0] = begin[..., 0]
    call["windows"] = torch.stack([begin, end], -1)
    if entries:
        wide = torch.float64 if make.dtype == torch.float64 else torch.float32
        call["list_k"] = make.normal(batch, k_heads, entries, d)
        call["list_v"] = make.normal(batch, k_heads, entries, call["v"].shape[3])
        call["list_logw"] = make.normal(batch, k_heads, entries, dtype=wide)
        if ranges:
            first = integers(0, nk - 6, batch, k_heads, entries)
            last = first + integers(0, 6, batch, k_heads, entries)
            call["list_range"] = torch.stack([first, last], -1)
        if var:
            call["list_var"] = make.normal(batch, k_heads, entries, dtype=wide).abs()
    return call


CORE = {
    "list": core,
    "no list": lambda m: core(m, entries=0),
    "entries seen by all": lambda m: core(m, ranges=False),
    "no variance": lambda m: core(m, var=False),
    "one query head of many, Dv": lambda m: core(m, batch=2, q_heads=6, k_heads=2, dv=3),
    "window of all": lambda m: core(m, items=1, window=500),
    "D = 40, a long list": lambda m: core(m, d=40, entries=150, window=33),
}


def hashed(make: Make, planes: int, *shape: int) -> Call:
    normals = make.normal(shape[-1], planes, dtype=torch.float32)
    return {"x": make.normal(*shape), "planes": normals}


LSH = {
    "rows": lambda m: hashed(m, 7, 3, 50, 16),
    "mean": lambda m: hashed(m, 16, 2, 3, 50, 9) | {"mean": m.normal(2, 3, 9)},
    "one plane": lambda m: hashed(m, 1, 1, 1, 33, 5),
    "no rows": lambda m: hashed(m, 3, 1, 2, 0, 5),
}

CENTROIDS = {
    "rows": lambda m: {"x": m.normal(2, 3, 50, 16), "centroids": m.normal(2, 3, 21, 16)},
    "mean, one query head of many": lambda m: {"x": m.normal(1, 4, 50, 9),
        "centroids": m.normal(1, 2, 33, 9), "mean": m.normal(1, 4, 9)},
    "one centroid": lambda m: {"x": m.normal(1, 1, 33, 5), "centroids": m.normal(1, 1, 1, 5)},
    "no rows": lambda m: {"x": m.normal(1, 2, 0, 5), "centroids": m.normal(1, 2, 3, 5)},
}  # fmt: skip


def table(oracle: Any, grad: tuple[str, ...], builds: dict[str, Any], **options: Any) -> list:
    return [OpCase(oracle, name, build, grad, **options) for name, build in builds.items()]


BOUNDS = {"tolerance": TOLERANCE, "grad_tolerance": GRAD_TOLERANCE}
LISTS = ("list_k", "list_v", "list_logw", "list_var")

CASES = [
    *table(lsh_bucket, (), LSH, dtypes=F32),
    *table(centroid_bucket, (), CENTROIDS, dtypes=F32),
    *table(hyper_core, ("q", "k", "v", *LISTS), CORE, dtypes=FLOATS, **BOUNDS),
    *table(hyper_attention, ("q", "k", "v"), HYPER, dtypes=FLOATS, **BOUNDS),
    *table(hyper_attention, (), EMPTY, dtypes=F32),
]
