"""Cases of the attention family: hyper_attention beside torch's exact attention, D = 64, one batch.

Both modes are approximations, so they are not compared with the oracle but carry their error as a
figure, the relative Frobenius norm against exact attention on this case's data: 512 clusters with
values around a mean for each, a set on which neither mode is exact. `auto` is "means" with the
length from which it stops being exact chosen by itself: it must never be slower than exact.
Errors on other data: `python -m bench.attention_error`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attention_data import Draw, clusters
from bench.bars import Bar
from bench.harness import DTYPES, Case, Impl
from bench.peers import flashinfer, require

D = 64


@dataclass
class Heads:
    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool

    def exact(self) -> Tensor:
        return F.scaled_dot_product_attention(self.q, self.k, self.v, is_causal=self.causal)


def setup(n: int, heads: int, dtype: str, causal: bool) -> Callable[[torch.device], Heads]:
    def make(device: torch.device) -> Heads:
        rows = [clusters(Draw(seed, n, D), 512) for seed in range(heads)]
        q, k, v = (torch.stack(x)[None].to(device, DTYPES[dtype]) for x in zip(*rows, strict=True))
        return Heads(q, k, v, causal)

    return make


def nothing(_: Heads) -> tuple:
    return ()


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


def run_exact(state: Heads) -> Impl:
    return Impl(torch.inference_mode()(state.exact), compared=False)


def run_peer(attend: Callable, state: Heads) -> Impl:
    return Impl(attend(state.q, state.k, state.v, state.causal), compared=False)


def hyper(state: Heads, mode: str = "means", min_len: int | None = 0) -> Impl:
    op = require("thrifty").hyper_attention

    @torch.inference_mode()
    def call() -> Tensor:
        return op(state.q, state.k, state.v, causal=state.causal, mode=mode, min_len=min_len)

    def figures() -> dict[str, float]:
        return {"error": relative(call(), state.exact())}

    return Impl(call, compared=False, figures=figures)


def train(state: Heads, forward: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Impl:
    leaves = [x.detach().requires_grad_() for x in (state.q, state.k, state.v)]
    grad = torch.randn(state.q.shape, device=state.q.device).to(state.q.dtype)

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(*leaves), leaves, grad)

    return Impl(call, compared=False)


def train_hyper(state: Heads, mode: str) -> Impl:
    op = require("thrifty").hyper_attention
    return train(state, partial(op, causal=state.causal, mode=mode, min_len=0))


def train_exact(state: Heads) -> Impl:
    return train(state, partial(F.scaled_dot_product_attention, is_causal=state.causal))


# A process of its own: the peak of its memory above inputs and results, in bytes for each token.
MEMORY = """
import sys, torch, thrifty
from bench.attention import setup
n, causal, mode = int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3]
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
torch.set_num_threads(2)
with torch.inference_mode():
    for length in (4096, n):
        state = setup(length, 1, "fp32", causal)(torch.device("cpu"))
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = status("VmRSS")
        out = thrifty.hyper_attention(
            state.q, state.k, state.v, causal=causal, mode=mode, min_len=0)
        peak = status("VmHWM")
print((peak - before - out.nbytes - 4 * n) / n)
"""


def scratch_bytes(n: int, causal: bool, mode: str) -> float:
    # With the thresholds of the timings the call would run in memory that the inputs' making left.
    returned = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(n), str(causal), mode],
        capture_output=True, text=True, check=True, env=os.environ | returned,
    )  # fmt: skip
    return float(done.stdout)


def memory(n: int, causal: bool) -> Case:
    def measured(mode: str) -> Callable[[None], Impl]:
        return lambda _: Impl(
            lambda: None,
            compared=False,
            figures=lambda: {"bytes_per_token": scratch_bytes(n, causal, mode)},
        )

    return Case(
        op="hyper_attention_memory",
        dims={"N": n, "causal": int(causal)},
        dtype="fp32",
        setup=lambda device: None,
        impls={"paper": measured("paper"), "means": measured("means")},
        oracle=nothing,
        bytes=0,
        flops=0,
        baseline="paper",
        tier=1,
        size="N",
        devices=("cpu",),
    )


def flops(n: int, causal: bool) -> float:
    """Of exact attention."""
    return 4 * n * n * D / (2 if causal else 1)


GPU_PEERS = {"flash_attn": flashinfer.flash_attn, "flashinfer": flashinfer.prefill}


def attention(
    op: str, n: int, causal: bool, dtype: str, tier: int, heads: int = 1, gpu: bool = False
) -> Case:
    """hyper_attention_{fwd,train}."""
    training = op.endswith("_train")
    impls = {
        "exact": train_exact if training else run_exact,
        "paper": partial(train_hyper if training else hyper, mode="paper"),
        "means": partial(train_hyper if training else hyper, mode="means"),
    }
    if not training:
        impls["auto"] = partial(hyper, mode="means", min_len=None)
        if gpu:
            impls |= {name: partial(run_peer, peer) for name, peer in GPU_PEERS.items()}
    return Case(
        op=op,
        dims={"N": n, "H": heads, "causal": int(causal)},
        dtype=dtype,
        setup=setup(n, heads, dtype, causal),
        impls=impls,
        oracle=nothing,
        bytes=DTYPES[dtype].itemsize * 4 * heads * n * D,
        flops=heads * flops(n, causal) * (3.5 if training else 1),
        baseline="exact",
        tier=tier,
        size="N",
    )


SWEEP = (1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384, 32768, 65536, 131072)
TIERS = {4096: 0, 16384: 1, 65536: 1}


def cases(device: torch.device) -> list[Case]:
    listed = []
    fwd, step, gpu = "hyper_attention_fwd", "hyper_attention_train", device.type == "cuda"
    for dtype in ("fp32", "bf16"):
        for causal in (False, True):
            listed += [attention(fwd, n, causal, dtype, TIERS.get(n, 2), gpu=gpu) for n in SWEEP]
        listed += [attention(fwd, 16384, causal, dtype, 2, heads=4) for causal in (False, True)]
        listed.append(attention(step, 4096, True, dtype, 2))
        listed.append(attention(step, 16384, True, dtype, 1))
    listed += [memory(131072, causal) for causal in (False, True)]
    return listed


def case(n: int, causal: bool, dtype: str, op: str = "hyper_attention_fwd", heads: int = 1) -> str:
    return f"{op}/N={n},H={heads},causal={int(causal)}/{dtype}"


# Ratios to exact attention: of mode "paper"; "means" has 0.7 of them.
RATIOS = {
    (16384, False): 10, (65536, False): 40,
    (16384, True): 3, (65536, True): 7, (131072, True): 10,
}  # fmt: skip

BARS = (
    *(
        Bar(f"{mode} {dtype} {'causal' if causal else 'full'} {n // 1024}k, exact over thrifty",
            case(n, causal, dtype), "exact", mode, at_least=ratio * share)
        for dtype in ("fp32", "bf16")
        for (n, causal), ratio in RATIOS.items()
        for mode, share in (("paper", 1.0), ("means", 0.7))
    ),
    *(
        Bar(f"{mode} {dtype} {'causal' if causal else 'full'} 16k, 4 heads, exact over thrifty",
            case(16384, causal, dtype, heads=4), "exact", mode,
            at_least=RATIOS[16384, causal] * share)
        for dtype in ("fp32", "bf16")
        for causal in (False, True)
        for mode, share in (("paper", 1.0), ("means", 0.7))
    ),
    *(
        Bar(f"training {mode} {dtype} causal 16k, exact over thrifty",
            case(16384, True, dtype, "hyper_attention_train"), "exact", mode, at_least=8.0)
        for dtype in ("fp32", "bf16")
        for mode in ("paper", "means")
    ),
    *(
        Bar(f"automatic {dtype} {'causal' if causal else 'full'} {n}, thrifty over exact",
            case(n, causal, dtype), "auto", "exact", at_most=1.05)
        for dtype in ("fp32", "bf16")
        for causal in (False, True)
        for n in SWEEP if n <= 8192
    ),
    *(
        Bar(f"scratch of {mode}, bytes per token and head, {'causal' if causal else 'full'} 131k",
            f"hyper_attention_memory/N=131072,causal={int(causal)}/fp32", mode, at_most=64.0,
            value="bytes_per_token")
        for causal in (False, True)
        for mode in ("paper", "means")
    ),
)  # fmt: skip
