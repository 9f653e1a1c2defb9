"""Sampling with drafts has the law of the model's own, and what the call promises besides."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

import thrifty
from hf.conftest import random_model
from thrifty.hf import NgramDrafter, speculative_generate

ALPHA = 1e-6
PROMPT = torch.tensor([[1, 2, 3, 1, 2]])
VOCABULARY, NEW = 5, 3


@pytest.fixture(scope="module")
def small() -> Any:
    return random_model(vocabulary=VOCABULARY, seed=3, initializer_range=0.25, num_hidden_layers=1)


def exact_law(model: Any, process: Callable) -> np.ndarray:
    """The probability of each continuation of NEW tokens, in float64."""
    texts = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=NEW)))
    ids = torch.cat([PROMPT.expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        logits = model(input_ids=ids).logits.float()
    total = torch.ones(len(texts), dtype=torch.float64)
    for i in range(NEW):
        at = PROMPT.shape[1] + i
        scores = process(ids[:, :at], logits[:, at - 1])
        p = scores.double().softmax(-1)
        total *= p.gather(1, ids[:, at, None])[:, 0]
    assert abs(total.sum() - 1) < 1e-9
    return total.numpy()


def chi_square(counts: np.ndarray, law: np.ndarray) -> float:
    """The p-value, bins of expected < 10 merged; an impossible outcome is 0."""
    expected = law * counts.sum()
    if counts[expected == 0].any():
        return 0.0
    small = expected < 10
    observed = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    used = wanted > 0
    statistic = ((observed - wanted)[used] ** 2 / wanted[used]).sum()
    return float(chi2.sf(statistic, used.sum() - 1))


def count(model: Any, drafter: NgramDrafter, rounds: int, **kwargs: Any) -> np.ndarray:
    counts = np.zeros(VOCABULARY**NEW, np.int64)
    powers = VOCABULARY ** np.arange(NEW - 1, -1, -1)
    for _ in range(rounds):
        out = model.generate(
            PROMPT, do_sample=True, max_new_tokens=NEW, num_return_sequences=2000,
            custom_generate=speculative_generate, drafter=drafter, **kwargs,
        )  # fmt: skip
        codes = out[:, PROMPT.shape[1] :].numpy() @ powers
        counts += np.bincount(codes, minlength=len(counts))
    return counts


def processed(**settings: Any) -> tuple[dict, Callable]:
    """Arguments of generate, and the processors that it makes of them."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    makers = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    made = [maker(settings[name]) for name, maker in makers.items() if settings.get(name)]
    return {"top_k": 0, **settings}, LogitsProcessorList(made)


CASES: dict[str, tuple[dict, dict]] = {
    "tree": ({"tree": 12}, {}),
    "chain": ({"tree": thrifty.DraftTree.chain(4)}, {}),
    "drafts of the most probable": ({"tree": 12, "mode": "greedy"}, {}),
    "temperature and cuts": ({"tree": 12}, {"temperature": 0.7, "top_k": 4, "top_p": 0.9}),
    "min_p": ({"tree": 12}, {"temperature": 1.3, "min_p": 0.1}),
    "penalty": ({"tree": 8}, {"repetition_penalty": 1.5, "temperature": 0.8, "top_k": 4}),
    "adaptive": ({"tree": 12, "node_cost": 0.05}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_joint_law_of_the_first_tokens(small: Any, name: str) -> None:
    """10,000 texts of three tokens; the second and third come out of drafts, mostly."""
    torch.manual_seed(1)
    options, settings = CASES[name]
    kwargs, process = processed(**settings)
    drafter = NgramDrafter(n_max=2, k=3, **options)
    counts = count(small, drafter, 5, **kwargs)
    assert drafter.stats()["tokens_per_forward"] > 1.15
    assert chi_square(counts, exact_law(small, process)) > ALPHA


def test_a_wrong_law_would_be_noticed(small: Any) -> None:
    """The test's own power: the law of a slightly other temperature is told apart."""
    torch.manual_seed(1)
    counts = count(small, NgramDrafter(n_max=2, tree=12), 5, top_k=0, temperature=1.0)
    _, warmer = processed(temperature=1.1)
    assert chi_square(counts, exact_law(small, warmer)) < ALPHA


def test_processors_on_the_committed_prefix_alone_are_another_law(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What engines do that process all drafted positions with one prefix."""
    from thrifty.hf.speculative import _Run

    def committed(self: Any, rows: Any, draft: Any) -> Callable:
        return lambda i, node: torch.from_numpy(
            np.append(self.rows.text(rows[i]), draft.tokens[i, 0].repeat(draft.depths[i, node]))
        )

    monkeypatch.setattr(_Run, "_prefix_of", committed)
    torch.manual_seed(1)
    kwargs, process = processed(repetition_penalty=1.5, temperature=0.8, top_k=4)
    counts = count(small, NgramDrafter(n_max=2, k=3, tree=8), 5, **kwargs)
    assert chi_square(counts, exact_law(small, process)) < ALPHA


def test_a_seed_gives_the_text_again(tiny_llama: Any) -> None:
    prompt = torch.randint(4096, (1, 12))
    texts = []
    for _ in range(2):
        torch.manual_seed(5)
        drafter = NgramDrafter()
        texts.append(
            [
                tiny_llama.generate(
                    prompt, do_sample=True, max_new_tokens=24, temperature=0.6, drafter=drafter,
                    custom_generate=speculative_generate,
                )
                for _ in range(2)
            ]
        )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(*texts, strict=True))
    assert not torch.equal(*texts[0])


def test_a_sequence_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Position-dependent seeds: the same seeds and tables give the same texts in any company."""
    model = random_model(seed=2, initializer_range=0.1).double()
    prompts = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6]])
    seeds = torch.tensor([11, 22, 33])

    def texts(rows: list[int]) -> list[list[int]]:
        monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: seeds[rows])
        return model.generate(
            prompts[rows], do_sample=True, top_k=0, max_new_tokens=24,
            custom_generate=speculative_generate, drafter=NgramDrafter(tree=8, share="prompt"),
        ).tolist()  # fmt: skip

    together = texts([0, 1, 2])
    assert texts([2, 0]) == [together[2], together[0]]
    assert texts([1]) == [together[1]]


def test_tables_are_shared_by_calls_and_trajectories(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer("class Handler(object):\n", return_tensors="pt").input_ids
    for share in ("all", "prompt"):
        torch.manual_seed(0)
        drafter = NgramDrafter(share=share)
        rates = []
        for _ in range(4):
            tokens, forwards = drafter.tokens, drafter.forwards
            tiny_llama.generate(
                ids, do_sample=True, temperature=0.1, top_k=0, max_new_tokens=64, drafter=drafter,
                custom_generate=speculative_generate,
            )  # fmt: skip
            rates.append((drafter.tokens - tokens) / (drafter.forwards - forwards))
        assert rates[-1] > 1.2 * rates[0]
        assert drafter.stats()["slots"] > 100


def test_prompts_have_tables_of_their_own() -> None:
    model = random_model()
    drafter = NgramDrafter(share="prompt", tables=2, tree=8)
    for prompt in ([[1, 2, 3]], [[4, 5, 6], [7, 8, 9]], [[1, 2, 3]]):
        model.generate(
            torch.tensor(prompt), do_sample=False, max_new_tokens=6, drafter=drafter,
            custom_generate=speculative_generate,
        )  # fmt: skip
        assert len(drafter._tables) <= 2
    assert drafter.table.stats()["used"] == 0


# ---- errors


REFUSED: dict[str, tuple[str, dict]] = {
    "beams": ("num_beams", {"num_beams": 2}),
    "static cache": ("cache", {"cache_implementation": "static"}),
    "no cache": ("use_cache", {"use_cache": False}),
    "stateful": ("logits_processor", {"guidance_scale": 1.5}),
    "attentions": (
        "output_attentions",
        {"return_dict_in_generate": True, "output_attentions": True},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused(name: str) -> None:
    argument, kwargs = REFUSED[name]
    model = random_model(attn_implementation="eager")
    with pytest.raises(ValueError, match=f"^speculative_generate: {argument}: expected .+, got "):
        model.generate(
            PROMPT, do_sample=False, max_new_tokens=4, drafter=NgramDrafter(),
            custom_generate=speculative_generate, **kwargs,
        )  # fmt: skip


def test_windowed_layers_take_one_sequence() -> None:
    model = random_model("Mistral", sliding_window=8)
    with pytest.raises(ValueError, match="DynamicSlidingWindowLayer"):
        model.generate(
            PROMPT.expand(2, -1), do_sample=False, max_new_tokens=4, drafter=NgramDrafter(),
            custom_generate=speculative_generate,
        )  # fmt: skip


def test_nan_logits_are_an_error() -> None:
    model = random_model()
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="logits"):
        model.generate(
            PROMPT, do_sample=True, max_new_tokens=4, drafter=NgramDrafter(),
            custom_generate=speculative_generate,
        )  # fmt: skip


@pytest.mark.parametrize(
    "kwargs", [{"mode": "best"}, {"update": "none"}, {"share": "row"}, {"node_cost": -1.0}]
)
def test_wrong_settings(kwargs: dict) -> None:
    with pytest.raises(ValueError, match=f"^NgramDrafter: {next(iter(kwargs))}: expected .+, got "):
        NgramDrafter(**kwargs)
