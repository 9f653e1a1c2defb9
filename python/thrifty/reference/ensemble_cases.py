"""The ensemble family's cases: each names what it exercises.

r, s and bias are random everywhere: with their usual initial values, 1 and 0, or with random signs,
where r * r = 1, a mix-up of r and s or of r and 1 / r would not show.
"""

from itertools import pairwise
from typing import Any

import torch

from thrifty.ensemble import pack_weight
from thrifty.reference.cases import FLOATS, Call, Make, OpCase
from thrifty.reference.ensemble import batch_ensemble_linear, batch_ensemble_mlp, ensemble_linear

VECTORS = ("r", "s", "bias", "r_next")

# torch.testing's tolerances hold for one rounding to 16 bits. Where the processor multiplies 16-bit
# numbers (AMX, tensor cores), a result has two: of x * r, and its own. A gradient has four: also of
# the saved z, which act' and the sums for s and r_next read, and of dz.
TOLERANCE = {torch.bfloat16: 2 * 1.6e-2, torch.float16: 2 * 1e-3}
GRAD_TOLERANCE = {torch.bfloat16: 4 * 1.6e-2, torch.float16: 4 * 1e-3}


def layer(
    make: Make,
    batch: int = 5,
    k: int = 3,
    n_in: int = 7,
    n_out: int = 6,
    *,
    shared: bool = True,
    vectors: tuple[str, ...] = VECTORS,
    vector_dtype: torch.dtype | None = None,
    exact: bool = False,
    **options: Any,
) -> Call:
    """Arguments of a batch-ensemble layer.

    With `exact` every y is an odd multiple of 1/2, never 0, and is computed without rounding in all
    dtypes: relu takes the same branch in each.
    """
    draw = make.lattice if exact else make.normal
    shapes = {"r": (k, n_in), "s": (k, n_out), "bias": (k, n_out), "r_next": (k, n_out)}
    call: Call = {"x": draw(batch, n_in) if shared else draw(batch, k, n_in)}
    call["weight"] = draw(n_out, n_in) if exact else make.normal(n_out, n_in, scale=n_in**-0.5)
    call |= {name: draw(*shapes[name], dtype=vector_dtype) for name in vectors}
    if exact:
        call["bias"] = call["bias"] + 0.5
    return call | options


def grouped(make: Make, rows: int, group: int, **options: Any) -> Call:
    call = layer(make, **options)
    return call | {"x": make.normal(rows, call["weight"].shape[1]), "group": group}


def packed(
    make: Make,
    batch: int = 5,
    k: int = 3,
    n_in: int = 7,
    n_out: int = 6,
    *,
    shared: bool = False,
    exact: bool = False,
    **options: Any,
) -> Call:
    """Arguments of a layer with k weights; `exact` as in `layer`."""
    draw = make.lattice if exact else make.normal
    call: Call = {"x": draw(batch, n_in) if shared else draw(batch, k, n_in)}
    call["weight"] = (
        draw(k, n_in, n_out) if exact else make.normal(k, n_in, n_out, scale=n_in**-0.5)
    )
    call["bias"] = draw(k, n_out) + (0.5 if exact else 0)
    return call | options


def network(
    make: Make,
    *,
    batch: int = 5,
    k: int = 3,
    widths: tuple[int, ...] = (7, 9, 8),
    shared: bool = True,
    vectors: tuple[str, ...] = ("r", "s", "bias"),
    vector_dtype: torch.dtype | None = None,
    head: int = 0,
    pack: bool = False,
    **options: Any,
) -> Call:
    """Arguments of a network with these widths, from its input on, and `head` outputs."""
    pairs = list(pairwise(widths))
    call: Call = {"x": make.normal(batch, *(() if shared else (k,)), widths[0])}
    call["weight"] = [make.normal(b, a, scale=a**-0.5) for a, b in pairs]
    for name in vectors:
        sizes = [a if name == "r" else b for a, b in pairs]
        call[name] = [make.normal(k, size, dtype=vector_dtype) for size in sizes]
    if head:
        call["head_weight"] = make.normal(k, widths[-1], head, scale=widths[-1] ** -0.5)
        call["head_bias"] = make.normal(k, head, dtype=vector_dtype)
    if pack and make.device.type == "cpu":  # other devices know no packed weights
        call["packed"] = [pack_weight(weight) for weight in call["weight"]]
    return call | options


def shared_bias(make: Make) -> Call:
    call = layer(make, vectors=("r", "s"))
    return call | {"bias": make.normal(6)}


def dropped(make: Make, **options: Any) -> Call:
    return layer(make, **options) | {"seed": make.seed()}


def partial_network(make: Make) -> Call:
    """Absent entries inside the lists, one shared bias, and k shown by x alone."""
    call = network(make, shared=False, vectors=())
    return call | {"r": [None, None], "bias": [make.normal(9), None]}


HALVES = (torch.bfloat16, torch.float16)


def table(oracle: Any, grad: tuple[str, ...], builds: dict[str, Any]) -> list[OpCase]:
    """Cases by name. A name with "float32" mixes dtypes, which only 16-bit calls can."""
    return [
        OpCase(
            oracle,
            name,
            build,
            grad,
            dtypes=HALVES if "float32" in name else FLOATS,
            tolerance=TOLERANCE,
            grad_tolerance=GRAD_TOLERANCE,
        )
        for name, build in builds.items()
    ]


LAYERS = {
    "shared x": layer,
    "x of each member": lambda m: layer(m, shared=False),
    "weight alone": lambda m: layer(m, shared=False, vectors=()),
    "weight alone, k given": lambda m: layer(m, vectors=()) | {"k": 3},
    "r alone": lambda m: layer(m, vectors=("r",)),
    "s alone": lambda m: layer(m, vectors=("s",)),
    "r_next alone": lambda m: layer(m, vectors=("r_next",)),
    "bias of all members": shared_bias,
    "relu": lambda m: layer(m, exact=True, activation="relu"),
    "silu": lambda m: layer(m, shared=False, activation="silu"),
    "gelu": lambda m: layer(m, activation="gelu"),
    "gelu_tanh": lambda m: layer(m, shared=False, activation="gelu_tanh"),
    "dropout": lambda m: dropped(m, dropout=0.4),
    "dropout, gelu": lambda m: dropped(m, n_out=70, activation="gelu", dropout=0.25),
    "dropout, relu, x of each member": lambda m: dropped(
        m, exact=True, shared=False, activation="relu", dropout=0.1
    ),
    "group 1": lambda m: grouped(m, rows=10, group=1, activation="silu"),
    "group 4, last members short": lambda m: grouped(m, rows=15, group=4),
    "one member, one row": lambda m: layer(m, batch=1, k=1, n_in=1, n_out=1),
    "no rows": lambda m: layer(m, batch=0),
    "several blocks": lambda m: layer(m, 150, 5, n_in=100, n_out=77, activation="silu"),
    "several blocks, x of each member, dropout": lambda m: dropped(
        m, batch=70, k=4, n_in=33, n_out=130, shared=False, activation="silu", dropout=0.5
    ),
    "float32 vectors": lambda m: layer(
        m, shared=False, activation="gelu", vector_dtype=torch.float32
    ),
}

PACKED = {
    "x of each member": packed,
    "shared x": lambda m: packed(m, shared=True),
    "no bias": lambda m: packed(m) | {"bias": None},
    "relu": lambda m: packed(m, exact=True, activation="relu"),
    "silu": lambda m: packed(m, shared=True, activation="silu"),
    "gelu": lambda m: packed(m, activation="gelu"),
    "gelu_tanh": lambda m: packed(m, activation="gelu_tanh"),
    "dropout": lambda m: packed(m, activation="silu", dropout=0.3) | {"seed": m.seed()},
    "no rows": lambda m: packed(m, batch=0),
    "several blocks": lambda m: packed(m, batch=150, n_in=100, n_out=77, activation="silu"),
    "float32 bias": lambda m: packed(m) | {"bias": m.normal(3, 6, dtype=torch.float32)},
}

NETWORKS = {
    "two layers": network,
    "one layer with r": lambda m: network(m, widths=(7, 9), vectors=("r",)),
    "absent entries": partial_network,
    "head": lambda m: network(m, head=3),
    "mean": lambda m: network(m, head=1, reduce="mean", activation="silu"),
    "softmax_mean": lambda m: network(
        m, shared=False, head=4, reduce="softmax_mean", activation="gelu"
    ),
    "packed weights": lambda m: network(m, head=2, pack=True, activation="gelu_tanh"),
    "no rows": lambda m: network(m, batch=0, head=2, reduce="mean"),
    "four layers, several blocks": lambda m: network(
        m, batch=140, widths=(33, 70, 100, 64, 77), head=3, pack=True
    ),
    "float32 vectors": lambda m: network(m, head=3, vector_dtype=torch.float32),
}

CASES = [
    *table(batch_ensemble_linear, ("x", "weight", *VECTORS), LAYERS),
    *table(ensemble_linear, ("x", "weight", "bias"), PACKED),
    *table(batch_ensemble_mlp, (), NETWORKS),
]
