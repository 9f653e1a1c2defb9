"""row_stats, verify_tree and verify_chain: values, bad input, layouts, threads, NumPy."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

import thrifty
import thrifty.numpy as tn
from helpers import OpContract, assert_rejects, cases_of, permuted, sliced, strided, threads
from thrifty import Draft, DraftTree, NgramTable
from thrifty.reference.cases import check

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def random_logits(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def drafted(batch: int = 5, vocab: int = 3000, nodes: int = 20, mode: str = "sample") -> Draft:
    rng = np.random.default_rng(0)
    table = NgramTable(1 << 10, n_max=1)
    ids = np.argsort(rng.random((40, 40)), 1)[:, :10]
    table.update(np.arange(40)[:, None], ids=ids, probs=-np.sort(-rng.dirichlet(np.ones(10), 40)))
    tails = rng.integers(0, 40, (batch, 1))
    return table.draft(tails, tree=DraftTree.default(nodes), mode=mode, seed=np.arange(batch))


# ---- row_stats


class TestRowStats(OpContract):
    op = "row_stats"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 37, 1024, 1025, 5000])
def test_row_stats_values(dtype: torch.dtype, vocab: int) -> None:
    logits = random_logits(7, vocab, dtype=dtype)
    logits[1, 0] = -torch.inf if vocab > 1 else logits[1, 0]
    k = 10
    stats = thrifty.row_stats(logits, k, temperature=0.8, seed=torch.arange(7))
    exact = logits.double() / 0.8
    lse = exact.logsumexp(-1)
    torch.testing.assert_close(stats.lse.double(), lse, rtol=1e-6, atol=1e-5)
    some = min(k, int((exact[1] > -torch.inf).sum()))
    values, _ = exact.topk(min(k, vocab))
    probs = (values - lse[:, None]).exp()
    torch.testing.assert_close(
        stats.topk_probs[:, : probs.shape[1]].double(), probs, rtol=2e-5, atol=1e-9
    )
    got = exact.gather(-1, stats.topk_ids[:, : probs.shape[1]].clamp_min(0).long())
    live = stats.topk_ids[:, : probs.shape[1]] >= 0
    assert (got[live] == values[live]).all()
    assert (stats.topk_ids[1] >= 0).sum() == some
    assert (stats.topk_ids[:, vocab:] == -1).all()
    assert ((stats.draw >= 0) & (stats.draw < vocab)).all()


def test_row_stats_draws_by_p_outside_the_excluded() -> None:
    from laws import p_value

    logits, count = random_logits(1, 20, seed=3), 400_000
    exclude = torch.tensor([[4, 7, -1, 11]], dtype=torch.int32).expand(count, -1)
    draw = thrifty.row_stats(logits.expand(count, -1), 0, exclude=exclude, temperature=1.5,
                             seed=torch.arange(count)).draw  # fmt: skip
    p = torch.softmax(logits[0].double() / 1.5, -1)
    p[[4, 7, 11]] = 0
    assert p_value(np.bincount(draw.numpy(), minlength=20), (p / p.sum()).numpy()) > 1e-4
    everything = torch.arange(20, dtype=torch.int32)[None]
    assert thrifty.row_stats(logits, 0, exclude=everything, seed=1).draw.tolist() == [-1]


def test_row_stats_ties_and_greedy() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -torch.inf]])
    stats = thrifty.row_stats(logits, 4, temperature=0.0, seed=3)
    assert stats.topk_ids.tolist() == [[1, -1, -1, -1]]
    assert stats.draw.tolist() == [1]
    assert thrifty.row_stats(logits, 4).topk_ids.tolist() == [[1, 2, 0, -1]]


# ---- verification


def run(op: Any, logits: Any, draft: Draft, **options: Any) -> tuple:
    return op(logits, draft, seed=3, offset=11, k=4, **options)


def same(a: tuple, b: tuple) -> bool:
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("rule", ["recursive", "target", "greedy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numpy_threads_and_layouts_give_the_same_bits(rule: str, dtype: torch.dtype) -> None:
    draft = drafted()
    logits = random_logits(5, 20, 3000, dtype=dtype)
    options = {"rule": rule, "temperature": 0.9, "top_p": 0.95}
    expected = run(thrifty.verify_tree, logits, draft, **options)
    with threads(1):
        assert same(run(thrifty.verify_tree, logits, draft, **options), expected)
    for layout in (permuted, sliced, strided):
        assert same(run(thrifty.verify_tree, layout(logits), draft, **options), expected)
    array = logits.view(torch.int16).numpy() if dtype == torch.bfloat16 else logits.numpy()
    array = array.view(ml_dtypes.bfloat16) if dtype == torch.bfloat16 else array
    assert same(run(tn.verify_tree, array, draft, **options), expected)
    assert same(tn.row_stats(array[:, 0], 4, seed=3), thrifty.row_stats(logits[:, 0], 4, seed=3))


def test_one_sequence_is_as_in_a_batch() -> None:
    draft = drafted().to()
    logits = random_logits(5, 20, 3000)
    together = run(thrifty.verify_tree, logits, draft)
    for b in range(5):
        cut = {name: getattr(draft, name)[b : b + 1] for name in
               ("tokens", "parents", "first_child", "next_sibling", "depths", "slots",
                "ancestors", "sizes", "q_ids", "q")}  # fmt: skip
        alone = run(thrifty.verify_tree, logits[b : b + 1],
                    Draft(**cut, max_depth=draft.max_depth, sampled=True))  # fmt: skip
        assert same(alone, tuple(value[b : b + 1] for value in together))


def test_results_are_a_path_of_the_tree_and_its_statistics() -> None:
    draft = drafted(batch=200, vocab=50, nodes=30)
    logits = random_logits(200, 30, 50)
    for rule in ("recursive", "target", "greedy"):
        got = thrifty.verify_tree(logits, draft, rule=rule, seed=torch.arange(200), k=3)
        every = thrifty.verify_tree(logits, draft, rule=rule, seed=torch.arange(200), k=3,
                                    stats="all")  # fmt: skip
        rows = thrifty.row_stats(logits.flatten(0, 1), 3)
        ids, probs = rows.topk_ids.view(200, 30, 3), rows.topk_probs.view(200, 30, 3)
        for b in range(200):
            n = got.lengths[b]
            path, tokens = got.path[b, :n], got.tokens[b, :n]
            assert path[0] == 0
            assert (got.path[b, n:] == -1).all()
            assert (got.tokens[b, n:] == -1).all()
            assert (torch.from_numpy(draft.parents[b])[path[1:]] == path[:-1]).all()
            assert (torch.from_numpy(draft.tokens[b])[path[1:]] == tokens[:-1]).all()
            assert (got.topk_ids[b, :n] == ids[b, path]).all()
            assert (got.topk_probs[b, :n] == probs[b, path]).all()
            assert (got.topk_ids[b, n:] == -1).all()
            valid = torch.from_numpy(draft.valid[b])
            assert (every.topk_ids[b, valid] == ids[b, valid]).all()
            assert (every.topk_ids[b, ~valid] == -1).all()
            if rule == "greedy":
                assert (tokens == logits[b, path].argmax(-1)).all()
        assert same(got[:3], every[:3])


def test_q_equal_to_p_is_always_accepted() -> None:
    """The support holds all of p, so min(1, p / q) = 1 up to the rounding of q."""
    logits = random_logits(1, 1, 8).expand(2000, 4, 8)
    p = torch.softmax(logits[0, :1], -1)
    order = p[0].argsort(descending=True)
    table = NgramTable(64, n_max=1)
    table.update(np.arange(8)[:, None], ids=order.expand(8, -1), probs=p[0, order].expand(8, -1))
    draft = table.draft(np.zeros((2000, 1)).astype(int), tree=DraftTree.chain(3),
                        seed=np.arange(2000))  # fmt: skip
    result = thrifty.verify_tree(logits, draft, seed=torch.arange(2000), k=0)
    assert (result.lengths == 4).all()


def test_no_rows_and_no_drafts() -> None:
    table = NgramTable(64)
    empty = table.draft(np.zeros((0, 1), np.int32), tree=DraftTree.chain(2))
    assert thrifty.verify_tree(torch.zeros(0, 3, 5), empty, seed=0).tokens.shape == (0, 3)
    assert thrifty.row_stats(torch.zeros(0, 5)).lse.shape == (0,)
    unknown = table.draft([[1]], tree=DraftTree.chain(2))
    result = thrifty.verify_tree(random_logits(1, 1, 5), unknown, seed=0)
    assert result.lengths.tolist() == [1]


def test_temperature_per_sequence_zero_is_greedy() -> None:
    draft, logits = drafted(), random_logits(5, 20, 3000)
    mixed = run(thrifty.verify_tree, logits, draft,
                temperature=torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]))  # fmt: skip
    greedy = run(thrifty.verify_tree, logits, draft, rule="greedy")
    warm = run(thrifty.verify_tree, logits, draft, temperature=1.0)
    for b in range(5):
        expected = warm if b % 2 else greedy
        assert (mixed.tokens[b] == expected.tokens[b]).all()


@pytest.mark.parametrize("op", ["verify_tree", "verify_chain"])
def test_agrees_with_the_oracle(op: str, device: str) -> None:
    """Tokens, path, statistics of rules that a seed determines; selfcheck runs these, too."""
    accepted = 0
    for case in cases_of(op):
        for dtype in case.dtypes:
            assert all(outcome.ok for outcome in check(case, device, dtype)), (case, dtype)
        done = case.function(**case.call(device, torch.float32))
        accepted += int((done.lengths > 1).sum())
    assert accepted > 3


# ---- bad input


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bad_rows(value: float, dtype: torch.dtype) -> None:
    draft, logits = drafted(), random_logits(5, 20, 3000, dtype=dtype)
    logits[3, 0, 2999] = value
    assert_rejects("logits", thrifty.verify_tree, logits, draft, seed=1)
    assert_rejects("logits", thrifty.row_stats, logits[3])
    chain = torch.zeros(5, 19, dtype=torch.int32)
    assert_rejects("logits", thrifty.verify_chain, logits, chain, seed=1)
    logits[3, 0] = -torch.inf
    assert_rejects("logits", thrifty.verify_tree, logits, draft, seed=1)


def changed(draft: Draft, name: str, place: tuple, value: float) -> Draft:
    made = draft.to()
    array = getattr(made, name).clone()
    array[place] = value
    setattr(made, name, array)
    return made


BAD_DRAFTS = {
    "a token beyond the vocabulary": ("tokens", (2, 1), 3000),
    "a hole": ("tokens", (2, 1), -1),
    "a child that is its parent": ("first_child", (2, 0), 0),
    "a child that is not there": ("first_child", (2, 0), 20),
    "siblings in a circle": ("next_sibling", (2, 1), 1),
    "q above 1": ("q", (2, 0, 0), 2.0),
    "q below 0": ("q", (2, 0, 0), -0.5),
    "q NaN": ("q", (2, 0, 0), float("nan")),
    "a candidate beyond the vocabulary": ("q_ids", (2, 0, 0), 3000),
}


@pytest.mark.parametrize("case", BAD_DRAFTS)
def test_bad_drafts(case: str) -> None:
    draft = changed(drafted(), *BAD_DRAFTS[case])
    assert_rejects("draft", thrifty.verify_tree, random_logits(5, 20, 3000), draft, seed=1)


def test_a_candidate_twice() -> None:
    draft = drafted().to()
    draft.q_ids[2, 0, 1] = draft.q_ids[2, 0, 0]
    assert_rejects("draft", thrifty.verify_tree, random_logits(5, 20, 3000), draft, seed=1)


def test_children_without_q_want_the_target_rule() -> None:
    draft, logits = drafted(mode="greedy"), random_logits(5, 20, 3000)
    assert_rejects("draft", thrifty.verify_tree, logits, draft, rule="recursive", seed=1)
    thrifty.verify_tree(logits, draft, seed=1)


def test_bad_arguments() -> None:
    draft, logits = drafted(), random_logits(5, 20, 3000)
    tree = thrifty.verify_tree

    def rejects(argument: str, **options: Any) -> None:
        assert_rejects(argument, tree, logits, draft, **{"seed": 1, **options})

    rejects("rule", rule="best")
    rejects("stats", stats="some")
    rejects("seed", seed=None)
    rejects("temperature", temperature=-1.0)
    rejects("temperature", temperature=float("nan"))
    rejects("top_p", top_p=0.0)
    rejects("top_p", top_p=1.5)
    rejects("min_p", min_p=-0.1)
    rejects("top_k", top_k=-1)
    rejects("temperature", temperature=torch.ones(4))
    rejects("k", k=65)
    assert_rejects("logits", tree, logits.double(), draft, seed=1)
    assert_rejects("logits", tree, logits[0], draft, seed=1)
    assert_rejects("tokens", tree, logits[:4], draft, seed=1)
    assert_rejects("draft", tree, logits[:, :5], draft, seed=1)  # fewer rows than nodes
    chain, tokens = thrifty.verify_chain, torch.zeros(5, 19, dtype=torch.int32)
    assert_rejects("method", chain, logits, tokens, method="some", seed=1)
    assert_rejects("tokens", chain, logits, tokens[:, 1:], seed=1)
    assert_rejects("draft", chain, logits, tokens + 3000, seed=1)
    assert_rejects("draft", chain, logits, tokens, torch.full((5,), 20, dtype=torch.int32), seed=1)
    assert_rejects("q", chain, logits, tokens, q_ids=tokens[..., None], seed=1)
    assert_rejects("q", chain, logits, tokens, q=torch.ones(5, 19, 4), seed=1)
    assert_rejects("seed", chain, logits, tokens)
    assert_rejects("exclude", thrifty.row_stats, logits[0], exclude=tokens[:, :3])
    rows = torch.full((20, 2), 3000, dtype=torch.int32)
    assert_rejects("exclude", thrifty.row_stats, logits[0], exclude=rows)


def test_ragged_chains() -> None:
    logits = random_logits(4, 4, 50)
    best = logits.argmax(-1)[:, :3].to(torch.int32)
    lens = torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    result = thrifty.verify_chain(logits, best, lens, temperature=0.0)
    assert (result.lengths == lens + 1).all()
    for b in range(4):
        assert (result.tokens[b, : b + 1] == logits[b, : b + 1].argmax(-1)).all()


def test_opcheck() -> None:
    draft, logits = drafted().to(), random_logits(5, 20, 300)
    ones, seeds = torch.ones(5), torch.arange(5)
    settings = (ones, None, 0.9 * ones, None, seeds, seeds)
    torch.library.opcheck(torch.ops.thrifty.row_stats, (logits[:, 0], None, *settings, 4))
    links = (draft.tokens, draft.first_child, draft.next_sibling, draft.q_ids, draft.q)
    for every in (False, True):
        torch.library.opcheck(
            torch.ops.thrifty.verify_tree,
            (logits, *links, *settings, "recursive", draft.max_depth, 4, every),
        )
    chain = torch.zeros(5, 19, dtype=torch.int32)
    torch.library.opcheck(
        torch.ops.thrifty.verify_chain, (logits, chain, None, None, None, *settings, "token", 4)
    )
