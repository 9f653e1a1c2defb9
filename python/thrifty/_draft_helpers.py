"""What surrounds drafting and verification: rollback of key-value caches, a trimmed output head."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thrifty._arguments import named


def _fail(op: str, what: str, expected: str, got: object) -> None:
    raise ValueError(f"{op}: {what}: expected {expected}, got {got}")


@named
def kv_compact_(tensors: Sequence[Tensor], columns: Tensor, start: Tensor | None = None) -> None:
    """Moves the accepted columns of key-value caches together, in place.

    For each sequence b and each i with ``columns[b, i] >= 0``, column ``start[b] + i`` becomes the
    old column ``columns[b, i]``. What lies behind is not cleared.

    Args:
        tensors: keys and values of all layers, each (B, H, L, D), of any dtype and strides.
        columns: int64 (B, n), ascending in each row, -1 pads at the end.
        start: int64 (B): where the first one goes, at most ``columns[b, 0]``; None is 0.

    No sync, no allocation that depends on values: may be captured in a CUDA graph. Values of
    `columns` and `start` are checked on the CPU alone.

    Raises:
        ValueError: shapes or dtypes that do not fit; on the CPU also columns out of range, not
            ascending, or in front of where they go.

    Example::

        >>> keys = torch.arange(6.0).view(1, 1, 6, 1)
        >>> thrifty.kv_compact_([keys], torch.tensor([[3, 5, -1]]), torch.tensor([2]))
        >>> keys.flatten().tolist()
        [0.0, 1.0, 3.0, 5.0, 4.0, 5.0]
    """
    if columns.dim() != 2 or columns.dtype not in (torch.int64, torch.int32):
        _fail("kv_compact_", "columns", "int64 (B, n)", f"{columns.dtype} {tuple(columns.shape)}")
    batch, count = columns.shape
    if start is None:
        start = columns.new_zeros(batch)
    if start.shape != (batch,):
        _fail("kv_compact_", "start", f"shape ({batch},)", tuple(start.shape))
    for t in tensors:
        if t.dim() != 4 or t.shape[0] != batch:
            _fail("kv_compact_", "tensors", f"shape ({batch}, H, L, D)", tuple(t.shape))
        if t.device != columns.device:
            _fail("kv_compact_", "columns", f"a tensor on {t.device}", columns.device)
    if count == 0 or batch == 0:
        return
    columns, start = columns.long(), start.long()
    given = columns >= 0
    target = start[:, None] + torch.arange(count, device=columns.device)
    if columns.device.type == "cpu":
        _check_columns(tensors, columns, given, target)
    # Where nothing moves, a column is copied onto itself, or the last onto the last.
    source = torch.where(given, columns, target)
    for t in tensors:
        if batch == 1 and columns.device.type == "cpu":
            kept = int(given.sum())
            t.index_copy_(2, target[0, :kept], t.index_select(2, columns[0, :kept]))
            continue
        last = t.shape[2] - 1
        shape = (batch, t.shape[1], count, t.shape[3])
        index = source.clamp(max=last)[:, None, :, None].expand(shape)
        place = target.clamp(max=last)[:, None, :, None].expand(shape)
        t.scatter_(2, place, t.gather(2, index))


def _check_columns(
    tensors: Sequence[Tensor], columns: Tensor, given: Tensor, target: Tensor
) -> None:
    length = min((t.shape[2] for t in tensors), default=0)
    ascending = (columns[:, 1:] > columns[:, :-1]) | ~given[:, 1:]
    in_front = (given[:, 1:] <= given[:, :-1]).all()
    if not ascending.all() or not in_front:
        _fail("kv_compact_", "columns", "ascending rows, -1 at the end", columns.tolist())
    if tensors and (columns >= length).any():
        _fail("kv_compact_", "columns", f"columns below {length}", int(columns.max()))
    if (given & (columns < target)).any() or (target[:, 0] < 0).any():
        _fail("kv_compact_", "start", "from 0 to the first column", target[:, 0].tolist())


class HeadDraft(NamedTuple):
    """Of each row: see `trimmed_head`."""

    ids: Tensor
    probs: Tensor


class TrimmedHead(torch.nn.Module):
    """The rows of an output head that belong to a draft's small vocabulary: see `trimmed_head`.

    Args:
        weight: (V, d), the head's.
        index: int64 (m): which rows, distinct.
        bias: (V), or None.

    Holds a copy of the rows; make a new one when the head changes.

    >>> head = thrifty.TrimmedHead(torch.eye(4, 2), torch.tensor([3, 1]))
    >>> head(torch.tensor([[0.0, 1.0]]), k=1).ids
    tensor([[1]], dtype=torch.int32)
    """

    weight: Tensor
    index: Tensor
    bias: Tensor | None

    @named
    def __init__(self, weight: Tensor, index: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        if weight.dim() != 2:
            _fail("trimmed_head", "weight", "shape (V, d)", tuple(weight.shape))
        if not weight.is_floating_point():
            _fail("trimmed_head", "weight", "a floating dtype", weight.dtype)
        if index.dim() != 1 or index.dtype not in (torch.int32, torch.int64) or not len(index):
            got = f"{index.dtype} {tuple(index.shape)}"
            _fail("trimmed_head", "index", "int64 (m), not empty", got)
        if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != weight.dtype):
            wanted = f"{weight.dtype} {tuple(weight.shape[:1])}"
            _fail("trimmed_head", "bias", wanted, f"{bias.dtype} {tuple(bias.shape)}")
        if index.device.type == "cpu":
            if index.min() < 0 or index.max() >= weight.shape[0]:
                outside = index[(index < 0) | (index >= weight.shape[0])][0].item()
                _fail("trimmed_head", "index", f"rows of {weight.shape[0]}", outside)
            if len(index.unique()) < len(index):
                _fail("trimmed_head", "index", "distinct rows", "one of them twice")
        self.register_buffer("weight", weight.detach().index_select(0, index), persistent=False)
        self.register_buffer("index", index.to(weight.device, torch.int64), persistent=False)
        rows = None if bias is None else bias.detach().index_select(0, index)
        self.register_buffer("bias", rows, persistent=False)

    def forward(self, hidden: Tensor, k: int = 10, temperature: float = 1.0) -> HeadDraft:
        return trimmed_head(hidden, self, k=k, temperature=temperature)


@named
def trimmed_head(
    hidden: Tensor,
    weight: Tensor | TrimmedHead,
    index: Tensor | None = None,
    *,
    k: int = 10,
    temperature: float = 1.0,
) -> HeadDraft:
    """The k most probable tokens of a small vocabulary, as a draft model's output head gives them.

    ``logits = hidden @ weight[index].T / temperature``, of which the k largest, by their ids in the
    whole vocabulary, with q = softmax over these k. Saved: all rows of the head that drafts hardly
    ever use, which is most of a small draft model's weights.

    Args:
        hidden: (..., d).
        weight: (V, d), whose rows are gathered in this call, or a `TrimmedHead`, which gathered
            them once.
        index: int64 (m): the small vocabulary, the most frequent tokens of the target's own output.
        k: 1 to m.
        temperature: positive.

    Returns:
        ids: int32 (..., k), by descending probability.
        probs: float32 (..., k), summing to 1: the q that `verify_chain` takes beside `ids` as q_ids
            for a token drawn from it. Then what is emitted has the target's law over the whole
            vocabulary: q is 0 for all other tokens, and the residual makes up for them.

    Raises:
        ValueError: shapes, index, k or temperature that do not fit.

    Example::

        >>> hidden, weight = torch.tensor([[1.0, 0.0]]), torch.eye(4, 2)
        >>> head = thrifty.TrimmedHead(weight, torch.tensor([3, 0]))
        >>> thrifty.trimmed_head(hidden, head, k=1).ids
        tensor([[0]], dtype=torch.int32)

    VocabTrim, arXiv 2506.22694, section 3.
    """
    if isinstance(weight, Tensor):
        if index is None:
            _fail("trimmed_head", "index", "the rows to take", index)
        assert index is not None
        weight = TrimmedHead(weight, index)
    elif index is not None:
        _fail("trimmed_head", "index", "None beside a TrimmedHead", "an index")
    small = len(weight.index)
    if hidden.dtype != weight.weight.dtype:
        _fail("trimmed_head", "hidden", f"weight's {weight.weight.dtype}", hidden.dtype)
    if hidden.dim() == 0 or hidden.shape[-1] != weight.weight.shape[1]:
        _fail("trimmed_head", "hidden", f"(..., {weight.weight.shape[1]})", tuple(hidden.shape))
    if not 1 <= k <= small:
        _fail("trimmed_head", "k", f"1 to {small}", k)
    if not temperature > 0:
        _fail("trimmed_head", "temperature", "a positive number", temperature)
    logits = torch.nn.functional.linear(hidden, weight.weight, weight.bias)
    top = logits.topk(k, dim=-1)
    probs = (top.values.float() / temperature).softmax(-1)
    return HeadDraft(weight.index[top.indices].to(torch.int32), probs)
