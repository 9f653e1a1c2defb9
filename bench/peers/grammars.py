"""XGrammar and llguidance over a list of tokens, as constraints of `thrifty.constraints`."""

import json
from collections.abc import Callable

from bench.peers import require
from thrifty.constraints import Constraint, LLGuidanceConstraint, XGrammarConstraint


def xgrammar(tokens: list[bytes], eos: int, schema: dict | str) -> Callable[[], Constraint]:
    """Starts of texts under a JSON schema, or a regular expression given as a str."""
    library = require("xgrammar")
    info = library.TokenizerInfo(tokens, library.VocabType.RAW, stop_token_ids=[eos])
    compiler = library.GrammarCompiler(info)
    if isinstance(schema, str):
        grammar = compiler.compile_regex(schema)
    else:
        grammar = compiler.compile_json_schema(json.dumps(schema))
    return lambda: XGrammarConstraint(library.GrammarMatcher(grammar))


class Described:
    """A tokenizer as llguidance wants it described: control tokens are marked by a byte 0xff."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], eos: int) -> None:
        self.tokens = [t or b"\xff<control %d>" % i for i, t in enumerate(tokens)]
        self.eos_token_id = eos
        self.special_token_ids = [i for i, t in enumerate(tokens) if not t]
        self.of_byte = {t[0]: i for i, t in enumerate(tokens) if len(t) == 1}

    def __call__(self, text: bytes | str) -> list[int]:
        spelt = text.encode() if isinstance(text, str) else text
        return [self.of_byte[byte] for byte in spelt]


def llguidance(tokens: list[bytes], eos: int, schema: dict | str) -> Callable[[], Constraint]:
    library = require("llguidance")
    wrapped = library.TokenizerWrapper(Described(tokens, eos))
    tokenizer = library.LLTokenizer(wrapped, n_vocab=len(tokens), eos_token=eos)
    matcher = library.LLMatcher
    if isinstance(schema, str):
        grammar = matcher.grammar_from_regex(schema)
    else:
        grammar = matcher.grammar_from_json_schema(json.dumps(schema))
    return lambda: LLGuidanceConstraint(matcher(tokenizer, grammar), eos)
