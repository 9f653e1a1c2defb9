"""NgramTable against a dict of dicts, and what drafts promise."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import thrifty
from thrifty import DraftTree, NgramTable


class Model:
    """The definition: for each context the running mean of its k best."""

    def __init__(self, k: int, n_min: int, n_max: int, cap: int) -> None:
        self.k, self.orders, self.cap = k, range(n_min, n_max + 1), cap
        self.means: dict[tuple, dict[int, float]] = {}
        self.counts: dict[tuple, int] = defaultdict(int)

    def update(self, tail: list[int], ids: list[int], probs: list[float]) -> None:
        for n in self.orders:
            if n > len(tail):
                continue
            context = tuple(tail[len(tail) - n :])
            weight = 1 / (min(self.counts[context], self.cap) + 1)
            mean = {t: (1 - weight) * p for t, p in self.means.get(context, {}).items()}
            for token, prob in list(zip(ids, probs, strict=True))[: self.k]:
                mean[token] = mean.get(token, 0) + weight * prob
            kept = sorted(mean.items(), key=lambda item: -item[1])[: self.k]
            self.means[context] = dict(kept)
            self.counts[context] += 1

    def lookup(self, tail: list[int]) -> dict[int, float]:
        for n in reversed(self.orders):
            if n <= len(tail) and tuple(tail[len(tail) - n :]) in self.means:
                return self.means[tuple(tail[len(tail) - n :])]
        return {}


def padded(tails: list[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    array = np.full((len(tails), width), 12345, np.int32)  # what is beyond a len is not looked at
    for row, tail in zip(array, tails, strict=True):
        if tail:
            row[width - len(tail) :] = tail
    return array, np.array([len(tail) for tail in tails], np.int32)


TOKEN = st.integers(0, 3)
FOLLOWERS = st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True)
OBSERVATION = st.tuples(st.lists(TOKEN, max_size=3), FOLLOWERS, st.integers(0, 10**6))


@settings(max_examples=60, deadline=None)
@given(st.lists(OBSERVATION, min_size=1, max_size=30), st.integers(1, 4), st.sampled_from([1, 64]))
def test_table_is_the_dict(observed: list, k: int, cap: int) -> None:
    table = NgramTable(1 << 12, k=k, n_min=1, n_max=3, count_cap=cap)
    model = Model(k, 1, 3, cap)
    rows = []
    for tail, ids, seed in observed:
        weights = np.sort(np.random.default_rng(seed).random(len(ids)) + 0.01)[::-1]
        rows.append((tail, ids, (weights / weights.sum() * 0.9).astype(np.float32)))
    width = max(len(ids) for _, ids, _ in rows)
    ids = np.full((len(rows), width), -1)
    probs = np.zeros((len(rows), width), np.float32)
    for i, (_, row_ids, row_probs) in enumerate(rows):
        ids[i, : len(row_ids)], probs[i, : len(row_ids)] = row_ids, row_probs
    tails, lens = padded([tail for tail, _, _ in rows], 3)
    table.update(tails, lens, ids=ids, probs=probs)
    for tail, row_ids, row_probs in rows:
        model.update(tail, row_ids, row_probs.tolist())
    # Which of two equal means stays is a matter of rounding, so values are compared, in order.
    for context, mean in model.means.items():
        tail, length = padded([list(context)], 3)
        got, counts = table.probabilities(tail, np.arange(10)[None], length)
        assert counts[0, len(context) - 1] == model.counts[context]
        stored = np.sort(got[0, len(context) - 1])[::-1][:k]
        expected = np.zeros(k)
        expected[: len(mean)] = sorted(mean.values(), reverse=True)
        np.testing.assert_allclose(stored, expected, atol=2e-6)
    assert table.stats()["used"] == len(model.means)


def test_longest_context_wins_and_the_first_table_of_equals() -> None:
    shared, own = NgramTable(256, n_max=2), NgramTable(256, n_max=2)
    chain = DraftTree.chain(1)

    def next_token(tail: list[int]) -> int:
        return int(shared.draft([tail], tree=chain, mode="greedy", first=own).tokens[0, 1])

    shared.update([[1, 2]], ids=[[10]], probs=[[1.0]])
    assert next_token([1, 2]) == 10
    assert next_token([7, 2]) == 10  # by the shorter context
    assert next_token([7, 7]) == -1
    own.update([[2]], ids=[[20]], probs=[[1.0]])
    assert next_token([7, 2]) == 20  # equally long: the first table
    assert next_token([1, 2]) == 10  # longer, though in the second
    own.update([[1, 2]], ids=[[21]], probs=[[1.0]])
    assert next_token([1, 2]) == 21


def test_tables_per_sequence() -> None:
    shared, a = NgramTable(256), NgramTable(256)
    shared.observe_tokens([1, 2])
    a.observe_tokens([1, 3])
    draft = shared.draft([[1], [1], [1]], tree=DraftTree.chain(1), first=[a, None, a])
    assert draft.tokens[:, 1].tolist() == [3, 2, 3]


def random_table(vocab: int = 50, rows: int = 2000, **options: int) -> NgramTable:
    rng = np.random.default_rng(0)
    table = NgramTable(1 << 14, **options)
    ids = np.argsort(rng.random((rows, vocab)), 1)[:, :12]
    probs = -np.sort(-rng.dirichlet(np.ones(12), rows), 1) * 0.95
    table.update(rng.integers(0, vocab, (rows, 2)), ids=ids, probs=probs)
    return table


@pytest.mark.parametrize("nodes", [1, 2, 7, 64, 65, 80, 200])
@pytest.mark.parametrize("mode", ["sample", "greedy"])
def test_links_masks_and_q(nodes: int, mode: str) -> None:
    table, tree = random_table(), DraftTree.default(nodes)
    tails = np.random.default_rng(1).integers(0, 60, (40, 2))  # some contexts are unknown
    draft = table.draft(tails, tree=tree, mode=mode, seed=np.arange(40), offset=3)
    assert draft.tokens.shape == (40, tree.size)
    for b in range(40):
        size = draft.sizes[b]
        assert (draft.tokens[b, :size] >= 0).all()
        for array in (draft.tokens, draft.parents, draft.first_child, draft.next_sibling,
                      draft.depths, draft.slots, draft.q_ids):  # fmt: skip
            assert (array[b, size:] == -1).all()
        assert (draft.ancestors[b, size:] == 0).all()
        assert draft.tokens[b, 0] == tails[b, 1]
        for node in range(size):
            parent = draft.parents[b, node]
            own = {64 * w + i for w in range(draft.ancestors.shape[2]) for i in range(64)
                   if int(draft.ancestors[b, node, w]) >> i & 1}  # fmt: skip
            above = set() if node == 0 else chain_of(draft.parents[b], parent)
            assert own == above | {node}
            assert draft.depths[b, node] == len(above)
            children = [i for i in range(1, size) if draft.parents[b, i] == node]
            assert linked(draft, b, node) == children
            slots = draft.slots[b, children]
            first = draft.slots[b, node]
            assert [tree.parents[s] for s in slots] == [first] * len(children)
            assert [tree.ranks[s] for s in slots] == list(range(len(children)))
            tokens = draft.tokens[b, children].tolist()
            assert len(set(tokens)) == len(tokens)
            support = draft.q_ids[b, node][draft.q_ids[b, node] >= 0]
            if mode == "greedy" or not children:
                assert len(support) == 0
                assert (draft.q[b, node] == 0).all()
            else:
                assert set(tokens) <= set(support.tolist())
                assert len(children) == min(tree.children[first], len(support))
                assert abs(draft.q[b, node].sum() - 1) < 1e-6
                assert (draft.q[b, node][: len(support)] > 0).all()
    assert draft.valid.sum() == draft.sizes.sum()


def chain_of(parents: np.ndarray, node: int) -> set[int]:
    path = set()
    while node >= 0:
        path.add(int(node))
        node = parents[node]
    return path


def linked(draft: thrifty.Draft, b: int, node: int) -> list[int]:
    children, child = [], draft.first_child[b, node]
    while child >= 0:
        children.append(int(child))
        child = draft.next_sibling[b, child]
    return children


@pytest.mark.parametrize("inv_temp", [1.0, 2.5])
def test_children_have_the_law_of_draws_without_replacement(inv_temp: float) -> None:
    """Chi-square of ordered triples, alpha 1e-4."""
    from laws import p_value

    table = NgramTable(64, n_max=1)
    p = np.array([0.5, 0.2, 0.1, 0.06, 0.04])
    table.update([[0]], ids=[np.arange(5)], probs=[p])
    batch, tree = 400_000, DraftTree([(0,), (1,), (2,)])
    draft = table.draft(np.zeros((batch, 1), np.int32), tree=tree, inv_temp=inv_temp,
                        seed=np.arange(batch), offset=9)  # fmt: skip
    q = p**inv_temp / (p**inv_temp).sum()
    np.testing.assert_allclose(draft.q[0, 0, :5], q, rtol=1e-5)
    law = np.zeros((5, 5, 5))
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if len({i, j, k}) == 3:
                    law[i, j, k] = q[i] * q[j] / (1 - q[i]) * q[k] / (1 - q[i] - q[j])
    a, b, c = (draft.tokens[:, i] for i in (1, 2, 3))
    counts = np.bincount(a * 25 + b * 5 + c, minlength=125)
    assert p_value(counts, law.reshape(-1)) > 1e-4


def test_a_draft_does_not_depend_on_its_place() -> None:
    table, tree = random_table(), DraftTree.default(30)
    tails = np.random.default_rng(2).integers(0, 50, (20, 2))
    seeds, offsets = np.arange(20), np.arange(20) * 7
    together = table.draft(tails, tree=tree, seed=seeds, offset=offsets)
    for b in (0, 11, 19):
        alone = table.draft(tails[b : b + 1], tree=tree, seed=int(seeds[b]), offset=int(offsets[b]))
        assert (alone.tokens[0] == together.tokens[b]).all()
        assert (alone.q[0] == together.q[b]).all()


def test_a_full_table_keeps_working() -> None:
    table = NgramTable(64, n_max=1)
    table.update(np.arange(1000)[:, None], ids=np.arange(1000)[:, None], probs=np.ones((1000, 1)))
    stats = table.stats()
    assert stats["used"] <= 64
    assert stats["evictions"] == 1000 - stats["used"]
    # What is seen again and again stays, whatever passes by.
    for _ in range(3):
        table.observe_tokens([5, 6])
    table.update(np.arange(2000, 9000)[:, None], ids=np.ones((7000, 1), int),
                 probs=np.ones((7000, 1)))  # fmt: skip
    assert table.draft([[5]], tree=DraftTree.chain(1)).tokens[0, 1] == 6


def test_counting_tokens() -> None:
    text = np.random.default_rng(3).integers(0, 5, 300)
    whole, parts = NgramTable(1 << 12), NgramTable(1 << 12)
    whole.observe_tokens(text)
    parts.observe_tokens(text[:100])
    parts.observe_tokens(text, start=100)
    tails = np.lib.stride_tricks.sliding_window_view(text, 4)
    ids = np.tile(np.arange(5), (len(tails), 1))
    for got, expected in zip(parts.probabilities(tails, ids), whole.probabilities(tails, ids),
                             strict=True):  # fmt: skip
        assert (got == expected).all()
    probs, counts = whole.probabilities([[text[9]]], [np.arange(5)], [1])
    followers = text[1:][text[:-1] == text[9]]
    assert counts[0, 0] == len(followers)
    if len(followers) <= 64:
        np.testing.assert_allclose(probs[0, 0], np.bincount(followers, minlength=5) /
                                   len(followers), atol=1e-5)  # fmt: skip


def test_merge_is_the_mean_by_counts() -> None:
    rng = np.random.default_rng(4)
    a, b, both = (NgramTable(1 << 10, n_max=2, k=14) for _ in range(3))
    for table, count in ((a, 3), (b, 5)):
        for _ in range(count):
            probs = -np.sort(-rng.dirichlet(np.ones(5)))[None] * 0.9
            args = {"ids": rng.permutation(5)[None], "probs": probs}
            table.update([[1, 2]], **args)
            both.update([[1, 2]], **args)
    a.merge(b)
    ids = [np.arange(5)]
    for got, expected in zip(a.probabilities([[1, 2]], ids), both.probabilities([[1, 2]], ids),
                             strict=True):  # fmt: skip
        np.testing.assert_allclose(got, expected, atol=1e-6)
    a.clear()
    assert a.stats()["used"] == 0
    assert a.draft([[1, 2]], tree=DraftTree.chain(1)).sizes[0] == 1


def test_tensors_lists_and_int64_are_the_same() -> None:
    a, b = NgramTable(256), NgramTable(256)
    a.update([[1, 2]], ids=[[3, 4]], probs=[[0.6, 0.4]])
    b.update(torch.tensor([[1, 2]]), ids=torch.tensor([[3, 4]]), probs=torch.tensor([[0.6, 0.4]]))
    drafts = [t.draft(torch.tensor([[1, 2]]), tree=DraftTree.chain(1), seed=5) for t in (a, b)]
    assert (drafts[0].q == drafts[1].q).all()
    tensors = drafts[0].to()
    assert isinstance(tensors.tokens, torch.Tensor)
    assert tensors.trimmed().tokens.shape == (1, 2)


BAD = {
    "a negative id": ("tails", lambda t: t.update([[-1]], ids=[[1]], probs=[[1.0]])),
    "an id beyond the vocabulary": ("tails", lambda t: t.update([[100]], ids=[[1]], probs=[[1.0]])),
    "a follower beyond it": ("ids", lambda t: t.update([[1]], ids=[[100]], probs=[[1.0]])),
    "an id above int32": ("tails", lambda t: t.update([[2**40]], ids=[[1]], probs=[[1.0]])),
    "a long tail": ("tails", lambda t: t.draft([[1, 2, 3]])),
    "tails of one dimension": ("tails", lambda t: t.draft([1, 2])),
    "float tails": ("tails", lambda t: t.draft([[1.5]])),
    "an empty context to draft from": ("lens", lambda t: t.draft([[1]], [0])),
    "a len beyond the tail": ("lens", lambda t: t.draft([[1]], [2])),
    "rising probabilities": ("probs", lambda t: t.update([[1]], ids=[[1, 2]], probs=[[0.2, 0.8]])),
    "a sum above 1": ("probs", lambda t: t.update([[1]], ids=[[1, 2]], probs=[[0.9, 0.8]])),
    "NaN": ("probs", lambda t: t.update([[1]], ids=[[1]], probs=[[np.nan]])),
    "a token twice": ("ids", lambda t: t.update([[1]], ids=[[1, 1]], probs=[[0.5, 0.5]])),
    "padding in front": ("probs", lambda t: t.update([[1]], ids=[[-1, 1]], probs=[[0.0, 0.5]])),
    "probs of another shape": ("probs", lambda t: t.update([[1]], ids=[[1]], probs=[[0.5, 0.5]])),
    "an unknown mode": ("mode", lambda t: t.draft([[1]], mode="beam")),
    "inv_temp 0": ("inv_temp", lambda t: t.draft([[1]], inv_temp=0.0)),
    "seeds of another batch": ("seed", lambda t: t.draft([[1]], seed=[1, 2])),
    "tables of another batch": ("first", lambda t: t.draft([[1]], first=[None, None])),
    "a table of another kind": ("k", lambda t: t.draft([[1]], first=NgramTable(64, k=3))),
    "itself": ("other", lambda t: t.merge(t)),
    "start 0": ("start", lambda t: t.observe_tokens([1, 2], start=0)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_changes_nothing(case: str) -> None:
    argument, call = BAD[case]
    table = NgramTable(64, n_max=2, vocab_size=100)
    with pytest.raises(ValueError, match=rf"^\w+: {argument}: expected .+, got .+"):
        call(table)
    assert table.stats()["updates"] == 0


@pytest.mark.parametrize("options", [{"capacity": 0}, {"k": 15}, {"k": 0}, {"n_min": 0},
                                     {"n_min": 3, "n_max": 2}, {"n_max": 9}, {"count_cap": 0},
                                     {"vocab_size": -1}, {"vocab": "x" * 300}])  # fmt: skip
def test_bad_options(options: dict) -> None:
    (name, *_) = reversed(options)
    with pytest.raises(ValueError, match=f"^NgramTable: {name}: expected .+, got .+"):
        NgramTable(**options)
