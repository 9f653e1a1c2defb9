"""Constrained generation with `transformers`: a logits processor, and a tokenizer's bytes."""

import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from thrifty._awrs import awrs_sample_dfa
from thrifty._awrs_sample import awrs_sample
from thrifty._byte_dfa import ByteDFA, Vocabulary
from thrifty.constraints import Constraint


class ConstrainedLogitsProcessor(LogitsProcessor):
    """Constrains `generate` by adaptive weighted rejection sampling, a few checks per token.

    The processor draws each token itself, exactly from the model's distribution given that the
    constraint allows the token, and leaves that one token in the scores: whatever `generate` then
    does, greedy or sampled, with further warpers or without, takes it. Log-weights add up in
    `log_weights`: exp of their sum over a text's tokens is an unbiased estimate of how much of the
    model's probability the constraint left at each step, so with them several texts can be ranked
    or resampled toward the model's distribution given the constraint, which token-wise masking
    alone distorts.

    One object serves one call of `generate`, or call `reset` between. Beam search is refused.

    Args:
        constraint: a `ByteDFA` for all texts, or one `thrifty.constraints.Constraint` per text.
        eos_ids: tokens that end a text; where nothing is allowed, the first of them is forced and
            the text's log-weight becomes -inf. Default, with a ByteDFA: its own.
        estimator, extra, budget: as in `thrifty.awrs_weights`; "none" masks locally.
        seed: of all texts; text i draws from stream seed + i.

    Attributes:
        log_weights: float64 (B,), sums so far.
        n_checked: int64 (B,), checks so far.

    Example::

        >>> dfa = thrifty.ByteDFA.from_regex("a+", [b"a", b"b", None], eos_ids=2)
        >>> processor = thrifty.hf.ConstrainedLogitsProcessor(dfa, seed=1)
        >>> prompt = torch.tensor([[1, 1]])
        >>> processor(prompt, torch.zeros(1, 3))  # as generate(logits_processor=[processor]) does
        tensor([[0., -inf, -inf]])
        >>> processor.log_weights.shape
        torch.Size([1])

    Reference: Lipkin et al., arXiv 2504.05410.
    """

    def __init__(
        self,
        constraint: ByteDFA | Sequence[Constraint],
        *,
        eos_ids: Sequence[int] | int | None = None,
        estimator: str = "desraj",
        extra: int = 4,
        budget: int | None = None,
        seed: int = 0,
    ) -> None:
        if eos_ids is None:
            if not isinstance(constraint, ByteDFA):
                raise ValueError(
                    "ConstrainedLogitsProcessor: eos_ids: expected the tokens that end a text, "
                    "since the constraints do not tell, got None"
                )
            eos_ids = constraint.eos_ids.tolist()
        self.eos_ids = [eos_ids] if isinstance(eos_ids, int) else list(eos_ids or ())
        if not self.eos_ids:
            raise ValueError(
                "ConstrainedLogitsProcessor: eos_ids: expected at least one token, got none"
            )
        self.constraint = constraint
        self.options: dict[str, Any] = {"estimator": estimator, "extra": extra, "budget": budget}
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Makes the object ready for another call of `generate`, with a ByteDFA."""
        self.step = 0
        self.log_weights = torch.zeros(0, dtype=torch.float64)
        self.n_checked = torch.zeros(0, dtype=torch.int64)
        self._chosen = self._state = self._finished = torch.zeros(0)

    def _start(self, rows: int) -> None:
        if not isinstance(self.constraint, ByteDFA) and len(self.constraint) != rows:
            raise ValueError(
                f"ConstrainedLogitsProcessor: constraint: expected one for each of {rows} texts, "
                f"got {len(self.constraint)}"
            )
        self.log_weights = torch.zeros(rows, dtype=torch.float64)
        self.n_checked = torch.zeros(rows, dtype=torch.int64)
        self._finished = torch.zeros(rows, dtype=torch.bool)
        self._state = torch.zeros(rows, dtype=torch.int32)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = len(scores)
        if self.step == 0:
            self._start(rows)
        elif rows != len(self._chosen) or not self._follows(input_ids[:, -1].cpu()):
            raise ValueError(
                "ConstrainedLogitsProcessor: input_ids: expected each text to go on with the token "
                "chosen for it (no beam search; a new object or `reset` for a new call), got others"
            )
        token, logw, checked, ok = self._draw(scores)
        live = ~self._finished
        self.log_weights += torch.where(live, logw, 0.0)
        self.n_checked += torch.where(live, checked, 0)
        token = torch.where(live & ok, token, self.eos_ids[0])
        self._finished = self._finished | ~ok | torch.isin(token, torch.tensor(self.eos_ids))
        self._chosen = token
        self.step += 1
        one_hot = torch.full_like(scores, -torch.inf)
        return one_hot.scatter_(1, token.to(scores.device)[:, None], 0.0)

    def _follows(self, last: Tensor) -> bool:
        # What `generate` appends to texts that have ended is padding.
        return bool((self._finished | (last == self._chosen)).all())

    def _draw(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = len(scores)
        draws: dict[str, Any] = {
            "seeds": torch.arange(self.seed, self.seed + rows, device=scores.device),
            "offsets": torch.full((rows,), self.step, device=scores.device),
        }
        scores = scores.detach()
        if isinstance(self.constraint, ByteDFA):
            state = torch.where(self._finished, -1, self._state).to(scores.device)
            found = awrs_sample_dfa(scores, self.constraint, state, **self.options, **draws)
            self._state = found.new_state.cpu()
        else:
            # Texts that have ended allow nothing: no question is worth asking about them.
            live = (~self._finished).nonzero().flatten().tolist()
            texts = [self.constraint[row] for row in live]
            part = {name: value[live] for name, value in draws.items()}
            drawn = awrs_sample(scores[live], texts, **self.options, **part)
            found = _spread(drawn, live, rows)
            for text, token, status in zip(
                texts, drawn.token.tolist(), drawn.status.tolist(), strict=True
            ):
                if status == 0:
                    text.accept(token)
        return (
            found.token.cpu(),
            found.logw.cpu().double(),
            found.n_checked.cpu().long(),
            (found.status == 0).cpu(),
        )


def _spread(drawn: Any, live: list[int], rows: int) -> Any:
    """The fields of some rows among all of them; 0 elsewhere."""
    if len(live) == rows:
        return drawn
    return type(drawn)(
        *(field.new_zeros(rows).index_copy_(0, field.new_tensor(live, dtype=torch.long), field)
          for field in drawn)
    )  # fmt: skip


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int | None = None) -> Vocabulary:
    """The bytes of each token of a tokenizer, for `ByteDFA`.

    Understands byte-level BPE (GPT-2, Llama 3, Qwen, Mistral's tekken) and SentencePiece pieces
    with byte fallback (Llama 2, Mistral, Gemma). Special tokens have no bytes: no pattern allows
    them.

    Args:
        tokenizer: a fast tokenizer.
        size: entries, such as the model's vocabulary size; those beyond the tokenizer have no
            bytes. Default: as many as the tokenizer has.

    Raises:
        ValueError: a tokenizer of another kind.

    Example::

        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> backend = Tokenizer(models.BPE({"a": 0, "Ġb": 1}, []))
        >>> backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> backend.decoder = decoders.ByteLevel()
        >>> words = thrifty.hf.vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend))
        >>> len(words)
        2
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("vocabulary: tokenizer: expected a fast tokenizer, got a slow one")
    described = json.loads(backend.to_str())
    kinds = set(_kinds([described["pre_tokenizer"], described["decoder"]]))
    if "ByteLevel" in kinds:
        spell = _byte_level
    elif "ByteFallback" in kinds or "Metaspace" in kinds:
        spell = _sentence_piece
    else:
        raise ValueError(
            "vocabulary: tokenizer: expected byte-level BPE or SentencePiece, got one with "
            f"{', '.join(sorted(kinds)) or 'no decoder'}"
        )
    by_id = {number: piece for piece, number in tokenizer.get_vocab().items()}
    added = {entry["id"]: entry for entry in described["added_tokens"]}
    tokens: list[bytes | None] = []
    for number in range(max(by_id, default=-1) + 1 if size is None else size):
        if number in added:
            special = added[number]["special"]
            tokens.append(None if special else added[number]["content"].encode())
        else:
            piece = by_id.get(number)
            tokens.append(None if piece is None else spell(piece))
    return Vocabulary(tokens)


def _kinds(described: Any) -> list[str]:
    """The types of nested components."""
    if isinstance(described, dict):
        return [described.get("type", ""), *_kinds(list(described.values()))]
    if isinstance(described, list):
        return [kind for item in described for kind in _kinds(item)]
    return []


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes: printable ones stand for themselves,
    the others, in order, for those from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    shifted = {chr(0x100 + i): byte for i, byte in enumerate(others)}
    return {chr(byte): byte for byte in plain} | shifted


_BYTES = _byte_alphabet()


def _byte_level(piece: str) -> bytes:
    return bytes(_BYTES[character] for character in piece)


def _sentence_piece(piece: str) -> bytes:
    if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece):
        return bytes([int(byte[1], 16)])
    return piece.replace("\u2581", " ").encode()
