"""The experts of a layer spread over processes: tokens travel, weights stay."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from thrifty._arguments import named
from thrifty._token_rows import scatter_add_rows


class _Exchange(torch.autograd.Function):
    """Rows to where they are sent; gradients travel back the same way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: list, receive: list, group: Any) -> Tensor:
        ctx.back = receive, send, group
        arrived = rows.new_empty((sum(receive), *rows.shape[1:]))
        dist.all_to_all_single(arrived, rows.contiguous(), receive, send, group=group)
        return arrived

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        return _Exchange.apply(grads[0], *ctx.back), None, None, None


@named
def expert_parallel_mlp(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    ids: Tensor,
    weights: Tensor,
    *,
    group: Any = None,
    **options: Any,
) -> Tensor:
    """`moe_mlp` with the experts spread over the processes of `torch.distributed`.

    Process r of R holds experts r E / R up to (r + 1) E / R. Each process calls this with its own
    tokens: rows are sent to the processes of their experts (one all-to-all of counts, one of rows),
    run through `moe_mlp` there, sent back and summed at home.

    Args:
        x: (T, H), the tokens of this process; T may differ between processes and be 0.
        w1, w2: the experts of this process, as in `moe_mlp`; the same number in each process.
        ids: (T, K), int32 or int64, of all E experts; others contribute nothing.
        weights: (T, K), of x's dtype or float32.
        group: of processes; None: all.
        options: b1, b2 (of this process's experts), activation, transposed, interleaved, alpha,
            limit, recompute, as in `moe_mlp`.

    Returns:
        (T, H), what one process with all experts would return for these tokens: in float32 and
        float64 to the bit; in 16 bits an expert's output is rounded for its way back.

    Differentiable once, as `moe_mlp`: each process gets the gradients of its own experts over the
    tokens of all processes. All processes of the group must call it, and go backward, together. The
    counts are read on the host, so a CUDA stream is waited for once.

    Raises:
        ValueError: no process group, or an argument that does not fit.

    Example::

        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> x, w1, w2 = torch.randn(5, 8), torch.randn(4, 12, 8), torch.randn(4, 8, 6)
        >>> weights, ids = thrifty.moe_route(torch.randn(5, 4), 2, renorm=True)
        >>> out = thrifty.expert_parallel_mlp(x, w1, w2, ids, weights)
        >>> torch.equal(out, thrifty.moe_mlp(x, w1, w2, ids, weights))
        True
        >>> dist.destroy_process_group()

    References: GShard, arXiv 2006.16668, section 3.2; DeepSpeed-MoE, arXiv 2201.05596, section 5.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "expert_parallel_mlp: group: expected torch.distributed to be initialized, got no "
            "process group"
        )
    from thrifty.moe import moe_mlp, moe_permute

    if ids.dim() != 2 or ids.shape != weights.shape or ids.shape[0] != x.shape[0]:
        raise ValueError(
            "expert_parallel_mlp: ids: expected one row per token and the shape of weights, got "
            f"{tuple(ids.shape)} beside x {tuple(x.shape)} and weights {tuple(weights.shape)}"
        )
    ranks, local = dist.get_world_size(group), w1.shape[0]
    slot, offsets, _ = moe_permute(ids, ranks * local)
    sent = offsets.diff().long()
    counts = torch.empty_like(sent)  # [ranks, local]: how many rows of each of my experts arrive
    dist.all_to_all_single(counts, sent, group=group)
    send, receive = (c.view(ranks, local).sum(1).tolist() for c in (sent, counts))
    slot = slot[: sum(send)].long()
    token = slot // ids.shape[1]

    rows = _Exchange.apply(x.index_select(0, token), send, receive, group)
    expert = torch.arange(local, device=x.device).repeat(ranks).repeat_interleave(counts)
    ones = weights.new_ones(len(rows), 1)
    out = moe_mlp(rows, w1, w2, expert.unsqueeze(1), ones, **options)
    home = _Exchange.apply(out, receive, send, group)
    return scatter_add_rows(torch.zeros_like(x), token, home, weights.flatten()[slot])
