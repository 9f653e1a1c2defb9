"""Greedy decoding with drafts gives the tokens of plain generate, wherever it can be used."""

import functools
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, StoppingCriteria, StopStringCriteria
from transformers.generation.streamers import BaseStreamer

import thrifty
from hf.conftest import random_model
from thrifty.hf import NgramDrafter, speculative_generate

PROMPTS = [
    "import os\nimport sys\n\ndef main(",
    "class Handler(object):\n    def __init__(self, ",
    "    def test_",
    "# Copyright (C) 2001\n",
    "if __name__ == '__main__':\n",
    "for i in range(10):\n    print(",
    "try:\n    import ",
    "def encode(self, input, errors='strict'):\n",
    "    raise ValueError(",
    "from collections import ",
]
TREES = {"tree": 80, "small tree": 9, "chain": thrifty.DraftTree.chain(6), "root": 1}


def speculate(model: Any, ids: Any, drafter: Any = None, **kwargs: Any) -> Any:
    kwargs = {"do_sample": False, "custom_generate": speculative_generate, **kwargs}
    return model.generate(ids, drafter=drafter or NgramDrafter(), **kwargs)


def plain(model: Any, ids: Any, **kwargs: Any) -> Any:
    return model.generate(ids, **{"do_sample": False, **kwargs})


def same(model: Any, ids: torch.Tensor, drafter: Any = None, **kwargs: Any) -> torch.Tensor:
    """Twice, so that the second call drafts from a table that knows the text."""
    expected = plain(model, ids, **kwargs)
    drafter = drafter or NgramDrafter()
    for _ in range(2):
        got = speculate(model, ids, drafter, **kwargs)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    return expected


def test_many_prompts(tiny_llama: Any, tokenizer: Any) -> None:
    drafter = NgramDrafter()
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        same(tiny_llama, ids, drafter, max_new_tokens=32)
    assert drafter.stats()["tokens_per_forward"] > 3
    assert drafter.stats()["tokens"] == 2 * 32 * len(PROMPTS)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("mode", ["auto", "sample"])
def test_every_shape_of_draft(tiny_llama: Any, tokenizer: Any, tree: str, mode: str) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    same(tiny_llama, ids, NgramDrafter(tree=TREES[tree], mode=mode), max_new_tokens=40)


@pytest.mark.parametrize("tree", [None, *TREES])
def test_batch_with_padding(tiny_llama: Any, tokenizer: Any, tree: str | None) -> None:
    """Sequences advance by different numbers of tokens; holes in the cache belong to nobody."""
    tokenizer.pad_token_id = 0
    batch = tokenizer(PROMPTS[:5], return_tensors="pt", padding=True)
    drafter = NgramDrafter(tree=TREES.get(tree) if tree else None)
    same(tiny_llama, batch.input_ids, drafter, attention_mask=batch.attention_mask,
         max_new_tokens=32, pad_token_id=0)  # fmt: skip


def test_any_drafter_works(tiny_llama: Any, tokenizer: Any) -> None:
    """No arguments, a loaded table, one per prompt, adaptive sizes; and a table of nonsense."""
    ids = tokenizer(PROMPTS[1], return_tensors="pt").input_ids
    table = thrifty.NgramTable(1 << 12, n_max=2, k=4)
    table.observe_tokens(torch.randint(4096, (3000,)).numpy())
    for drafter in (
        None,
        NgramDrafter(table),
        NgramDrafter(share="prompt"),
        NgramDrafter(node_cost=0.02),
        NgramDrafter(update="path", observe_prompt=False),
    ):
        same(tiny_llama, ids, drafter, max_new_tokens=24)


# ---- attention, caches and models


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention(attention: str) -> None:
    model = random_model(attn_implementation=attention)
    same(model, torch.tensor([[3, 1, 4, 1, 5]]), NgramDrafter(tree=16), max_new_tokens=30)


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("GPT2", {}),
        ("Mistral", {"sliding_window": 8}),
        ("Qwen3", {"head_dim": 8}),
        ("Gemma3", {}),
    ],
)
def test_kinds_of_models(kind: str, changes: dict) -> None:
    """Learned positions; windowed layers, which can be rolled back but not compacted: chains."""
    if kind == "Gemma3":
        kind, changes = "Gemma3Text", {"head_dim": 8, "sliding_window": 6}
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        torch.manual_seed(0)
        config = Gemma3TextConfig(
            vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=6,
            num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, bos_token_id=None,
            pad_token_id=None, initializer_range=0.5, **changes,
        )  # fmt: skip
        model = Gemma3ForCausalLM(config).float().eval()
    else:
        model = random_model(kind, **changes)
    same(model, torch.tensor([[3, 1, 4, 1, 5]]), max_new_tokens=40)


def test_last_positions_of_the_model() -> None:
    """No node is placed behind the positions that the model has, though drafts reach there."""
    model = random_model("GPT2", n_positions=32)
    out = same(model, torch.tensor([[3, 1, 4]]), max_length=32)
    assert out.shape == (1, 32)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    ids = torch.tensor([[0, 3, 1, 4], [2, 7, 1, 8]])
    same(model, ids, attention_mask=mask, max_length=32, pad_token_id=0)


def test_cache_is_what_plain_generate_leaves(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    drafter = NgramDrafter()
    for _ in range(2):
        expected, got = (
            run(tiny_llama, ids, max_new_tokens=30, return_dict_in_generate=True, **kwargs)
            for run, kwargs in ((plain, {}), (speculate, {"drafter": drafter}))
        )
        for ours, theirs in zip(
            got.past_key_values.layers, expected.past_key_values.layers, strict=True
        ):
            torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-5)


def test_restart_from_a_cache_and_chunked_prefill(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    first = speculate(tiny_llama, ids, max_new_tokens=12, return_dict_in_generate=True)
    expected = plain(tiny_llama, ids, max_new_tokens=30)
    got = speculate(
        tiny_llama, first.sequences, max_new_tokens=18, past_key_values=first.past_key_values
    )
    assert torch.equal(got, expected)
    assert torch.equal(
        speculate(tiny_llama, ids, max_new_tokens=30, prefill_chunk_size=3), expected
    )


def test_scores_and_logits(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    expected = plain(tiny_llama, ids, max_new_tokens=20, repetition_penalty=1.2, **wanted)
    got = speculate(tiny_llama, ids, max_new_tokens=20, repetition_penalty=1.2, **wanted)
    for ours, theirs in ((got.scores, expected.scores), (got.logits, expected.logits)):
        assert len(ours) == len(theirs) == 20
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-3, atol=1e-3)


# ---- stops


def test_eos_inside_a_draft(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    text = plain(tiny_llama, ids, max_new_tokens=40)[0, ids.shape[1] :].tolist()
    drafter = NgramDrafter()
    speculate(tiny_llama, ids, drafter, max_new_tokens=40)
    for eos in sorted(set(text[5:]), key=text.index)[:4]:
        same(tiny_llama, ids, drafter, max_new_tokens=40, eos_token_id=[eos, 4000])


def test_eos_in_a_batch(tiny_llama: Any, tokenizer: Any) -> None:
    """Sequences that ended are padded, and the others do not notice."""
    tokenizer.pad_token_id = 0
    batch = tokenizer(PROMPTS[:4], return_tensors="pt", padding=True)
    text = plain(tiny_llama, batch.input_ids, attention_mask=batch.attention_mask,
                 max_new_tokens=32, pad_token_id=0)  # fmt: skip
    eos = text[1, -20].item()
    out = same(tiny_llama, batch.input_ids, attention_mask=batch.attention_mask,
               max_new_tokens=32, pad_token_id=0, eos_token_id=eos)  # fmt: skip
    assert (out == 0).any()


class StopsAfter(StoppingCriteria):
    """After a token pair; asked with every prefix that a text has."""

    def __init__(self, pair: list[int]) -> None:
        self.pair, self.lengths = pair, []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.lengths.append(input_ids.shape[1])
        return (input_ids[:, -2:] == torch.tensor(self.pair)).all(1)


def test_stopping_criteria_see_every_token(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    text = plain(tiny_llama, ids, max_new_tokens=40)[0].tolist()
    drafter = NgramDrafter()
    speculate(tiny_llama, ids, drafter, max_new_tokens=40)
    stop = StopsAfter(text[-12:-10])
    out = speculate(tiny_llama, ids, drafter, max_new_tokens=40, stopping_criteria=[stop])
    expected = plain(tiny_llama, ids, max_new_tokens=40, stopping_criteria=[stop])
    assert torch.equal(out, expected)
    count = out.shape[1] - ids.shape[1]
    assert stop.lengths[:count] == list(range(ids.shape[1] + 1, out.shape[1] + 1))


def test_stop_strings(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    stop = [StopStringCriteria(tokenizer, ["self", "):"])]
    same(tiny_llama, ids, max_new_tokens=40, stopping_criteria=stop)


# ---- streamers


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.clone())

    def end(self) -> None:
        self.values.append("end")


@pytest.mark.parametrize("count", [1, 3])
def test_streamer_gets_what_it_always_gets(tiny_llama: Any, tokenizer: Any, count: int) -> None:
    tokenizer.pad_token_id = 0
    batch = tokenizer(PROMPTS[:count], return_tensors="pt", padding=True)
    kwargs = {"attention_mask": batch.attention_mask, "max_new_tokens": 20, "pad_token_id": 0}
    expected, got = Recorder(), Recorder()
    plain(tiny_llama, batch.input_ids, streamer=expected, **kwargs)
    speculate(
        tiny_llama, batch.input_ids, streamer=got, **kwargs,
        custom_generate=functools.partial(speculative_generate, streamer=got),
    )  # fmt: skip
    assert len(got.values) == len(expected.values) == 22
    for ours, theirs in zip(got.values, expected.values, strict=True):
        assert (ours == theirs) if isinstance(ours, str) else torch.equal(ours, theirs)


# ---- processors


class NotAfter(LogitsProcessor):
    """Forbids a token that depends on the last two ids."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        forbidden = (input_ids[:, -1] * 31 + input_ids[:, -2] * 17)[:, None] % 2
        even = torch.arange(scores.shape[1]) % 2 == 0
        return scores.masked_fill(even == (forbidden == 0), -float("inf"))


PROCESSORS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.4},
    "no repeated n-gram": {"no_repeat_ngram_size": 2},
    "own": {"logits_processor": [NotAfter()]},
    "several": {"min_new_tokens": 5, "suppress_tokens": [5, 6], "repetition_penalty": 1.1},
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("count", [1, 3])
def test_processors_see_each_nodes_own_prefix(
    tiny_llama: Any, tokenizer: Any, name: str, count: int
) -> None:
    tokenizer.pad_token_id = 0
    batch = tokenizer(PROMPTS[:count], return_tensors="pt", padding=True)
    same(tiny_llama, batch.input_ids, NgramDrafter(tree=24), attention_mask=batch.attention_mask,
         max_new_tokens=20, pad_token_id=0, **PROCESSORS[name])  # fmt: skip


def test_processors_that_know_their_row(tiny_llama: Any, tokenizer: Any) -> None:
    tokenizer.pad_token_id = 0
    batch = tokenizer(PROMPTS[:3], return_tensors="pt", padding=True)

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        return list(range(int(ids[-1]) % 5 + row, 4096, 3))

    same(tiny_llama, batch.input_ids, NgramDrafter(tree=8), attention_mask=batch.attention_mask,
         max_new_tokens=12, pad_token_id=0, prefix_allowed_tokens_fn=allowed)  # fmt: skip
