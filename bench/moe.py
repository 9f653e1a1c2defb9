"""Cases of the moe family: the layer of experts, forward and with its backward, H = 1024, I = 512,
64 experts, 8 of them a token, random balanced routing unless a case says `skew`.

Peers: the backends that `transformers` offers on the device; on a GPU also a layer made of
CUTLASS's grouped GEMM, with both of its schedules. Floor: the bytes of the experts' weights that
the routing touches, read once (`read`), and the bare products of one expert after another (`gemm`).
Small batches rotate four routings, so that weights come from memory, as they do between the layers
of a model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bench import moe_grouped
from bench.bars import Bar
from bench.harness import DTYPES, Case, Impl
from bench.peers import cutlass_grouped, require, transformers_experts

HIDDEN, INNER, EXPERTS, TOP_K = 1024, 512, 64, 8
ROUTINGS = 4


@dataclass
class Layer:
    x: Tensor
    w1: Tensor
    w2: Tensor
    routings: list[tuple[Tensor, Tensor]]  # ids, weights
    grad: Tensor
    balanced: list[tuple[Tensor, Tensor]]  # the same, beside a skewed routing

    def double(self) -> "Layer":
        first = [(ids, weights.double()) for ids, weights in self.routings[:1]]
        wide = {name: getattr(self, name).double() for name in ("x", "w1", "w2", "grad")}
        return replace(self, **wide, routings=first)


def layer_setup(tokens: int, dtype: str, skew: bool) -> Callable[[torch.device], Layer]:
    def setup(device: torch.device) -> Layer:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device=device).to(DTYPES[dtype])

        balanced = []
        for _ in range(ROUTINGS):
            ids = torch.rand(tokens, EXPERTS, device=device).argsort(-1)[:, :TOP_K].contiguous()
            balanced.append((ids, torch.rand(tokens, TOP_K, device=device)))
        one = [(torch.zeros_like(ids), weights) for ids, weights in balanced]
        return Layer(
            normal(tokens, HIDDEN),
            normal(EXPERTS, 2 * INNER, HIDDEN) / HIDDEN**0.5,
            normal(EXPERTS, HIDDEN, INNER) / INNER**0.5,
            one if skew else balanced,
            normal(tokens, HIDDEN),
            balanced,
        )

    return setup


def run_all(op: Callable[..., Tensor], layer: Layer) -> Impl:
    """Forward, the routings by turns; checked with the first of them."""
    turn = iter(range(1 << 62))

    def call() -> Tensor:
        with torch.inference_mode():
            return op(layer.x, *layer.routings[next(turn) % len(layer.routings)])

    def first() -> Tensor:
        with torch.inference_mode():
            return op(layer.x, *layer.routings[0])

    return Impl(call, check=first)


def balanced(layer: Layer) -> Impl:
    """What the same layer takes with all experts at work: no peer of the skewed case."""
    impl = run_all(
        thrifty_op("thrifty", layer.w1, layer.w2), replace(layer, routings=layer.balanced)
    )
    return replace(impl, compared=False)


def kept_bytes(layer: Layer) -> dict[str, float]:
    """What thrifty keeps for backward beside the arguments, and x, of which a caller keeps nothing
    else."""
    ids, weights = layer.routings[0]
    leaves = [t.detach().requires_grad_() for t in (layer.x, layer.w1, layer.w2, weights)]
    x, w1, w2, weights = leaves
    own = {t.untyped_storage().data_ptr() for t in (w1, w2, ids, weights)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        require("thrifty").moe_mlp(x, w1, w2, ids, weights)
    return {"kept_bytes": float(sum(kept.values()))}


def train(make: Callable[[Tensor, Tensor], Callable[..., Tensor]], layer: Layer) -> Impl:
    x, w1, w2 = (t.detach().requires_grad_() for t in (layer.x, layer.w1, layer.w2))
    op = make(w1, w2)

    def call() -> list[Tensor]:
        ids, weights = layer.routings[0]
        leaf = weights.detach().requires_grad_()
        leaves = [x, w1, w2, leaf]
        if not isinstance(op, partial):
            leaves[1:3] = list(op.parameters())
        return list(torch.autograd.grad(op(x, ids, leaf), leaves, layer.grad))

    return Impl(call)


def thrifty_op(library: str, w1: Tensor, w2: Tensor) -> Callable[..., Tensor]:
    op = require(library).moe_mlp
    return partial(lambda x, ids, weights: op(x, w1, w2, ids, weights))


def peer(name: str) -> Callable[[Tensor, Tensor], Callable[..., Tensor]]:
    return partial(transformers_experts.backend, name)


def of_backend(name: str) -> Callable[[Layer], Impl]:
    return lambda s: run_all(peer(name)(s.w1, s.w2), s)


def cutlass(schedule: str, layer: Layer) -> Impl:
    """The layer on CUTLASS's grouped GEMM: rows gathered into their order, the activation and the
    weighted sum as torch's own ops, nothing read back."""
    tokens, slots = len(layer.x), len(layer.x) * TOP_K
    rows, inner = layer.x.new_empty(slots, HIDDEN), layer.x.new_empty(slots, INNER)
    experts = torch.arange(EXPERTS, device=layer.x.device)
    ends = torch.empty(EXPERTS, dtype=torch.int32, device=layer.x.device)
    up = cutlass_grouped.grouped_mm(schedule, rows, layer.w1, ends)
    down = cutlass_grouped.grouped_mm(schedule, inner, layer.w2, ends)

    def op(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        chosen, slot = ids.flatten().sort(stable=True)
        ends.copy_(torch.searchsorted(chosen, experts, right=True))
        torch.index_select(x, 0, slot // TOP_K, out=rows)
        gate, value = up().chunk(2, -1)
        torch.mul(torch.nn.functional.silu(gate), value, out=inner)
        out = down() * weights.flatten()[slot, None]
        return out[slot.argsort()].view(tokens, TOP_K, HIDDEN).sum(1).to(x.dtype)

    return run_all(op, layer)


def gemm_floor(layer: Layer) -> Impl:
    """The products alone, one expert after another, on rows that lie ready."""
    ids = layer.routings[0][0]
    counts = torch.bincount(ids.flatten(), minlength=EXPERTS).tolist()
    parts = [(e, layer.x.new_ones(n, HIDDEN), layer.x.new_ones(n, INNER))
             for e, n in enumerate(counts) if n]  # fmt: skip

    def call() -> None:
        for e, rows, inner in parts:
            torch.mm(rows, layer.w1[e].t())
            torch.mm(inner, layer.w2[e].t())

    return Impl(call, compared=False)


def read_floor(layer: Layer) -> Impl:
    """The weights of the chosen experts, read once: a sum over them as integers."""
    touched = [ids.unique().tolist() for ids, _ in layer.routings]
    words = [w.view(EXPERTS, -1).view(torch.int64) for w in (layer.w1, layer.w2)]
    turn = iter(range(1 << 62))

    def call() -> None:
        for e in touched[next(turn) % ROUTINGS]:
            for w in words:
                w[e].sum()

    return Impl(call, compared=False)


def moe_mlp(tokens: int, dtype: str, tier: int, skew: bool = False, gpu: bool = False) -> Case:
    active = EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** tokens) if not skew else 1
    impls = {
        "thrifty": lambda s: run_all(thrifty_op("thrifty", s.w1, s.w2), s),
        "eager": of_backend("eager"),
        "grouped_mm": of_backend("grouped_mm"),
        "gemm": gemm_floor,
        "read": read_floor,
    }
    if skew:
        impls["balanced"] = balanced
    if tokens <= 16:  # it copies the weights of every choice
        impls["batched_mm"] = of_backend("batched_mm")

    if gpu:
        impls |= {name: of_backend(name) for name in transformers_experts.GPU_KERNELS}
        if dtype == "bf16":
            impls |= {name: partial(cutlass, name) for name in cutlass_grouped.SCHEDULES}

    def exact(state: Layer) -> Tensor:
        wide = state.double()
        op = thrifty_op("thrifty.reference.moe", wide.w1, wide.w2)
        return op(wide.x, *wide.routings[0])

    return Case(
        op="moe_mlp_skew" if skew else "moe_mlp",
        dims={"T": tokens},
        dtype=dtype,
        setup=layer_setup(tokens, dtype, skew),
        impls=impls,
        oracle=exact,
        bytes=DTYPES[dtype].itemsize * (3 * active * HIDDEN * INNER + 2 * tokens * HIDDEN),
        flops=6 * tokens * TOP_K * HIDDEN * INNER,
        tier=tier,
        size="T",
    )


def moe_mlp_train(tokens: int, dtype: str, tier: int) -> Case:
    def exact(state: Layer) -> object:
        wide = state.double()
        return train(lambda a, b: thrifty_op("thrifty.reference.moe", a, b), wide).call()

    return Case(
        op="moe_mlp_train",
        dims={"T": tokens},
        dtype=dtype,
        setup=layer_setup(tokens, dtype, skew=False),
        impls={
            "thrifty": lambda s: replace(
                train(lambda a, b: thrifty_op("thrifty", a, b), s), figures=lambda: kept_bytes(s)
            ),
            "eager": lambda s: train(peer("eager"), s),
            "grouped_mm": lambda s: train(peer("grouped_mm"), s),
        },
        oracle=exact,
        bytes=DTYPES[dtype].itemsize * 9 * EXPERTS * HIDDEN * INNER,
        flops=18 * tokens * TOP_K * HIDDEN * INNER,
        gradients=True,
        tier=tier,
        size="T",
    )


def cases(device: torch.device) -> list[Case]:
    gpu = device.type == "cuda"
    listed = moe_grouped.cases() if gpu else []
    for dtype in ("fp32", "bf16"):
        listed += [moe_mlp(t, dtype, 0 if t == 1 else 1, gpu=gpu) for t in (1, 16, 512, 4096)]
        listed.append(moe_mlp(4096, dtype, 1, skew=True))
        listed.append(moe_mlp_train(512, dtype, 1))
    return listed


USUAL = ("eager", "grouped_mm", "batched_mm")
FORWARD = "moe_mlp/T={}/{}"


def over_peers(tokens: int, dtype: str, least: float) -> Bar:
    peers = USUAL if tokens <= 16 else USUAL[:2]
    return Bar(f"{dtype} T={tokens}, best backend over thrifty", FORWARD.format(tokens, dtype),
               peers, "thrifty", at_least=least)  # fmt: skip


BARS = (
    *(over_peers(t, "bf16", r) for t, r in ((1, 1.6), (16, 1.5), (512, 2.0), (4096, 2.8))),
    *(over_peers(t, "fp32", 1.3) for t in (1, 16, 512, 4096)),
    *(Bar(f"{dtype} T={t}, over reading the weights", FORWARD.format(t, dtype), "thrifty", "read",
          at_most=1.5) for dtype in ("bf16", "fp32") for t in (1, 16)),
    *(Bar(f"{dtype} T=512 forward and backward, best backend over thrifty",
          f"moe_mlp_train/T=512/{dtype}", USUAL[:2], "thrifty", at_least=least)
      for dtype, least in (("bf16", 2.0), ("fp32", 1.5))),
    *(Bar(f"{dtype} T=4096, all tokens to one expert over balanced", f"moe_mlp_skew/T=4096/{dtype}",
          "thrifty", "balanced", at_most=1.2) for dtype in ("bf16", "fp32")),
    Bar("bf16 T=512, bytes kept for backward", "moe_mlp_train/T=512/bf16", "thrifty",
        at_most=2 * 512 * HIDDEN + 4 * 512 * TOP_K * INNER, value="kept_bytes"),
)  # fmt: skip
