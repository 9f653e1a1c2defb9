"""kv_compact_: accepted columns of a cache move behind the committed ones."""

import random

import pytest
import torch

from helpers import assert_rejects, permuted, sliced
from thrifty import kv_compact_


def expected(t: torch.Tensor, columns: list[list[int]], start: list[int]) -> torch.Tensor:
    out = t.clone()
    for b, row in enumerate(columns):
        for i, column in enumerate(row):
            out[b, :, start[b] + i] = t[b, :, column]
    return out


def problem(seed: int, batch: int, length: int) -> tuple[list[list[int]], list[int]]:
    """Rows of different lengths, also empty, and starts in front of them."""
    draws = random.Random(seed)
    starts = [draws.randrange(length - 4) for _ in range(batch)]
    rows = [
        sorted(draws.sample(range(s, length), draws.randrange(min(6, length - s) + 1)))
        for s in starts
    ]
    return rows, starts


def padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows)) + 1
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("layout", [torch.clone, permuted, sliced])
def test_columns_move(batch: int, layout, device: str) -> None:
    for seed in range(6):
        rows, starts = problem(seed, batch, 13)
        caches = [
            layout(torch.randn(batch, 3, 13, 4)).to(device),
            torch.randn(batch, 1, 13, 2, device=device, dtype=torch.bfloat16),
            torch.randn(batch, 2, 20, 5, device=device)[:, :, :13],
        ]
        wanted = [expected(t, rows, starts) for t in caches]
        kv_compact_(caches, padded(rows).to(device), torch.tensor(starts, device=device))
        for got, want in zip(caches, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_nothing_to_move() -> None:
    t = torch.randn(2, 1, 5, 2)
    before = t.clone()
    kv_compact_([t], torch.full((2, 3), -1), torch.tensor([3, 5]))
    kv_compact_([t], torch.empty(2, 0, dtype=torch.int64))
    kv_compact_([], torch.tensor([[1], [2]]))
    assert torch.equal(t, before)


def test_errors() -> None:
    t, columns = torch.zeros(2, 1, 6, 2), torch.tensor([[2, 3], [4, 5]])
    assert_rejects("columns", kv_compact_, [t], columns.float())
    assert_rejects("columns", kv_compact_, [t], columns[0])
    assert_rejects("tensors", kv_compact_, [t[:1]], columns)
    assert_rejects("start", kv_compact_, [t], columns, torch.tensor([0]))
    assert_rejects("start", kv_compact_, [t], columns, torch.tensor([3, 0]))
    assert_rejects("start", kv_compact_, [t], columns, torch.tensor([-1, 0]))
    assert_rejects("columns", kv_compact_, [t], columns + 1)
    assert_rejects("columns", kv_compact_, [t], columns.flip(1))
    assert_rejects("columns", kv_compact_, [t], torch.tensor([[-1, 2], [4, 5]]))
