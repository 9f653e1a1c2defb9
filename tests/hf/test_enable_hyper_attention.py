"""enable_hyper_attention: exact where it says so, hyper_attention elsewhere."""

import inspect
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import thrifty
import thrifty.hf.attention as plugin
from conftest import random_model
from thrifty.hf import enable_hyper_attention


@pytest.fixture
def calls() -> Iterator[list[dict[str, Any]]]:
    """Arguments of each call of hyper_attention that the plug-in makes."""
    made: list[dict[str, Any]] = []

    def recorded(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        made.append(options | {"q": q, "k": k})
        return thrifty.hyper_attention(q, k, v, **options)

    with patch.object(plugin, "hyper_attention", recorded):
        yield made


@pytest.fixture
def text(tokenizer: Any) -> Tensor:
    """700 tokens of Python's standard library."""
    return tokenizer(inspect.getsource(inspect), return_tensors="pt").input_ids[:, :700]


@pytest.fixture
def llama(tiny_llama: Any) -> Iterator[Any]:
    yield tiny_llama
    tiny_llama.set_attn_implementation("sdpa")


def logits(model: Any, ids: Tensor, **options: Any) -> Tensor:
    with torch.inference_mode():
        return model(ids, **options).logits


def test_below_min_len_the_logits_are_those_of_sdpa(llama: Any, text: Tensor, calls: list) -> None:
    expected = logits(llama, text)
    llama.set_attn_implementation(enable_hyper_attention(exact_layers=0, min_len=701))
    assert torch.equal(logits(llama, text), expected)
    llama.set_attn_implementation(enable_hyper_attention(exact_layers=0))  # by default
    assert torch.equal(logits(llama, text), expected)
    assert not calls


@pytest.mark.parametrize(
    "exact_layers, expected", [(0, 3), (1, 2), (2, 1), (3, 0), ([0, 2], 1), ([], 3)]
)
def test_layers(llama: Any, text: Tensor, calls: list, exact_layers: Any, expected: int) -> None:
    name = enable_hyper_attention(exact_layers=exact_layers, min_len=0, leaf=64, window=32)
    exact = logits(llama, text)
    llama.set_attn_implementation(name)
    got = logits(llama, text)
    assert len(calls) == expected
    assert torch.equal(got, exact) == (expected == 0)
    assert all(call["causal"] and call["window"] == 32 for call in calls)
    # The first leaf of each layer is exact.
    torch.testing.assert_close(got[:, :64], exact[:, :64], atol=1e-3, rtol=0)


@pytest.mark.parametrize("mode", ["means", "paper"])
def test_a_window_of_all_keys_gives_the_logits_of_sdpa(llama: Any, text: Tensor, mode: str) -> None:
    expected = logits(llama, text)
    name = enable_hyper_attention(exact_layers=0, min_len=0, mode=mode, leaf=128, window=1000)
    llama.set_attn_implementation(name)
    torch.testing.assert_close(logits(llama, text), expected, atol=1e-3, rtol=0)


def test_generation_decodes_exactly(llama: Any, text: Tensor, calls: list) -> None:
    """The prompt is approximated once a layer, every step after it is exact."""
    name = enable_hyper_attention(exact_layers=1, min_len=0, leaf=64, window=32)
    llama.set_attn_implementation(name)
    llama.generate(text, max_new_tokens=5, do_sample=False)
    assert len(calls) == 2
    assert all(call["q"].shape[2] == 700 for call in calls)


def test_masked_batches_are_exact(llama: Any, text: Tensor, calls: list) -> None:
    mask = torch.ones_like(text)
    mask[:, :5] = 0
    expected = logits(llama, text, attention_mask=mask)
    llama.set_attn_implementation(enable_hyper_attention(exact_layers=0, min_len=0))
    assert torch.equal(logits(llama, text, attention_mask=mask), expected)
    assert not calls


def test_grouped_heads_and_training(calls: list) -> None:
    model = random_model("Llama")
    model.set_attn_implementation(
        enable_hyper_attention(exact_layers=0, min_len=0, leaf=16, window=8)
    )
    ids = torch.randint(24, (2, 50))
    model(ids, labels=ids).loss.backward()
    assert len(calls) == 2
    assert calls[0]["k"].shape[1] == 2
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_names_and_options(llama: Any, text: Tensor, calls: list) -> None:
    first = enable_hyper_attention(
        name="thrifty_small", exact_layers=0, min_len=0, window=8, keep=3
    )
    assert first == "thrifty_small"
    llama.set_attn_implementation(first)
    logits(llama, text)
    assert {call["keep"] for call in calls} == {3}
    with pytest.raises(TypeError, match="enable_hyper_attention: unknown option 'windows'"):
        enable_hyper_attention(windows=3)
