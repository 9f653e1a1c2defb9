"""speculative_generate: what `model.generate(custom_generate=...)` calls to decode with drafts.

A step: the drafter grows a tree below each sequence's last token, one forward pass scores all
nodes, generate's processors are applied to each node's own prefix, `verify_tree` accepts a path and
draws one more token, the cache keeps the accepted columns, the table learns from the scores.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from thrifty._draft_tree import Draft, DraftTree
from thrifty.drafting import Verified, verify_tree
from thrifty.hf._cache import SpeculativeCache
from thrifty.hf._processors import NodeProcessors
from thrifty.hf._sequences import Sequences
from thrifty.hf.ngram_drafter import NgramDrafter


def speculative_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: list,
    stopping_criteria: list,
    generation_config: GenerationConfig,
    drafter: NgramDrafter | None = None,
    synced_gpus: bool = False,
    streamer: Any = None,
    **model_kwargs: Any,
) -> GenerateDecoderOnlyOutput | Tensor:
    """Several tokens per forward pass, with the output of plain `generate`.

    Not called directly: ``model.generate(ids, custom_generate=thrifty.hf.speculative_generate,
    drafter=thrifty.hf.NgramDrafter())``. generate prepares all arguments but the drafter.

    Args:
        drafter: what drafts; None is a new `NgramDrafter()`. Keep one over calls, it learns.
        streamer: generate does not hand its streamer to functions, so give it twice: to generate,
            which puts the prompt, and here by ``functools.partial(speculative_generate,
            streamer=streamer)``. It gets one token of each sequence at a time, as always.

    Greedy decoding gives the tokens of plain `generate`, up to rounding: a pass over several tokens
    may round differently from passes over one, which matters where two logits are all but equal.
    Sampling gives tokens of the same law, other ones than plain `generate` for a seed; they are
    determined by `torch.manual_seed` and the drafter's table.

    Any causal language model of `transformers` 5. Trees need attention by "sdpa" or "eager" and a
    cache of full-attention layers; else drafts are chains. Windowed layers work for one sequence,
    static caches do not; recurrent and quantized ones have not been tried.

    Processors are applied to each drafted node with that node's own prefix. Processors of
    `transformers` that keep a state are refused. One's own should be functions of (input_ids,
    scores); set ``prefix_only = True`` on those that look at one row at a time, which then takes
    fewer calls in a batch. Stopping criteria are asked token by token, for one sequence at a time.

    Raises:
        ValueError: beam search, encoder-decoder models, `inputs_embeds`, a cache that cannot be
            rolled back, a stateful processor, outputs of attentions or hidden states.

    Example::

        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=99, hidden_size=32, intermediate_size=64,
        ...     num_hidden_layers=2, num_attention_heads=2, eos_token_id=None)
        >>> model = LlamaForCausalLM(config).eval()
        >>> prompt = torch.tensor([[1, 2, 3]])
        >>> plain = model.generate(prompt, max_new_tokens=20, do_sample=False)
        >>> drafter = thrifty.hf.NgramDrafter()
        >>> drafted = model.generate(prompt, max_new_tokens=20, do_sample=False, drafter=drafter,
        ...     custom_generate=thrifty.hf.speculative_generate)
        >>> torch.equal(plain, drafted)
        True
        >>> drafter.stats()["tokens"]
        20
    """
    _check(model, generation_config, synced_gpus, model_kwargs)
    run = _Run(
        model, input_ids, logits_processor, stopping_criteria, generation_config,
        drafter or NgramDrafter(), streamer, model_kwargs,
    )  # fmt: skip
    return run.run()


def _fail(what: str, expected: str, got: object) -> None:
    raise ValueError(f"speculative_generate: {what}: expected {expected}, got {got}")


def _check(
    model: PreTrainedModel, config: GenerationConfig, synced_gpus: bool, kwargs: dict[str, Any]
) -> None:
    if model.config.is_encoder_decoder:
        _fail("model", "a decoder-only language model", type(model).__name__)
    if config.num_beams and config.num_beams > 1:
        _fail("num_beams", "1", config.num_beams)
    if kwargs.get("inputs_embeds") is not None:
        _fail("inputs_embeds", "input_ids alone", "inputs_embeds")
    if not kwargs.get("use_cache", True):
        _fail("use_cache", "True", "False")
    if synced_gpus:
        _fail("synced_gpus", "False", "True")
    if config.return_dict_in_generate:
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(config, name):
                _fail(name, "False", "True")


class _Run:
    """One call of generate."""

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        processors: list,
        criteria: list,
        config: GenerationConfig,
        drafter: NgramDrafter,
        streamer: Any,
        kwargs: dict[str, Any],
    ) -> None:
        mask = kwargs.pop("attention_mask", None)
        if mask is not None and mask.shape != input_ids.shape:
            _fail("attention_mask", f"shape {tuple(input_ids.shape)}", tuple(mask.shape))
        past = kwargs.pop("past_key_values", None)
        for prepared in ("position_ids", "logits_to_keep", "use_cache", "cache_position"):
            kwargs.pop(prepared, None)
        batch = input_ids.shape[0]
        self.config, self.drafter, self.device = config, drafter, input_ids.device
        self.prompt, self.model = input_ids, model
        self.cache = SpeculativeCache(model, past, batch, mask, kwargs)
        self.rows = Sequences(input_ids, self.cache.pads, criteria, config, streamer)
        wanted = config.return_dict_in_generate
        self.scores = _Kept(batch) if wanted and config.output_scores else None
        self.logits = _Kept(batch) if wanted and config.output_logits else None
        self.processors = NodeProcessors(processors, batch, run_all=self.scores is not None)
        self.sample = bool(config.do_sample)
        # One seed per sequence, from torch's generator; the position in the text is the offset.
        self.seeds = torch.randint(2**63 - 1, (batch,)).numpy()

    def run(self) -> GenerateDecoderOnlyOutput | Tensor:
        self.drafter.begin(self.rows.texts(), self.cache.takes_trees)
        rows = np.arange(len(self.rows))
        logits = self.cache.prefill(self.prompt, self.config.prefill_chunk_size)
        self._accept(rows, self._draft(rows, DraftTree.chain(0)), DraftTree.chain(0), logits)
        while not self.rows.done.all():
            self._step()
        self.cache.crop()
        return self._result()

    def _step(self) -> None:
        rows = np.flatnonzero(~self.rows.done)
        tree = self.drafter.tree_now(self.rows.room(rows) - 1)
        draft = self._draft(rows, tree)
        count = draft.tokens.shape[1]
        tokens = np.zeros((len(self.rows), count), np.int64)
        tokens[rows] = np.maximum(draft.tokens, 0)
        is_chain = tree.max_depth == tree.size - 1
        last = self.rows.max_length - 1
        ids = torch.from_numpy(tokens).to(self.device)
        logits = self.cache.score(ids, draft, rows, is_chain, last)
        if len(rows) < len(self.rows):
            logits = logits[torch.from_numpy(rows).to(logits.device)]
        path, kept = self._accept(rows, draft, tree, logits)
        paths = np.zeros((len(self.rows), path.shape[1]), np.int64)
        counts = np.zeros(len(self.rows), np.int64)
        paths[rows], counts[rows] = path, kept
        self.cache.commit(paths, counts, count)

    def _draft(self, rows: np.ndarray, tree: DraftTree) -> Draft:
        tails, lens = self.rows.tails(rows, self.drafter.table.n_max)
        draft = self.drafter.draft(
            rows, tails, lens, tree, self.sample, self.seeds[rows], self.rows.lens[rows]
        )
        return draft.trimmed()

    def _accept(
        self, rows: np.ndarray, draft: Draft, tree: DraftTree, logits: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Verifies, learns, commits tokens; the paths and how many of their nodes are kept."""
        if logits.dtype == torch.float64:
            logits = logits.float()  # as plain generate has them
        depths = [of[of >= 0] for of in draft.depths]
        lengths = [(self.rows.lens[b] + d).tolist() for b, d in zip(rows, depths, strict=True)]
        scores = self.processors(logits, rows.tolist(), lengths, self._prefix_of(rows, draft))
        everything = self.drafter.learns_from_all(logits.device.type, logits.shape[-1])
        verified = verify_tree(
            scores, draft, rule="auto" if self.sample else "greedy",
            seed=self._tensor(self.seeds[rows], logits), k=self.drafter.table.k,
            offset=self._tensor(self.rows.lens[rows], logits),
            stats="all" if everything else "path", **self.processors.settings,
        )  # fmt: skip
        if verified.status.any():
            _fail("logits", "finite numbers in each row that is used", verified.status.tolist())
        tokens, counts, path = (
            t.cpu().numpy() for t in (verified.tokens, verified.lengths, verified.path)
        )
        self._learn(rows, draft, path, verified, everything)
        kept = self.rows.append(rows, tokens, counts)
        slots = [draft.slots[i, path[i, 1:n]] for i, n in enumerate(counts)]
        self.drafter.count(tree, slots, int(draft.sizes.sum()), int(kept.sum()))
        for store, values in ((self.scores, scores), (self.logits, logits)):
            if store is not None:
                store.add(rows, values, path, kept)
        return path.astype(np.int64), kept

    def _prefix_of(self, rows: np.ndarray, draft: Draft) -> Callable[[int, int], Tensor]:
        def prefix(i: int, node: int) -> Tensor:
            path = []
            while node > 0:
                path.append(int(draft.tokens[i, node]))
                node = int(draft.parents[i, node])
            ids = np.concatenate([self.rows.text(rows[i]), np.array(path[::-1], np.int64)])
            return torch.from_numpy(ids).to(self.device)

        return prefix

    def _learn(
        self,
        rows: np.ndarray,
        draft: Draft,
        path: np.ndarray,
        verified: Verified,
        everything: bool,
    ) -> None:
        tails, lens = node_tails(draft, *self.rows.tails(rows, self.drafter.table.n_max))
        i, at = np.nonzero(draft.depths >= 0 if everything else path >= 0)
        node = at if everything else path[i, at]
        ids, probs = (t.cpu().numpy()[i, at] for t in (verified.topk_ids, verified.topk_probs))
        self.drafter.learn_batch(rows[i], tails[i, node], lens[i, node], ids, probs)

    def _tensor(self, values: np.ndarray, like: Tensor) -> Tensor:
        return torch.from_numpy(values).to(like.device)

    def _result(self) -> GenerateDecoderOnlyOutput | Tensor:
        ids = self.rows.result(self.prompt)
        if not self.config.return_dict_in_generate:
            return ids
        fields: dict[str, Any] = {
            "sequences": ids,
            "scores": None if self.scores is None else self.scores.columns(),
            "logits": None if self.logits is None else self.logits.columns(),
            "past_key_values": self.cache.cache,
        }
        return GenerateDecoderOnlyOutput(**fields)


def node_tails(draft: Draft, tails: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last tokens before what follows each node: (b, T, n) and how many there are (b, T).

    tails: (b, n), those of node 0 and its predecessors, right-aligned.
    """
    batch, count = draft.tokens.shape
    n = tails.shape[1]
    of = np.zeros((batch, count, n), np.int32)
    length = np.zeros((batch, count), np.int32)
    of[:, 0], length[:, 0] = tails, lens
    for depth in range(1, int(draft.depths.max(initial=0)) + 1):
        i, node = np.nonzero(draft.depths == depth)
        parent = draft.parents[i, node]
        of[i, node, :-1] = of[i, parent, 1:]
        of[i, node, -1] = draft.tokens[i, node]
        length[i, node] = np.minimum(length[i, parent] + 1, n)
    return of, length


class _Kept:
    """Rows of logits for the tokens of each sequence, as generate's output has them."""

    def __init__(self, batch: int) -> None:
        self._rows: list[list[Tensor]] = [[] for _ in range(batch)]

    def add(self, rows: np.ndarray, values: Tensor, path: np.ndarray, kept: np.ndarray) -> None:
        for i, row in enumerate(rows):
            nodes = path[i, : kept[i]]
            self._rows[row] += [values[i, node].float().clone() for node in nodes]

    def columns(self) -> tuple[Tensor, ...]:
        """One (B, V) per new token; zeros where a sequence had ended."""
        length = max(len(row) for row in self._rows)
        none = torch.zeros_like(self._rows[0][0])
        filled = [row + [none] * (length - len(row)) for row in self._rows]
        return tuple(torch.stack(column) for column in zip(*filled, strict=True))
