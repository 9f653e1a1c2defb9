"""Masks, truncation and exact draws over whole rows of logits; see docs/sampling.md."""

from typing import NamedTuple

import torch
from torch import Tensor

from thrifty import _sampling_ops as ops
from thrifty._arguments import named
from thrifty._sampling_arguments import per_row, raise_unless_ok, refuse_gradient

Number = float | Tensor | None  # of all rows, or (B,) of each


class MaskedSample(NamedTuple):
    """One draw per row; see `masked_sample`."""

    token: Tensor
    logp: Tensor
    log_z: Tensor
    status: Tensor


class FilterThreshold(NamedTuple):
    """One bound per row; see `filter_threshold`."""

    threshold: Tensor
    log_mass: Tensor


@named
def apply_token_bitmask_(
    logits: Tensor,
    bitmask: Tensor,
    indices: Tensor | None = None,
    row_map: Tensor | None = None,
    vocab_size: int | None = None,
) -> Tensor:
    """Sets the logits of tokens that a bit mask does not allow to -inf, in place.

    Token t of a row is allowed when bit ``t % 32`` of word ``t // 32`` of its mask is set: the
    layout of XGrammar and llguidance. Logits beyond the mask become -inf.

    Args:
        logits: (B, V) or (V,), float32, bfloat16 or float16, any strides. Changed.
        bitmask: (B, W) or (W,) int32, W at most ceil(V / 32) unless `vocab_size` is given.
        indices: (n,) int32, XGrammar's: only these rows, each with the mask of the same number.
        row_map: (M,) int32: mask i, of (M, W), belongs to row ``row_map[i]`` of the logits; other
            rows stay. Repeated rows are allowed here and in `indices` when their masks are equal.
        vocab_size: tokens that the mask describes; those from it on become -inf. Default: as many
            as the mask has bits, at most V.

    Returns:
        `logits`.

    Guarantees: allowed logits keep their bits; on the CPU, results do not depend on threads.

    Raises:
        ValueError: "apply_token_bitmask_: argument: expected ..., got ...". Rows out of range are
            refused on the CPU; on CUDA they must be right.

    Example::

        >>> logits = torch.tensor([[0.5, 1.0, 2.0]])
        >>> mask = torch.tensor([[0b101]], dtype=torch.int32)
        >>> thrifty.apply_token_bitmask_(logits, mask)
        tensor([[0.5000,   -inf, 2.0000]])
    """
    refuse_gradient("apply_token_bitmask_", logits)
    rows = logits.unsqueeze(0) if logits.dim() == 1 else logits
    mask = bitmask.unsqueeze(0) if bitmask.dim() == 1 else bitmask
    if rows.dim() == 2 and rows.stride(1) != 1 and rows.shape[1] > 1:
        dense = rows.contiguous()
        ops.apply_token_bitmask_(dense, mask, indices, row_map, vocab_size)
        rows.copy_(dense)
    else:
        ops.apply_token_bitmask_(rows, mask, indices, row_map, vocab_size)
    return logits


@named
def pack_token_bitmask(allowed: Tensor) -> Tensor:
    """Booleans (..., V) as a bit mask (..., ceil(V / 32)) of int32, in the layout of XGrammar.

    Args:
        allowed: bool, or numbers of which 0 forbids; the last dimension is the vocabulary.

    Returns:
        int32: bit t % 32 of word t // 32 is token t; bits past the last token are 0.

    Example::

        >>> thrifty.pack_token_bitmask(torch.tensor([True, False, True]))
        tensor([5], dtype=torch.int32)
    """
    padded = torch.nn.functional.pad(allowed.bool(), (0, -allowed.shape[-1] % 32))
    bits = padded.unflatten(-1, (-1, 32)).to(torch.int64)
    words = (bits << torch.arange(32, device=allowed.device)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


@named
def masked_sample(
    logits: Tensor,
    bitmask: Tensor | None = None,
    *,
    inv_temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: Number = None,
    min_p: Number = None,
    top_n_sigma: Number = None,
    top_h: Number = None,
    top_h_variant: str = "hf",
    threshold: Number = None,
    mask_rows: Tensor | None = None,
    seeds: Tensor,
    offsets: Tensor,
    fallback_token: int = -1,
    strict: bool = False,
) -> MaskedSample:
    """One exact draw per row from the tokens that are allowed and pass the filters.

    ``token ~ p(. | A and F)`` with p = softmax(logits * inv_temperature), A the tokens that the
    mask allows and F what the filters leave of them; each row is read once (twice with filters), no
    probabilities are written, nothing is sorted.

    Args:
        logits: (B, V), float32, bfloat16 or float16, V < 2^31. All sums are float32 over blocks
            of 1024 tokens and float64 over the blocks.
        bitmask: (B, W) int32 as in `apply_token_bitmask_`, or None: all are allowed.
        inv_temperature: 1 / T. inf (from 1e30 on) takes the largest logit, the first of equal ones;
            0 draws evenly from the finite logits. This and the next five are one number, or a
            tensor (B,) or (1,) of one per row.
        top_k: keeps the k largest; 0 is none.
        top_p: keeps tokens with less than p of the mass before them, in order of size, after
            top_k; the first always. 1 is none.
        min_p: keeps p_t >= min_p * max p; 0 is none.
        top_n_sigma: keeps logits >= max - n * sigma, with the deviation of the finite ones; 0 is
            none. Does not depend on the temperature.
        top_h: bounded entropy, in (0, 1]; 0 is none. `top_h_variant` "hf" sums -p log p over the
            100 largest as `transformers.TopHLogitsWarper`; "renorm" is the paper's text: the
            entropy of the renormalised prefix over that of the whole row.
        threshold: keeps logits of at least this, as made by `filter_threshold`.
        mask_rows: (B,) int32: which row of `bitmask`, of (M, W) then, is each row's; -1: no mask.
        seeds, offsets: (B,) int64. A row's draw is a function of its logits, seed and offset
            and of nothing else. Count the offset up once per token.
        fallback_token: the token where there is none.
        strict: raise where a status is not OK; waits for the device.

    All filters look at the allowed tokens, and a token has to pass each. Equal logits pass
    together.

    Returns:
        Named tuple of (B,) tensors: token (int64); logp (float32), log p(token | A and F); log_z
        (float32), log p(A and F), the exact log-weight of the draw for the target p 1_{A and F}, 0
        without mask and filters; status (int32), a `thrifty.sampling.Status`: OK; NOTHING_ALLOWED;
        INVALID for a row with NaN or +inf. Where it is not OK, logp = log_z = -inf. With
        inv_temperature = inf, logp = log_z = 0, which is no weight.

    Guarantees: exact up to the rounding of float32 sums (1e-6 of a probability); the same bits for
    a row anywhere in a batch, for float32 logits and the 16-bit logits that they widen, and for any
    number of threads. CPU and CUDA draw from the same law by the same uniforms; where rounding
    differs, a draw on the very edge between two tokens may.

    Raises:
        ValueError: "masked_sample: argument: expected ..., got ..."; also when a gradient would
            have to be recorded. Values in tensors are checked on the CPU only.

    Example::

        >>> logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> mask = thrifty.pack_token_bitmask(torch.tensor([[True, False, True, False]]))
        >>> seeds, offsets = torch.tensor([7]), torch.tensor([0])
        >>> out = thrifty.masked_sample(logits, mask, seeds=seeds, offsets=offsets)
        >>> out.token.item() in (0, 2)
        True
        >>> torch.allclose(out.log_z.exp(), logits.softmax(-1)[:, [0, 2]].sum(-1))
        True

    References: proper weights, AWRS, arXiv 2504.05410; top-n-sigma, arXiv 2411.07641; min-p,
    arXiv 2407.01082; Top-H, arXiv 2509.02510.
    """
    op = "masked_sample"
    refuse_gradient(op, logits)
    filters = _filters(op, logits, top_k, top_p, min_p, top_n_sigma, top_h)
    result = MaskedSample(
        *ops.masked_sample(
            logits,
            bitmask,
            mask_rows,
            _inv_temperature(op, logits, inv_temperature),
            *filters,
            top_h_variant,
            per_row(op, "threshold", threshold, logits, low=-torch.inf),
            seeds,
            offsets,
            fallback_token,
        )
    )
    if strict:
        raise_unless_ok(op, result.status)
    return result


@named
def filter_threshold(
    logits: Tensor,
    bitmask: Tensor | None = None,
    *,
    inv_temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: Number = None,
    min_p: Number = None,
    top_n_sigma: Number = None,
    top_h: Number = None,
    top_h_variant: str = "hf",
    mask_rows: Tensor | None = None,
) -> FilterThreshold:
    """What the filters of `masked_sample` come to: the tokens with ``logit >= threshold``.

    Without a mask, ``log_mass`` is log p(F) of the filtered language model. To draw from that model
    under a mask, with exact weights, hand its threshold to the draw::

        theta, log_f = thrifty.filter_threshold(logits, top_p=0.9)
        out = thrifty.masked_sample(logits, mask, threshold=theta, seeds=seeds, offsets=offsets)
        log_weight = out.log_z - log_f

    Arguments are those of `masked_sample`; inv_temperature must be finite.

    Returns:
        Named tuple of (B,) float32: threshold, -inf where nothing is cut, +inf where nothing is
        allowed, NaN in rows with NaN or +inf; log_mass, log p(A and F).

    Example::

        >>> logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> thrifty.filter_threshold(logits, top_k=2).threshold
        tensor([3.])
    """
    op = "filter_threshold"
    refuse_gradient(op, logits)
    filters = _filters(op, logits, top_k, top_p, min_p, top_n_sigma, top_h)
    scale = _inv_temperature(op, logits, inv_temperature)
    return FilterThreshold(
        *ops.filter_threshold(logits, bitmask, mask_rows, scale, *filters, top_h_variant)
    )


def _inv_temperature(op: str, logits: Tensor, value: float | Tensor) -> Tensor | None:
    unchanged = isinstance(value, (int, float)) and value == 1
    return None if unchanged else per_row(op, "inv_temperature", value, logits)


def _filters(
    op: str,
    logits: Tensor,
    top_k: int | Tensor | None,
    top_p: Number,
    min_p: Number,
    top_n_sigma: Number,
    top_h: Number,
) -> tuple[Tensor | None, ...]:
    return (
        per_row(op, "top_k", top_k, logits, dtype=torch.int64, high=2**62),
        per_row(op, "top_p", top_p, logits, high=1),
        per_row(op, "min_p", min_p, logits, high=1),
        per_row(op, "top_n_sigma", top_n_sigma, logits, high=1e30),
        per_row(op, "top_h", top_h, logits, high=1),
    )


@named
def top_k_threshold(logits: Tensor, k: int | Tensor, bitmask: Tensor | None = None) -> Tensor:
    """The k-th largest allowed logit of each row, (B,) float32.

    Args:
        k: int or int64 (B), at least 1.
        logits, bitmask: as in `filter_threshold`, with its errors and guarantees.

    Example::

        >>> thrifty.top_k_threshold(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 3)
        tensor([2.])
    """
    return filter_threshold(logits, bitmask, top_k=k).threshold


@named
def top_p_threshold(
    logits: Tensor,
    p: float | Tensor,
    bitmask: Tensor | None = None,
    *,
    inv_temperature: float | Tensor = 1.0,
) -> Tensor:
    """The bound of nucleus sampling, (B,) float32.

    Args:
        p: float or float32 (B) in (0, 1]: the mass that is kept.
        logits, bitmask, inv_temperature: as in `filter_threshold`, with its errors and guarantees.

    Example::

        >>> thrifty.top_p_threshold(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.6).exp()
        tensor([0.3000])
    """
    return filter_threshold(logits, bitmask, top_p=p, inv_temperature=inv_temperature).threshold


@named
def min_p_threshold(
    logits: Tensor,
    p: float | Tensor,
    bitmask: Tensor | None = None,
    *,
    inv_temperature: float | Tensor = 1.0,
) -> Tensor:
    """The largest allowed logit + log(p) * T, (B,) float32.

    Args:
        p: float or float32 (B) in [0, 1] (arXiv 2407.01082).
        logits, bitmask, inv_temperature: as in `filter_threshold`, with its errors and guarantees.

    Example::

        >>> thrifty.min_p_threshold(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.5).exp()
        tensor([0.2500])
    """
    return filter_threshold(logits, bitmask, min_p=p, inv_temperature=inv_temperature).threshold


@named
def top_n_sigma_threshold(
    logits: Tensor, n: float | Tensor, bitmask: Tensor | None = None
) -> Tensor:
    """The largest allowed logit - n * sigma, (B,) float32.

    Args:
        n: float or float32 (B), not negative (arXiv 2411.07641).
        logits, bitmask: as in `filter_threshold`, with its errors and guarantees.

    Example::

        >>> thrifty.top_n_sigma_threshold(torch.tensor([[1.0, 2.0, 3.0]]), 1.0)
        tensor([2.1835])
    """
    return filter_threshold(logits, bitmask, top_n_sigma=n).threshold


@named
def top_h_threshold(
    logits: Tensor,
    alpha: float | Tensor,
    bitmask: Tensor | None = None,
    *,
    variant: str = "hf",
    inv_temperature: float | Tensor = 1.0,
) -> Tensor:
    """The bound of Top-H, (B,) float32.

    Args:
        alpha: float or float32 (B), the share of the entropy (arXiv 2509.02510); `variant` is
            `top_h_variant`.
        logits, bitmask, inv_temperature: as in `filter_threshold`, with its errors and guarantees.

    Example::

        >>> thrifty.top_h_threshold(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.4).exp()
        tensor([0.5000])
    """
    return filter_threshold(
        logits, bitmask, top_h=alpha, top_h_variant=variant, inv_temperature=inv_temperature
    ).threshold
