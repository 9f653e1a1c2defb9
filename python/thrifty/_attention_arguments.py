"""What the attention ops check before they choose between their own kernels and torch's."""

import torch
from torch import Tensor

from thrifty._attention_recipe import expect

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_DIM = 256


def check_heads(op: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """q [B, Hq, Nq, D], k [B, Hkv, Nk, D], v [B, Hkv, Nk, Dv] of one dtype and device.

    Short attention takes some hundred microseconds and is to cost no more here than in torch: what
    fits is found out by few questions, and what does not by `_name_the_wrong_one`.
    """
    if q.dim() == 4 and k.dim() == 4 and v.dim() == 4:
        (b, hq, _, d), (bk, hk, nk, dk), (bv, hv, nv, dv) = q.shape, k.shape, v.shape
        if (
            (b == bk == bv and hk == hv and nk == nv and d == dk)
            and (hk > 0 and hq % hk == 0 and 1 <= d <= MAX_DIM and 1 <= dv <= MAX_DIM)
            and (q.dtype in DTYPES and q.dtype == k.dtype and q.dtype == v.dtype)
            and (q.device == k.device and q.device == v.device)
        ):
            return
    _name_the_wrong_one(op, q, k, v)


def _name_the_wrong_one(op: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect(x.dim() == 4, op, name, "4 dimensions (B, H, N, D)", f"{x.dim()}")
        expect(x.dtype in DTYPES, op, name, "float32, bfloat16, float16 or float64", x.dtype)
        expect(x.dtype == q.dtype, op, name, f"q's dtype {q.dtype}", x.dtype)
        expect(x.device == q.device, op, name, f"q's device {q.device}", x.device)
        expect(x.shape[0] == q.shape[0], op, name, f"q's batch {q.shape[0]}", x.shape[0])
        expect(1 <= x.shape[3] <= MAX_DIM, op, name, f"D from 1 to {MAX_DIM}", x.shape[3])
    heads = k.shape[1]
    expect(heads > 0 and q.shape[1] % heads == 0, op, "k",
           f"a number of heads that divides q's {q.shape[1]}", heads)  # fmt: skip
    expect(k.shape[3] == q.shape[3], op, "k", f"q's D = {q.shape[3]}", k.shape[3])
    expect(v.shape[1:3] == k.shape[1:3], op, "v", f"k's (H, N) = {tuple(k.shape[1:3])}",
           tuple(v.shape[1:3]))  # fmt: skip


def check_lengths(op: str, q: Tensor, k: Tensor, causal: bool, cu_seqlens: Tensor | None) -> None:
    nq, nk = q.shape[2], k.shape[2]
    if causal and nq > nk:
        expect(False, op, "q", f"at most as many queries as keys ({nk}), as causal", nq)
    if cu_seqlens is not None:
        cu = cu_seqlens
        expect(q.shape[0] == 1, op, "q", "a batch of 1, as cu_seqlens is given", q.shape[0])
        expect(nq == nk, op, "q", f"as many queries as keys ({nk}), as cu_seqlens is given", nq)
        integers = cu.dtype in (torch.int32, torch.int64)
        got = f"{cu.dtype} of shape {tuple(cu.shape)}"
        expect(integers and cu.dim() == 1, op, "cu_seqlens", "int32 or int64 of one dimension", got)
        if cu.is_cuda and not torch.compiler.is_compiling():
            free = not torch.cuda.is_current_stream_capturing()
            expected = "a CPU tensor while a CUDA graph is captured"
            expect(free, op, "cu_seqlens", expected, f"one on {cu.device}")
