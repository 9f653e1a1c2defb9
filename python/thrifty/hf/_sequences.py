"""The sequences of a call: their ids, when they stop, and what a streamer gets."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria


class Sequences:
    """Ids of B sequences of different lengths. Stops are looked for token by token.

    Args:
        prompt: int64 (B, P).
        pads: (B), masked columns of the prompt; those in front are no context for drafts.
        criteria: stopping criteria, each asked after each token with the one sequence.
        streamer: gets one column of tokens (B) at a time, or None.
    """

    def __init__(
        self,
        prompt: Tensor,
        pads: np.ndarray,
        criteria: list,
        config: GenerationConfig,
        streamer: Any,
    ) -> None:
        batch, start = prompt.shape
        self.max_length = int(config.max_length)
        self._eos: set[int] = set()
        self._criteria = []
        for criterion in criteria:
            if type(criterion) is MaxLengthCriteria:
                self.max_length = min(self.max_length, criterion.max_length)
            elif type(criterion) is EosTokenCriteria:
                self._eos |= set(criterion.eos_token_id.tolist())
            else:
                self._criteria.append(criterion)
        pad = getattr(config, "_pad_token_tensor", None)
        self._pad = 0 if pad is None else int(pad)
        self._ids = np.full((batch, max(self.max_length, start + 1)), self._pad, np.int64)
        self._ids[:, :start] = prompt.cpu().numpy()
        self.lens = np.full(batch, start, np.int64)
        self.done = np.zeros(batch, bool)
        self._begins = pads
        self._streamer, self._streamed = streamer, start

    def __len__(self) -> int:
        return len(self.lens)

    def text(self, row: int) -> np.ndarray:
        """A sequence's ids, its padding among them."""
        return self._ids[row, : self.lens[row]]

    def texts(self) -> list[np.ndarray]:
        """All sequences without padding in front."""
        return [self.text(row)[self._begins[row] :] for row in range(len(self))]

    def tails(self, rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The last n ids, int32 (b, n), right-aligned, and how many there are, int32 (b)."""
        tails = np.zeros((len(rows), n), np.int32)
        lens = np.minimum(self.lens[rows] - self._begins[rows], n).astype(np.int32)
        for i, (row, count) in enumerate(zip(rows, lens, strict=True)):
            tails[i, n - count :] = self._ids[row, self.lens[row] - count : self.lens[row]]
        return tails, lens

    def room(self, rows: np.ndarray) -> int:
        """How many tokens the shortest of them may still get."""
        return max(1, int(self.max_length - self.lens[rows].min()))

    def append(self, rows: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Tokens up to the first that stops its sequence; how many that were, (b)."""
        kept = np.zeros(len(rows), np.int64)
        for i, row in enumerate(rows):
            for token in tokens[i, : counts[i]]:
                self._ids[row, self.lens[row]] = token
                self.lens[row] += 1
                kept[i] += 1
                if self._stops(row, int(token)):
                    self.done[row] = True
                    break
        self._stream()
        return kept

    def _stops(self, row: int, token: int) -> bool:
        if token in self._eos or self.lens[row] >= self.max_length:
            return True
        if not self._criteria:
            return False
        ids = torch.from_numpy(self.text(row).copy())[None]
        return any(bool(torch.as_tensor(ask(ids, None)).any()) for ask in self._criteria)

    def _stream(self) -> None:
        """The columns that all unfinished sequences have reached."""
        if self._streamer is None:
            return
        going = self.lens[~self.done]
        end = int(going.min()) if len(going) else int(self.lens.max())
        for column in range(self._streamed, end):
            self._streamer.put(torch.from_numpy(self._ids[:, column].copy()))
        self._streamed = max(self._streamed, end)
        if not len(going):
            self._streamer.end()

    def result(self, prompt: Tensor) -> Tensor:
        """int64 (B, longest), padded behind the ends."""
        ids = self._ids[:, : int(self.lens.max())]
        return torch.from_numpy(ids.copy()).to(prompt.device)
