"""Adaptive weighted rejection sampling: candidates in order, weights from verdicts on them."""

from typing import NamedTuple

import torch
from torch import Tensor

from thrifty import _awrs_ops as ops
from thrifty._arguments import named
from thrifty._byte_dfa import ByteDFA
from thrifty._sampling_arguments import per_row, raise_unless_ok, refuse_gradient

UNKNOWN = 2  # a verdict that has not been asked for


class Candidates(NamedTuple):
    """Tokens in without-replacement order; see `sample_candidates`."""

    ids: Tensor
    logp: Tensor
    log_rest: Tensor
    log_tail: Tensor
    lse: Tensor
    status: Tensor


class AwrsWeights(NamedTuple):
    """What the verdicts on candidates say; see `awrs_weights`."""

    pos: Tensor
    logw: Tensor
    need_more: Tensor
    n_checked: Tensor


class AwrsDfaSample(NamedTuple):
    """One token per row; see `awrs_sample_dfa`."""

    token: Tensor
    logw: Tensor
    new_state: Tensor
    n_checked: Tensor
    status: Tensor


@named
def sample_candidates(
    logits: Tensor,
    k: int,
    *,
    bitmask: Tensor | None = None,
    mask_rows: Tensor | None = None,
    inv_temperature: float | Tensor = 1.0,
    drawn: Tensor | None = None,
    seeds: Tensor,
    offsets: Tensor,
) -> Candidates:
    """The first k tokens of each row in without-replacement order, with the masses around them.

    With p = softmax(logits * inv_temperature): the first is a sample of p, each next one a sample
    of p without those before it, as if all tokens were sorted by log p plus Gumbel noise. So the
    first that a constraint allows is an exact sample of p given the constraint.

    Args:
        logits: (B, V), float32, bfloat16 or float16, any strides.
        k: candidates per row; at most V come back.
        bitmask, mask_rows: tokens that may be drawn at all, as in `masked_sample`; p and the
            masses stay those of the whole vocabulary.
        inv_temperature: 1 / T, a positive number or float32 (B,).
        drawn: int32 (B, D), the `ids` of earlier calls side by side: the list goes on after them.
            The chunks together are bit for bit the longer list.
        seeds, offsets: int64 (B,): the randomness of a row, whatever its place in the batch. Count
            the offset up once per position of the text; chunks of one list share it.

    Returns:
        ids: int32 (B, k), -1 after the last token that has mass.
        logp: float32 (B, k), their log p; -inf after the last.
        log_rest: float32 (B, k), log of all mass not drawn before each: sums of what is left, never
            1 - sum, so it keeps its digits at 1e-30; -inf after the last.
        log_tail: float32 (B,), log of the mass that is in no list; -inf when nothing is left.
        lse: float32 (B,), log(sum(exp(logits * inv_temperature))).
        status: int32 (B,), `Status`: INVALID for NaN or +inf among the logits.

    Raises:
        ValueError: shapes, dtypes, k or temperatures that do not fit; logits that require grad.

    Example::

        >>> logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
        >>> first = thrifty.sample_candidates(
        ...     logits, 2, seeds=torch.tensor([3]), offsets=torch.tensor([0]))
        >>> rest = thrifty.sample_candidates(
        ...     logits, 2, drawn=first.ids, seeds=torch.tensor([3]), offsets=torch.tensor([0]))
        >>> sorted(torch.cat([first.ids, rest.ids], 1)[0].tolist())
        [-1, 0, 1, 3]

    Reference: Lipkin et al., "Fast controlled generation from language models with adaptive
    weighted rejection sampling", arXiv 2504.05410; the order is Plackett and Luce's.
    """
    refuse_gradient("sample_candidates", logits)
    inv = temperatures("sample_candidates", inv_temperature, logits)
    return Candidates(
        *ops.sample_candidates(logits, k, bitmask, mask_rows, inv, drawn, seeds, offsets)
    )


def temperatures(op: str, inv_temperature: float | Tensor, logits: Tensor) -> Tensor | None:
    """As the native ops take it: None is 1."""
    if isinstance(inv_temperature, float | int) and inv_temperature == 1:
        return None
    return per_row(op, "inv_temperature", inv_temperature, logits)


@named
def awrs_weights(
    allowed: Tensor,
    logp: Tensor,
    log_rest: Tensor,
    log_tail: Tensor,
    *,
    estimator: str = "desraj",
    extra: int = 4,
    budget: int | None = None,
    coins: Tensor | None = None,
) -> AwrsWeights:
    """Which candidate is the sample, and its log-weight, from verdicts on the candidates.

    The first allowed candidate x is the sample. Its weight Zhat estimates Z = p(allowed) such that
    E[Zhat 1(x = a)] = p(a) for every allowed a ("properly weighted"). A pure function.

    Args:
        allowed: uint8 (B, K): 1 allowed, 0 refused, 2 not asked yet.
        logp, log_rest, log_tail: as from `sample_candidates`, float32 or float64; of chunks, side
            by side, with the last log_tail.
        estimator:
            "desraj", the mean of `extra` Des Raj terms over the candidates after x: the more, the
                less variance.
            "recursive", Des Raj with one extra, as in genlm-control.
            "paper", (1 - psi0) / (rejections of two loops + 1), Proposition 3 of the paper; needs
                `coins`. Fewest verdicts when one allowed token has most of the mass.
            "none", weight 1: the biased sampler that masks locally.
        extra: at least 1. Only x's place may decide it, never how the verdicts look.
        budget: most verdicts per row, x's included; None for no bound. When it is spent before any
            candidate was allowed the weight is 0, and the mean is still exact. Not for "paper".
        coins: float64 (B, K), uniform numbers in [0, 1).

    Returns:
        pos: int32 (B,), x's place, -1 while or where there is none.
        logw: (B,), in logp's dtype, log Zhat in [logp of x, log_rest of x]; -inf without x.
        need_more: bool (B,), whether verdicts, or candidates, are missing.
        n_checked: int32 (B,), the verdicts used; where more are needed, the number of leading
            candidates whose verdicts are needed next.

    Raises:
        ValueError: shapes, dtypes, estimator, extra, budget or coins that do not fit.

    Example::

        >>> p = torch.tensor([[0.5, 0.3, 0.2]])
        >>> rest = torch.tensor([[1.0, 0.5, 0.2]])
        >>> nothing = torch.tensor([-torch.inf])
        >>> verdicts = torch.tensor([[0, 1, 2]], dtype=torch.uint8)
        >>> thrifty.awrs_weights(verdicts, p.log(), rest.log(), nothing, extra=1).n_checked
        tensor([3], dtype=torch.int32)
        >>> verdicts[0, 2] = 0
        >>> found = thrifty.awrs_weights(verdicts, p.log(), rest.log(), nothing, extra=1)
        >>> found.pos.item(), round(found.logw.exp().item(), 4)
        (1, 0.3)

    References: arXiv 2504.05410, section 3; Des Raj, "Some estimators in sampling with varying
    probabilities without replacement", JASA 1956.
    """
    if budget is not None and budget < 1:
        raise ValueError(f"awrs_weights: budget: expected None or a positive number, got {budget}")
    return AwrsWeights(
        *ops.awrs_weights(allowed, logp, log_rest, log_tail, coins, estimator, extra, budget or 0)
    )


@named
def awrs_coins(seeds: Tensor, offsets: Tensor, k: int) -> Tensor:
    """float64 (B, k): the coins of these rows, for `awrs_weights(..., estimator="paper")`.

    Args:
        seeds, offsets: int64 (B): a row's coins are a function of these two alone (Philox4x32-10,
            a stream of their own).
        k: how many.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Example::

        >>> thrifty.awrs_coins(torch.tensor([1, 2]), torch.tensor([0, 0]), 3).shape
        torch.Size([2, 3])
    """
    return ops.awrs_coins(seeds, offsets, k)


@named
def awrs_sample_dfa(
    logits: Tensor,
    dfa: ByteDFA,
    state: Tensor,
    *,
    estimator: str = "desraj",
    extra: int = 4,
    budget: int | None = None,
    inv_temperature: float | Tensor = 1.0,
    seeds: Tensor,
    offsets: Tensor,
    fallback_token: int = -1,
    strict: bool = False,
) -> AwrsDfaSample:
    """One properly weighted token per row under a regular language, all of it native.

    Draws candidates, walks each one's bytes through the automaton, and weighs, without a mask, an
    index over the vocabulary or a return to Python. After 256 refusals in a row the whole
    vocabulary is checked instead, and token and weight are exact; not with a budget, and not with
    the estimator "paper".

    Args:
        logits: (B, V), float32, bfloat16 or float16, any strides. Tokens beyond the automaton's
            vocabulary are refused.
        dfa: shared by all rows.
        state: int32 (B,), where each row's text is: `dfa.start` at first, then `new_state`.
            Negative states allow nothing.
        estimator, extra, budget: as in `awrs_weights`.
        inv_temperature, seeds, offsets: as in `sample_candidates`.
        fallback_token: what `token` is where there is none.
        strict: raise unless every status is OK; waits for the device.

    Returns:
        token: int64 (B,).
        logw: float32 (B,), its log-weight; -inf without one.
        new_state: int32 (B,), the state after the token, unchanged by an end token; -1 without one.
        n_checked: int32 (B,), tokens whose bytes were walked.
        status: int32 (B,), `Status`.

    Guarantees: a row's result does not depend on its place in the batch or on threads.

    Raises:
        ValueError: shapes, dtypes, devices, temperatures, estimator, extra or budget that do not
            fit; logits that require grad.

    Example::

        >>> dfa = thrifty.ByteDFA.from_regex(r"(ab)+", [b"a", b"b", b"c", b"ab", b""], eos_ids=4)
        >>> state = torch.tensor([dfa.start], dtype=torch.int32)
        >>> text = []
        >>> for step in range(20):
        ...     drawn = thrifty.awrs_sample_dfa(
        ...         torch.zeros(1, 5), dfa, state, seeds=torch.tensor([1]),
        ...         offsets=torch.tensor([step]))
        ...     if drawn.token.item() == 4:
        ...         break
        ...     text.append(dfa.vocabulary[drawn.token.item()])
        ...     state = drawn.new_state
        >>> dfa.matches(b"".join(text))
        True

    Reference: arXiv 2504.05410, with the estimator of docs/sampling.md.
    """
    refuse_gradient("awrs_sample_dfa", logits)
    if budget is not None and budget < 1:
        raise ValueError(
            f"awrs_sample_dfa: budget: expected None or a positive number, got {budget}"
        )
    inv = temperatures("awrs_sample_dfa", inv_temperature, logits)
    found = AwrsDfaSample(
        *ops.awrs_sample_dfa(
            logits, *dfa_tensors(dfa, logits.device), state, inv, seeds, offsets,
            estimator, extra, budget or 0, fallback_token,
        )
    )  # fmt: skip
    if strict:
        raise_unless_ok("awrs_sample_dfa", found.status)
    return found


def dfa_tensors(dfa: ByteDFA, device: torch.device) -> tuple[Tensor, ...]:
    """The automaton's arrays on a device, copied there once."""
    if device not in dfa.on_device:
        dfa.on_device[device] = tuple(torch.from_numpy(a).to(device) for a in dfa.arrays())
    return dfa.on_device[device]
