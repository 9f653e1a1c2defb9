"""A token sampler for `genlm-control`, in the place of its `AWRS`.

Needs genlm-control (`pip install genlm-control`).
"""

import importlib
import math
from typing import Any

import torch

from thrifty._awrs import awrs_coins, awrs_weights, sample_candidates
from thrifty._awrs_sample import FIRST_CHUNK, GROWTH, LARGEST_CHUNK

missing: ImportError | None = None
TokenSampler: Any = object
try:
    TokenSampler = importlib.import_module("genlm.control.sampler.token").TokenSampler
except ImportError as error:
    missing = error


class ThriftyAWRS(TokenSampler):
    """Properly weighted tokens of potential * condition, by candidates and few checks.

    As `genlm.control.sampler.token.AWRS`, with candidates drawn natively, the Des Raj estimator
    (`extra` terms; 1 is genlm's recursive AWRS), and no lower bound on the allowed mass: a state
    whose allowed mass is 1e-12 keeps its particle.

    Args:
        potential: the distribution, a genlm `Potential`; its `logw_next` is called once per token.
        condition: a boolean `Potential` (log-weights 0 or -inf), asked about single tokens.
        estimator, extra, budget: as in `thrifty.awrs_weights`.
        seed: of the sampler's stream; each call draws at an offset of its own.

    Example::

        sampler = ThriftyAWRS(llm, grammar, extra=4, seed=1)
        sequences = await SMC(sampler)(n_particles=5, ess_threshold=0.5, max_tokens=100)
    """

    def __init__(
        self,
        potential: Any,
        condition: Any,
        *,
        estimator: str = "desraj",
        extra: int = 4,
        budget: int | None = None,
        seed: int = 0,
    ) -> None:
        if missing is not None:
            raise ImportError("ThriftyAWRS needs genlm-control") from missing
        super().__init__(target=potential * condition)
        self.potential, self.condition = potential, condition
        self.estimator, self.extra, self.budget = estimator, extra, budget
        self.seed, self.calls = seed, 0
        allowed = set(self.target.vocab_eos)
        self._in_target = torch.tensor([token in allowed for token in potential.vocab_eos])

    async def sample(self, context: list, draw: Any = None) -> tuple[Any, float, float]:
        """A token and its log-weight after `context`; the third entry is not defined (NaN)."""
        if draw is not None:
            raise ValueError(
                "ThriftyAWRS: draw: expected None, since the order of candidates is the draw, got "
                "one"
            )
        weights = await self.potential.logw_next(context)
        logits = torch.as_tensor(weights.weights).detach().float().cpu()
        # What the condition has no token for is no candidate, but keeps its share of the mass.
        logits = torch.where(self._in_target, logits, -torch.inf)
        log_z = torch.logsumexp(logits, 0).item()
        keys = {"seeds": torch.tensor([self.seed]), "offsets": torch.tensor([self.calls])}
        self.calls += 1
        return await self._walk(context, logits[None], log_z, weights.decode, keys)

    async def _walk(
        self, context: list, logits: torch.Tensor, log_z: float, decode: Any, keys: dict
    ) -> tuple[Any, float, float]:
        ids = torch.zeros(1, 0, dtype=torch.int32)
        logp = log_rest = torch.zeros(1, 0)
        verdicts: list[int] = []
        while True:
            chunk = min(max(FIRST_CHUNK, ids.shape[1] * (GROWTH - 1)), LARGEST_CHUNK)
            more = sample_candidates(logits, chunk, drawn=ids, **keys)
            ids = torch.cat([ids, more.ids], 1)
            logp = torch.cat([logp, more.logp], 1)
            log_rest = torch.cat([log_rest, more.log_rest], 1)
            order = [token for token in ids[0].tolist() if token >= 0]
            coins = None
            if self.estimator == "paper":
                coins = awrs_coins(keys["seeds"], keys["offsets"], ids.shape[1])
            while True:
                asked = [*verdicts, *[2] * (ids.shape[1] - len(verdicts))]
                found = awrs_weights(
                    torch.tensor([asked], dtype=torch.uint8), logp, log_rest, more.log_tail,
                    estimator=self.estimator, extra=self.extra, budget=self.budget, coins=coins,
                )  # fmt: skip
                known = len(verdicts)
                wanted = min(int(found.n_checked), len(order))
                if not found.need_more or wanted <= known:
                    break
                for token in order[known:wanted]:
                    verdicts.append(int(await self._allows(context, decode[token])))
            if not found.need_more:
                break
        if found.pos < 0:  # a token that is not allowed, with weight 0, as genlm's samplers do
            token = order[0] if order else 0
            return decode[token], -math.inf, math.nan
        return decode[order[int(found.pos)]], float(found.logw) + log_z, math.nan

    async def _allows(self, context: list, token: Any) -> bool:
        if token is self.target.eos:
            return await self.condition.complete(context) == 0
        return await self.condition.prefix([*context, token]) == 0
