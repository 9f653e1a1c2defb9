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
    return (
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty((rows, k), dtype=torch.int32),
        logits.new_empty((rows, k), dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.int32),
        logits.new_empty(rows, dtype=torch.int32),
    )


def _verified(logits: Tensor, batch: int, depth: int, rows: int, k: int) -> tuple[Tensor, ...]:
    return (
        logits.new_empty((batch, depth + 1), dtype=torch.int32),
        logits.new_empty(batch, dtype=torch.int32),
        logits.new_empty((batch, depth + 1), dtype=torch.int32),
        logits.new_empty((batch, rows, k), dtype=torch.int32),
        logits.new_empty((batch, rows, k), dtype=torch.float32),
        logits.new_empty(batch, dtype=torch.int32),
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


@torch.library.register_fake("thrifty::ngram_update_")
def _(  # type: ignore[no-untyped-def]
    region, capacity, k, n_min, n_max, count_cap, table_seed, tails, lens, ids, probs,
):  # fmt: skip
    return None


@torch.library.register_fake("thrifty::ngram_draft")
def _(  # type: ignore[no-untyped-def]
    region, capacity, k, n_min, n_max, count_cap, table_seed, tails, lens, child_begin,
    child_count, sample, inv_temp, seed, offset,
):  # fmt: skip
    batch, nodes = tails.shape[0], child_count.shape[0]
    ints = [region.new_empty((batch, nodes), dtype=torch.int32) for _ in range(6)]
    return (
        *ints,
        region.new_empty((batch, nodes, (nodes + 63) // 64), dtype=torch.int64),
        region.new_empty(batch, dtype=torch.int32),
        region.new_empty((batch, nodes, k), dtype=torch.int32),
        region.new_empty((batch, nodes, k), dtype=torch.float32),
    )
