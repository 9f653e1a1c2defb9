"""Sparse mixtures of experts: routing, the order of routed rows, grouped products, and the layer of
experts as one op.

    y_t = sum_k weights[t, k] (W2_e phi(W1_e x_t + b1_e) + b2_e)        e = ids[t, k]

The kernels are in csrc/moe, the same thing in plain torch in `thrifty.reference.moe`. Fake kernels
and gradients: `_moe_ops.py`.
"""

import torch
from torch import Tensor

from thrifty import _debug, _moe_ops
from thrifty._arguments import named
from thrifty._expert_cache import ExpertCache, Load
from thrifty._expert_parallel import expert_parallel_mlp
from thrifty._token_rows import gather_rows, scatter_add_rows, token_topk

__all__ = [
    "ExpertCache",
    "Load",
    "bucket_sort",
    "expert_parallel_mlp",
    "gather_rows",
    "grouped_mm",
    "moe_mlp",
    "moe_permute",
    "moe_route",
    "scatter_add_rows",
    "token_topk",
]


@named
def bucket_sort(ids: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    """A stable counting sort: the positions of each bucket's numbers, in rising order.

    Args:
        ids: (..., n), int32, int64 or uint8, n < 2^31; each row is sorted by itself.
        buckets: how many; a number outside [0, buckets) belongs to none.

    Returns:
        order: (..., n) int32, the positions 0 ... n - 1 by bucket; those of no bucket come last.
        offsets: (..., buckets + 1) int32; bucket b owns ``order[offsets[b]:offsets[b + 1]]``.

    O(n + buckets), deterministic. Not differentiable.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Example::

        >>> order, offsets = thrifty.bucket_sort(torch.tensor([2, 0, 2, -1, 0]), 3)
        >>> order.tolist(), offsets.tolist()
        ([1, 4, 0, 2, 3], [0, 2, 2, 4])
    """
    return torch.ops.thrifty.bucket_sort(ids, buckets)


@named
def moe_route(
    logits: Tensor,
    top_k: int,
    *,
    score: str = "softmax",
    renorm: bool = False,
    scale: float = 1.0,
    bias: Tensor | None = None,
    expert_mask: Tensor | None = None,
    n_group: int = 1,
    topk_group: int = 1,
    group_topn: int = 2,
    stats: bool = False,
    threshold: float = 0.0,
) -> tuple[Tensor, ...]:
    """The top_k experts of each token and their weights.

    ======================  ===========================================================
    Mixtral                 ``renorm=True``
    Qwen3-MoE, OLMoE        ``renorm=config.norm_topk_prob``
    gpt-oss                 ``score="topk_softmax"``
    DeepSeek-V3             ``score="sigmoid", bias=..., renorm=True, scale=2.5, n_group=8,
                            topk_group=4``
    ======================  ===========================================================

    Args:
        logits: (T, E), float32, bfloat16, float16 or float64.
        top_k: experts of a token.
        score: "softmax" over all experts, "sigmoid", or "topk_softmax": softmax over the chosen
            logits alone.
        renorm: divides the chosen scores by their sum ("sigmoid": + 1e-20).
        scale: multiplies the weights.
        bias: (E,) float32 (float64 beside float64 logits), added to the scores to choose, not to
            weigh; gets no gradient.
        expert_mask: (E,) bool; False: never chosen and not part of the softmax.
        n_group, topk_group, group_topn: experts in n_group equal groups, of which the topk_group
            with the largest sum of their group_topn best (score + bias) take part.
        stats: also return statistics per expert (below).
        threshold: a choice counts if its softmax among the token's chosen is at least this.

    Returns:
        weights: (T, top_k) float32 (float64 for float64), in descending order of score + bias.
        ids: (T, top_k) int32, unique in a row; -1, with weight 0, where the mask leaves too few.
        with stats, score_sum: (E,), the sum over tokens of the logits with which the expert was
        chosen, and count: (E,) int32, how often (PreMoE's TCESS is score_sum / T).

    Ties go to the lower index. A NaN score ranks below every number, so NaN logits poison the
    weights of their own token and ids stay valid. Computed in float32 (float64). Differentiable
    once with respect to logits.

    Raises:
        ValueError: arguments that do not fit; the message names argument, expectation and value.

    Example::

        >>> logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
        >>> weights, ids = thrifty.moe_route(logits, 2, renorm=True)
        >>> ids.tolist(), weights.sum().item()
        ([[1, 2]], 1.0)

    References: DeepSeek-V3, arXiv 2412.19437, section 2.1.2; PreMoE, arXiv 2505.17639.
    """
    if _debug.validating and not torch.compiler.is_compiling():
        _debug.check_logits("moe_route", logits)
    mask = None if expert_mask is None else expert_mask.to(torch.uint8)
    groups = (n_group, topk_group, group_topn if topk_group < n_group else 1)
    out = _moe_ops.moe_route_fwd(
        logits, bias, mask, top_k, score, renorm, scale, *groups, stats, threshold
    )
    return tuple(out) if stats else tuple(out[:2])


@named
def moe_permute(
    ids: Tensor,
    num_experts: int,
    *,
    expert_map: Tensor | None = None,
    capacity: int | None = None,
    priority: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The order of routed rows: by expert, and for one expert by slot (token * K + choice).

    Args:
        ids: (T, K), int32 or int64. An id below 0 or beyond the experts belongs to none.
        num_experts: how many, after `expert_map`.
        expert_map: (experts before the map,), int32 or int64: the expert that takes the tokens of
            each; several may share one (merged experts), -1 is none (pruned, or on another rank).
        capacity: each expert keeps at most so many slots, the others belong to none. None: all.
        priority: (T, K) floating, which slots are kept first: the routing weights, or random
            numbers; ties, and None, keep the lower slot.

    Returns:
        slot: (T * K,) int32, sorted row to slot; slots of no expert come last.
        offsets: (num_experts + 1,) int32; expert e has rows [offsets[e], offsets[e + 1]), so
            ``offsets[1:]`` is the `offs` of `grouped_mm` and ``offsets.diff()`` the counts.
        inverse: (T * K,) int32, slot to sorted row.

    Deterministic. Not differentiable.

    Raises:
        ValueError: arguments that do not fit.

    Example::

        >>> slot, offsets, inverse = thrifty.moe_permute(torch.tensor([[1, 0], [2, 1]]), 3)
        >>> slot.tolist(), offsets.tolist()
        ([1, 0, 3, 2], [0, 1, 3, 4])
    """
    if capacity is not None and capacity < 1:
        raise ValueError(f"moe_permute: capacity: expected None or at least 1, got {capacity}")
    priority = None if priority is None else priority.detach()
    return torch.ops.thrifty.moe_permute(ids, num_experts, expert_map, capacity or 0, priority)


@named
def grouped_mm(
    a: Tensor,
    b: Tensor,
    offs: Tensor,
    *,
    a_idx: Tensor | None = None,
    bias: Tensor | None = None,
    row_scale: Tensor | None = None,
    accumulate: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Matrix products over groups of rows, as `torch.nn.functional.grouped_mm`.

    With b of 3 dimensions, for the rows r of group e:
    ``out[r] = row_scale[r] * (a[a_idx[r]] @ b[e] + bias[e]) + accumulate[r]``. With b of 2
    dimensions: ``out[e] = a[:, rows of e] @ b[rows of e]``.

    Args:
        a: (S, K); with `a_idx`, (any, K); for 2d b, (M, S).
        b: (E, K, N), or (S, N), of a's dtype. Any strides and alignment; ``w.mT`` of an (E, N, K)
            parameter is read where it lies.
        offs: (E,), int32 or int64, the end of each group's rows, rising; group 0 starts at 0.
        a_idx: (S,), int32 or int64: the row of a for each row.
        bias: (E, N), of a's dtype or float32.
        row_scale: (S,), of a's dtype or float32.
        accumulate: (S, N) of a's dtype, added to the product: the base of a low-rank residual
            (LoRA). It stays as it is; the sum is the result.
        out_dtype: None (a's) or torch.float32.

    a and b are float32, bfloat16, float16 or float64; sums are taken in float32 (float64), with
    one rounding at the end.

    Returns:
        (S, N) or (E, M, N). Rows from offs[-1] on are zeros (or accumulate), the product of an
        empty group is zeros.

    Differentiable with respect to a, b, bias, row_scale and accumulate, any number of times. On the
    CPU the result does not depend on the number of threads, nor a row on the other rows.

    Raises:
        ValueError: arguments that do not fit; offsets that fall or lie beyond the rows.

    Example::

        >>> a, b = torch.randn(5, 8), torch.randn(2, 8, 3)
        >>> out = thrifty.grouped_mm(a, b, torch.tensor([2, 4]))
        >>> torch.allclose(out[2:4], a[2:4] @ b[1], atol=1e-5), out[4].tolist()
        (True, [0.0, 0.0, 0.0])
    """
    if out_dtype not in (None, a.dtype, torch.float32):
        raise ValueError(
            f"grouped_mm: out_dtype: expected None, {a.dtype} or torch.float32, got {out_dtype}"
        )
    float32_out = out_dtype == torch.float32 and a.dtype != torch.float32
    return _moe_ops.grouped_mm(a, b, offs, a_idx, bias, row_scale, accumulate, float32_out)


@named
def moe_mlp(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    ids: Tensor,
    weights: Tensor,
    *,
    b1: Tensor | None = None,
    b2: Tensor | None = None,
    activation: str = "swiglu",
    transposed: bool = False,
    interleaved: bool = False,
    alpha: float = 1.702,
    limit: float = 7.0,
    expert_map: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """The experts of a layer: up projection, activation, down projection, weighted sum.

    ``y[t] = sum_k weights[t, k] * (w2[e] @ phi(w1[e] @ x[t] + b1[e]) + b2[e])``, e = ids[t, k].

    Args:
        x: (T, H).
        w1: (E, 2 I, H), gate rows first, then up rows; (E, I, H) for an activation without gate.
        w2: (E, H, I).
        ids: (T, K), int32 or int64; an id outside the experts contributes nothing.
        weights: (T, K), of x's dtype or float32.
        b1: (E, 2 I) or (E, I), of x's dtype or float32.
        b2: (E, H), likewise.
        activation: gated: "swiglu", "geglu" (by erf), "geglu_tanh", "reglu", "swiglu_clamp"
            (gate at most `limit`, up in [-limit, limit]), "swiglu_oai" (clamped, then
            (up + 1) * gate * sigmoid(alpha * gate)); plain: "silu", "gelu", "gelu_tanh", "relu",
            "relu2" (its square).
        transposed: w1 is (E, H, 2 I) and w2 (E, I, H).
        interleaved: w1's rows are gate 0, up 0, gate 1, up 1, ...
        alpha, limit: of the activations that use them.
        expert_map: as in `moe_permute`: ids name experts before the map.
        recompute: keep nothing but the arguments for backward and compute w1 @ x again.

    x, w1 and w2 are float32, bfloat16, float16 or float64, of one dtype. Weights are read where
    they lie, with any strides that leave rows or columns contiguous. Sums, also that over experts,
    are taken in float32 (float64), in the order of the experts, with one rounding at the end.

    Returns:
        (T, H) in x's dtype.

    Differentiable once with respect to x, w1, w2, weights, b1 and b2; backward keeps w1 @ x + b1
    beside the arguments and computes only what is asked for: frozen experts cost nothing. Gradients
    of experts without tokens are zeros. On the CPU, results and gradients do not depend on the
    number of threads, nor a token's result on the other tokens. NaN in a token stays in its row.

    Raises:
        ValueError: arguments that do not fit.

    Example::

        >>> x, w1, w2 = torch.randn(5, 8), torch.randn(4, 12, 8), torch.randn(4, 8, 6)
        >>> weights, ids = thrifty.moe_route(torch.randn(5, 4), 2, renorm=True)
        >>> thrifty.moe_mlp(x, w1, w2, ids, weights).shape
        torch.Size([5, 8])

    References: SonicMoE, arXiv 2512.14080, section 3 (what backward keeps).
    """
    if _debug.validating and not torch.compiler.is_compiling():
        experts = len(w1 if expert_map is None else expert_map)
        _debug.check_routing("moe_mlp", ids, weights, experts)
    trained = (x, w1, w2, weights, b1, b2)
    records = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in trained)
    out, _ = _moe_ops.moe_mlp_fwd(
        x, w1, w2, ids, weights, b1, b2, expert_map, activation, transposed, interleaved, alpha,
        limit, records and not recompute,
    )  # fmt: skip
    return out
