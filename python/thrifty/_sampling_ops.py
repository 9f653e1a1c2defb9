"""What torch has to know about the sampling ops: the shapes of their results. Schemas and kernels
come with the native library (csrc/sampling/ops.cpp). None has a gradient."""

import torch

from thrifty import _library  # noqa: F401  defines the ops

# The overloads themselves: choosing one among the overloads of a name takes 2 us a call.
apply_token_bitmask_ = torch.ops.thrifty.apply_token_bitmask_.default
masked_sample = torch.ops.thrifty.masked_sample.default
filter_threshold = torch.ops.thrifty.filter_threshold.default


@torch.library.register_fake("thrifty::apply_token_bitmask_")
def _(logits, bitmask, indices, row_map, vocab_size):  # type: ignore[no-untyped-def]
    torch._check(logits.dim() == 2, lambda: "apply_token_bitmask_: logits: expected (B, V)")


@torch.library.register_fake("thrifty::masked_sample")
def _(logits, *args):  # type: ignore[no-untyped-def]
    torch._check(logits.dim() == 2, lambda: "masked_sample: logits: expected (B, V)")
    rows = logits.shape[0]
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.int32),
    )


@torch.library.register_fake("thrifty::filter_threshold")
def _(logits, *args):  # type: ignore[no-untyped-def]
    torch._check(logits.dim() == 2, lambda: "filter_threshold: logits: expected (B, V)")
    rows = logits.shape[0]
    return tuple(logits.new_empty(rows, dtype=torch.float32) for _ in range(2))
