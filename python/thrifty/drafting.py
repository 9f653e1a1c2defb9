"""Drafts without a draft model, and verification that leaves the model's distribution as it is.

`NgramTable` remembers what followed each n-gram, `NgramTable.draft` samples a tree of continuations
from it, one forward pass of the model scores all nodes, `verify_tree` accepts a path and draws one
more token. STAND, arXiv 2506.04708. The kernels are in csrc/drafting, definitions in plain Python
in `thrifty.reference.drafting`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from thrifty import _drafting_ops
from thrifty._arguments import named
from thrifty._draft_helpers import TrimmedHead, kv_compact_, trimmed_head
from thrifty._draft_tree import Draft, DraftTree
from thrifty._ngram_table import NgramTable
from thrifty._tensor_table import TensorNgramTable
from thrifty._tree_merge import tree_merge

__all__ = [
    "Draft",
    "DraftTree",
    "NgramTable",
    "TensorNgramTable",
    "TrimmedHead",
    "kv_compact_",
    "row_stats",
    "tree_merge",
    "trimmed_head",
    "verify_chain",
    "verify_tree",
]

RULES = ("auto", "recursive", "target", "greedy")
PerRow = Tensor | float | int | None


class RowStats(NamedTuple):
    """Of each row: see `row_stats`."""

    lse: Tensor
    topk_ids: Tensor
    topk_probs: Tensor
    draw: Tensor
    status: Tensor


class Verified(NamedTuple):
    """Of each sequence: see `verify_tree`."""

    tokens: Tensor
    lengths: Tensor
    path: Tensor
    topk_ids: Tensor
    topk_probs: Tensor
    status: Tensor


def _settings(
    op: str,
    logits: Tensor,
    rank: int,
    temperature: PerRow,
    top_k: PerRow,
    top_p: PerRow,
    min_p: PerRow,
    seed: PerRow,
    offset: PerRow,
) -> tuple[Tensor | None, ...]:
    """Each as a tensor of one per row, or None."""
    if logits.dim() != rank:
        raise ValueError(f"{op}: logits: expected {rank} dimensions, got {tuple(logits.shape)}")

    def rows(name: str, value: PerRow, dtype: torch.dtype) -> Tensor | None:
        if value is None or isinstance(value, Tensor):
            return value
        whole = dtype == torch.int64
        if whole and not (value == value // 1 and -(2**63) <= value < 2**63):
            raise ValueError(f"{op}: {name}: expected an integer of 64 bits, got {value}")
        filled = int(value) if whole else float(value)
        return torch.full((logits.shape[0],), filled, dtype=dtype, device=logits.device)

    floats, ints = torch.float32, torch.int64
    return (
        rows("temperature", temperature, floats),
        rows("top_k", top_k, ints),
        rows("top_p", top_p, floats),
        rows("min_p", min_p, floats),
        rows("seed", seed, ints),
        rows("offset", offset, ints),
    )


@named
def row_stats(
    logits: Tensor,
    k: int = 10,
    *,
    exclude: Tensor | None = None,
    temperature: PerRow = None,
    top_k: PerRow = None,
    top_p: PerRow = None,
    min_p: PerRow = None,
    seed: PerRow = None,
    offset: PerRow = 0,
) -> RowStats:
    """What verification and table updates need of each row of logits, in one read of it.

    Of the distribution p = softmax(logits / temperature), cut by top_k, then top_p, then min_p, and
    normalised again: its normaliser, its k most probable tokens, and a token drawn from p without
    the excluded ones.

    Args:
        logits: (N, V), float32, bfloat16 or float16; rows may be apart. -inf forbids a token.
        k: 0 to 64.
        exclude: int32 (N, E), E <= 64: ids left out of the draw, distinct, -1 pads.
        temperature: float or float32 (N); None is 1. At 0 all mass is on the largest logit, of
            equal ones the lowest id.
        top_k: int or int64 (N): the k largest are kept (ties at the k-th all stay); 0 or None: all.
        top_p: float or float32 (N) in (0, 1]: the smallest set of the most probable with at least
            this mass; 1 or None: all.
        min_p: float or float32 (N) in [0, 1]: those with at least min_p times the largest
            probability; 0 or None: all.
        seed: int or int64 (N); None: no draw.
        offset: int or int64 (N): with `seed` determines the draw (Philox4x32-10). Results do not
            depend on a row's place.

    Returns:
        lse: float32 (N), log of the sum of exp(logits / temperature) over the kept tokens.
        topk_ids: int32 (N, k), descending, of equal ones the lowest id first; -1 pads.
        topk_probs: float32 (N, k), their p; 0 pads.
        draw: int32 (N); -1 without a seed, or where exclude leaves nothing.
        status: int32 (N): 0, or 1 for a row with NaN or +inf or without a finite logit. The CPU
            raises instead; CUDA does not synchronise, so there it is for the caller to read.

    Raises:
        ValueError: shapes, dtypes or settings that do not fit; on the CPU also a bad row.

    Example::

        >>> stats = thrifty.row_stats(torch.tensor([[0.0, 2.0, 1.0]]), k=2, seed=7)
        >>> stats.topk_ids.tolist(), stats.lse.allclose(torch.tensor([2.4076]))
        ([[1, 2]], True)
    """
    settings = _settings("row_stats", logits, 2, temperature, top_k, top_p, min_p, seed, offset)
    return RowStats(*_drafting_ops.ops.row_stats(logits, exclude, *settings, k))


@named
def verify_tree(
    logits: Tensor,
    draft: Draft,
    *,
    rule: str = "auto",
    temperature: PerRow = None,
    top_k: PerRow = None,
    top_p: PerRow = None,
    min_p: PerRow = None,
    seed: PerRow = None,
    offset: PerRow = 0,
    k: int = 10,
    stats: str = "path",
) -> Verified:
    """Accepts a path of each drafted tree and adds one token: together a sample of the model.

    The emitted tokens have exactly the law of sampling token by token from
    p = softmax(logits / temperature) cut by top_k, top_p and min_p (`row_stats`), whatever the
    draft; only how many there are depends on it.

    Args:
        logits: (B, T, V), float32, bfloat16 or float16: row t is what the model says after node t.
            T >= max(draft.sizes); a draft with more nodes is read up to T.
        draft: from `NgramTable.draft`, or of the same form.
        rule: "recursive": children are tested in draw order against q, each rejection leaves the
            residual max(p - q, 0) (SpecInfer; Sequoia); exact for children sampled from q.
            "target": a token drawn from p is followed as long as it is a child; exact for children
            chosen in any way that does not know the seed; gives the tokens of sampling token by
            token with the same seed and offsets, bit for bit. "greedy": the largest logit, no
            randomness. "auto": greedy where temperature is 0, else recursive for a sampled draft,
            else target.
        temperature, top_k, top_p, min_p: as in `row_stats`, one for all or one per sequence (B).
        seed: int or int64 (B), required unless greedy.
        offset: int or int64 (B): position of the first new token in its sequence. The token at
            position offset + i is drawn by (seed, offset + i), so no two steps share randomness.
        k: how many of the most probable tokens to return for table updates.
        stats: "path" returns them for node 0 and the accepted nodes, "all" for all valid nodes.

    Returns:
        tokens: int32 (B, D + 1) with D = draft.max_depth: the accepted ones and one more; -1 pads.
        lengths: int32 (B): how many.
        path: int32 (B, D + 1): the nodes whose logits were used, node 0 and the accepted: the cache
            keeps them; -1 pads.
        topk_ids, topk_probs: int32 and float32 (B, D + 1, k) in the order of path, or (B, T, k).
        status: int32 (B): 0; 1: a row in use has NaN or +inf or no finite logit; 2: a drafted token
            is outside the vocabulary or links do not form a tree. The CPU raises instead; on CUDA
            such a sequence has length 0.

    Raises:
        ValueError: shapes, dtypes or settings that do not fit; on the CPU also a status that is
            not 0.

    Example::

        >>> table = thrifty.NgramTable(1024)
        >>> table.observe_tokens([1, 2, 3, 1, 2, 3])
        >>> draft = table.draft([[2, 3]], tree=thrifty.DraftTree.chain(2))
        >>> logits = torch.zeros(1, 3, 5)
        >>> logits[0, 0, 1] = logits[0, 1, 2] = logits[0, 2, 4] = 9
        >>> thrifty.verify_tree(logits, draft, temperature=0.0).tokens.tolist()
        [[1, 2, 4]]
    """
    if rule not in RULES:
        raise ValueError(f"verify_tree: rule: expected one of {RULES}, got {rule!r}")
    if stats not in ("path", "all"):
        raise ValueError(f"verify_tree: stats: expected 'path' or 'all', got {stats!r}")
    draft = draft.to(logits.device)
    if rule == "auto":
        rule = "recursive" if draft.sampled else "target"
        if temperature is not None and not isinstance(temperature, Tensor) and temperature == 0:
            rule = "greedy"
    settings = _settings("verify_tree", logits, 3, temperature, top_k, top_p, min_p, seed, offset)
    return Verified(
        *_drafting_ops.ops.verify_tree(
            logits, draft.tokens, draft.first_child, draft.next_sibling, draft.q_ids, draft.q,
            *settings, rule, draft.max_depth, k, stats == "all",
        )
    )  # fmt: skip


@named
def verify_chain(
    logits: Tensor,
    tokens: Tensor,
    lens: Tensor | None = None,
    *,
    q: Tensor | None = None,
    q_ids: Tensor | None = None,
    method: str = "token",
    temperature: PerRow = None,
    top_k: PerRow = None,
    top_p: PerRow = None,
    min_p: PerRow = None,
    seed: PerRow = None,
    offset: PerRow = 0,
    k: int = 10,
) -> Verified:
    """Accepts a prefix of each drafted chain and adds one token; see `verify_tree`.

    Args:
        logits: (B, n + 1, V): row i is what the model says before the i-th drafted token.
        tokens: int32 or int64 (B, n): the drafted tokens.
        lens: int32 (B): how many of them are there; None is all n.
        q: the distributions that they were drawn from: (B, n, V) dense, or (B, n, K) beside q_ids;
            float32, sums of 1. None: the tokens were chosen in some other way, and a token drawn
            from p decides.
        q_ids: int32 (B, n, K): the ids of a sparse q, distinct, -1 pads.
        method: "token": each token is accepted with min(1, p/q) (Leviathan et al., arXiv
            2211.17192). "block": jointly, which accepts at least as many in expectation (Sun et
            al., arXiv 2403.10444).
        temperature, top_k, top_p, min_p, seed, offset, k: as in `verify_tree`.

    Returns:
        As `verify_tree`, with D = n; path is 0 ... lengths - 1.

    Raises:
        ValueError: as `verify_tree`.

    Example::

        >>> logits = torch.zeros(1, 2, 4)
        >>> thrifty.verify_chain(logits, torch.tensor([[2]]), temperature=0.0).tokens.tolist()
        [[0, -1]]
    """
    if method not in ("token", "block"):
        raise ValueError(f"verify_chain: method: expected 'token' or 'block', got {method!r}")
    if tokens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"verify_chain: tokens: expected int32 or int64, got {tokens.dtype}")
    settings = _settings("verify_chain", logits, 3, temperature, top_k, top_p, min_p, seed, offset)
    return Verified(
        *_drafting_ops.ops.verify_chain(
            logits, tokens.to(torch.int32), lens, q_ids, q, *settings, method, k
        )
    )
