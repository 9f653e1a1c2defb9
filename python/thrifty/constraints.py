"""Constraints on one text each: what `awrs_sample` and `masked_sample` ask about the next token.

A `Constraint` wraps the matcher of a grammar library, or a `ByteDFA`. It answers for single tokens,
fills a bit mask, and moves on. Which of the two a library does more cheaply was measured (V = 131k,
JSON schema, `bench/sampling_constraints.py`): XGrammar caches masks per grammar state, so a mask
costs it about as much as a few checks; llguidance computes masks by walking the vocabulary, a
hundred times the cost of a check; and so does `ByteDFA`.

The libraries are optional: nothing here imports them.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from thrifty._byte_dfa import ByteDFA

__all__ = ["Constraint", "DFAConstraint", "LLGuidanceConstraint", "XGrammarConstraint"]


class Constraint(Protocol):
    """One text's constraint, at some place of the text."""

    mask_is_cheaper: bool  # than the ten or so single checks of one step
    finished: bool  # whether the text has ended: nothing may follow

    def check(self, ids: Sequence[int]) -> list[bool]:
        """Whether each of these tokens may come next. Changes nothing."""

    def fill_bitmask(self, row: Tensor) -> None:
        """Writes the mask of all tokens, int32 (ceil(V / 32),) on the CPU."""

    def accept(self, token: int) -> None:
        """Moves past a token; ValueError when it is not allowed."""

    def copy(self) -> "Constraint":
        """Another one at the same place, for a copy of the text."""


def refuse(kind: str, token: int) -> ValueError:
    return ValueError(f"{kind}: token: expected one that is allowed here, got {token}")


class XGrammarConstraint:
    """An `xgrammar.GrammarMatcher` as a `Constraint`.

    Example (needs xgrammar)::

        matcher = xgrammar.GrammarMatcher(compiled_grammar)
        constraint = thrifty.constraints.XGrammarConstraint(matcher)
    """

    mask_is_cheaper = True

    def __init__(self, matcher: Any) -> None:
        self.matcher = matcher

    @property
    def finished(self) -> bool:
        return self.matcher.is_terminated()

    def check(self, ids: Sequence[int]) -> list[bool]:
        return [self._check(token) for token in ids]

    def _check(self, token: int) -> bool:
        allowed = not self.finished and self.matcher.accept_token(token)
        if allowed:
            self.matcher.rollback(1)
        return allowed

    def fill_bitmask(self, row: Tensor) -> None:
        if self.finished:
            row.zero_()
        else:
            self.matcher.fill_next_token_bitmask(row[None], 0)

    def accept(self, token: int) -> None:
        if self.finished or not self.matcher.accept_token(token):
            raise refuse("XGrammarConstraint", token)

    def copy(self) -> "XGrammarConstraint":
        return XGrammarConstraint(self.matcher.fork())


class LLGuidanceConstraint:
    """An `llguidance.LLMatcher` as a `Constraint`.

    Args:
        matcher: the LLMatcher.
        eos_ids: the tokenizer's end tokens. Once a text can only end, the library's mask allows
            them while its check of single tokens does not: here the check follows the mask.

    Example (needs llguidance)::

        matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_regex("a+"))
        constraint = thrifty.constraints.LLGuidanceConstraint(matcher, [tokenizer.eos_token])
    """

    mask_is_cheaper = False

    def __init__(self, matcher: Any, eos_ids: Sequence[int] | int) -> None:
        self.matcher = matcher
        self.eos_ids = {eos_ids} if isinstance(eos_ids, int) else set(eos_ids)
        self.finished = False

    def check(self, ids: Sequence[int]) -> list[bool]:
        return [self._check(token) for token in ids]

    def _check(self, token: int) -> bool:
        if self.finished or self.matcher.is_error():
            return False
        if token in self.eos_ids:
            return self.matcher.is_accepting()
        return self.matcher.validate_tokens([token]) == 1

    def fill_bitmask(self, row: Tensor) -> None:
        row.zero_()
        if not self.finished and not self.matcher.is_error():
            mask = np.frombuffer(self.matcher.compute_bitmask(), np.int32)
            row[: len(mask)] = torch.from_numpy(mask.copy())[: len(row)]

    def accept(self, token: int) -> None:
        # A refused token would put the matcher into an error state for good.
        if not self._check(token):
            raise refuse("LLGuidanceConstraint", token)
        if token in self.eos_ids:
            self.finished = True
        else:
            self.matcher.consume_token(token)

    def copy(self) -> "LLGuidanceConstraint":
        other = LLGuidanceConstraint(self.matcher.deep_copy(), list(self.eos_ids))
        other.finished = self.finished
        return other


class DFAConstraint:
    """A `ByteDFA` at some state, as a `Constraint`. For whole batches, `awrs_sample_dfa` is faster.

    Example::

        >>> dfa = thrifty.ByteDFA.from_regex("ab*", [b"a", b"b", b""], eos_ids=2)
        >>> text = thrifty.constraints.DFAConstraint(dfa)
        >>> text.accept(0)
        >>> text.check([0, 1, 2])
        [False, True, True]
    """

    mask_is_cheaper = False

    def __init__(self, dfa: ByteDFA, state: int | None = None) -> None:
        self.dfa, self.state = dfa, dfa.start if state is None else state
        self.finished = False

    def check(self, ids: Sequence[int]) -> list[bool]:
        return [False] * len(ids) if self.finished else self.dfa.check(self.state, ids)

    def fill_bitmask(self, row: Tensor) -> None:
        row.zero_()
        if not self.finished:
            mask = torch.from_numpy(self.dfa.bitmask([self.state])[0])
            row[: len(mask)] = mask[: len(row)]

    def accept(self, token: int) -> None:
        after = -1 if self.finished else self.dfa.advance(self.state, token)
        if after < 0:
            raise refuse("DFAConstraint", token)
        self.state = after
        self.finished = token in self.dfa.eos_ids

    def copy(self) -> "DFAConstraint":
        other = DFAConstraint(self.dfa, self.state)
        other.finished = self.finished
        return other
