"""Regular expressions as automata: Python's `re` is the oracle, on real and on random patterns."""

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty._byte_dfa import ByteDFA
from thrifty._regex import complement, union, utf8_sequences

ALPHABET = 'abxyz019-"\\ \n\tÉé日本😀ABC_{}'
TOKENS = [bytes([i]) for i in range(256)]

PATTERNS = [
    r"",
    r"a|",
    r"a+b",
    r"(a|b)*abb",
    r"a{2,5}?b{,2}y{1,}",
    r"(?:x|yz){0,3}",
    r"^(^a)*b$",
    r"$^",
    r"\Aa\Z|b$",
    r"é+|日本|[à-ÿ]",
    r".",
    r"(?s:.).",
    r"[^a-z]",
    r"[^\W\d]",
    r"[\d\-x]+",
    r"\w+\s\W\S\D",
    r"(?i)ab[^x-z]",
    r"(?i:A)b",
    r"(?x) a b  # c (?=",
    r"\x41\u00e9\U0001F600|\101",
    r"[]a]\{[^]]",
    r"(?P<name>a)(?#)b(?:)",
    r'"([^"\\\x00-\x1f]|\\["\\/bfnrt])*"',
    r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?",
]


def dfa(pattern: str | bytes, **options: int) -> ByteDFA:
    return ByteDFA.from_regex(pattern, TOKENS, eos_ids=255, **options)


def agree(pattern: str, texts: list[str]) -> None:
    automaton, oracle = dfa(pattern), re.compile(pattern, re.ASCII)
    for text in texts:
        expected = oracle.fullmatch(text) is not None
        assert automaton.matches(text.encode()) == expected, (pattern, text)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(ALPHABET, max_size=7), min_size=10, max_size=10))
def test_language_is_that_of_re(pattern: str, texts: list[str]) -> None:
    agree(pattern, texts)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p not in (r"$^", r"\Aa\Z|b$")])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_matching_texts_match(pattern: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    if "$" not in pattern:  # re's $ may stand before a newline
        assert dfa(pattern).matches(text.encode()), (pattern, text)


ATOMS = st.sampled_from(["a", "b", "ab", "[ab]", "[^a]", ".", "x?", "(?:a|)", "é", "^", "$", ""])
RANDOM = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(pattern=RANDOM, texts=st.lists(st.text("abxé", max_size=6), min_size=20, max_size=20))
def test_random_patterns(pattern: str, texts: list[str]) -> None:
    try:
        dfa(pattern)
    except ValueError as error:
        if "matches some text" not in str(error):
            raise
        # `$` before a newline is all that `re` could match here, and no text has one.
        matched = [text for text in texts if re.fullmatch(pattern, text)]
        if matched:
            raise AssertionError(f"{pattern!r} matches {matched}") from error
    else:
        agree(pattern, texts)


def test_bytes_patterns_are_about_bytes() -> None:
    assert dfa(rb"[\x80-\xff]+.").matches(b"\xff\x80\x00")
    assert not dfa(r"[\x80-\xff]+").matches(b"\xff\x80")
    assert dfa(r"[\x80-\xff]+").matches("ÿ".encode())


def test_utf8_ranges_spell_exactly_their_characters() -> None:
    points = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
    points += [0xE9, 0x65E5, 0x1F600, 0x40000, 0xFFFFF]
    for low in points:
        for high in (p for p in points if p >= low):
            spelt = list(utf8_sequences(low, high))
            for point in points:
                text = chr(point).encode()
                found = [
                    s
                    for s in spelt
                    if len(s) == len(text)
                    and all(a <= byte <= b for byte, (a, b) in zip(text, s, strict=True))
                ]
                assert len(found) == (low <= point <= high)  # once: the construction stays small


def test_sets() -> None:
    assert union([(5, 9), (1, 2), (3, 4), (7, 12)]) == [(1, 12)]
    assert complement([(0, 4), (7, 9)], 12) == [(5, 6), (10, 12)]
    assert complement([], 3) == [(0, 3)]
    assert complement([(0, 3)], 3) == []


@pytest.mark.parametrize(
    "pattern, states",
    [(r"a", 2), (r"(a|b)*abb", 4), (r"(aa|aaaa)*", 2), (r"[^\n]", 9), (r"abc|xbc", 4), (r"", 1)],
)
def test_automaton_is_minimal(pattern: str, states: int) -> None:
    assert len(dfa(pattern).next) == states


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_state_reaches_acceptance(pattern: str) -> None:
    automaton = dfa(pattern)
    live = automaton.accepting.astype(bool)
    for _ in range(len(live)):
        leads = (automaton.next >= 0) & live[automaton.next]
        live = live | leads.any(1)
    assert live.all()


@pytest.mark.parametrize(
    "pattern, message, position",
    [
        (r"(a", "missing )", 0),
        (r"ab[z-a]", "bad character range", 3),
        (r"a{3,2}", "min repeat", 2),
        (r"*a", "nothing to repeat", 0),
        (r"a\1", "invalid group reference", 2),
        (r"(?u)a", "ASCII and UNICODE", 0),
        (r"(a)\1", "backreferences", 3),
        (r"(?P<n>a)(?P=n)", "backreferences", 8),
        (r"(a)?(?(1)b|c)", "conditional groups", 4),
        (r"[(?=]\(?(?=b)", "lookahead", 8),
        (r"a(?!b)", "lookahead", 1),
        (r"\\(?<=x)a", "lookbehind", 2),
        (r"(?<!x)a", "lookbehind", 0),
        (r"a\b", "word boundaries", 1),
        (r"(?#\b)\B", "word boundaries", 6),
        (r"(?m)^a", "anchors of lines", 4),
        (r"x(?m:a)", "flag m in a group", 1),
        (rb"x(?L:a)", "flag L in a group", 1),
        (r"(?x) # (?=" + "\n(?!a)", "lookahead", 11),
    ],
)
def test_refusals_have_positions(pattern: str | bytes, message: str, position: int) -> None:
    text = rf"^from_regex: pattern: expected .+, got .*{re.escape(message)}|{re.escape(message)}"
    with pytest.raises(ValueError, match=text) as error:
        dfa(pattern)
    assert f"at position {position}" in str(error.value)
    assert str(error.value).startswith("from_regex: pattern: expected a regular expression")


@pytest.mark.skipif(not hasattr(re, "NOFLAG"), reason="syntax of Python 3.11")
@pytest.mark.parametrize(
    "pattern, message, position",
    [(r"a*+", "possessive repeats", 1), (r"\+b{2}+", "possessive", 3), (r"(?>a)", "atomic", 0)],
)
def test_refusals_of_new_syntax(pattern: str, message: str, position: int) -> None:
    with pytest.raises(ValueError, match=f"{message}.* at position {position}"):
        dfa(pattern)


def test_other_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="pattern: expected str or bytes, got int"):
        dfa(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="matches some text"):
        dfa(r"a^b")
    with pytest.raises(ValueError, match="max_states: expected a positive number"):
        dfa(r"a", max_states=0)
    with pytest.raises(ValueError, match="at most 200000 states"):
        dfa(r"((a{1000}){1000}){1000}")


def test_exponential_patterns_stop_early() -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match="at most 2000 states, got more"):
        dfa(r"(a|b)*a(a|b){30}", max_states=2000)
    assert time.process_time() - start < 5
    assert len(dfa(r"(a|b)*a(a|b){8}").next) == 512


def test_pattern_of_many_states() -> None:
    automaton = dfa(r".{0,300}")
    assert len(automaton.next) == 300 * 8 + 1
    assert automaton.matches("日".encode() * 300)
    assert not automaton.matches(b"a" * 301)
    assert (automaton.next[automaton.start] >= 0).sum() == 127 + 30 + 16 + 5
    assert automaton.next.dtype == np.int32
