"""NgramDrafter's own: sizes that adapt, what is learnt, and tables."""

from typing import Any

import numpy as np
import pytest
import torch

from hf.conftest import random_model
from thrifty import DraftTree, NgramTable
from thrifty.hf import NgramDrafter, speculative_generate
from thrifty.hf._adaptive import EXPLORE, TreeSizes
from thrifty.hf.speculative import node_tails

TREE = DraftTree.default(80)


def settled(node_cost: float, accepted_depth: int) -> int:
    """The size that is chosen when all steps accept the first children down to a depth."""
    sizes = TreeSizes(TREE, node_cost)
    for _ in range(300):
        tree = sizes.choose(99)
        depth = min(accepted_depth, max(len(p) for p in tree.paths if not any(p)))
        sizes.record(tree, [tree.paths.index((0,) * d) for d in range(1, depth + 1)])
    return sizes.choose(99).size


def test_size_follows_what_is_accepted() -> None:
    nothing, something = settled(0.05, 0), settled(0.05, 3)
    assert nothing == 1
    assert something >= 8
    assert settled(1e-6, 9) >= something
    assert settled(0.0, 0) == 80


def test_the_whole_tree_runs_now_and_then() -> None:
    sizes = TreeSizes(TREE, 0.5)
    chosen = []
    for _ in range(3 * EXPLORE):
        chosen.append(sizes.choose(99))
        sizes.record(chosen[-1], [])
    assert [tree.size for tree in chosen].count(80) == 3
    assert chosen[-1].size == 1


def test_sizes_are_nested_and_cut_to_depth() -> None:
    sizes = TreeSizes(TREE, 0.01)
    for depth in (0, 1, 4):
        tree = sizes.choose(depth)
        assert tree.max_depth <= depth
        assert set(tree.paths) <= set(TREE.paths)
    assert sizes.choose(0).size == 1


def test_adaptive_drafts_are_smaller_where_nothing_is_accepted() -> None:
    """Uniform sampling: no draft is worth its nodes."""
    model = random_model(initializer_range=1e-4, vocabulary=200)
    drafted = []
    for node_cost in (0.0, 0.05):
        torch.manual_seed(0)
        drafter = NgramDrafter(node_cost=node_cost)
        for _ in range(3):
            model.generate(
                torch.randint(200, (1, 8)), do_sample=True, top_k=0, max_new_tokens=50,
                drafter=drafter, custom_generate=speculative_generate,
            )  # fmt: skip
        drafted.append(drafter.stats()["drafted"])
    assert drafted[1] < 0.5 * drafted[0]


def test_tails_of_nodes() -> None:
    table = NgramTable(256, n_max=3)
    table.observe_tokens([1, 2, 3, 4, 1, 2, 5])
    draft = table.draft([[9, 4, 1], [0, 0, 2]], [3, 1], DraftTree.default(12), seed=1).trimmed()
    tails, lens = node_tails(draft, np.array([[9, 4, 1], [0, 0, 2]]), np.array([3, 1]))
    for row, begin in enumerate(([9, 4, 1], [2])):
        for node in range(int(draft.sizes[row])):
            line, at = [], node
            while at:
                line.append(int(draft.tokens[row, at]))
                at = int(draft.parents[row, at])
            whole = (begin + line[::-1])[-3:]
            assert lens[row, node] == len(whole)
            assert tails[row, node, 3 - len(whole) :].tolist() == whole


@pytest.mark.parametrize("update", ["path", "all"])
def test_what_is_learnt_is_what_the_model_said(update: str) -> None:
    """Each context's stored distribution is the model's top k after some text that ends in it."""
    model = random_model(vocabulary=12, num_hidden_layers=1)
    drafter = NgramDrafter(tree=6, update=update, n_min=4, n_max=4, k=3, observe_prompt=False)
    prompt = torch.tensor([[1, 2, 3, 4, 5]])
    out = model.generate(
        prompt, do_sample=True, temperature=0.7, top_k=0, max_new_tokens=12, drafter=drafter,
        custom_generate=speculative_generate,
    )  # fmt: skip
    with torch.no_grad():
        p = (model(out[:, :-1]).logits[0] / 0.7).softmax(-1)
    best = p.topk(3)
    for at in range(4, out.shape[1] - 1):
        probs, counts = drafter.table.probabilities(
            out[:, at - 3 : at + 1].numpy(), best.indices[at][None].numpy()
        )
        if counts[0, 0] == 1:  # a context that came twice holds a mean
            np.testing.assert_allclose(probs[0, 0], best.values[at], rtol=1e-3, atol=1e-5)
    assert drafter.table.stats()["updates"] >= 12


def test_prompts_are_observed_once(tiny_llama: Any, tokenizer: Any) -> None:
    ids = tokenizer("import os\nimport sys\n", return_tensors="pt").input_ids
    drafter = NgramDrafter(update="path", n_min=2, n_max=2)
    before = []
    for _ in range(2):
        tiny_llama.generate(
            ids, max_new_tokens=1, do_sample=False, num_return_sequences=1, drafter=drafter,
            custom_generate=speculative_generate,
        )  # fmt: skip
        before.append(drafter.table.stats()["updates"])
    assert before[1] - before[0] == 1  # the new token's context alone


def test_no_noise_is_used_twice(tiny_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draft of a text has a seed and an offset of its own: reused noise would remember."""
    used: list[tuple[int, int]] = []
    drafter = NgramDrafter(tree=8)
    draft = drafter.draft

    def recorded(*args: Any) -> Any:
        used.extend(zip(args[-2].tolist(), args[-1].tolist(), strict=True))
        return draft(*args)

    monkeypatch.setattr(drafter, "draft", recorded)
    tiny_llama.generate(
        torch.randint(4096, (2, 9)), do_sample=True, max_new_tokens=24, drafter=drafter,
        custom_generate=speculative_generate,
    )  # fmt: skip
    assert len(set(used)) == len(used)
    assert len({seed for seed, _ in used}) == 2


def test_which_processors_become_settings() -> None:
    """Only at the end of the list, in verify_tree's order, and with nothing special about them."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    from thrifty.hf._processors import NodeProcessors

    heat, most, mass = TemperatureLogitsWarper(0.5), TopKLogitsWarper(9), TopPLogitsWarper(0.8)
    for processors, settings, left in (
        ([heat, most, mass], {"temperature": 0.5, "top_k": 9, "top_p": 0.8}, []),
        ([mass, heat], {"temperature": 0.5}, [mass]),
        ([heat, mass, most], {"top_k": 9}, [heat, mass]),
        ([heat, TopKLogitsWarper(9, min_tokens_to_keep=3)], {}, None),
        ([heat, TopPLogitsWarper(0.8, filter_value=-5.0)], {}, None),
    ):
        found = NodeProcessors(processors, batch=1)
        assert found.settings == settings
        assert found._run == (processors if left is None else left)
    assert NodeProcessors([heat, most], batch=1, run_all=True).settings == {}
