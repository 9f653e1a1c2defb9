"""What torch has to know about the drafting ops: their shapes. Schemas and kernels come with the
native library (csrc/drafting/ops.cpp). None of them has a gradient.
"""

import torch
from torch import Tensor

from thrifty import _library  # noqa: F401  defines the ops

ops = torch.ops.thrifty


@torch.library.register_fake("thrifty::row_stats")
def _(logits, exclude, temperature, top_k, top_p, min_p, seed, offset, k):  # type: ignore[no-untyped-def]
    rows = logits.shape[0]
    ints = {"dtype": torch.int32}
    return (
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty((rows, k), **ints),
        logits.new_empty((rows, k), dtype=torch.float32),
        logits.new_empty(rows, **ints),
        logits.new_empty(rows, **ints),
    )


def _verified(logits: Tensor, batch: int, depth: int, rows: int, k: int) -> tuple[Tensor, ...]:
    ints = {"dtype": torch.int32}
    return (
        logits.new_empty((batch, depth + 1), **ints),
        logits.new_empty(batch, **ints),
        logits.new_empty((batch, depth + 1), **ints),
        logits.new_empty((batch, rows, k), **ints),
        logits.new_empty((batch, rows, k), dtype=torch.float32),
        logits.new_empty(batch, **ints),
    )


@torch.library.register_fake("thrifty::verify_tree")
def _(  # type: ignore[no-untyped-def]
    logits, tokens, first_child, next_sibling, q_ids, q, temperature, top_k, top_p, min_p, seed,
    offset, rule, max_depth, k, all_rows,
):  # fmt: skip
    rows = logits.shape[1] if all_rows else max_depth + 1
    return _verified(logits, logits.shape[0], max_depth, rows, k)


@torch.library.register_fake("thrifty::verify_chain")
def _(  # type: ignore[no-untyped-def]
    logits, tokens, lens, q_ids, q, temperature, top_k, top_p, min_p, seed, offset, method, k,
):  # fmt: skip
    return _verified(logits, logits.shape[0], tokens.shape[1], tokens.shape[1] + 1, k)
