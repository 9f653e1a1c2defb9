"""NgramProposer over vLLM's interface for custom classes, with a stand-in for its engine."""

import importlib
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thrifty.vllm import NgramProposer


def config(tokens: int = 4, max_model_len: int = 64) -> Any:
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=tokens),
        model_config=SimpleNamespace(max_model_len=max_model_len),
    )


class Engine:
    """Requests in rows; a step appends to each and asks for drafts, by keywords, as vLLM does."""

    def __init__(self, proposer: Any, max_model_len: int = 64) -> None:
        self.proposer = proposer
        self.texts: list[list[int]] = []
        self.max_model_len = max_model_len

    def step(self, sampled: list[list[int]]) -> list[list[int]]:
        ids = np.full((len(self.texts) + 2, self.max_model_len), 999, np.int32)
        for row, (text, new) in enumerate(zip(self.texts, sampled, strict=True)):
            text += new
            ids[row, : len(text)] = text
        counts = np.array([len(text) for text in self.texts] + [0, 0], np.int32)
        return self.proposer.propose(
            sampled_token_ids=sampled, num_tokens_no_spec=counts, token_ids_cpu=ids,
            slot_mappings=None,
        )  # fmt: skip


def test_it_is_found_by_its_name() -> None:
    """As vLLM resolves "thrifty.vllm.NgramProposer"."""
    module, _, name = "thrifty.vllm.NgramProposer".rpartition(".")
    proposer = getattr(importlib.import_module(module), name)(config())
    assert callable(proposer.propose)
    assert proposer.load_model("anything", target=None) is None


def test_drafts_continue_what_was_seen() -> None:
    engine = Engine(NgramProposer(config()))
    engine.texts = [[1, 2, 3, 4, 5, 6, 7, 1], [9, 8]]
    drafts = engine.step([[2], [7]])
    assert drafts == [[3, 4, 5, 6], []]  # the second has seen nothing twice
    assert engine.step([[3, 4], [1]])[0] == [5, 6, 7, 1]


def test_requests_share_what_they_saw() -> None:
    engine = Engine(NgramProposer(config()))
    engine.texts = [[1, 2, 3, 4, 5, 6]]
    engine.step([[7]])
    engine.texts.append([20, 2])
    assert engine.step([[8], [3]])[1] == [4, 5, 6, 7]


def test_prefill_and_full_requests_get_none() -> None:
    engine = Engine(NgramProposer(config(max_model_len=12)), max_model_len=12)
    engine.texts = [[1, 2, 3, 1, 2, 3, 1], [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]]
    assert engine.step([[], [2]]) == [[], []]  # a prefill, and no room for more than one
    assert engine.step([[2], [3]]) == [[3, 1, 2], []]
    engine.texts = []
    assert engine.step([]) == []


def test_each_token_is_observed_once() -> None:
    """In whatever row a request comes back: as many updates as tokens, for each n."""
    draws = random.Random(0)
    proposer = NgramProposer(config(max_model_len=200))
    engine = Engine(proposer, max_model_len=200)
    engine.texts = [[draws.randrange(50) for _ in range(20)] for _ in range(3)]
    for step in range(10):
        engine.step([[draws.randrange(50) for _ in range(1 + step % 3)] for _ in engine.texts])
        engine.texts = engine.texts[1:] + engine.texts[:1]
    contexts = sum(
        len(text) - n
        for text in engine.texts
        for n in range(proposer.n_min, proposer.n_max + 1)
    )  # fmt: skip
    assert proposer.table.stats()["updates"] in (
        contexts,
        sum(len(text) - proposer.n_min for text in engine.texts),
    )


def test_settings_of_a_subclass(tmp_path: Any) -> None:
    class Mine(NgramProposer):
        n_min, n_max, capacity = 1, 3, 1 << 10

    proposer = Mine(config(2))
    assert (proposer.table.n_min, proposer.table.n_max) == (1, 3)
    proposer.table.observe_tokens([5, 6, 7])
    proposer.table.save(tmp_path / "table")

    class Loaded(NgramProposer):
        path = str(tmp_path / "table")

    engine = Engine(Loaded(config(2)))
    engine.texts = [[30]]
    assert engine.step([[5]]) == [[6, 7]]


@pytest.mark.parametrize("tokens", [1, 7])
def test_number_of_tokens(tokens: int) -> None:
    engine = Engine(NgramProposer(config(tokens)))
    engine.texts = [[*range(20), 0]]
    assert engine.step([[1]]) == [list(range(2, 2 + tokens))]
