"""FlashInfer and flash-attn, for CUDA: exact attention, and draws from probabilities.

What they take, [tokens, heads, D] or [batch, tokens, heads, D], is laid out before the time starts.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.harness import Unavailable
from bench.peers import require


def in_16_bits(peer: str, q: Tensor) -> None:
    if q.dtype not in (torch.bfloat16, torch.float16):
        raise Unavailable(f"{peer} has no {q.dtype}")


def prefill(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Callable[[], Tensor]:
    """FlashInfer's, of one sequence; q, k, v [1, H, N, D]."""
    in_16_bits("flashinfer", q)
    attend = require("flashinfer").single_prefill_with_kv_cache
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
    return lambda: attend(q, k, v, causal=causal)


def flash_attn(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Callable[[], Tensor]:
    """flash-attn's; q, k, v [B, H, N, D]."""
    in_16_bits("flash_attn", q)
    attend = require("flash_attn").flash_attn_func
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return lambda: attend(q, k, v, causal=causal)


def draw() -> Callable[[Tensor], Tensor]:
    """A token of each row of probabilities [B, V]."""
    sample = require("flashinfer").sampling.sampling_from_probs
    return lambda p: sample(p).long()
