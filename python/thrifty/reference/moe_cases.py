"""The moe family's cases: each names what it exercises. Biases and weights are random."""

from typing import Any

import torch

from thrifty.reference.cases import FLOATS, Call, Make, OpCase
from thrifty.reference.moe import (
    bucket_sort,
    gather_rows,
    grouped_mm,
    moe_mlp,
    moe_permute,
    moe_route,
    scatter_add_rows,
    token_topk,
)

F32 = (torch.float32,)

# torch.testing's tolerances hold for one rounding to 16 bits. A layer's result has up to two (A,
# where the processor multiplies 16-bit numbers, and its own) and, with gradients, Z; a gradient up
# to four: Z, dO's product as it is multiplied again, w A, and its own.
TOLERANCE = {torch.bfloat16: 3 * 1.6e-2, torch.float16: 3 * 1e-3}
GRAD_TOLERANCE = {torch.bfloat16: 4 * 1.6e-2, torch.float16: 4 * 1e-3}
GRADS = ("x", "w1", "w2", "weights", "b1", "b2")


def integers(make: Make, low: int, high: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    values = torch.randint(low, high, shape, generator=make._generator)
    return values.to(make.device, dtype)


def routing(make: Make, tokens: int, top_k: int, experts: int) -> torch.Tensor:
    """Distinct experts for each token."""
    draws = torch.rand(tokens, experts, generator=make._generator)
    return draws.argsort(-1)[:, :top_k].to(make.device)


# ---- sorting


def sort(make: Make, *shape: int, buckets: int = 7, dtype: torch.dtype = torch.int64) -> Call:
    low, high = (0, buckets + 2) if dtype == torch.uint8 else (-2, buckets + 2)
    return {"ids": integers(make, low, high, *shape, dtype=dtype), "buckets": buckets}


SORTS = {
    "int64": lambda m: sort(m, 100),
    "int32, rows": lambda m: sort(m, 3, 2, 50, dtype=torch.int32),
    "uint8": lambda m: sort(m, 2, 40, dtype=torch.uint8),
    "several blocks": lambda m: sort(m, 2, 40_000, buckets=300),
    "one bucket": lambda m: sort(m, 9, buckets=1),
    "nothing": lambda m: sort(m, 3, 0),
}


def permute(make: Make, *, dtype: torch.dtype = torch.int64, **options: Any) -> Call:
    return {"ids": integers(make, -1, 7, 20, 3, dtype=dtype), "num_experts": 5, **options}


def permute_mapped(make: Make) -> Call:
    """Merged experts, a pruned one, and one that the map names wrongly."""
    expert_map = torch.tensor([0, 1, 0, -1, 4, 9], dtype=torch.int32, device=make.device)
    return permute(make, expert_map=expert_map)


PERMUTES = {
    "ids of no expert": permute,
    "int32": lambda m: permute(m, dtype=torch.int32),
    "expert_map": permute_mapped,
    "capacity": lambda m: permute(m, capacity=4),
    "capacity by priority": lambda m: permute(
        m, capacity=4, priority=m.lattice(20, 3, dtype=torch.float32)
    ),
    "no tokens": lambda m: {"ids": torch.zeros(0, 3, dtype=torch.int64, device=m.device),
                            "num_experts": 5},
}  # fmt: skip


# ---- routing


def route(make: Make, tokens: int = 9, experts: int = 8, top_k: int = 3, **options: Any) -> Call:
    """Logits far enough apart that rounding does not change the choice."""
    order = torch.rand(tokens, experts, generator=make._generator).argsort(-1).double()
    logits = order * 0.5 - experts / 4
    return {"logits": make._cast(logits, None), "top_k": top_k, **options}


def deepseek(make: Make) -> Call:
    call = route(make, experts=16, top_k=4, score="sigmoid", renorm=True, scale=2.5)
    wide = torch.float64 if make.dtype == torch.float64 else torch.float32
    bias = make.normal(16, scale=0.3, dtype=wide)
    return call | {"bias": bias, "n_group": 4, "topk_group": 2}


def masked_experts(make: Make, left: int) -> torch.Tensor:
    return torch.arange(8, device=make.device) % 8 < left


ROUTES = {
    "softmax": route,
    "softmax, renorm": lambda m: route(m, renorm=True),
    "sigmoid": lambda m: route(m, score="sigmoid", scale=0.7),
    "sigmoid, renorm": lambda m: route(m, score="sigmoid", renorm=True),
    "topk_softmax": lambda m: route(m, score="topk_softmax"),
    "groups by their best": lambda m: route(
        m, n_group=4, topk_group=2, group_topn=1, score="sigmoid"
    ),
    "DeepSeek-V3": deepseek,
    "expert_mask": lambda m: route(m, expert_mask=masked_experts(m, 5)),
    "fewer experts than top_k": lambda m: route(
        m, expert_mask=masked_experts(m, 2), score="sigmoid", renorm=True
    ),
    "every expert": lambda m: route(m, top_k=8, renorm=True),
    "one expert": lambda m: route(m, experts=1, top_k=1),
    "several blocks": lambda m: route(m, tokens=150, experts=60, top_k=8),
    "no tokens": lambda m: route(m, tokens=0),
    "statistics": lambda m: route(m, tokens=100, stats=True, threshold=0.25),
}


# ---- products


def grouped(
    make: Make,
    ends: tuple[int, ...] = (4, 4, 10, 13),
    rows: int = 15,
    k: int = 7,
    n: int = 6,
    *,
    extras: tuple[str, ...] = (),
    **options: Any,
) -> Call:
    """Arguments of grouped_mm: an empty group, and rows behind the last offset."""
    groups = len(ends)
    call: Call = {"a": make.normal(rows, k), "b": make.normal(groups, k, n, scale=k**-0.5)}
    call["offs"] = torch.tensor(ends, dtype=torch.int32, device=make.device)
    shapes = {"bias": (groups, n), "row_scale": (rows,), "accumulate": (rows, n)}
    for name in extras:
        call[name] = make.normal(*shapes[name])
    return call | options


def gathered(make: Make) -> Call:
    call = grouped(make, extras=("bias", "row_scale"))
    return call | {"a": make.normal(6, 7), "a_idx": integers(make, 0, 6, 15, dtype=torch.int64)}


def by_depth(make: Make, m: int, n: int, ends: tuple[int, ...], rows: int) -> Call:
    offs = torch.tensor(ends, dtype=torch.int64, device=make.device)
    return {"a": make.normal(m, rows), "b": make.normal(rows, n), "offs": offs}


def transposed_weights(make: Make) -> Call:
    call = grouped(make, (40, 60), 60, k=33, n=50)
    return call | {"b": call["b"].mT.contiguous().mT}


GROUPED = {
    "plain": grouped,
    "bias": lambda m: grouped(m, extras=("bias",)),
    "bias, row_scale, accumulate": lambda m: grouped(m, extras=("bias", "row_scale", "accumulate")),
    "a_idx": gathered,
    "many rows": lambda m: grouped(m, (100, 700, 701), 701, k=40, n=70, extras=("bias",)),
    "transposed weights": transposed_weights,
    "no rows": lambda m: grouped(m, (0, 0), 0),
    "one of each": lambda m: grouped(m, (1,), 1, 1, 1),
    "2d x 2d": lambda m: by_depth(m, 6, 5, (4, 4, 10, 13), 15),
    "2d x 2d, many rows": lambda m: by_depth(m, 70, 50, (600, 640), 650),
}


# ---- the layer


def mlp(
    make: Make,
    tokens: int = 9,
    hidden: int = 11,
    inner: int = 7,
    experts: int = 5,
    top_k: int = 3,
    *,
    biases: bool = True,
    activation: str = "swiglu",
    transposed: bool = False,
    **options: Any,
) -> Call:
    rows = 2 * inner if "glu" in activation else inner
    call: Call = {"x": make.normal(tokens, hidden)}
    call["w1"] = make.normal(experts, rows, hidden, scale=hidden**-0.5)
    call["w2"] = make.normal(experts, hidden, inner, scale=inner**-0.5)
    if transposed:
        call |= {name: call[name].mT.contiguous() for name in ("w1", "w2")}
    call["ids"] = routing(make, tokens, top_k, experts)
    call["weights"] = make.normal(tokens, top_k)
    if biases:
        call |= {"b1": make.normal(experts, rows), "b2": make.normal(experts, hidden)}
    return call | options | {"activation": activation, "transposed": transposed}


def kinked(make: Make, activation: str) -> Call:
    """Every z is an odd multiple of 1/2 and exact: relu takes the same branch in all dtypes."""
    call = mlp(make, activation=activation)
    call |= {name: make.lattice(*call[name].shape) for name in ("x", "w1")}
    call["b1"] = make.lattice(*call["b1"].shape) + 0.5
    return call


def invalid_ids(make: Make) -> Call:
    call = mlp(make)
    ids = call["ids"].clone()
    ids[0, 0], ids[1, 1], ids[2] = -1, 5, 2**31 - 1
    return call | {"ids": ids}


def mapped(make: Make) -> Call:
    expert_map = torch.tensor([4, 0, 0, -1, 2, 1], device=make.device)
    call = mlp(make)
    return call | {"ids": routing(make, 9, 3, 6).int(), "expert_map": expert_map}


def skewed(make: Make, tokens: int = 9, **options: Any) -> Call:
    """All tokens to one expert, and each of them twice."""
    call = mlp(make, tokens, top_k=2, **options)
    return call | {"ids": torch.full_like(call["ids"], 1)}


MLPS = {
    "swiglu": mlp,
    "no bias": lambda m: mlp(m, biases=False),
    "geglu": lambda m: mlp(m, activation="geglu"),
    "geglu_tanh": lambda m: mlp(m, activation="geglu_tanh"),
    "reglu": lambda m: kinked(m, "reglu"),
    "swiglu_oai, interleaved, transposed": lambda m: mlp(
        m, activation="swiglu_oai", interleaved=True, transposed=True
    ),
    "interleaved": lambda m: mlp(m, interleaved=True),
    "transposed": lambda m: mlp(m, transposed=True),
    "silu": lambda m: mlp(m, activation="silu"),
    "gelu": lambda m: mlp(m, activation="gelu"),
    "gelu_tanh": lambda m: mlp(m, activation="gelu_tanh", transposed=True),
    "relu2": lambda m: kinked(m, "relu2"),
    "relu": lambda m: kinked(m, "relu"),
    "recompute": lambda m: mlp(m, recompute=True),
    "ids of no expert": invalid_ids,
    "expert_map": mapped,
    "all tokens to one expert": skewed,
    "one of each": lambda m: mlp(m, 1, 1, 1, 1, 1),
    "no tokens": lambda m: mlp(m, 0),
    "several tiles": lambda m: mlp(m, 70, 64, 100, 3, 2),
    "several tiles, transposed": lambda m: mlp(m, 70, 33, 65, 3, 2, transposed=True),
    "several tiles of 128 rows": lambda m: mlp(m, 140, 64, 136, 2, 2),
    "several chunks": lambda m: skewed(m, 600, hidden=33, inner=31),
    "float32 weights and biases": lambda m: (
        mlp(m)
        | {
            "weights": m.normal(9, 3, dtype=torch.float32),
            "b1": m.normal(5, 14, dtype=torch.float32),
            "b2": m.normal(5, 11, dtype=torch.float32),
        }
    ),
}

# ---- tokens that leave their sequences and come back


def scores(make: Make, *shape: int, k: int) -> Call:
    return {"scores": make.normal(*shape), "k": k}


def tied_scores(make: Make) -> Call:
    values = make.lattice(2, 40)
    values[0, 3], values[0, 5], values[1, 7], values[1, 20:] = torch.nan, 0.0, -0.0, -torch.inf
    return {"scores": values, "k": 22}


TOPKS = {
    "two dimensions": lambda m: scores(m, 2, 3, 50, k=20),
    "one sequence": lambda m: scores(m, 9, k=9),
    "none": lambda m: scores(m, 2, 7, k=0),
    "no sequences": lambda m: scores(m, 0, 7, k=2),
}


def rows(make: Make, length: int, width: int, chosen: int, lead: tuple = (3,)) -> Call:
    """Some rows twice, some indices outside."""
    index = integers(make, -1, length + 1, *lead, chosen, dtype=torch.int64)
    return {"x": make.normal(*lead, length, width), "index": index}


def weighted(call: Call, make: Make, dtype: torch.dtype | None = None) -> Call:
    return call | {"weights": make.normal(*call["index"].shape, dtype=dtype)}


GATHERS: dict[str, Any] = {
    "plain": lambda m: rows(m, 10, 7, 6),
    "int32, one sequence": lambda m: (
        (call := rows(m, 10, 33, 6, ())) | {"index": call["index"].int()}
    ),
    "weights, several threads": lambda m: weighted(rows(m, 300, 130, 170, (2, 2)), m),
    "no rows": lambda m: weighted(rows(m, 10, 7, 0), m),
    "no tokens": lambda m: weighted(rows(m, 0, 7, 2), m),
    "float32 weights": lambda m: weighted(rows(m, 10, 7, 6), m, torch.float32),
}


def with_src(build: Any) -> Any:
    def call(make: Make) -> Call:
        made = build(make)
        return made | {"src": make.normal(*made["index"].shape, made["x"].shape[-1])}

    return call


SCATTERS = {name: with_src(build) for name, build in GATHERS.items()}

HALVES = (torch.bfloat16, torch.float16)


def table(oracle: Any, grad: tuple[str, ...], builds: dict[str, Any], **options: Any) -> list:
    """Cases by name. A name with "float32" mixes dtypes, which only 16-bit calls can."""
    return [
        OpCase(oracle, name, build, grad, **{"dtypes": HALVES if "float32" in name else FLOATS,
                                             **options})
        for name, build in builds.items()
    ]  # fmt: skip


CASES = [
    *table(bucket_sort, (), SORTS, dtypes=F32),
    *table(moe_permute, (), PERMUTES, dtypes=F32),
    *table(moe_route, ("logits",), ROUTES),
    *table(grouped_mm, ("a", "b", "bias", "row_scale", "accumulate"), GROUPED,
           tolerance=TOLERANCE, grad_tolerance=GRAD_TOLERANCE),
    *table(moe_mlp, GRADS, MLPS, tolerance=TOLERANCE, grad_tolerance=GRAD_TOLERANCE),
    *table(token_topk, ("scores",), TOPKS),
    *table(token_topk, (), {"ties, NaN and infinity": tied_scores}),  # a jump at each tie
    *table(gather_rows, ("x", "weights"), GATHERS),
    *table(scatter_add_rows, ("x", "src", "weights"), SCATTERS),
]  # fmt: skip
