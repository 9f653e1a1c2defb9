"""Cases of masks and exact draws: `masked_sample` and `apply_token_bitmask_` at V = 128,256.

Peers: XGrammar's CPU kernel, followed for a draw by torch's softmax and multinomial, as a serving
loop does; the same with a boolean mask ("eager"); the exponential race that vLLM samples with. The
floor reads the logits once. Half of the tokens are allowed, at random: the hardest mask there is,
since no word of it is 0 or all ones; "sparse" allows one in a hundred.

A draw is random, so what is compared is the log-probability that its maker gives the token over the
exact one in float64: 1, for a token that is allowed. torch's float32 softmax adds up a row in a few
sums of 16,000 terms and misses by 2e-5; the bound lets it pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import thrifty
from bench.bars import Bar
from bench.harness import DTYPES, Case, Impl
from bench.peers import flashinfer, require
from thrifty.reference.sampling import unpack_token_bitmask
from thrifty.sampling import MaskedSample

VOCAB = 128_256
SHARES = {"half": 0.5, "sparse": 0.01}


@dataclass
class Rows:
    logits: Tensor
    mask: Tensor
    seeds: Tensor
    offsets: Tensor

    @property
    def allowed(self) -> Tensor:
        return unpack_token_bitmask(self.mask, self.logits.shape[1])

    def over_exact(self, tokens: Tensor, logp: Tensor) -> Tensor:
        """logp of the tokens over the exact one."""
        logits = self.logits.double().masked_fill(~self.allowed, -torch.inf)
        return logp.double() / logits.log_softmax(-1).gather(1, tokens.view(-1, 1))[:, 0]


def rows_of(batch: int, dtype: str, share: float, scale: float = 3.0):
    def setup(device: torch.device) -> Rows:
        logits = (torch.randn(batch, VOCAB, device=device) * scale).to(DTYPES[dtype])
        allowed = torch.rand(batch, VOCAB, device=device) < share
        keys = torch.arange(batch, device=device)
        return Rows(logits, thrifty.pack_token_bitmask(allowed), keys, torch.zeros_like(keys))

    return setup


# ---- draws


def sample_thrifty(**filters: float):
    def factory(rows: Rows) -> Impl:
        def call() -> MaskedSample:
            return thrifty.masked_sample(
                rows.logits, rows.mask, seeds=rows.seeds, offsets=rows.offsets, **filters
            )

        def check() -> Tensor:
            out = call()
            theta = thrifty.filter_threshold(rows.logits, rows.mask, **filters)
            share = theta.log_mass - log_allowed(rows)  # of the filter among the allowed
            return rows.over_exact(out.token, out.logp + share)

        return Impl(call, check)

    return factory


def log_allowed(rows: Rows) -> Tensor:
    exact = rows.logits.double()
    return exact.masked_fill(~rows.allowed, -torch.inf).logsumexp(-1) - exact.logsumexp(-1)


def masked_by_xgrammar(rows: Rows) -> Callable[[], Tensor]:
    xgrammar, logits = require("xgrammar"), rows.logits.clone()

    def call() -> Tensor:
        xgrammar.apply_token_bitmask_inplace(logits, rows.mask)  # the same result every time
        return logits

    return call


def masked_by_torch(rows: Rows) -> Callable[[], Tensor]:
    logits, banned = rows.logits.clone(), ~rows.allowed
    return lambda: logits.masked_fill_(banned, -torch.inf)


def multinomial(p: Tensor) -> Tensor:
    return torch.multinomial(p, 1)[:, 0]


def race(p: Tensor) -> Tensor:
    """The argmax of p / Exp(1), as vLLM draws."""
    return p.div(torch.empty_like(p).exponential_()).argmax(-1)


def flashinfer_chain(rows: Rows) -> Impl:
    return sample_chain(masked_by_torch, flashinfer.draw())(rows)


def sample_chain(masked: Callable[[Rows], Callable[[], Tensor]], draw: Callable[[Tensor], Tensor]):
    def factory(rows: Rows) -> Impl:
        mask = masked(rows)

        def step() -> tuple[Tensor, Tensor]:
            p = mask().softmax(-1, dtype=torch.float32)
            return draw(p), p

        def check() -> Tensor:
            tokens, p = step()
            return rows.over_exact(tokens, p.gather(1, tokens.view(-1, 1))[:, 0].log())

        return Impl(lambda: step()[0], check)

    return factory


def read_floor(rows: Rows) -> Impl:
    bits = rows.logits.view(torch.int32)  # a maximum of integers runs at the speed of reading
    return Impl(lambda: bits.amax(-1), compared=False)


def sample(
    batch: int, dtype: str, share: str, tier: int, gpu: bool = False, **filters: float
) -> Case:
    peers = {} if filters else {
        "xgrammar": sample_chain(masked_by_xgrammar, multinomial),
        "race": sample_chain(masked_by_xgrammar, race),
        "eager": sample_chain(masked_by_torch, multinomial),
    }  # fmt: skip
    if gpu and not filters:
        peers["flashinfer"] = flashinfer_chain
    size = DTYPES[dtype].itemsize
    name = "".join(f"_{key}" for key in filters) + ("" if share == "half" else f"_{share}")
    return Case(
        op="masked_sample" + name,
        dims={"B": batch, "V": VOCAB},
        dtype=dtype,
        setup=rows_of(batch, dtype, SHARES[share]),
        impls={"thrifty": sample_thrifty(**filters), **peers, "read": read_floor},
        oracle=lambda rows: torch.ones(batch, device=rows.logits.device),
        bytes=batch * VOCAB * (size + 1 / 8),
        flops=0.0,
        tolerance=1e-4,
        tier=tier,
        size="B",
        threads=1 if batch == 1 else 0,
    )


# ---- masks alone


def seen(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Comparable parts: what is -inf, and the rest."""
    gone = logits == -torch.inf
    return gone.double(), logits.double().masked_fill(gone, 0)


def masking(op: Callable[[Rows], Callable[[], Tensor]]):
    def factory(rows: Rows) -> Impl:
        call = op(rows)
        return Impl(call, lambda: seen(call()))

    return factory


def masked_by_thrifty(rows: Rows) -> Callable[[], Tensor]:
    logits = rows.logits.clone()
    return lambda: thrifty.apply_token_bitmask_(logits, rows.mask)


def copy_floor(rows: Rows) -> Impl:
    target = rows.logits.clone()
    return Impl(lambda: target.copy_(rows.logits), compared=False)


def mask(batch: int, dtype: str, share: str, tier: int) -> Case:
    return Case(
        op="apply_token_bitmask_" + ("" if share == "half" else f"_{share}"),
        dims={"B": batch, "V": VOCAB},
        dtype=dtype,
        setup=rows_of(batch, dtype, SHARES[share]),
        impls={
            "thrifty": masking(masked_by_thrifty),
            "xgrammar": masking(masked_by_xgrammar),
            "eager": masking(masked_by_torch),
            "copy": copy_floor,
        },
        oracle=lambda rows: seen(rows.logits.masked_fill(~rows.allowed, -torch.inf)),
        bytes=batch * VOCAB * (2 * DTYPES[dtype].itemsize + 1 / 8),
        flops=0.0,
        tier=tier,
        size="B",
        threads=1 if batch == 1 else 0,
    )


def cases(gpu: bool) -> list[Case]:
    listed = []
    for dtype in ("fp32", "bf16"):
        for share in SHARES:
            wide = 0 if dtype == "fp32" and share == "half" else 1
            listed += [sample(b, dtype, share, t, gpu) for b, t in ((1, wide), (64, 1))]
            listed += [mask(1, dtype, share, wide), mask(64, dtype, share, 1)]
    for filters in ({"top_k": 50}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_h": 0.4}):
        listed.append(sample(1, "fp32", "half", 1, **filters))
    return listed


SAMPLE, MASK = "masked_sample/B={},V=128256/{}", "apply_token_bitmask_/B={},V=128256/{}"

BARS = (
    Bar("draw of one row, XGrammar + softmax + multinomial over thrifty", SAMPLE.format(1, "fp32"),
        "xgrammar", "thrifty", at_least=100),
    Bar("draw of 64 rows, XGrammar + softmax + multinomial over thrifty", SAMPLE.format(64, "fp32"),
        "xgrammar", "thrifty", at_least=100),
    Bar("mask of one row, XGrammar over thrifty", MASK.format(1, "fp32"), "xgrammar", "thrifty",
        at_least=20),
    Bar("mask of 64 rows bf16, XGrammar over thrifty", MASK.format(64, "bf16"), "xgrammar",
        "thrifty", at_least=10),
    Bar("mask of 64 rows fp32, XGrammar over thrifty", MASK.format(64, "fp32"), "xgrammar",
        "thrifty", at_least=3),
)  # fmt: skip
