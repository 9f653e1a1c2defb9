"""Regular expressions as automata over bytes.

Patterns are read by the parser of Python's own `re`: Python's syntax to the letter, with positions
in its errors. They mean what `re.fullmatch(pattern, text, re.ASCII)` accepts, except that `$` is
the very end of the text, as in JSON Schema. A `str` pattern is about characters, which become their
UTF-8 bytes; a `bytes` pattern is about bytes. What no automaton can do (backreferences,
conditionals), and what would need products of automata (lookaround, atomic groups, possessive
repeats, word boundaries), is refused with its position.

`nfa` gives Thompson's construction ("Programming Techniques: Regular expression search algorithm",
CACM 1968) as flat arrays; csrc/sampling/byte_automaton.cpp makes it deterministic.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

if sys.version_info >= (3, 11):
    from re import _constants as sre  # type: ignore[attr-defined]
    from re import _parser as sre_parser  # type: ignore[attr-defined]
else:
    import sre_constants as sre
    import sre_parse as sre_parser

Ranges = list[tuple[int, int]]  # of code points, or of bytes; ascending, apart

ALWAYS, AT_START, AT_END = range(3)  # when an edge without a byte may be taken
MAX_NFA_STATES = 200_000
SURROGATES = (0xD800, 0xDFFF)
# Ranges whose characters have equally long UTF-8 forms without surrogates.
UTF8_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))

DIGIT: Ranges = [(0x30, 0x39)]
SPACE: Ranges = [(0x09, 0x0D), (0x20, 0x20)]
WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]


class Nfa(NamedTuple):
    """State 0 is the start; states are numbers below `states`."""

    states: int
    accept: int
    bytes: np.ndarray  # int32 (edges, 4): from, lowest byte, highest byte, to
    glue: np.ndarray  # int32 (edges, 3): from, to, when it may be taken


def refuse(pattern: str | bytes, what: str, position: int) -> ValueError:
    return ValueError(
        f"from_regex: pattern: expected a regular expression without {what}, got one at position "
        f"{position} in {pattern!r}"
    )


def nfa(pattern: str | bytes) -> Nfa:
    """The automaton of a pattern; ValueError with the position of what is wrong in it."""
    if not isinstance(pattern, str | bytes):
        raise TypeError(f"from_regex: pattern: expected str or bytes, got {type(pattern).__name__}")
    flags = 0 if isinstance(pattern, bytes) else re.ASCII
    try:
        tree = sre_parser.parse(pattern, flags)
    except re.error as error:
        at = "" if error.pos is None else f" at position {error.pos}"
        raise ValueError(
            f"from_regex: pattern: expected a regular expression, got {error.msg}{at} in "
            f"{pattern!r}"
        ) from error
    except (OverflowError, RecursionError, ValueError) as error:
        at = " at position 0" if type(error) is ValueError else ""  # of flags, which come first
        raise ValueError(
            f"from_regex: pattern: expected a regular expression, got {error}{at} in {pattern!r}"
        ) from error
    for what, position in irregular(pattern, tree.state.flags):
        raise refuse(pattern, what, position)
    return Builder(pattern, tree.state.flags).build(tree)


# ---- what an automaton cannot do, and where it stands


OPENERS = (
    (r"(?=", "lookahead"),
    (r"(?!", "lookahead"),
    (r"(?<=", "lookbehind"),
    (r"(?<!", "lookbehind"),
    (r"(?P=", "backreferences"),
    (r"(?(", "conditional groups"),
    (r"(?>", "atomic groups"),
)
SCOPED_FLAG = re.compile(r"\(\?[a-zA-Z]*([mLu])[a-zA-Z]*[:-]")
TOKEN = re.compile(
    r"""
      \\ (?: [0-3][0-7][0-7] | 0[0-7]? )  # a character by its number
    | \\ (?P<reference> [1-9][0-9]? )
    | \\ (?P<boundary> [bB] )
    | \\ .
    | \[ \^? \]? (?: \\. | [^\]\\] )* \]  # a class of characters
    | \(\?\# [^)]* \)  # a comment
    | (?P<group> \( )
    | (?: [*+?] | \{ (?=[0-9,]) [0-9]* ,? [0-9]* \} ) (?: (?P<possessive> \+ ) | \?? )
    | (?P<anchor> [$^] )
    | (?P<verbose> \# [^\n]* )
    | .
    """,
    re.VERBOSE | re.DOTALL,
)


def irregular(pattern: str | bytes, flags: int) -> Iterator[tuple[str, int]]:
    """Refused constructs of a pattern that parses. The parse tree has no positions; this has."""
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    at = 0
    while match := TOKEN.match(text, at):
        if match["verbose"] and not flags & re.VERBOSE:
            at += 1
            continue
        if match["anchor"] and flags & re.MULTILINE:
            yield "anchors of lines (the flag m)", at
        if match["reference"]:
            yield "backreferences", at
        if match["boundary"]:
            yield "word boundaries", at
        if match["possessive"]:
            yield "possessive repeats", at
        if match["group"]:
            for opener, what in OPENERS:
                if text.startswith(opener, at):
                    yield what, at
            if scoped := SCOPED_FLAG.match(text, at):
                yield f"the flag {scoped[1]} in a group", at
            at += 1 + text.startswith("?", at + 1)  # that question mark repeats nothing
            continue
        at = match.end()


# ---- sets of characters


def union(ranges: Ranges) -> Ranges:
    merged: Ranges = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def complement(ranges: Ranges, highest: int) -> Ranges:
    gaps, start = [], 0
    for low, high in union(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    if start <= highest:
        gaps.append((start, highest))
    return gaps


def both_cases(ranges: Ranges) -> Ranges:
    """With the other case of each ASCII letter: what IGNORECASE means beside ASCII."""
    folded = list(ranges)
    for low, high in ranges:
        for first, last, shift in ((0x41, 0x5A, 32), (0x61, 0x7A, -32)):
            if low <= last and high >= first:
                folded.append((max(low, first) + shift, min(high, last) + shift))
    return folded


def utf8_sequences(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    """Sequences of byte ranges that together spell exactly the characters from low to high."""
    for first, last in UTF8_LENGTHS:
        start, end = max(low, first), min(high, last)
        if start <= end:
            yield from _split(chr(start).encode(), chr(end).encode())


def _split(low: bytes, high: bytes) -> Iterator[list[tuple[int, int]]]:
    if len(low) == 1:
        yield [(low[0], high[0])]
        return
    lowest, highest = b"\x80" * (len(low) - 1), b"\xbf" * (len(low) - 1)
    if low[0] == high[0]:
        for tail in _split(low[1:], high[1:]):
            yield [(low[0], low[0]), *tail]
        return
    first, last = low[0], high[0]
    if low[1:] != lowest:
        for tail in _split(low[1:], highest):
            yield [(first, first), *tail]
        first += 1
    after = None
    if high[1:] != highest:
        after, last = last, last - 1
    if first <= last:
        yield [(first, last), *[(0x80, 0xBF)] * (len(low) - 1)]
    if after is not None:
        for tail in _split(lowest, high[1:]):
            yield [(after, after), *tail]


CATEGORIES = {
    sre.CATEGORY_DIGIT: (DIGIT, False),
    sre.CATEGORY_NOT_DIGIT: (DIGIT, True),
    sre.CATEGORY_SPACE: (SPACE, False),
    sre.CATEGORY_NOT_SPACE: (SPACE, True),
    sre.CATEGORY_WORD: (WORD, False),
    sre.CATEGORY_NOT_WORD: (WORD, True),
}


class Builder:
    """Thompson's construction: each piece of the tree gets its edges between two given states."""

    def __init__(self, pattern: str | bytes, flags: int) -> None:
        self.pattern, self.flags = pattern, flags
        self.highest = 0x10FFFF if isinstance(pattern, str) else 0xFF
        self.states = 2  # 0 the start, 1 acceptance
        self.bytes: list[tuple[int, int, int, int]] = []
        self.glue: list[tuple[int, int, int]] = []

    def build(self, tree: Any) -> Nfa:
        self.sequence(tree, 0, 1, self.flags)
        return Nfa(
            self.states,
            1,
            np.array(self.bytes, np.int32).reshape(-1, 4),
            np.array(self.glue, np.int32).reshape(-1, 3),
        )

    def state(self) -> int:
        if self.states >= MAX_NFA_STATES:
            raise ValueError(
                f"from_regex: pattern: expected at most {MAX_NFA_STATES} states when repeats are "
                f"written out, got more in {self.pattern!r}"
            )
        self.states += 1
        return self.states - 1

    def sequence(self, items: Sequence[tuple[Any, Any]], start: int, end: int, flags: int) -> None:
        """Items one after the other."""
        here = start
        for number, (op, argument) in enumerate(items):
            there = end if number == len(items) - 1 else self.state()
            self.item(op, argument, here, there, flags)
            here = there
        if not items:
            self.glue.append((start, end, ALWAYS))

    def item(self, op: Any, argument: Any, start: int, end: int, flags: int) -> None:
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            low, high, body = argument
            self.repeat(low, high, body, start, end, flags)
        elif op is sre.BRANCH:
            for branch in argument[1]:
                first, last = self.state(), self.state()
                self.glue += [(start, first, ALWAYS), (last, end, ALWAYS)]
                self.sequence(branch, first, last, flags)
        elif op is sre.SUBPATTERN:
            _, add, remove, body = argument
            self.sequence(body, start, end, (flags | add) & ~remove)
        elif op is sre.AT:
            at_start = argument in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
            self.glue.append((start, end, AT_START if at_start else AT_END))
        elif op is sre.FAILURE:
            pass  # an empty negative lookahead: nothing matches
        else:
            self.characters(self.chosen(op, argument, flags), start, end)

    def repeat(self, low: int, high: Any, body: Any, start: int, end: int, flags: int) -> None:
        here = start
        for _ in range(low):
            there = self.state()
            self.sequence(body, here, there, flags)
            here = there
        if high is sre.MAXREPEAT:
            loop, back = self.state(), self.state()
            self.glue += [(here, loop, ALWAYS), (back, loop, ALWAYS), (loop, end, ALWAYS)]
            self.sequence(body, loop, back, flags)
            return
        for _ in range(high - low):
            self.glue.append((here, end, ALWAYS))
            there = self.state()
            self.sequence(body, here, there, flags)
            here = there
        self.glue.append((here, end, ALWAYS))

    def chosen(self, op: Any, argument: Any, flags: int) -> Ranges:
        """The characters that one item of the tree stands for."""
        if op is sre.ANY:
            newline = [] if flags & re.DOTALL else [(0x0A, 0x0A)]
            return complement(newline, self.highest)
        if op is sre.LITERAL:
            items: Any = [(op, argument)]
        elif op is sre.NOT_LITERAL:
            items = [(sre.NEGATE, None), (sre.LITERAL, argument)]
        else:
            assert op is sre.IN, op  # everything else was refused by `irregular`
            items = argument
        negated, ranges = False, []
        for kind, value in items:
            if kind is sre.NEGATE:
                negated = True
            elif kind is sre.LITERAL:
                ranges.append((value, value))
            elif kind is sre.RANGE:
                ranges.append(value)
            else:
                category, inverse = CATEGORIES[value]
                ranges += complement(category, self.highest) if inverse else category
        if flags & re.IGNORECASE:
            ranges = both_cases(ranges)
        return complement(ranges, self.highest) if negated else union(ranges)

    def characters(self, ranges: Ranges, start: int, end: int) -> None:
        """Edges for one character out of `ranges`; ends of UTF-8 forms are shared."""
        if isinstance(self.pattern, bytes):
            self.bytes += [(start, low, high, end) for low, high in ranges]
            return
        tails: dict[tuple, int] = {(): end}

        def state_before(tail: tuple) -> int:
            if tail not in tails:
                tails[tail] = state = self.state()
                self.bytes.append((state, *tail[0], state_before(tail[1:])))
            return tails[tail]

        for low, high in ranges:
            for sequence in utf8_sequences(low, high):
                self.bytes.append((start, *sequence[0], state_before(tuple(sequence[1:]))))
