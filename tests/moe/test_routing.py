"""bucket_sort, moe_permute and moe_route."""

import pytest
import torch
from torch import Tensor

from helpers import OpContract, TrainedOpContract, assert_rejects
from thrifty import bucket_sort, moe_permute, moe_route
from thrifty.reference.cases import Make
from thrifty.reference.moe_cases import permute, route


class TestSort(OpContract):
    op = "bucket_sort"


class TestPermute(OpContract):
    op = "moe_permute"


class TestRoute(TrainedOpContract):
    op = "moe_route"


def test_permutation_properties() -> None:
    ids = torch.randint(-2, 12, (500, 4))
    slot, offsets, inverse = moe_permute(ids, 10)
    assert torch.equal(slot.sort().values, torch.arange(2000).int())
    assert torch.equal(slot[inverse.long()], torch.arange(2000).int())
    inside = ids[(ids >= 0) & (ids < 10)]
    assert torch.equal(offsets.diff(), torch.bincount(inside, minlength=10).int())


def test_capacity_by_weight_keeps_the_largest() -> None:
    ids, weights = torch.zeros(8, 1, dtype=torch.int64), torch.rand(8, 1)
    slot, offsets, _ = moe_permute(ids, 1, capacity=3, priority=weights)
    assert offsets.tolist() == [0, 3]
    kept = weights.flatten().topk(3).indices.sort().values
    assert torch.equal(slot[:3].long(), kept)


def test_ties_go_to_the_lower_index() -> None:
    for score in ("softmax", "sigmoid", "topk_softmax"):
        _, ids = moe_route(torch.zeros(2, 70), 5, score=score)
        assert ids.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_nan_poisons_its_token_alone() -> None:
    logits = torch.randn(6, 8)
    weights, ids = moe_route(logits, 3, renorm=True)
    logits[2] = torch.nan
    poisoned, chosen = moe_route(logits, 3, renorm=True)
    others = torch.arange(6) != 2
    assert torch.equal(poisoned[others], weights[others])
    assert torch.equal(chosen[others], ids[others])
    assert poisoned[2].isnan().all()
    assert chosen[2].tolist() == [0, 1, 2]
    logits[2] = torch.randn(8)
    logits[2, 4] = torch.nan
    _, chosen = moe_route(logits, 7, score="sigmoid")
    assert 4 not in chosen[2]


def test_bias_chooses_and_does_not_weigh() -> None:
    logits, bias = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([-5.0, 0.0, 0.0])
    weights, ids = moe_route(logits, 2, score="sigmoid", bias=bias)
    assert ids.tolist() == [[2, 1]]
    torch.testing.assert_close(weights, logits[:, [2, 1]].sigmoid())


def test_statistics_count_what_was_chosen() -> None:
    logits = torch.randn(300, 6)
    _, ids, total, count = moe_route(logits, 2, stats=True)
    assert torch.equal(count, torch.bincount(ids.flatten(), minlength=6).int())
    chosen = torch.zeros(300, 6).scatter(1, ids.long(), 1.0)
    torch.testing.assert_close(total, (logits * chosen).sum(0), rtol=1e-5, atol=1e-4)


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ROUTE_ERRORS = [
    ("logits", {"logits": ones(8)}),
    ("logits", {"logits": ones(9, 8, dtype=torch.int64)}),
    ("top_k", {"top_k": 9}),
    ("top_k", {"top_k": 0}),
    ("score", {"score": "tanh"}),
    ("bias", {"bias": ones(7)}),
    ("bias", {"bias": ones(8, dtype=torch.float64)}),
    ("expert_mask", {"expert_mask": ones(9) > 0}),
    ("n_group", {"n_group": 3}),
    ("topk_group", {"n_group": 4, "topk_group": 5}),
    ("group_topn", {"n_group": 4, "topk_group": 2, "group_topn": 3}),
    ("top_k", {"n_group": 4, "topk_group": 1}),
    ("scale", {"scale": float("nan")}),
]


@pytest.mark.parametrize(
    "argument, changes", ROUTE_ERRORS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_wrong_route_argument_is_named(argument: str, changes: dict) -> None:
    assert_rejects(argument, moe_route, **route(Make("cpu", torch.float32)) | changes)


PERMUTE_ERRORS = [
    ("ids", {"ids": ones(20, 3)}),
    ("ids", {"ids": ones(20, dtype=torch.int64)}),
    ("num_experts", {"num_experts": 0}),
    ("expert_map", {"expert_map": ones(5)}),
    ("capacity", {"capacity": 0}),
    ("priority", {"capacity": 2, "priority": ones(20, 2)}),
]


@pytest.mark.parametrize(
    "argument, changes", PERMUTE_ERRORS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_wrong_permute_argument_is_named(argument: str, changes: dict) -> None:
    assert_rejects(argument, moe_permute, **permute(Make("cpu", torch.float32)) | changes)


def test_wrong_sort_argument_is_named() -> None:
    assert_rejects("ids", bucket_sort, torch.ones(3), 2)
    assert_rejects("buckets", bucket_sort, torch.ones(3).int(), 0)
