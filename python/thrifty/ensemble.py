"""Layers of k networks that share a weight, or have one each, as single fused ops.

    z_j = (x_j * r_j) W^T      y_j = s_j * z_j + bias_j      out_j = dropout(act(y_j)) * r_next_j

TabM (Gorishniy et al., arXiv 2410.24210, section 3) and BatchEnsemble (Wen et al.,
arXiv 2002.06715, section 3.1). The kernels are in csrc/ensemble, the same thing in plain torch in
`thrifty.reference.ensemble`. Fake kernels, autograd and vmap of these ops: `_ensemble_ops.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thrifty import _ensemble_ops
from thrifty._arguments import named
from thrifty._members import members

__all__ = ["batch_ensemble_linear", "batch_ensemble_mlp", "ensemble_linear", "pack_weight"]


def _autocast(x: Tensor, *matrices: Tensor) -> tuple[Tensor, ...]:
    """Operands of the matrix product in autocast's dtype, as for torch's own linear."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x, *matrices
    if any(t.dtype == torch.float64 or not t.is_floating_point() for t in (x, *matrices)):
        return x, *matrices
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) for t in (x, *matrices))


def _wants_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _draw_seed(x: Tensor, dropout: float, seed: Tensor | None) -> Tensor | None:
    if dropout > 0 and seed is None:
        return torch.randint(2**63 - 1, (2,), dtype=torch.int64, device=x.device)
    return seed


def _entries(vectors: Sequence[Tensor | None] | None, weight: Sequence[Tensor]) -> list:
    return [None] * len(weight) if vectors is None else list(vectors)


@named
def batch_ensemble_linear(
    x: Tensor,
    weight: Tensor,
    r: Tensor | None = None,
    s: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    r_next: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    k: int | None = None,
    group: int | None = None,
) -> Tensor:
    """A linear layer of k members that share `weight` and have scalings and a bias of their own.

    For member j: ``out_j = dropout(act(((x_j * r_j) @ weight.T) * s_j + bias_j)) * r_next_j``.
    One pass over memory; an x that all members share is never repeated k times.

    Args:
        x: (B, in), shared by the members, or (B, k, in); with `group`, (rows, in).
        weight: (out, in), of x's dtype.
        r: (k, in), multiplies each member's input; None is 1.
        s: (k, out), multiplies each member's product; None is 1.
        bias: (k, out), or (out,) for all members; None is 0.
        activation: "none" (also None), "relu", "silu", "gelu" (by erf) or "gelu_tanh".
        r_next: (k, out), multiplies the result: the r of the next layer, which then gets None.
        dropout: probability in [0, 1) that an element becomes 0; the others grow by
            1 / (1 - dropout). There is no training flag: pass 0 for inference.
        seed: int64 tensor (seed, offset) on x's device that determines the mask; None draws one
            from torch's default generator of that device. The mask is a function of seed, row and
            column (Philox4x32-10), the same on CPU and GPU, but not that of `torch.nn.Dropout`.
        k: the number of members, where no other argument shows it.
        group: consecutive rows of one member, for x of (rows, in): row i belongs to member
            ``(i // group) % k``. 1 is the order of a flattened (B, k, in), B that of (k, B, in).
            The rows need not be a multiple of k * group.

    x and weight are float32, bfloat16, float16 or float64. The vectors have the same dtype, or
    float32 beside a 16-bit x. Sums are taken in float32 (float64 for float64).

    Returns:
        (B, k, out), or (rows, out) with `group`; contiguous, in x's dtype. Under autocast x and
        weight are cast to autocast's dtype, which is then the result's; vectors stay as they are.

    Guarantees: differentiable once with respect to x, weight and every vector; a second derivative
    raises NotImplementedError. Works under torch.func.grad and vmap, torch.compile (where `group`
    is a constant of the graph) and export. On the CPU, results and gradients do not depend on the
    number of threads. A 16-bit result may differ in the last place from the one without recorded
    gradients: it is made of the product as it is saved, in 16 bits, so that both passes agree.

    Raises:
        ValueError: shapes, dtypes, activation, dropout, seed, k or group that do not fit; the
            message names the argument, what was expected, and what came.

    Example::

        >>> x, weight = torch.randn(5, 8), torch.randn(3, 8)
        >>> r, s, bias = torch.randn(4, 8), torch.randn(4, 3), torch.zeros(4, 3)
        >>> out = thrifty.batch_ensemble_linear(x, weight, r, s, bias, "relu")
        >>> out.shape
        torch.Size([5, 4, 3])
        >>> torch.allclose(out[:, 1], torch.relu((x * r[1]) @ weight.T * s[1]), atol=1e-5)
        True

    References: BatchEnsemble, arXiv 2002.06715, section 3.1; TabM, arXiv 2410.24210, section 3.3.
    """
    if group is not None and group < 1:
        raise ValueError(
            f"batch_ensemble_linear: group: expected None or a positive number, got {group}"
        )
    activation = activation or "none"
    x, weight = _autocast(x, weight)
    seed = _draw_seed(x, dropout, seed)
    saves = _wants_grad(x, weight, r, s, bias, r_next) and (
        activation != "none" or _wants_grad(s, r_next)
    )
    out, _ = _ensemble_ops.batch_ensemble_linear_fwd(
        x, weight, r, s, bias, r_next, seed, activation, dropout, k or 0, group or 0, saves
    )
    return out


@named
def ensemble_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """k separate linear layers: ``out_j = dropout(act(x_j @ weight_j + bias_j))``.

    Args:
        x: (B, in), shared by the members, or (B, k, in).
        weight: (k, in, out), of x's dtype. Mind the order, which is not that of torch.nn.Linear.
        bias: (k, out); None is 0.
        activation, dropout, seed: as in `batch_ensemble_linear`.

    Dtypes, autocast, guarantees and errors are those of `batch_ensemble_linear`.

    Returns:
        (B, k, out), contiguous, in x's dtype.

    Example::

        >>> x, weight, bias = torch.randn(5, 8), torch.randn(4, 8, 3), torch.zeros(4, 3)
        >>> out = thrifty.ensemble_linear(x, weight, bias)
        >>> torch.allclose(out[:, 2], x @ weight[2], atol=1e-5)
        True

    References: TabM, arXiv 2410.24210, section 3.2 (the packed ensemble).
    """
    activation = activation or "none"
    x, weight = _autocast(x, weight)
    seed = _draw_seed(x, dropout, seed)
    saves = activation != "none" and _wants_grad(x, weight, bias)
    out, _ = _ensemble_ops.ensemble_linear_fwd(x, weight, bias, seed, activation, dropout, saves)
    return out


@named
def batch_ensemble_mlp(
    x: Tensor,
    weight: Sequence[Tensor],
    r: Sequence[Tensor | None] | None = None,
    s: Sequence[Tensor | None] | None = None,
    bias: Sequence[Tensor | None] | None = None,
    *,
    activation: str = "relu",
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
    reduce: str = "none",
    packed: Sequence[Tensor] | None = None,
) -> Tensor:
    """A whole network of batch-ensemble layers, for inference.

    Layer i is ``x = act(((x * r[i]) @ weight[i].T) * s[i] + bias[i])``, the activation follows
    every layer. On the CPU, blocks of rows pass through all layers while they are in cache; on
    other devices the layers run one by one.

    Args:
        x: (B, in), shared by the members, or (B, k, in).
        weight: one (out_i, in_i) per layer, at least one, of x's dtype.
        r, s, bias: per layer (k, in_i); (k, out_i); (k, out_i) or (out_i,). None, for a layer or
            for the whole list, leaves the step out. Dtypes as in `batch_ensemble_linear`.
        activation: "none", "relu", "silu", "gelu" (by erf) or "gelu_tanh".
        head_weight: (k, d, d_out), the separate last layers, without activation, or None.
        head_bias: (k, d_out) or None.
        reduce: over members, after the head: "none", "mean" (regression), or "softmax_mean", the
            mean of the members' class probabilities. Without a head only "none".
        packed: `pack_weight(weight[i])` for each layer, saves that step in every call on the CPU;
            other devices do not read it. To be packed again when a weight changes.

    Returns:
        (B, k, out) of the last layer without a head; with one, (B, k, d_out), or (B, d_out) when
        reduced. Contiguous, in x's dtype. Under autocast x and the matrices are cast first, and
        `packed` must have been packed from weights of that dtype.

    Raises:
        ValueError: as `batch_ensemble_linear`; also when gradients are recorded and an argument
            requires one: use torch.no_grad(), or the single layers to train.

    Example::

        >>> weight = [torch.randn(16, 8), torch.randn(16, 16)]
        >>> r = [torch.randn(4, 8), torch.randn(4, 16)]
        >>> head = torch.randn(4, 16, 3)
        >>> x = torch.randn(5, 8)
        >>> p = thrifty.batch_ensemble_mlp(x, weight, r, head_weight=head, reduce="softmax_mean")
        >>> torch.allclose(p.sum(-1), torch.ones(5))
        True

    References: TabM, arXiv 2410.24210, section 3.3.
    """
    vectors = {"r": _entries(r, weight), "s": _entries(s, weight), "bias": _entries(bias, weight)}
    if torch.is_grad_enabled():
        named = {"x": [x], "weight": list(weight), **vectors, "head_weight": [head_weight]}
        _refuse_grad(named | {"head_bias": [head_bias]})
    matrices = [*weight] if head_weight is None else [*weight, head_weight]
    x, *matrices = _autocast(x, *matrices)
    weight, head = matrices[: len(weight)], matrices[len(weight) :]
    head_weight = head[0] if head else None
    if x.device.type not in ("cpu", "meta"):
        return _mlp_by_layers(x, weight, vectors, activation, head_weight, head_bias, reduce)
    absent = x.new_empty(0)
    lists = [[absent if v is None else v for v in entries] for entries in vectors.values()]
    return torch.ops.thrifty.batch_ensemble_mlp(
        x, weight, *lists, head_weight, head_bias, activation, reduce, list(packed or ())
    )


def _refuse_grad(named: dict[str, list]) -> None:
    for name, tensors in named.items():
        if _wants_grad(*tensors):
            raise ValueError(
                f"batch_ensemble_mlp: {name}: expected no gradient to be recorded, since this op "
                "has none (use torch.no_grad(), or batch_ensemble_linear to train), got "
                "requires_grad=True"
            )


def _mlp_by_layers(
    x: Tensor,
    weight: Sequence[Tensor],
    vectors: dict[str, list],
    activation: str,
    head_weight: Tensor | None,
    head_bias: Tensor | None,
    reduce: str,
) -> Tensor:
    """The same network out of the single layers; each multiplies by the r of the next."""
    op = "batch_ensemble_mlp"
    if reduce not in ("none", "mean", "softmax_mean") or (reduce != "none" and head_weight is None):
        raise ValueError(
            f"{op}: reduce: expected none, or with a head mean or softmax_mean, got {reduce}"
        )
    for name, entries in vectors.items():
        if len(entries) != len(weight):
            raise ValueError(f"{op}: {name}: expected {len(weight)} entries, got {len(entries)}")
    r, s, bias = vectors.values()
    k = members(op, None if head_weight is None else head_weight.shape[0], [*r, *s, *bias], x)
    r_now, r_next = r[0], [*r[1:], None]
    for i, w in enumerate(weight):
        x = batch_ensemble_linear(x, w, r_now, s[i], bias[i], activation, r_next=r_next[i], k=k)
        r_now = None
    if head_weight is None:
        return x
    out = ensemble_linear(x, head_weight, head_bias)
    if reduce == "none":
        return out
    wide = out if out.dtype == torch.float64 else out.float()
    return (wide.softmax(-1) if reduce == "softmax_mean" else wide).mean(1).to(out.dtype)


@named
def pack_weight(weight: Tensor) -> Tensor:
    """The weight of one layer in the order in which this machine's CPU kernels read it.

    Args:
        weight: (out, in), contiguous or not; float32, bfloat16, float16 or float64, on the CPU.

    Returns:
        A 1-D uint8 tensor for `batch_ensemble_mlp(packed=...)`. Its layout belongs to the
        instruction set in use (`thrifty.info()["isa"]`), so it is not for saving. Carries no
        gradient.

    Raises:
        ValueError: weight is not a matrix of one of these dtypes.

    Example::

        >>> thrifty.pack_weight(torch.randn(40, 8)).dtype
        torch.uint8
    """
    return torch.ops.thrifty.pack_weight(weight.detach())
