"""TensorNgramTable against NgramTable: the same slots, the same drafts; on CUDA if there is one."""

import numpy as np
import pytest
import torch

import thrifty
from helpers import assert_rejects
from thrifty import DraftTree, NgramTable

VOCAB = 40


def learnt(rows: int = 400, **options: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "tails": torch.from_numpy(rng.integers(0, VOCAB, (rows, 3), np.int32)),
        "lens": torch.from_numpy(rng.integers(0, 4, rows, np.int32)),
        "ids": torch.from_numpy(np.argsort(rng.random((rows, VOCAB)), 1)[:, :6].astype(np.int32)),
        "probs": torch.from_numpy(-np.sort(-rng.dirichlet(np.ones(6), rows), 1) * 0.99).float(),
    }


def moved(data: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in data.items()}


@pytest.mark.parametrize("capacity", [64, 1 << 12])  # with and without evictions
def test_updates_are_the_tables(capacity: int, device: str) -> None:
    data = learnt()
    plain = NgramTable(capacity, k=5, n_max=3, seed=7)
    tensor = plain.to(device)
    for _ in range(2):
        plain.update(**data)
        tensor.update(**moved(data, device))
    back = tensor.cpu()
    tails, ids = data["tails"], np.tile(np.arange(VOCAB), (len(data["tails"]), 1))
    for got, expected in zip(
        back.probabilities(tails, ids), plain.probabilities(tails, ids), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    for name in ("used", "updates", "evictions"):
        assert back.stats()[name] == plain.stats()[name]


@pytest.mark.parametrize("mode", ["sample", "greedy"])
@pytest.mark.parametrize("nodes", [1, 16, 80])
def test_drafts_are_the_tables(mode: str, nodes: int, device: str) -> None:
    plain = NgramTable(1 << 12, n_max=3)
    plain.update(**learnt())
    tensor, tree = plain.to(device), DraftTree.default(nodes)
    tails = np.random.default_rng(1).integers(0, VOCAB + 5, (9, 3), np.int32)
    lens, seeds = np.array([3, 2, 1] * 3, np.int32), np.arange(9)
    expected = plain.draft(tails, lens, tree, mode, seed=seeds, offset=5)
    got = tensor.draft(
        torch.from_numpy(tails).to(device), torch.from_numpy(lens).to(device), tree, mode,
        seed=torch.from_numpy(seeds).to(device), offset=5,
    )  # fmt: skip
    for name in ("tokens", "parents", "first_child", "next_sibling", "depths", "slots",
                 "ancestors", "sizes", "q_ids"):  # fmt: skip
        np.testing.assert_array_equal(getattr(got, name).cpu(), getattr(expected, name))
    np.testing.assert_allclose(got.q.cpu(), expected.q, rtol=1e-6)
    assert (got.max_depth, got.sampled) == (expected.max_depth, expected.sampled)


def test_a_step_on_one_device(device: str) -> None:
    """Draft, verification and update with what it returned; nothing leaves the device."""
    table = NgramTable(1 << 10).to(device)
    logits = (3 * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))).to(device)
    tree, last, sizes = DraftTree.default(16), torch.zeros(4, 1, dtype=torch.int32), []
    last = last.to(device)
    for step in range(40):
        seed = torch.arange(4, device=device)
        draft = table.draft(last, tree=tree, seed=seed, offset=step * 20)
        rows = logits[draft.tokens.clamp_min(0).long()]
        done = thrifty.verify_tree(rows, draft, seed=seed, offset=step * 20)
        before = torch.cat([last, done.tokens[:, :-1]], 1).clamp_min(0)
        lens = (torch.arange(before.shape[1], device=device) < done.lengths[:, None]).int()
        table.update(before.view(-1, 1), lens.view(-1), ids=done.topk_ids.flatten(0, 1),
                     probs=done.topk_probs.flatten(0, 1))  # fmt: skip
        last = done.tokens.gather(1, done.lengths[:, None].long() - 1)
        sizes.append(done.lengths.float().mean().item())
    assert np.mean(sizes[20:]) > np.mean(sizes[:3])


def test_opcheck_and_errors(device: str) -> None:
    table, data = NgramTable(64, n_max=3).to(device), moved(learnt(4), device)
    ops = torch.ops.thrifty
    torch.library.opcheck(ops.ngram_update_, (table.region, *table._options, *data.values()))
    begin = torch.tensor([1, 0], dtype=torch.int32, device=device)
    count, numbers = begin.clone(), torch.zeros(4, dtype=torch.int64, device=device)
    torch.library.opcheck(
        ops.ngram_draft,
        (table.region, *table._options, data["tails"], None, begin, count, True, 1.0, numbers,
         numbers),
    )  # fmt: skip
    assert_rejects("mode", table.draft, data["tails"], mode="beam")
    assert_rejects("inv_temp", table.draft, data["tails"], inv_temp=0.0)
    assert_rejects("tails", table.draft, data["tails"][0])
    assert_rejects("tails", table.draft, data["tails"].repeat(1, 2))
    assert_rejects("seed", table.draft, data["tails"], seed=numbers[:2])
    assert_rejects("probs", table.update, data["tails"], ids=data["ids"], probs=data["probs"][:2])
    table.region = table.region[:-8]
    assert_rejects("region", table.draft, data["tails"])
    if device == "cpu":  # values
        table = NgramTable(64, n_max=3).to(device)
        assert_rejects("tails", table.draft, -data["tails"] - 1)
        assert_rejects("ids", table.update, data["tails"], ids=0 * data["ids"], probs=data["probs"])
