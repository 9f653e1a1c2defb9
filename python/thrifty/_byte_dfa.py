"""ByteDFA: a regular language over the tokens of a vocabulary. NumPy alone, no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thrifty import _native, _regex
from thrifty._arguments import named


class Vocabulary:
    """The bytes of every token, flat: what `ByteDFA` reads.

    Make it once per tokenizer and share it between patterns.

    Args:
        tokens: for each id its bytes; None or b"" for tokens that stand for no text (control
            tokens), which no pattern allows. `thrifty.hf.vocabulary` makes the list for a
            `transformers` tokenizer.

    Example::

        >>> vocabulary = thrifty.Vocabulary([b"a", b"ab", b"c", None])
        >>> len(vocabulary), vocabulary[1]
        (4, b'ab')
    """

    @named
    def __init__(self, tokens: Sequence[bytes | None]) -> None:
        spelt: list[bytes] = list(tokens)  # type: ignore[arg-type]
        try:
            joined = b"".join(spelt)
        except TypeError:  # some of them are None, or no bytes at all
            spelt = [_checked(token, i) for i, token in enumerate(tokens)]
            joined = b"".join(spelt)
        self.bytes = np.frombuffer(bytearray(joined), np.uint8)
        self.offsets = np.zeros(len(spelt) + 1, np.int32)
        lengths = np.fromiter(map(len, spelt), np.int64, len(spelt))
        if lengths.sum() >= 2**31:
            raise ValueError("Vocabulary: tokens: expected less than 2^31 bytes, got more")
        np.cumsum(lengths, out=self.offsets[1:])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, token: int) -> bytes:
        token = range(len(self))[token]
        return self.bytes[self.offsets[token] : self.offsets[token + 1]].tobytes()


def _checked(token: Any, number: int) -> bytes:
    if token is not None and not isinstance(token, bytes):
        raise ValueError(
            f"Vocabulary: tokens: expected bytes or None, got {token!r} as token {number}"
        )
    return token or b""


class ByteDFA:
    """A regular language, checked token by token: the constraint that runs natively.

    A deterministic automaton over bytes beside the vocabulary's bytes. No index over the vocabulary
    is built: what a token does is found by walking its bytes, a few nanoseconds each time, so a
    new pattern costs milliseconds where tables over (state, token) cost seconds.

    States are numbers; 0 is the start, negative ones allow nothing. Every other state can still
    reach acceptance. A token of the list `eos_ids` is allowed exactly where the text so far
    matches, and leaves the state as it is; other tokens without bytes are never allowed.

    Args:
        next: int32 (S, 256), the state after each byte; negative where nothing matches any more.
        accepting: uint8 or bool (S,), whether the text so far matches.
        vocabulary: a `Vocabulary`, or the list of bytes to make one.
        eos_ids: the tokens that end a text.

    `from_regex` makes one from a pattern.

    Example, texts of an even number of a's::

        >>> next = np.full((2, 256), -1)
        >>> next[0, ord("a")], next[1, ord("a")] = 1, 0
        >>> dfa = thrifty.ByteDFA(next, [True, False], [b"a", b"aa", b""], eos_ids=2)
        >>> dfa.check(0, [0, 1, 2]), dfa.check(1, [0, 1, 2])
        ([True, True, True], [True, True, False])
    """

    def __init__(
        self,
        next: np.ndarray,
        accepting: np.ndarray,
        vocabulary: Vocabulary | Sequence[bytes | None],
        eos_ids: Sequence[int] | int,
    ) -> None:
        self.vocabulary = (
            vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(vocabulary)
        )
        self.next = np.ascontiguousarray(next, np.int32)
        self.accepting = np.ascontiguousarray(accepting, np.uint8)
        self.eos_ids = np.atleast_1d(np.asarray(eos_ids, np.int32))
        if self.next.ndim != 2 or self.next.shape[1] != 256:
            raise ValueError(f"ByteDFA: next: expected shape (S, 256), got {np.shape(next)}")
        if self.accepting.shape != self.next.shape[:1]:
            raise ValueError(
                f"ByteDFA: accepting: expected shape ({len(self.next)},) like next, got "
                f"{np.shape(accepting)}"
            )
        if len(self.next) == 0 or self.next.max() >= len(self.next):
            raise ValueError(
                f"ByteDFA: next: expected at least one state and states below {len(self.next)}, "
                f"got {self.next.max(initial=-1)}"
            )
        bad = self.eos_ids[(self.eos_ids < 0) | (self.eos_ids >= len(self.vocabulary))]
        if bad.size:
            raise ValueError(
                f"ByteDFA: eos_ids: expected tokens in [0, {len(self.vocabulary)}), got {bad[0]}"
            )
        self.on_device: dict[Any, tuple] = {}  # tensors of these arrays, by device

    @classmethod
    def from_regex(
        cls,
        pattern: str | bytes,
        vocabulary: Vocabulary | Sequence[bytes | None],
        eos_ids: Sequence[int] | int,
        *,
        max_states: int = 65536,
    ) -> "ByteDFA":
        r"""The automaton of a regular expression, minimal and without dead ends.

        The language is what `re.fullmatch(pattern, text, re.ASCII)` accepts: Python's syntax, with
        ASCII's digits, spaces and word characters, except that `$` is the very end. A str pattern
        is about characters, spelt in UTF-8; a bytes pattern about bytes.

        Args:
            pattern: a regular expression. Refused, with the position: backreferences and
                conditional groups (not regular), lookaround, atomic groups, possessive repeats,
                word boundaries and anchors of lines.
            vocabulary: a `Vocabulary`, or the bytes of each token.
            eos_ids: the tokens that end a text.
            max_states: more states than this are an error: some patterns need exponentially many.

        Raises:
            ValueError: pattern that is invalid, refused, matches nothing, or needs too many states.

        Example::

            >>> dfa = thrifty.ByteDFA.from_regex(r"a+b", [b"a", b"ab", b"ba", b"</s>"], eos_ids=3)
            >>> dfa.allowed(dfa.start)
            [0, 1]
            >>> dfa.allowed(dfa.advance(dfa.start, 1))
            [3]

        Reference: Thompson, "Regular expression search algorithm", CACM 1968; minimisation after
        Hopcroft (1971).
        """
        if max_states < 1:
            raise ValueError(
                f"from_regex: max_states: expected a positive number, got {max_states}"
            )
        next, accepting = _native.byte_dfa(*_regex.nfa(pattern), max_states)
        if len(next) == 0:
            raise ValueError(
                f"from_regex: pattern: expected one that matches some text, got {pattern!r}"
            )
        return cls(next, accepting, vocabulary, eos_ids)

    @property
    def start(self) -> int:
        return 0

    def matches(self, text: bytes) -> bool:
        """Whether the whole text is in the language."""
        state = 0
        for byte in text:
            state = int(self.next[state, byte])
            if state < 0:
                return False
        return bool(self.accepting[state])

    def states_after(self, state: int, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """int32, for each token the state that it leads to from `state`; -1 where not allowed."""
        return _native.byte_dfa_step(*self.arrays(), state, np.asarray(ids, np.int64))

    def advance(self, state: int, token: int) -> int:
        """The state after one token; -1 where it is not allowed."""
        return int(self.states_after(state, [token])[0])

    def check(self, state: int, ids: Sequence[int]) -> list[bool]:
        """Whether each of these tokens is allowed in a state."""
        return (self.states_after(state, ids) >= 0).tolist()

    def allowed(self, state: int) -> list[int]:
        """All allowed tokens: walks the whole vocabulary, for small ones and for tests."""
        every = np.arange(len(self.vocabulary))
        return np.flatnonzero(self.states_after(state, every) >= 0).tolist()

    def bitmask(self, states: Sequence[int] | np.ndarray) -> np.ndarray:
        """int32 (B, ceil(V / 32)): bit j % 32 of word j // 32 is whether token j is allowed.

        What `masked_sample` takes. Walks every token: 0.2 to 2 ms for 131k of them.
        """
        return _native.byte_dfa_bitmask(*self.arrays(), np.asarray(states, np.int32))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """next, accepting, and the vocabulary's offsets, bytes and end tokens."""
        tokens = self.vocabulary
        return self.next, self.accepting, tokens.offsets, tokens.bytes, self.eos_ids
