"""The processors that generate prepared, applied to the logits of drafted nodes.

A processor is a function of a prefix and its logits, so each node gets its own prefix: the
committed ids and the path to the node. Those at the end of the list that are temperature, top-k,
top-p and min-p are not run at all but become settings of `verify_tree`, which applies them in its
pass over the logits.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as hf

# The order in which verify_tree applies its settings; generate appends them in the same one.
_SETTINGS: tuple[tuple[type, str, str], ...] = (
    (hf.TemperatureLogitsWarper, "temperature", "temperature"),
    (hf.TopKLogitsWarper, "top_k", "top_k"),
    (hf.TopPLogitsWarper, "top_p", "top_p"),
    (hf.MinPLogitsWarper, "min_p", "min_p"),
)

# Of one row of ids and of its logits alone: rows of several sequences can share a call.
_PER_ROW = {
    hf.MinLengthLogitsProcessor,
    hf.MinNewTokensLengthLogitsProcessor,
    hf.RepetitionPenaltyLogitsProcessor,
    hf.NoRepeatNGramLogitsProcessor,
    hf.SequenceBiasLogitsProcessor,
    hf.NoBadWordsLogitsProcessor,
    hf.ForcedBOSTokenLogitsProcessor,
    hf.ForcedEOSTokenLogitsProcessor,
    hf.InfNanRemoveLogitsProcessor,
    hf.ExponentialDecayLengthPenalty,
    hf.LogitNormalization,
    hf.SuppressTokensAtBeginLogitsProcessor,
    hf.SuppressTokensLogitsProcessor,
    hf.WatermarkLogitsProcessor,
    hf.TemperatureLogitsWarper,
    hf.TopKLogitsWarper,
    hf.TopPLogitsWarper,
    hf.MinPLogitsWarper,
    hf.TypicalLogitsWarper,
    hf.EpsilonLogitsWarper,
    hf.EtaLogitsWarper,
    hf.TopHLogitsWarper,
}

# They carry what they saw from call to call, and a draft asks for continuations that never come.
_STATEFUL = (
    hf.UnbatchedClassifierFreeGuidanceLogitsProcessor,
    hf.SynthIDTextWatermarkLogitsProcessor,
    hf.WhisperTimeStampLogitsProcessor,
    hf.WhisperNoSpeechDetection,
    hf.ClassifierFreeGuidanceLogitsProcessor,
    hf.BarkEosPrioritizerLogitsProcessor,
    hf.AlternatingCodebooksLogitsProcessor,
    hf.DiaClassifierFreeGuidanceLogitsProcessor,
    hf.DiaEOSChannelFilterLogitsProcessor,
    hf.DiaEOSDelayPatternLogitsProcessor,
)

PrefixOf = Callable[[int, int], Tensor]  # (row, node) -> its ids, int64 (L)


class NodeProcessors:
    """Splits a list of processors into those that run and those that become settings.

    Args:
        processors: what generate prepared.
        batch: how many sequences the call has.
        run_all: nothing becomes a setting, for callers that want the processed logits.
    """

    def __init__(self, processors: list, batch: int, run_all: bool = False) -> None:
        for processor in processors:
            if isinstance(processor, _STATEFUL):
                raise ValueError(
                    "speculative_generate: logits_processor: expected functions of a prefix and its"
                    f" logits, got {type(processor).__name__}, which keeps a state of its own"
                )
        self.settings: dict[str, Any] = {}
        self._run = list(processors)
        self._batch = batch
        if not run_all:
            self._take_settings()
        self._per_row = batch == 1 or all(_looks_at_one_row(p) for p in self._run)

    def _take_settings(self) -> None:
        """From the end of the list, as long as the order is verify_tree's own."""
        last = len(_SETTINGS)
        while self._run:
            processor = self._run[-1]
            if type(processor) is hf.LogitNormalization:
                self._run.pop()
                continue
            place = next(
                (i for i, entry in enumerate(_SETTINGS) if type(processor) is entry[0]), None
            )
            if place is None or place >= last or not _is_plain(processor):
                return
            self.settings[_SETTINGS[place][1]] = getattr(processor, _SETTINGS[place][2])
            last = place
            self._run.pop()

    def __call__(
        self,
        logits: Tensor,
        rows: list[int],
        lengths: list[list[int]],
        prefix_of: PrefixOf,
    ) -> Tensor:
        """The processed logits, a new float32 tensor; the very logits if nothing has to run.

        Args:
            logits: (b, T, V), of the sequences `rows`.
            rows: their places in the call's batch.
            lengths: for each sequence the length of the prefix of each of its valid nodes.
            prefix_of: ids of a (place in `logits`, node).
        """
        if not self._run:
            return logits
        scores = logits.float() if logits.dtype != torch.float32 else logits.clone()
        same_length = defaultdict(list)
        for i, of_row in enumerate(lengths):
            for node, length in enumerate(of_row):
                same_length[length].append((i, node))
        for nodes in same_length.values():
            at = torch.tensor(nodes, device=logits.device).T
            ids = torch.stack([prefix_of(i, node) for i, node in nodes])
            if self._per_row:
                scores[at[0], at[1]] = self._chain(ids, scores[at[0], at[1]])
                continue
            # May depend on the row's place in the batch: each node asks with the whole batch.
            for (i, node), prefix in zip(nodes, ids, strict=True):
                many = scores[i, node].expand(self._batch, -1).clone()
                scores[i, node] = self._chain(prefix.expand(self._batch, -1), many)[rows[i]]
        return scores

    def _chain(self, ids: Tensor, scores: Tensor) -> Tensor:
        for processor in self._run:
            scores = processor(ids, scores)
        return scores


def _looks_at_one_row(processor: Any) -> bool:
    if torch.is_tensor(getattr(processor, "prompt_ignore_length", None)):
        return False  # a length of padding for each row
    return type(processor) in _PER_ROW or getattr(processor, "prefix_only", False)


def _is_plain(warper: Any) -> bool:
    removes = getattr(warper, "filter_value", -float("inf")) == -float("inf")
    return removes and getattr(warper, "min_tokens_to_keep", 1) == 1
