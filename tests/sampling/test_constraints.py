"""Constraints: single checks agree with masks over a whole real vocabulary, in every state."""

import math

import numpy as np
import pytest
import torch

import thrifty
from bench.harness import Unavailable
from bench.peers import grammars, tekken
from thrifty.constraints import Constraint, DFAConstraint

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["read", "write"]},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
    },
    "required": ["name", "kind", "sizes"],
    "additionalProperties": False,
}
DOCUMENT = b'{"name": "caf\xc3\xa9 \\"x\\"", "kind": "read", "sizes": [12, -3]}'
PATTERN = r"[a-z]{2,5}(-[0-9]+)?"


def tokens() -> list[bytes]:
    try:
        return tekken.tokens()
    except Unavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module", params=["xgrammar", "llguidance", "dfa"])
def start(request: pytest.FixtureRequest):
    """Starts texts under a schema, or under a pattern given as a str."""
    vocabulary = tokens()
    kept: dict = {}

    def begin(schema: dict | str) -> Constraint:
        key = str(schema)
        if key not in kept:
            if request.param == "dfa":
                if not isinstance(schema, str):
                    pytest.skip("ByteDFA is for regular expressions")
                dfa = thrifty.ByteDFA.from_regex(schema, vocabulary, tekken.EOS)
                kept[key] = lambda: DFAConstraint(dfa)
            else:
                try:
                    kept[key] = getattr(grammars, request.param)(vocabulary, tekken.EOS, schema)
                except Unavailable as missing:
                    pytest.skip(str(missing))
        return kept[key]()

    return begin


def mask_of(text: Constraint, size: int) -> np.ndarray:
    row = torch.full(((size + 31) // 32,), -1, dtype=torch.int32)
    text.fill_bitmask(row)
    return np.unpackbits(row.numpy().view(np.uint8), bitorder="little")[:size].astype(bool)


def longest(spelt: bytes, vocabulary: dict[bytes, int]) -> int:
    return next(vocabulary[spelt[:n]] for n in range(len(spelt), 0, -1) if spelt[:n] in vocabulary)


def agrees(text: Constraint, size: int, ids: np.ndarray) -> None:
    checks = np.array(text.check(ids.tolist()))
    assert (checks == mask_of(text, size)[ids]).all(), ids[checks != mask_of(text, size)[ids]]


@pytest.mark.parametrize("schema, document", [(SCHEMA, DOCUMENT), (PATTERN, b"abcd-77")])
def test_checks_are_the_mask(start, schema: dict | str, document: bytes) -> None:
    vocabulary = tokens()
    size, numbers = len(vocabulary), {t: i for i, t in enumerate(vocabulary) if t}
    every = np.arange(size)
    rng = np.random.default_rng(1)
    text, step = start(schema), 0
    while document:
        # The whole vocabulary at some places, a sample with the ends at all of them.
        some = np.unique([tekken.EOS, 0, *rng.integers(0, size, 2000)])
        agrees(text, size, every if step in (0, 3) else some)
        token = longest(document, numbers)
        assert text.check([token]) == [True]
        text.accept(token)
        document, step = document[len(vocabulary[token]) :], step + 1
    agrees(text, size, every)  # the end token is allowed here
    assert text.check([tekken.EOS]) == [True]
    text.accept(tekken.EOS)
    assert text.finished
    agrees(text, size, every)
    assert not mask_of(text, size).any()
    with pytest.raises(ValueError, match="token: expected one that is allowed here"):
        text.accept(tekken.EOS)


def test_copies_are_apart_and_refusals_change_nothing(start) -> None:
    numbers = {t: i for i, t in enumerate(tokens()) if t}
    text = start(PATTERN)
    text.accept(numbers[b"a"])
    other = text.copy()
    other.accept(numbers[b"b"])
    assert text.check([tekken.EOS]) == [False]
    assert other.check([tekken.EOS]) == [True]
    with pytest.raises(ValueError, match="token: expected one that is allowed here, got 2"):
        text.accept(tekken.EOS)
    assert text.check([numbers[b"b"], numbers[b"-"]]) == [True, False]
    text.accept(numbers[b"b"])
    assert text.check([tekken.EOS, numbers[b"-"]]) == [True, True]


def test_awrs_uses_what_is_cheaper(start) -> None:
    """Tokens are allowed, and weights have the mean of the exact ones."""
    size, n = len(tokens()), 60
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(1))
    logits[0, [i for i, t in enumerate(tokens()) if t.isalpha() and t.islower()]] += 6
    texts = [start(PATTERN) for _ in range(n)]
    drawn = thrifty.awrs_sample(
        logits.expand(n, -1), texts, strict=True, seeds=torch.arange(n),
        offsets=torch.zeros(n).long(),
    )  # fmt: skip
    assert (drawn.n_checked == 0).all() == texts[0].mask_is_cheaper
    allowed = torch.from_numpy(mask_of(texts[0], size))
    assert allowed[drawn.token].all()
    exact = logits[0].double().log_softmax(0)[allowed].logsumexp(0).exp().item()
    weight = drawn.logw.double().exp()
    assert abs(weight.mean().item() - exact) < 6 * weight.std().item() / math.sqrt(n) + 1e-6
