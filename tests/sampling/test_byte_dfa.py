"""ByteDFA over tokens, and awrs_sample_dfa: the native loop agrees with the loop in Python."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import thrifty
import thrifty.numpy
from helpers import assert_rejects

RNG = np.random.default_rng(5)
TOKENS = (
    [bytes([i]) for i in range(256)]
    + [bytes(RNG.integers(97, 105, RNG.integers(2, 6)).tolist()) for _ in range(700)]
    + [None, b""]
)
EOS = len(TOKENS) - 1
DFA = thrifty.ByteDFA.from_regex(r"[a-f]{3,8}(gh)*", TOKENS, eos_ids=[EOS])


def keys(rows: int, offset: int = 0) -> dict[str, Tensor]:
    return {"seeds": torch.arange(rows), "offsets": torch.full((rows,), offset)}


def states(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_tokens_walk_their_bytes() -> None:
    for state in range(len(DFA.next)):
        after = DFA.states_after(state, range(len(TOKENS)))
        for token, got in enumerate(after.tolist()):
            wanted = state
            if token == EOS:
                wanted = state if DFA.accepting[state] else -1
            elif not TOKENS[token]:
                wanted = -1
            else:
                for byte in TOKENS[token]:
                    wanted = int(DFA.next[wanted, byte]) if wanted >= 0 else -1
            assert got == wanted, (state, token)


def test_masks_are_the_checks() -> None:
    every = list(range(len(DFA.next)))
    mask = DFA.bitmask([*every, -1])
    assert mask.shape == (len(every) + 1, (len(TOKENS) + 31) // 32)
    bits = np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little").astype(bool)
    for state in every:
        assert bits[state, : len(TOKENS)].nonzero()[0].tolist() == DFA.allowed(state)
    assert not bits[:, len(TOKENS) :].any()
    assert not bits[-1].any()


def test_states_out_of_range_allow_nothing() -> None:
    for state in (-1, len(DFA.next), 2**31 - 1, -(2**31)):
        assert (DFA.states_after(state, range(len(TOKENS))) == -1).all()
    assert (DFA.states_after(0, [-1, len(TOKENS), 2**40]) == -1).all()


def test_vocabulary() -> None:
    vocabulary = thrifty.Vocabulary(TOKENS)
    assert len(vocabulary) == len(TOKENS)
    assert [vocabulary[i] for i in range(len(TOKENS))] == [t or b"" for t in TOKENS]
    assert vocabulary[-3] == TOKENS[-3]
    with pytest.raises(IndexError):
        vocabulary[len(TOKENS)]
    with pytest.raises(ValueError, match=r"^Vocabulary: tokens: expected .* got 'b' as token 1"):
        thrifty.Vocabulary([b"a", "b"])  # type: ignore[list-item]
    assert len(thrifty.Vocabulary([])) == 0


def test_wrong_automata() -> None:
    next, accepting = DFA.next, DFA.accepting
    for name, args in [
        ("next", (next[:, :5], accepting, TOKENS, EOS)),
        ("next", (next + 1000, accepting, TOKENS, EOS)),
        ("next", (next[:0], accepting[:0], TOKENS, EOS)),
        ("accepting", (next, accepting[1:], TOKENS, EOS)),
        ("eos_ids", (next, accepting, TOKENS, len(TOKENS))),
    ]:
        with pytest.raises(ValueError, match=rf"^ByteDFA: {name}: expected .+, got"):
            thrifty.ByteDFA(*args)


@pytest.mark.parametrize("options", [{}, {"extra": 1}, {"estimator": "paper"}, {"budget": 6}])
def test_native_loop_is_the_loop_in_python(options: dict) -> None:
    """The same seeds draw the same candidates, so everything agrees."""
    n = 100
    logits = torch.randn(n, len(TOKENS)) * 3
    logits[:, 97:103] += 6
    state = torch.arange(n, dtype=torch.int32) % len(DFA.next)
    native = thrifty.awrs_sample_dfa(logits, DFA, state, **options, **keys(n))
    python = thrifty.awrs_sample(
        logits, lambda row, ids: DFA.check(int(state[row]), ids), **options, **keys(n)
    )
    direct = native.n_checked <= 256  # beyond, the native loop takes the mask
    assert direct.sum() > n // 2
    assert torch.equal(native.token[direct], python.token[direct])
    assert torch.equal(native.status, python.status)
    assert torch.equal(native.n_checked[direct], python.n_checked[direct])
    torch.testing.assert_close(native.logw[direct], python.logw[direct], atol=2e-6, rtol=1e-6)
    for row in range(n):
        if native.token[row] >= 0:
            assert native.new_state[row] == DFA.advance(int(state[row]), int(native.token[row]))
        else:
            assert native.new_state[row] == -1


def test_patience_ends_in_the_exact_mask() -> None:
    """What is allowed lies beyond 256 candidates: token and weight are exact."""
    n = 3000
    logits = torch.zeros(n, len(TOKENS))
    logits[:, :256] = 14.0
    dfa = thrifty.ByteDFA.from_regex(rb"[\x00-\xff]{5}", TOKENS, eos_ids=EOS)
    state = torch.zeros(n, dtype=torch.int32)
    for token in range(256):  # single bytes never allowed: only longer tokens are left
        dfa.vocabulary.offsets[token + 1 :] -= 1
    dfa.vocabulary.bytes = dfa.vocabulary.bytes[256:].copy()
    allowed = torch.tensor(dfa.allowed(0))
    assert allowed.min() >= 256
    drawn = thrifty.awrs_sample_dfa(logits, dfa, state, **keys(n))
    assert torch.isin(drawn.token, allowed).all()
    exact = logits[0].double().log_softmax(0)[allowed].logsumexp(0)
    masked = drawn.n_checked > len(TOKENS)
    assert 100 < masked.sum() < n
    torch.testing.assert_close(
        drawn.logw[masked].double(), exact.expand(int(masked.sum())), atol=1e-5, rtol=1e-5
    )
    weight = drawn.logw.double().exp()
    assert abs(weight.mean() - exact.exp()) < 6 * weight.std() / math.sqrt(n)


def test_texts_match() -> None:
    state, done, texts = states(0).repeat(8), torch.zeros(8, dtype=torch.bool), [b""] * 8
    for step in range(40):
        drawn = thrifty.awrs_sample_dfa(
            torch.zeros(8, len(TOKENS)), DFA, state, strict=True, **keys(8, step)
        )
        for row, token in enumerate(drawn.token.tolist()):
            if not done[row] and token != EOS:
                texts[row] += TOKENS[token]
        done |= drawn.token == EOS
        state = drawn.new_state
        if done.all():
            break
    assert done.all()
    assert all(DFA.matches(text) for text in texts)
    assert len(set(texts)) > 1


def test_edges() -> None:
    logits = torch.zeros(5, len(TOKENS) + 37)  # logits beyond the vocabulary are never allowed
    logits[:, len(TOKENS) :] = 5
    logits[1, 3], logits[2] = math.inf, -math.inf
    drawn = thrifty.awrs_sample_dfa(logits, DFA, states(0, 0, 0, -1, 10**6), **keys(5))
    assert drawn.status.tolist() == [0, 4, 1, 1, 1]
    assert drawn.token[1:].tolist() == [-1] * 4
    assert (drawn.logw[1:] == -math.inf).all()
    assert (drawn.new_state[1:] == -1).all()
    spent = thrifty.awrs_sample_dfa(
        logits[:1], DFA, states(0), budget=2, fallback_token=EOS, **keys(1)
    )
    assert spent.n_checked.item() == 2
    assert spent.status.item() == 2
    assert spent.token.item() == EOS
    empty = thrifty.awrs_sample_dfa(logits[:0], DFA, states(), **keys(0))
    assert [t.shape[0] for t in empty] == [0] * 5


def test_all_is_allowed() -> None:
    dfa = thrifty.ByteDFA.from_regex(rb"[\x00-\xff]*", [b"a", b"b", b"c"], eos_ids=2)
    drawn = thrifty.awrs_sample_dfa(torch.randn(50, 3), dfa, states(0).repeat(50), **keys(50))
    assert drawn.logw.abs().max() < 1e-6


def test_place_dtype_and_threads_change_nothing() -> None:
    logits = (torch.randn(9, len(TOKENS)) * 2).bfloat16()
    state, k = torch.zeros(9, dtype=torch.int32), keys(9)
    whole = thrifty.awrs_sample_dfa(logits, DFA, state, **k)
    wide = thrifty.awrs_sample_dfa(logits.float(), DFA, state, **k)
    order = torch.tensor([7, 0])
    part = thrifty.awrs_sample_dfa(
        logits[order], DFA, state[order], seeds=k["seeds"][order], offsets=k["offsets"][order]
    )
    mine = thrifty.numpy.awrs_sample_dfa(
        logits.float().numpy(), DFA, state.numpy(), seeds=k["seeds"].numpy(),
        offsets=k["offsets"].numpy(),
    )  # fmt: skip
    for a, b, c, d in zip(whole, wide, part, mine, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[order], c)
        assert (d == a.numpy()).all()


def test_wrong_arguments() -> None:
    logits, k = torch.zeros(2, 40), keys(2)
    call = thrifty.awrs_sample_dfa
    assert_rejects("state", call, logits, DFA, states(0), **k)
    assert_rejects("state", call, logits, DFA, torch.zeros(2).long(), **k)
    assert_rejects("logits", call, logits.double(), DFA, states(0, 0), **k)
    assert_rejects("logits", call, logits.clone().requires_grad_(), DFA, states(0, 0), **k)
    assert_rejects("budget", call, logits, DFA, states(0, 0), budget=0, **k)
    assert_rejects("extra", call, logits, DFA, states(0, 0), extra=0, **k)
    assert_rejects("estimator", call, logits, DFA, states(0, 0), estimator="x", **k)
    assert_rejects("inv_temperature", call, logits, DFA, states(0, 0), inv_temperature=0.0, **k)
    assert_rejects(
        "seeds", call, logits, DFA, states(0, 0), seeds=k["seeds"][:1], offsets=k["offsets"]
    )


def test_opcheck() -> None:
    from thrifty._awrs import dfa_tensors

    args = (torch.zeros(2, 40), *dfa_tensors(DFA, torch.device("cpu")), states(0, 0), None)
    args = (*args, torch.arange(2), torch.zeros(2).long(), "desraj", 4, 0, -1)
    torch.library.opcheck(torch.ops.thrifty.awrs_sample_dfa, args)
    torch.library.opcheck(torch.ops.thrifty.awrs_coins, (torch.arange(2), torch.zeros(2).long(), 3))
