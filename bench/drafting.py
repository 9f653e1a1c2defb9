"""Cases of the drafting family: drafts and updates of the n-gram table, statistics of rows, a step.

The text is the interpreter's standard library, cut into words; what a model would say after each
word is played by the corpus's own bigrams. Peer: arctic-inference's suffix trees, which hold tokens
only; their contexts are 64 tokens, their prompts the same text. The KMP look-up drafts chains of 10
from the last 2,048 tokens. A call from Python is timed, with
everything that a serving loop would pay. What is drafted is checked by the tests, not here.
"""

import importlib.util
import re
import sys
import sysconfig
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.bars import Bar
from bench.harness import DTYPES, Case, Impl
from bench.peers import arctic, prompt_lookup, require

TOKENS, K, ORDER = 200_000, 10, 4
WORD = re.compile(r"\w+|[^\S\n]+|\n|[^\w\s]")


@dataclass(frozen=True)
class Corpus:
    tokens: np.ndarray  # int32 (TOKENS)
    tails: np.ndarray  # int32 (TOKENS - ORDER, ORDER)
    ids: np.ndarray  # int32 (TOKENS - ORDER, K), what follows each tail
    probs: np.ndarray


@cache
def corpus() -> Corpus:
    names: dict[str, int] = {}
    tokens: list[int] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        words = WORD.findall(path.read_text(errors="ignore"))
        tokens += [names.setdefault(word, len(names)) for word in words]
        if len(tokens) >= TOKENS:
            break
    text = np.array(tokens[:TOKENS], np.int32)
    followers: dict[int, Counter] = defaultdict(Counter)
    for first, second in zip(text[:-1].tolist(), text[1:].tolist(), strict=True):
        followers[first][second] += 1
    ids = np.full((len(names), K), -1, np.int32)
    probs = np.zeros((len(names), K), np.float32)
    for first, counts in followers.items():
        best = counts.most_common(K)
        ids[first, : len(best)] = [token for token, _ in best]
        probs[first, : len(best)] = [count / counts.total() for _, count in best]
    tails = np.lib.stride_tricks.sliding_window_view(text, ORDER)[:-1].copy()
    return Corpus(text, tails, ids[tails[:, -1]], probs[tails[:, -1]])


def learned() -> Any:
    data = corpus()
    table = require("thrifty").NgramTable(1 << 19)
    table.update(data.tails, ids=data.ids, probs=data.probs)
    return table


def places(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(64, TOKENS - ORDER, count)


def nothing(_: Any) -> tuple:
    return ()


def draft(batch: int, nodes: int, tier: int) -> Case:
    """Trees for `batch` sequences in one call; up to 8 are one thread's."""

    def thrifty(_: Any) -> Impl:
        table, tree = learned(), require("thrifty").DraftTree.default(nodes)
        tails = corpus().tails[places(batch)]
        step = iter(range(1 << 40))

        def call() -> Any:
            return table.draft(tails, tree=tree, seed=1, offset=next(step))

        return Impl(call, compared=False, figures=lambda: {"nodes": float(call().sizes.mean())})

    def suffix_trees(_: Any) -> Impl:
        text = corpus().tokens
        requests = min(batch, 8)  # a tree of its own for each; more would only repeat the text
        part = TOKENS // requests
        cache = arctic.cache_of([text[i * part : (i + 1) * part] for i in range(requests)])
        at = [i * part + 64 + int(p) % (part - 64) for i, p in enumerate(places(requests))]
        contexts = [text[p - 64 : p] for p in at]

        def call() -> list:
            return [arctic.draft_trees(cache, contexts, 64) for _ in range(batch // requests)]

        def size() -> dict[str, float]:
            return {"nodes": sum(len(d.token_ids) for d in call()[0]) / requests}

        return Impl(call, compared=False, figures=size)

    def look_up(_: Any) -> Impl:
        find, text = prompt_lookup.compiled(), corpus().tokens
        contexts = [np.ascontiguousarray(text[max(0, p - 2048) : p]) for p in places(batch)]
        find(contexts[0], 1, ORDER, 10)

        def call() -> list:
            return [find(context, 1, ORDER, 10) for context in contexts]

        return Impl(call, compared=False)

    return Case(
        op="ngram_draft",
        dims={"B": batch, "nodes": nodes},
        dtype="fp32",
        setup=nothing,
        impls={"thrifty": thrifty, "arctic": suffix_trees, "KMP look-up": look_up},
        oracle=nothing,
        bytes=batch * nodes * (8 * K + 8 * 8),  # a slot and a bucket of keys for each node
        flops=0,
        baseline="arctic",
        tier=tier,
        size="nodes",
        devices=("cpu",),
    )


def update(rows: int, tier: int) -> Case:
    """`rows` tokens of one sequence; four lengths of context each."""

    def thrifty(_: Any) -> Impl:
        table, data = learned(), corpus()
        span = slice(5000, 5000 + rows)
        tails, ids, probs = data.tails[span], data.ids[span], data.probs[span]

        def bytes_per_token() -> dict[str, float]:
            return {"bytes_per_token": learned().stats()["bytes"] / TOKENS}

        return Impl(lambda: table.update(tails, ids=ids, probs=probs), compared=False,
                    figures=bytes_per_token)  # fmt: skip

    def counts(_: Any) -> Impl:
        table, text = learned(), corpus().tokens[5000 - ORDER : 5000 + rows]
        return Impl(lambda: table.observe_tokens(text, start=ORDER), compared=False)

    def suffix_trees(_: Any) -> Impl:
        text = corpus().tokens
        trees = arctic.cache_of([text])
        return Impl(lambda: trees.add_active_response(0, text[5000 : 5000 + rows]), compared=False)

    return Case(
        op="ngram_update",
        dims={"N": rows},
        dtype="fp32",
        setup=nothing,
        impls={"thrifty": thrifty, "thrifty counts": counts, "arctic": suffix_trees},
        oracle=nothing,
        bytes=rows * 4 * 2 * (8 * K + 8),
        flops=0,
        baseline="arctic",
        tier=tier,
        size="N",
        devices=("cpu",),
    )


def row_stats(rows: int, vocab: int, dtype: str, tier: int) -> Case:
    """Normaliser, ten largest and a draw of each row."""

    def setup(device: torch.device) -> Tensor:
        return (torch.randn(rows, vocab, device=device) * 3).to(DTYPES[dtype])

    def thrifty(logits: Tensor) -> Any:
        op = require("thrifty").row_stats
        seed = torch.arange(rows, device=logits.device)

        def call() -> tuple[Tensor, Tensor]:
            stats = op(logits, K, seed=seed)
            return stats.lse, stats.topk_probs

        return call

    def eager(logits: Tensor) -> Any:
        def call() -> tuple[Tensor, Tensor]:
            lse = torch.logsumexp(logits.float(), -1)
            values, _ = logits.topk(K)
            noise = torch.empty_like(logits).exponential_()
            (logits - noise.log()).argmax(-1)
            return lse, (values.float() - lse[:, None]).exp()

        return call

    def exact(logits: Tensor) -> tuple[Tensor, Tensor]:
        wide = logits.double()
        lse = wide.logsumexp(-1)
        return lse, (wide.topk(K).values - lse[:, None]).exp()

    return Case(
        op="row_stats",
        dims={"N": rows, "V": vocab},
        dtype=dtype,
        setup=setup,
        impls={"thrifty": thrifty, "eager": eager},
        oracle=exact,
        bytes=DTYPES[dtype].itemsize * rows * vocab,
        flops=4 * rows * vocab,
        tier=tier,
        size="V",
    )


def step(vocab: int, nodes: int, tier: int) -> Case:
    """What drafting adds to a forward pass: draft, verify, update; one sequence."""

    def thrifty(_: Any) -> Impl:
        lib, data = require("thrifty"), corpus()
        table, tree = learned(), lib.DraftTree.default(nodes)
        at = int(places(1)[0])
        tail = data.tails[at : at + 1]
        logits = torch.randn(1, nodes, vocab)
        draft = table.draft(tail, tree=tree)
        # The model likes what was drafted first: the path is as long as such paths are.
        for node in range(nodes):
            child = int(draft.first_child[0, node])
            if child >= 0:
                logits[0, node, int(draft.tokens[0, child])] += 10
        count = iter(range(1 << 40))
        accepted = []

        def call() -> None:
            offset = next(count)
            draft = table.draft(tail, tree=tree, seed=1, offset=offset)
            done = lib.verify_tree(logits, draft, temperature=0.6, seed=1, offset=offset)
            size = int(done.lengths[0])
            path = np.concatenate([tail[0], done.tokens[0, : size - 1].numpy()])
            tails = np.lib.stride_tricks.sliding_window_view(path, ORDER)
            table.update(tails, ids=done.topk_ids[0, :size], probs=done.topk_probs[0, :size])
            accepted.append(size)

        return Impl(call, compared=False, figures=lambda: mean_of(accepted, call))

    return Case(
        op="speculative_step",
        dims={"V": vocab, "nodes": nodes},
        dtype="fp32",
        setup=nothing,
        impls={"thrifty": thrifty},
        oracle=nothing,
        bytes=4 * 3 * vocab,
        flops=0,
        baseline="thrifty",
        tier=tier,
        size="V",
        devices=("cpu",),
    )


@cache
def example() -> Any:
    """examples/speculative_generate.py, which knows model, prompts and how to count passes."""
    path = Path(__file__).parents[1] / "examples" / "speculative_generate.py"
    require("transformers")
    spec = importlib.util.spec_from_file_location("speculative_generate_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def generate(nodes: int, texts: int, tier: int) -> Case:
    """Texts of the Llama in tests/assets, temperature 0.6, one table for all; one text is timed."""

    def setup(_: Any) -> Any:
        options = example().arguments(["--nodes", str(nodes), "--trajectories", str(texts)])
        return options, *example().load(options)

    def method(name: str) -> Any:
        def factory(state: Any) -> Impl:
            options, model, prompts = state
            extra = example().methods(options)[name]()
            ids = prompts[0]

            def figures() -> dict[str, float]:
                result = example().run(name, extra, model, prompts, options)
                return {"tokens_per_forward": result.tokens_per_forward}

            sampling = {"do_sample": True, "temperature": options.temperature, "top_k": 0}

            def call() -> Any:
                return model.generate(ids, max_new_tokens=options.tokens, **sampling, **extra)

            return Impl(call, compared=False, figures=figures)

        return factory

    return Case(
        op="speculative_generate",
        dims={"nodes": nodes, "texts": texts},
        dtype="fp32",
        setup=setup,
        impls={
            "path": method(f"thrifty, tree of {nodes}, path"),
            "all nodes": method(f"thrifty, tree of {nodes}, all nodes"),
            "chain": method("thrifty, chain of 10"),
            "prompt look-up": method("prompt look-up, 10 tokens"),
            "plain": method("plain generate"),
        },
        oracle=nothing,
        bytes=0,
        flops=0,
        baseline="plain",
        tier=tier,
        size="nodes",
        devices=("cpu",),
    )


def mean_of(values: list[int], call: Any) -> dict[str, float]:
    for _ in range(100):
        call()
    return {"tokens_per_step": sum(values) / len(values)}


def cases(device: torch.device) -> list[Case]:
    listed = [draft(batch, 80, 0) for batch in (1, 8, 256)]
    listed += [draft(8, nodes, 1) for nodes in (8, 32)]
    listed += [update(4, 1), update(64, 0)]
    for dtype in ("fp32", "bf16"):
        listed += [row_stats(8, 151_936, dtype, 0), row_stats(8, 32_768, dtype, 1)]
        listed += [row_stats(1, 151_936, dtype, 2)]
    return [*listed, step(32_768, 32, 0), generate(80, 6, 2)]


ROWS = "row_stats/N=8,V=151936/{}"
TEXTS = "speculative_generate/nodes=80,texts=6/fp32"

BARS = (
    Bar("80-node drafts of 8 sequences, one thread, 6 us each", "ngram_draft/B=8,nodes=80/fp32",
        "thrifty", at_most=48e-6),
    Bar("80-node draft, arctic's 64-node trees over thrifty", "ngram_draft/B=8,nodes=80/fp32",
        "arctic", "thrifty", at_least=8.0),
    Bar("256 sequences drafted", "ngram_draft/B=256,nodes=80/fp32", "thrifty", at_most=1e-3),
    Bar("update of 64 tokens, 1 us each", "ngram_update/N=64/fp32", "thrifty", at_most=64e-6),
    Bar("update, arctic over thrifty", "ngram_update/N=64/fp32", "arctic", "thrifty",
        at_least=5.0),
    Bar("table, bytes per token seen", "ngram_update/N=64/fp32", "thrifty", at_most=200,
        value="bytes_per_token"),
    Bar("row_stats fp32, torch over thrifty", ROWS.format("fp32"), "eager", "thrifty",
        at_least=5.0),
    Bar("row_stats bf16, torch over thrifty", ROWS.format("bf16"), "eager", "thrifty",
        at_least=5.0),
    Bar("draft + verify + update, V = 32k, 32 nodes", "speculative_step/V=32768,nodes=32/fp32",
        "thrifty", at_most=1.5e-3),
    Bar("tokens per forward pass, learning from the path", TEXTS, "path", at_least=2.0,
        value="tokens_per_forward"),
    Bar("tokens per forward pass, learning from all nodes", TEXTS, "all nodes", at_least=2.5,
        value="tokens_per_forward"),
)  # fmt: skip
