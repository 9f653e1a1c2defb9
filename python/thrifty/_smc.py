"""Sequential Monte Carlo: resampling, and the bookkeeping of one population of texts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thrifty import _awrs_ops as ops
from thrifty._arguments import named


class Resampled(NamedTuple):
    """What `smc_resample` returns."""

    ancestors: Tensor  # int64 (P, N)
    logw: Tensor  # (P, N)
    ess: Tensor  # (P,)
    log_ml_increment: Tensor  # (P,)


@named
def smc_resample(
    logw: Tensor,
    seeds: Tensor,
    offsets: Tensor,
    *,
    method: str = "stratified",
    ess_threshold: float = 0.5,
) -> Resampled:
    """Which particles go on, for P populations of N weighted particles.

    With W = softmax(logw), the effective sample size is ESS = 1 / sum(W ** 2). Where it is below
    `ess_threshold * N`, particle i becomes a copy of particle ``ancestors[i]``, and all new
    log-weights are 0; elsewhere nothing changes.

    Args:
        logw: (P, N), float64 or float32; -inf for particles without weight.
        seeds, offsets: int64 (P,). The result is a function of a population's seed and offset, not
            of its place in the batch.
        method: how the ancestors of population p are drawn, with E[copies of j] = N W_j:
            "stratified", one uniform number in each N-th of [0, 1); "systematic", the same number
            in each; "multinomial", N independent ones; "residual", floor(N W_j) copies of each j
            and the rest multinomial.
        ess_threshold: the share of N; 0 never resamples, infinity always.

    Returns:
        ancestors (0 ... N - 1 where nothing was drawn), the new log-weights, the ESS before, and
        the increment of the log marginal likelihood, log(mean(exp(logw))) where resampled and 0
        elsewhere: ``sum of increments + log(mean(exp(final logw)))`` estimates it, its exponential
        without bias.

        A population whose weights are all -inf is left alone, with ESS 0. One with NaN or +inf is
        left alone, too, with ESS NaN.

    Raises:
        ValueError: shapes, dtypes, method or threshold that do not fit; an argument that requires
            grad, since this op has none.

    Example::

        >>> logw = torch.tensor([[0.0, -torch.inf, -torch.inf, 0.0]])
        >>> one = torch.tensor([1])
        >>> thrifty.smc_resample(logw, one, one, ess_threshold=0.9).ancestors
        tensor([[0, 0, 3, 3]])

    Reference: Douc, Cappe and Moulines, "Comparison of resampling schemes for particle filtering"
    (2005), arXiv cs/0507025.
    """
    if torch.is_grad_enabled() and logw.requires_grad:
        raise ValueError(
            "smc_resample: logw: expected no gradient to be recorded, since this op has none, got "
            "requires_grad=True"
        )
    return Resampled(*ops.smc_resample(logw, seeds, offsets, method, float(ess_threshold)))


class SMC:
    """N weighted texts that grow token by token: sequential Monte Carlo over any model.

    The model and the constraint stay with the caller, who asks for one token per particle, hands
    tokens and log-weights to `update`, and reorders its own state (key-value cache, matchers) by
    the ancestors that come back.

    Args:
        particles: N.
        eos_ids: tokens that end a text.
        ess_threshold: resample when the effective sample size is below this share of N.
        method: as in `smc_resample`.
        seed: of everything random here.

    Attributes:
        tokens: a list of N lists.
        logw: float64 (N,), log-weights since the last resampling.
        finished: bool (N,), whether a text has ended, by a token of `eos_ids` or by weight 0.
        ess: effective sample size after the last update, before resampling.

    Example, a model of two letters that may only say "a"::

        >>> smc = thrifty.SMC(4, eos_ids=[1], seed=7)
        >>> logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).expand(4, 3)
        >>> while not smc.done and smc.steps < 8:
        ...     drawn = thrifty.awrs_sample(
        ...         logits, lambda row, ids: [i != 2 for i in ids],
        ...         seeds=smc.seeds, offsets=smc.offsets)
        ...     ancestors = smc.update(drawn.token, drawn.logw)
        >>> all(set(text) <= {0, 1} for text in smc.tokens)
        True
    """

    @named
    def __init__(
        self,
        particles: int,
        *,
        eos_ids: Sequence[int] | int,
        ess_threshold: float = 0.5,
        method: str = "stratified",
        seed: int = 0,
    ) -> None:
        if not 1 <= particles < 2**31:
            raise ValueError(f"SMC: particles: expected 1 to 2^31 - 1, got {particles}")
        if method not in ("stratified", "systematic", "multinomial", "residual"):
            raise ValueError(
                "SMC: method: expected stratified, systematic, multinomial or residual, got "
                f"{method}"
            )
        self.eos_ids = {eos_ids} if isinstance(eos_ids, int) else set(eos_ids)
        self.ess_threshold, self.method = float(ess_threshold), method
        self.tokens: list[list[int]] = [[] for _ in range(particles)]
        self.logw = torch.zeros(particles, dtype=torch.float64)
        self.finished = torch.zeros(particles, dtype=torch.bool)
        self.ess = float(particles)
        self.steps = 0
        self._log_ml = 0.0
        # Particles draw from streams of their own, all apart from that of the resampling.
        spread = torch.Generator().manual_seed(seed)
        self.seeds = torch.randint(-(2**63), 2**63 - 1, (particles,), generator=spread)
        self._seed = torch.randint(-(2**63), 2**63 - 1, (1,), generator=spread)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def done(self) -> bool:
        """Whether every text has ended."""
        return bool(self.finished.all())

    @property
    def offsets(self) -> Tensor:
        """int64 (N,), for the next draw: it changes with every update."""
        return torch.full((len(self),), self.steps)

    @property
    def weights(self) -> Tensor:
        """float64 (N,), normalised; zeros when no particle has weight."""
        return torch.softmax(self.logw, 0).nan_to_num(0.0)

    @property
    def log_ml(self) -> float:
        """Estimate of the log probability that the model's text satisfies the constraint.

        Its exponential is unbiased when the log-weights came from a proper estimator.
        """
        mean = torch.logsumexp(self.logw, 0) - torch.tensor(float(len(self))).log()
        return self._log_ml + float(mean)

    def update(self, token: Tensor, logw: Tensor) -> Tensor | None:
        """Appends one token to each text that has not ended, and resamples when that is due.

        Args:
            token: int64 (N,); entries of texts that have ended are not read.
            logw: (N,), log-weights of these tokens, -inf for a dead end.

        Returns:
            None, or int64 (N,): particle i is now a copy of what was particle ``ancestors[i]``.
        """
        if token.shape != self.logw.shape or logw.shape != self.logw.shape:
            raise ValueError(
                f"SMC: token, logw: expected shape ({len(self)},), got {tuple(token.shape)} and "
                f"{tuple(logw.shape)}"
            )
        step = logw.detach().to("cpu", torch.float64)
        self.logw = torch.where(self.finished, self.logw, self.logw + step)
        alive = (~self.finished).tolist()
        for text, new, grows, weight in zip(
            self.tokens, token.tolist(), alive, self.logw.tolist(), strict=True
        ):
            if grows and weight > -torch.inf:
                text.append(new)
        ended = torch.tensor([t in self.eos_ids for t in token.tolist()])
        self.finished = self.finished | ended | (self.logw == -torch.inf)
        self.steps += 1
        return self._resample()

    def _resample(self) -> Tensor | None:
        drawn = smc_resample(
            self.logw[None],
            self._seed,
            torch.tensor([self.steps]),
            method=self.method,
            ess_threshold=self.ess_threshold,
        )
        self.ess = drawn.ess.item()
        resampled = self.ess > 0 and self.ess < self.ess_threshold * len(self)
        if not resampled:
            return None
        ancestors = drawn.ancestors[0]
        self._log_ml += drawn.log_ml_increment.item()
        self.logw = drawn.logw[0]
        self.tokens = [list(self.tokens[i]) for i in ancestors.tolist()]
        self.finished = self.finished[ancestors]
        return ancestors

    def reorder(self, state: Sequence[Any], ancestors: Tensor) -> list[Any]:
        """The entries of a list, one per particle, after resampling; the caller copies them."""
        return [state[i] for i in ancestors.tolist()]
