"""NgramProposer: drafts for vLLM, which asks a class for tokens and verifies them by itself.

    LLM(model, speculative_config={"method": "custom_class", "num_speculative_tokens": 8,
                                   "model": "thrifty.vllm.NgramProposer"})

vLLM hands over tokens and no logits and takes chains without q, so the table counts what followed
what, and drafts are the most probable continuation. vLLM's own verification of such drafts is
exact. One native call drafts for the whole batch, in time that does not depend on context lengths.
vLLM itself is not imported; the interface is that of 0.33, which calls it experimental.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from thrifty._draft_tree import DraftTree
from thrifty._ngram_table import NgramTable

_RECOGNISED = 16  # tokens by which a request is found again in the next step


class NgramProposer:
    """One table for all requests of an engine.

    Its settings are class attributes, for vLLM passes none: subclass to change them, and name the
    subclass in "model".

    >>> class Longer(thrifty.vllm.NgramProposer):
    ...     n_max = 6

    Attributes:
        capacity, n_min, n_max, count_cap: see `NgramTable`.
        path: a file of `NgramTable.save` to start from, None for an empty table.
    """

    capacity: int = 1 << 20
    n_min: int = 2
    n_max: int = 5
    count_cap: int = 64
    path: str | None = None

    def __init__(self, vllm_config: Any) -> None:
        self.num_speculative_tokens = int(vllm_config.speculative_config.num_speculative_tokens)
        self.max_model_len = int(vllm_config.model_config.max_model_len)
        self.table = (
            NgramTable(self.capacity, 10, self.n_min, self.n_max, self.count_cap)
            if self.path is None
            else NgramTable.load(self.path)
        )
        self._tree = DraftTree.chain(self.num_speculative_tokens)
        self._known: set[tuple[int, bytes]] = set()  # how the requests of the last step ended

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """There is none."""

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: np.ndarray,
        token_ids_cpu: np.ndarray,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Up to num_speculative_tokens for each request.

        Args:
            sampled_token_ids: what the last step added to each; empty during a prefill, then
                nothing is drafted.
            num_tokens_no_spec: (B), tokens of each, the sampled among them.
            token_ids_cpu: int (>= B, max_model_len), those tokens.
        """
        lengths = [int(n) for n in np.asarray(num_tokens_no_spec)[: len(sampled_token_ids)]]
        drafts: list[list[int]] = [[] for _ in lengths]
        ids = np.asarray(token_ids_cpu)
        rows = [i for i, sampled in enumerate(sampled_token_ids) if len(sampled)]
        for i in rows:
            self._observe(ids[i, : lengths[i]], len(sampled_token_ids[i]))
        self._known = {_end(ids[i, :n]) for i, n in enumerate(lengths)}
        rows = [i for i in rows if lengths[i] < self.max_model_len]
        if not rows:
            return drafts
        n_max = self.table.n_max
        tails = np.zeros((len(rows), n_max), np.int32)
        lens = np.zeros(len(rows), np.int32)
        for j, i in enumerate(rows):
            tail = ids[i, max(0, lengths[i] - n_max) : lengths[i]]
            tails[j, n_max - len(tail) :], lens[j] = tail, len(tail)
        draft = self.table.draft(tails, lens, self._tree, "greedy")
        for j, i in enumerate(rows):
            room = self.max_model_len - lengths[i] - 1
            drafts[i] = draft.tokens[j, 1 : draft.sizes[j]][:room].tolist()
        return drafts

    def _observe(self, text: np.ndarray, new: int) -> None:
        """The new tokens of a request that was here in the last step, all of one that was not."""
        before = len(text) - new
        known = before > 0 and _end(text[:before]) in self._known
        self.table.observe_tokens(text, start=before if known else 1)


def _end(text: np.ndarray) -> tuple[int, bytes]:
    """Length and last tokens: requests have no names here, and change places in the batch."""
    return len(text), np.ascontiguousarray(text[-_RECOGNISED:], np.int64).tobytes()
