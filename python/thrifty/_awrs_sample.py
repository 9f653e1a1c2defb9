"""awrs_sample: one properly weighted token per row under any constraint."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from thrifty import _native
from thrifty._arguments import named
from thrifty._awrs import (
    UNKNOWN,
    AwrsWeights,
    Candidates,
    awrs_coins,
    awrs_weights,
    sample_candidates,
    temperatures,
)
from thrifty._masked_sample import masked_sample
from thrifty._sampling_arguments import Status, raise_unless_ok, refuse_gradient
from thrifty.constraints import Constraint

Check = Callable[[int, list[int]], Sequence[bool]]

# Almost every step ends within the first chunk; a model that is badly wrong needs hundreds.
FIRST_CHUNK, GROWTH, LARGEST_CHUNK = 16, 4, 1024


class AwrsSample(NamedTuple):
    """One token per row; see `awrs_sample`."""

    token: Tensor
    logw: Tensor
    n_checked: Tensor
    status: Tensor


@named
def awrs_sample(
    logits: Tensor,
    constraint: Check | Sequence[Constraint] | Tensor,
    *,
    estimator: str = "desraj",
    extra: int = 4,
    budget: int | None = None,
    lookahead: int = 1,
    inv_temperature: float | Tensor = 1.0,
    seeds: Tensor,
    offsets: Tensor,
    fallback_token: int = -1,
    strict: bool = False,
) -> AwrsSample:
    """One properly weighted token per row, with a constraint that is asked about few tokens.

    The token is an exact sample of p = softmax(logits * inv_temperature) given the constraint, and
    exp(logw) an estimate of the allowed mass with E[exp(logw) 1(token = a)] = p(a): what sequential
    Monte Carlo needs (`SMC`) to sample texts, not only tokens, from the model given the constraint.

    Args:
        logits: (B, V), float32, bfloat16 or float16, any strides.
        constraint: one of
            a function ``check(row, ids) -> list of bool``, whether each token may follow in that
                row's text; asked lazily, about sum over refused tokens r of p_r / (p_r + Z), plus
                1 + extra tokens per row;
            one `Constraint` per row (`thrifty.constraints`), such as those for XGrammar and
                llguidance; where a whole mask is cheaper than single checks, it is taken;
            an int32 bit mask as in `masked_sample`: then token and weight are exact.
        estimator, extra, budget: as in `awrs_weights`.
        lookahead: candidates per call of `check` until one is allowed, for constraints that are
            cheaper in batches. Verdicts that turn out not to be needed count as checks.
        inv_temperature, seeds, offsets: as in `sample_candidates`.
        fallback_token: what `token` is where there is none.
        strict: raise unless every status is OK.

    Returns:
        token: int64 (B,).
        logw: float32 (B,), -inf where there is none.
        n_checked: int32 (B,), the verdicts asked for; 0 where a mask was taken.
        status: int32 (B,), `Status`: NOTHING_ALLOWED, BUDGET, or INVALID for NaN and +inf logits.

    Raises:
        ValueError: arguments that do not fit; logits that require grad; a `check` that does not
            return one verdict per token. An exception of the constraint itself goes through, and
            nothing is kept from the call.

    Example::

        >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
        >>> drawn = thrifty.awrs_sample(
        ...     logits, lambda row, ids: [i != 0 for i in ids], seeds=torch.tensor([5]),
        ...     offsets=torch.tensor([0]))
        >>> drawn.token.item() != 0, round(drawn.logw.exp().item(), 4)  # 1 - p(0)
        (True, 0.3348)

    Reference: Lipkin et al., arXiv 2504.05410.
    """
    refuse_gradient("awrs_sample", logits)
    if lookahead < 1:
        raise ValueError(f"awrs_sample: lookahead: expected a positive number, got {lookahead}")
    draws: dict[str, Any] = {"inv_temperature": inv_temperature, "seeds": seeds, "offsets": offsets}
    mask = as_bitmask(constraint, logits)
    if mask is not None:
        exact = masked_sample(logits, mask, fallback_token=fallback_token, strict=strict, **draws)
        logw = (
            exact.log_z if estimator != "none" else torch.where(exact.status == 0, 0.0, -torch.inf)
        )
        return AwrsSample(exact.token, logw, torch.zeros_like(exact.status), exact.status)
    check = as_check(constraint, logits)
    if logits.is_cpu:
        found = sample_natively(
            logits, check, estimator, extra, budget, lookahead, draws, fallback_token
        )
    else:
        walk = Walk(logits, check, lookahead, budget, draws)
        found = walk.run(estimator, extra, fallback_token)
    if strict:
        raise_unless_ok("awrs_sample", found.status)
    return found


def sample_natively(
    logits: Tensor,
    check: Check,
    estimator: str,
    extra: int,
    budget: int | None,
    lookahead: int,
    draws: dict[str, Any],
    fallback_token: int,
) -> AwrsSample:
    """On the CPU the candidates come one by one, as they are asked about, over the same memory."""
    if budget is not None and budget < 1:
        raise ValueError(f"awrs_sample: budget: expected None or a positive number, got {budget}")
    inv = temperatures("awrs_sample", draws["inv_temperature"], logits)
    bfloat16 = logits.dtype == torch.bfloat16
    found = _native.awrs_sample(
        (logits.view(torch.int16) if bfloat16 else logits).numpy(force=True), bfloat16, check,
        estimator, extra, budget or 0, lookahead, None if inv is None else inv.numpy(),
        draws["seeds"].numpy(), draws["offsets"].numpy(), fallback_token, torch.get_num_threads(),
    )  # fmt: skip
    return AwrsSample(*(torch.from_numpy(field) for field in found))


def as_check(constraint: Check | Sequence[Constraint] | Tensor, logits: Tensor) -> Check:
    if callable(constraint):
        return constraint
    rows = cast(Sequence[Constraint], constraint)
    if len(rows) != len(logits):
        raise ValueError(
            f"awrs_sample: constraint: expected one for each of {len(logits)} rows, got {len(rows)}"
        )
    return lambda row, ids: rows[row].check(ids)


def as_bitmask(constraint: Check | Sequence[Constraint] | Tensor, logits: Tensor) -> Tensor | None:
    """The mask, where there is one or where it is cheaper than checks."""
    if isinstance(constraint, Tensor):
        return constraint
    if callable(constraint) or not all(c.mask_is_cheaper for c in constraint):
        return None
    if len(constraint) != len(logits):
        return None
    mask = torch.zeros(len(logits), (logits.shape[1] + 31) // 32, dtype=torch.int32)
    for row, of_row in zip(mask, constraint, strict=True):
        of_row.fill_bitmask(row)
    return mask.to(logits.device)


class Walk:
    """The rows of one call: candidates so far, and the verdicts on them."""

    def __init__(
        self,
        logits: Tensor,
        check: Check,
        lookahead: int,
        budget: int | None,
        draws: dict[str, Any],
    ) -> None:
        self.logits, self.check, self.lookahead, self.budget = logits, check, lookahead, budget
        self.draws = draws
        self.candidates = sample_candidates(logits, FIRST_CHUNK, **draws)
        self.ids: list[list[int]] = self.candidates.ids.tolist()
        self.verdicts: list[list[int]] = [[] for _ in self.ids]

    def run(self, estimator: str, extra: int, fallback_token: int) -> AwrsSample:
        # What the estimator will want after the first allowed candidate; saves a round.
        after = {"desraj": extra, "recursive": 1}.get(estimator, 0)
        pending = list(range(len(self.ids)))
        wanted = [0] * len(self.ids)
        while True:
            for row in pending:
                self.ask(row, wanted[row], after)
            weights = self.weigh(estimator, extra)
            more = weights.need_more.tolist()
            pending = [row for row in pending if more[row]]
            if not pending:
                return self.result(weights, fallback_token)
            wanted = weights.n_checked.tolist()
            if any(wanted[row] > self.known(row) for row in pending):
                self.draw_more(pending)  # all of them: a row's list has no gaps

    def known(self, row: int) -> int:
        """How many candidates of a row there are."""
        ids = self.ids[row]
        return ids.index(-1) if ids and ids[-1] < 0 else len(ids)

    def ask(self, row: int, wanted: int, after: int) -> None:
        """Asks for `wanted` verdicts, or until one is good and `after` follow it."""
        verdicts, ids = self.verdicts[row], self.ids[row]
        end = min(self.known(row), self.budget or len(ids))
        while True:
            start = len(verdicts)
            if 1 in verdicts:
                stop = max(wanted, verdicts.index(1) + 1 + after)
            else:
                stop = max(wanted, start + self.lookahead)
            stop = min(stop, end)
            if start >= stop:
                return
            answer = self.check(row, ids[start:stop])
            if len(answer) != stop - start:
                raise ValueError(
                    f"awrs_sample: constraint: expected {stop - start} verdicts on "
                    f"{ids[start:stop]}, got {answer!r}"
                )
            verdicts += [1 if verdict else 0 for verdict in answer]

    def weigh(self, estimator: str, extra: int) -> AwrsWeights:
        seen = self.candidates
        width = seen.ids.shape[1]
        allowed = seen.ids.new_tensor(
            [v + [UNKNOWN] * (width - len(v)) for v in self.verdicts], dtype=torch.uint8
        ).view(-1, width)
        coins = None
        if estimator == "paper":
            coins = awrs_coins(self.draws["seeds"], self.draws["offsets"], width)
        return awrs_weights(
            allowed, seen.logp, seen.log_rest, seen.log_tail,
            estimator=estimator, extra=extra, budget=self.budget, coins=coins,
        )  # fmt: skip

    def draw_more(self, rows: list[int]) -> None:
        """The next chunk for some rows; the others, which have ended, get padding."""
        width = self.candidates.ids.shape[1]
        chunk = min(width * (GROWTH - 1), LARGEST_CHUNK)
        which = torch.tensor(rows, device=self.logits.device)
        draws = {
            name: value[which] if isinstance(value, Tensor) and value.numel() > 1 else value
            for name, value in self.draws.items()
        }
        more = sample_candidates(
            self.logits[which], chunk, drawn=self.candidates.ids[which], **draws
        )
        seen = self.candidates

        def widened(old: Tensor, new: Tensor, fill: float) -> Tensor:
            wide = old.new_full((len(old), width + new.shape[1]), fill)
            wide[:, :width] = old
            wide[which, width:] = new
            return wide

        tail, status = seen.log_tail.clone(), seen.status
        tail[which] = more.log_tail
        self.candidates = Candidates(
            widened(seen.ids, more.ids, -1),
            widened(seen.logp, more.logp, -torch.inf),
            widened(seen.log_rest, more.log_rest, -torch.inf),
            tail,
            seen.lse,
            status,
        )
        for row, ids in zip(rows, more.ids.tolist(), strict=True):
            self.ids[row] += ids

    def result(self, weights: AwrsWeights, fallback_token: int) -> AwrsSample:
        device = self.logits.device
        at = weights.pos.tolist()
        token = [ids[i] if i >= 0 else fallback_token for ids, i in zip(self.ids, at, strict=True)]
        checked = [len(verdicts) for verdicts in self.verdicts]
        return AwrsSample(
            torch.tensor(token, dtype=torch.int64, device=device),
            weights.logw,
            torch.tensor(checked, dtype=torch.int32, device=device),
            torch.tensor(self.status(at, checked), dtype=torch.int32, device=device),
        )

    def status(self, at: list[int], checked: list[int]) -> list[int]:
        if min(at, default=0) >= 0:
            return [0] * len(at)
        invalid = (self.candidates.status == Status.INVALID).tolist()
        return [
            Status.OK if i >= 0
            else Status.INVALID if bad
            else Status.BUDGET if n == self.budget
            else Status.NOTHING_ALLOWED
            for i, bad, n in zip(at, invalid, checked, strict=True)
        ]  # fmt: skip
