"""The model's key-value cache during speculation: prefill, passes over drafts, rollback.

Columns [0, len_b) of the cache hold sequence b's committed tokens, in order. A pass appends T
columns behind the longest sequence; afterwards `kv_compact_` moves the accepted ones of each
sequence to its end and the rest is cropped. Columns between len_b and the cache's width belong to
nobody and are masked.
"""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from thrifty._draft_tree import Draft
from thrifty.drafting import kv_compact_

TREE_ATTENTION = ("eager", "sdpa")  # those that take a mask of any form


def _fail(what: str, expected: str, got: object) -> None:
    raise ValueError(f"speculative_generate: {what}: expected {expected}, got {got}")


class SpeculativeCache:
    """A model and its cache, asked for the logits of drafts.

    Args:
        model: a causal language model.
        cache: as generate prepared it; may hold the first columns of the prompt.
        prompt_mask: (B, P), 0 for padding, or None.
        kwargs: further arguments of the model's forward, such as images; for the prefill alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: Cache | None,
        batch: int,
        prompt_mask: Tensor | None,
        kwargs: dict[str, Any],
    ) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config) if cache is None else cache
        self._kwargs = kwargs
        self._prompt_mask = None if prompt_mask is None else prompt_mask.bool()
        self.pads = np.zeros(batch, np.int64)  # masked columns of the prompt, before positions
        if prompt_mask is not None:
            self.pads = (prompt_mask == 0).sum(1).cpu().numpy()
        self.lens = np.zeros(batch, np.int64)
        arguments = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in arguments
        self._takes_keep = "logits_to_keep" in arguments
        self._movable = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        if not self._movable and batch > 1:
            kinds = sorted({type(layer).__name__ for layer in self.cache.layers})
            _fail("cache", "layers of DynamicLayer for more than one sequence", ", ".join(kinds))
        fixed = [type(t).__name__ for t in self.cache.layers if not getattr(t, "is_croppable", 0)]
        if fixed:
            _fail("cache", "layers that can be cropped", fixed[0])
        if batch > 1 and not self._takes_positions:
            _fail("model", "a forward with position_ids for more than one sequence", type(model))

    @property
    def takes_trees(self) -> bool:
        attention = getattr(self.model.config, "_attn_implementation", None)
        return self._movable and self._takes_positions and attention in TREE_ATTENTION

    @property
    def width(self) -> int:
        return int(self.cache.get_seq_length())

    def prefill(self, ids: Tensor, chunk: int | None) -> Tensor:
        """Logits (B, 1, V) after the prompt, of which the cache may hold the first columns."""
        done, total = self.width, ids.shape[1]
        if done >= total:
            _fail("past_key_values", f"less than the prompt's {total} tokens", done)
        mask = self._prompt_mask
        positions = torch.arange(total, device=ids.device).expand(ids.shape[0], -1)
        if mask is not None:
            positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        chunk = chunk or total - done
        logits = None
        for begin in range(done, total, chunk):
            end = min(begin + chunk, total)
            logits = self._forward(
                ids[:, begin:end],
                None if mask is None else mask[:, :end].long(),
                positions[:, begin:end],
                keep=1,
                **self._kwargs,
            )
        assert logits is not None
        if not self._movable:  # sliding windows and recurrent states keep what a rollback needs
            self.cache.activate_past_recording()
        self.lens[:] = total
        return logits[:, -1:]

    def score(
        self, tokens: Tensor, draft: Draft, rows: np.ndarray, is_chain: bool, last: int
    ) -> Tensor:
        """Logits (B, T, V) after each node.

        Args:
            tokens: int64 (B, T), any id where a node is not valid.
            draft: of the sequences `rows`; others, already finished, get a row without a node.
            is_chain: no node has two children.
            last: the largest position that the model may see.
        """
        batch, count = tokens.shape
        depths = np.zeros((batch, count), np.int64)
        depths[rows] = np.maximum(draft.depths[:, :count], 0)
        positions = np.minimum((self.lens - self.pads)[:, None] + depths, last - self.pads[:, None])
        mask = self._chain_mask(count) if is_chain else self._tree_mask(draft, rows, count)
        placed = torch.from_numpy(positions).to(tokens.device)
        return self._forward(tokens, mask, placed, keep=count)

    def commit(self, path: np.ndarray, counts: np.ndarray, passed: int) -> None:
        """Keeps the accepted nodes of the last pass.

        Args:
            path: (B, n) nodes in order, counts of them valid (B).
            passed: T of the pass.
        """
        width = self.width - passed
        in_place = (path == np.arange(path.shape[1])) | (
            np.arange(path.shape[1]) >= counts[:, None]
        )
        if not (in_place.all() and (self.lens == width).all()):
            source = np.where(np.arange(path.shape[1]) < counts[:, None], width + path, -1)
            device = self._tensors()[0].device
            kv_compact_(
                self._tensors(),
                torch.from_numpy(source).to(device),
                torch.from_numpy(self.lens).to(device),
            )
        self.lens += counts
        self.crop()

    def crop(self) -> None:
        """Drops the columns behind the longest sequence."""
        surplus = self.width - int(self.lens.max())
        if surplus > 0 or not self._movable:
            self.cache.crop(-surplus)

    def _tensors(self) -> list[Tensor]:
        layers: list[Any] = self.cache.layers
        return [t for layer in layers for t in (layer.keys, layer.values)]

    def _visible(self, width: int) -> Tensor | None:
        """bool (B, width): the columns of each sequence's own tokens; None: all of all."""
        if self._prompt_mask is None and (self.lens == width).all():
            return None
        visible = torch.from_numpy(np.arange(width) < self.lens[:, None])
        if self._prompt_mask is not None:
            prompt = self._prompt_mask.cpu()
            visible[:, : prompt.shape[1]] &= prompt
        return visible

    def _chain_mask(self, count: int) -> Tensor | None:
        visible = self._visible(self.width)
        if visible is None:
            return None  # nodes that are not valid stand last, where no valid one looks
        mask = torch.ones(len(self.lens), self.width + count, dtype=torch.int64)
        mask[:, : self.width] = visible
        return mask.to(self.model.device)

    def _tree_mask(self, draft: Draft, rows: np.ndarray, count: int) -> Tensor:
        batch, width = len(self.lens), self.width
        seen = np.zeros((batch, count, count), bool)
        seen[:, np.arange(count), np.arange(count)] = True  # a row must not be empty
        words = np.ascontiguousarray(draft.ancestors[:, :count]).view(np.uint8)
        bits = np.unpackbits(words, axis=-1, bitorder="little")[..., :count]
        seen[rows] |= bits.astype(bool)
        mask = torch.empty(batch, count, width + count, dtype=torch.bool)
        visible = self._visible(width)
        mask[:, :, :width] = True if visible is None else visible[:, None]
        mask[:, :, width:] = torch.from_numpy(seen)
        dtype = self.model.dtype
        additive = torch.zeros(mask.shape, dtype=dtype)
        additive.masked_fill_(~mask, torch.finfo(dtype).min)
        return additive[:, None].to(self.model.device)

    def _forward(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, keep: int, **kwargs: Any
    ) -> Tensor:
        if self._takes_positions:
            kwargs["position_ids"] = positions
        if self._takes_keep:
            kwargs["logits_to_keep"] = keep
        out = self.model(
            input_ids=ids.to(self.model.device),
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
            **kwargs,
        )
        return out.logits
