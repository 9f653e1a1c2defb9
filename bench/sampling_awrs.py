"""Cases of adaptive weighted rejection sampling at V = 128,256 and over a real vocabulary.

`awrs_step`: one token under a constraint in Python, about ten checks; peers are genlm-control's two
algorithms on the same distribution and constraint. `awrs_sample_dfa`: one token under a regular
expression, native; `regex_first_token`: from the pattern to the first token, beside outlines-core,
which builds an index over the vocabulary. `constrained_step`: one token under a JSON schema by
single checks and by a whole mask, for each grammar library.

A draw is random, so what is compared with the oracle is whether its token is allowed: 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import thrifty
import thrifty.numpy
from bench.bars import Bar
from bench.harness import Case, Impl
from bench.peers import genlm, grammars, require, tekken
from thrifty.sampling import MaskedSample

VOCAB = 128_256
JSON_STRING = r'"([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-f]{4})*"'
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["read", "write"]},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "kind", "sizes"],
    "additionalProperties": False,
}


def ones(_: object) -> Tensor:
    return torch.ones(1)


class Keys:
    """A seed, and an offset that counts up: every call draws anew."""

    def __init__(self) -> None:
        self.seeds, self.offsets = torch.tensor([1]), torch.tensor([0])

    def next(self) -> dict[str, Tensor]:
        self.offsets += 1
        return {"seeds": self.seeds, "offsets": self.offsets}


# ---- one step under a constraint in Python


@dataclass
class Step:
    """p ~ rank^-1.2 over shuffled tokens; a tenth is allowed, and the most likely token is not."""

    logits: Tensor
    allowed: set[int]
    keys: Keys

    @property
    def closed_form(self) -> float:
        """Mean checks: refused before the first allowed, itself, and four extras."""
        p = self.logits[0].double().softmax(0)
        mask = torch.zeros(VOCAB, dtype=torch.bool)
        mask[list(self.allowed)] = True
        return float((p / (p + p[mask].sum()))[~mask].sum()) + 1 + 4


def step_of(device: torch.device) -> Step:
    order = torch.randperm(VOCAB)
    logits = torch.empty(VOCAB)
    logits[order] = -1.2 * (torch.arange(VOCAB) + 1.5).log()
    allowed = torch.rand(VOCAB) < 0.1
    allowed[order[0]] = False
    return Step(logits[None], set(allowed.nonzero().flatten().tolist()), Keys())


def step_thrifty(step: Step) -> Impl:
    def check(row: int, ids: list[int]) -> list[bool]:
        return [i in step.allowed for i in ids]

    def call() -> thrifty.AwrsSample:
        return thrifty.awrs_sample(step.logits, check, **step.keys.next())

    def figures() -> dict[str, float]:
        counts = torch.tensor([float(call().n_checked) for _ in range(400)])
        sigma = counts.std().item() / 20
        excess = (counts.mean().item() - step.closed_form) / sigma
        return {"checks": counts.mean().item(), "sigmas above closed form": excess}

    return Impl(
        call, lambda: torch.tensor([float(int(call().token) in step.allowed)]), True, figures
    )


def step_genlm(recursive: bool) -> Callable[[Step], Impl]:
    def factory(step: Step) -> Impl:
        call = genlm.awrs(step.logits[0], step.allowed.__contains__, recursive)
        return Impl(call, lambda: torch.tensor([float(call()[0] in step.allowed)]))

    return factory


def awrs_step() -> Case:
    return Case(
        op="awrs_step",
        dims={"B": 1, "V": VOCAB},
        dtype="fp32",
        setup=step_of,
        impls={
            "thrifty": step_thrifty,
            "genlm_recursive": step_genlm(True),
            "genlm_geometric": step_genlm(False),
        },
        oracle=ones,
        bytes=4 * VOCAB,
        flops=0.0,
        baseline="genlm_recursive",
        tier=1,
        devices=("cpu",),
        threads=1,
    )


# ---- a regular expression, natively


@dataclass
class Regex:
    """Inside a JSON string. The model likes letters four nats more than what cannot stand there."""

    vocabulary: thrifty.Vocabulary
    logits: Tensor
    keys: Keys

    def dfa(self) -> thrifty.ByteDFA:
        return thrifty.ByteDFA.from_regex(JSON_STRING, self.vocabulary, tekken.EOS)


def regex_of(device: torch.device) -> Regex:
    tokens = tekken.tokens()
    plain = torch.tensor([t != b"" and not any(b < 32 or b in b'"\\' for b in t) for t in tokens])
    logits = torch.randn(1, len(tokens)) * 2 + 4 * plain
    return Regex(thrifty.Vocabulary(tokens), logits, Keys())


def dfa_step(regex: Regex) -> Impl:
    dfa = regex.dfa()
    state = torch.tensor([dfa.next[0, ord('"')]], dtype=torch.int32)

    def call() -> thrifty.AwrsDfaSample:
        return thrifty.awrs_sample_dfa(regex.logits, dfa, state, **regex.keys.next())

    def check() -> Tensor:
        return torch.tensor([float(dfa.advance(int(state), int(call().token)) >= 0)])

    def figures() -> dict[str, float]:
        return {"checks": sum(float(call().n_checked) for _ in range(200)) / 200}

    return Impl(call, check, True, figures)


def dfa_step_numpy(regex: Regex) -> Impl:
    dfa, logits = regex.dfa(), regex.logits.numpy()
    state = dfa.next[0, ord('"')].reshape(1)
    seeds, offsets = regex.keys.seeds.numpy(), regex.keys.offsets.numpy()

    def call():
        regex.keys.next()
        return thrifty.numpy.awrs_sample_dfa(logits, dfa, state, seeds=seeds, offsets=offsets)

    def check() -> Tensor:
        return torch.tensor([float(dfa.advance(int(state[0]), int(call().token[0])) >= 0)])

    return Impl(call, check)


def dfa_mask(regex: Regex) -> Impl:
    """The mask of the whole vocabulary, and an exact draw."""
    dfa = regex.dfa()
    state = [int(dfa.next[0, ord('"')])]

    def call() -> MaskedSample:
        mask = torch.from_numpy(dfa.bitmask(state))
        return thrifty.masked_sample(regex.logits, mask, **regex.keys.next())

    return Impl(call, lambda: torch.tensor([float(dfa.advance(state[0], int(call().token)) >= 0)]))


def row_pass(regex: Regex) -> Impl:
    """The pass over the row alone: one candidate."""
    return Impl(
        lambda: thrifty.sample_candidates(regex.logits, 1, **regex.keys.next()), compared=False
    )


def first_thrifty(regex: Regex) -> Impl:
    def call() -> Tensor:
        dfa = regex.dfa()
        state = torch.tensor([dfa.start], dtype=torch.int32)
        drawn = thrifty.awrs_sample_dfa(regex.logits, dfa, state, **regex.keys.next())
        return (drawn.status == 0).float()

    return Impl(call)


def first_outlines(regex: Regex) -> Impl:
    outlines = require("outlines_core")
    ids: dict[bytes, list[int]] = {}
    for token, spelt in enumerate(tekken.tokens()):
        if spelt:
            ids.setdefault(spelt, []).append(token)
    vocabulary = outlines.Vocabulary(tekken.EOS, ids)
    mask = torch.zeros(1, len(regex.vocabulary) // 32, dtype=torch.int32)

    def call() -> Tensor:
        guide = outlines.Guide(outlines.Index(JSON_STRING, vocabulary))
        guide.write_mask_into(mask.data_ptr(), mask.numel(), mask.element_size())
        drawn = thrifty.masked_sample(regex.logits, mask, **regex.keys.next())
        return (drawn.status == 0).float()

    return Impl(call)


def regex_case(op: str, impls: dict, baseline: str, tier: int) -> Case:
    return Case(
        op=op,
        dims={"B": 1, "V": 131_072},
        dtype="fp32",
        setup=regex_of,
        impls=impls,
        oracle=ones,
        bytes=4 * 131_072,
        flops=0.0,
        baseline=baseline,
        tier=tier,
        devices=("cpu",),
        threads=1,
    )


# ---- a JSON schema, by masks and by checks


@dataclass
class Schema:
    text: object  # a Constraint, inside the string "name"
    logits: Tensor
    keys: Keys


def schema_of(library: str):
    def setup(device: torch.device) -> Schema:
        tokens = tekken.tokens()
        text = getattr(grammars, library)(tokens, tekken.EOS, SCHEMA)()
        for byte in b'{"name": "a':
            text.accept(tokens.index(bytes([byte])))
        return Schema(text, regex_of(device).logits, Keys())

    return setup


def schema_step(by_mask: bool):
    def factory(schema: Schema) -> Impl:
        text = schema.text
        row = torch.zeros(1, schema.logits.shape[1] // 32, dtype=torch.int32)

        def call() -> Tensor:
            if by_mask:
                text.fill_bitmask(row[0])
                return thrifty.masked_sample(schema.logits, row, **schema.keys.next()).token
            check = lambda _, ids: text.check(ids)
            return thrifty.awrs_sample(schema.logits, check, **schema.keys.next()).token

        return Impl(call, lambda: torch.tensor([float(text.check([int(call())])[0])]))

    return factory


def constrained_step(library: str) -> Case:
    return Case(
        op=f"constrained_step_{library}",
        dims={"B": 1, "V": 131_072},
        dtype="fp32",
        setup=schema_of(library),
        impls={"checks": schema_step(False), "mask": schema_step(True)},
        oracle=ones,
        bytes=4 * 131_072,
        flops=0.0,
        baseline="mask",
        tier=1,
        devices=("cpu",),
        threads=1,
    )


def cases() -> list[Case]:
    return [
        awrs_step(),
        regex_case(
            "awrs_sample_dfa",
            {"thrifty": dfa_step, "numpy": dfa_step_numpy, "mask": dfa_mask, "row": row_pass},
            "mask",
            1,
        ),
        regex_case(
            "regex_first_token",
            {"thrifty": first_thrifty, "outlines": first_outlines},
            "outlines",
            2,
        ),
        constrained_step("xgrammar"),
        constrained_step("llguidance"),
    ]


STEP = f"awrs_step/B=1,V={VOCAB}/fp32"
BARS = [
    Bar(
        "AWRS step, ten checks: times faster than genlm-control",
        STEP,
        ("genlm_recursive", "genlm_geometric"),
        "thrifty",
        at_least=50,
    ),
    Bar(
        "AWRS step: standard errors of the mean number of checks above its closed form",
        STEP,
        "thrifty",
        at_most=6,
        value="sigmas above closed form",
    ),
    Bar(
        "regular expression, one token: seconds",
        "awrs_sample_dfa/B=1,V=131072/fp32",
        "thrifty",
        at_most=50e-6,
    ),
    Bar(
        "regular expression, pattern to first token: seconds",
        "regex_first_token/B=1,V=131072/fp32",
        "thrifty",
        at_most=50e-3,
    ),
]
