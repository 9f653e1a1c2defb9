"""token_topk, gather_rows and scatter_add_rows: a block that runs on some of the tokens."""

import pytest
import torch
from torch import Tensor

from helpers import TrainedOpContract, assert_rejects, threads
from thrifty import gather_rows, scatter_add_rows, token_topk
from thrifty.reference.cases import Make, OpCase


class DifferentiableAgain(TrainedOpContract):
    def test_second_derivative_is_refused(self, trained_case: OpCase, device: str) -> None:
        """It is not: the gradients are made of the ops themselves."""
        case = trained_case
        call = case.call(device, torch.float64)
        names = [name for name in case.grad if call.get(name) is not None]
        leaves = [call[name].requires_grad_() for name in names]

        def function(*values: Tensor) -> Tensor:
            out = case.function(**{**call, **dict(zip(names, values, strict=True))})
            return out[0] if isinstance(out, tuple) else out

        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


class TestTopk(DifferentiableAgain):
    op = "token_topk"


class TestGather(DifferentiableAgain):
    op = "gather_rows"


class TestScatter(DifferentiableAgain):
    op = "scatter_add_rows"


@pytest.mark.parametrize("k", [1, 10, 511, 1000])
def test_topk_is_torchs(k: int) -> None:
    scores = torch.randn(5, 1000)
    weights, index = token_topk(scores, k)
    assert torch.equal(index, scores.topk(k).indices.sort(-1).values)
    assert torch.equal(weights, scores.gather(-1, index))


def test_ties_go_to_the_lower_index_and_nan_comes_last() -> None:
    scores = torch.tensor([1.0, torch.nan, 2.0, 1.0, -torch.inf, 1.0])
    assert token_topk(scores, 3)[1].tolist() == [0, 2, 3]
    assert token_topk(scores, 5)[1].tolist() == [0, 2, 3, 4, 5]


def test_a_recursion_of_the_paper() -> None:
    """Two recursions; the second chooses among the survivors of the first (expert choice)."""
    make = Make("cpu", torch.float64)
    x, routers = make.normal(2, 12, 8), make.normal(2, 8)
    weight = make.normal(8, 8, scale=0.3).requires_grad_()
    block = lambda rows: torch.tanh(rows @ weight)

    def native(x: Tensor) -> Tensor:
        alive = torch.arange(12).expand(2, 12)
        for router, k in zip(routers, (6, 3), strict=True):
            scores = gather_rows(x, alive) @ router
            p, chosen = token_topk(scores.sigmoid(), k)
            alive = alive.gather(1, chosen)
            x = scatter_add_rows(x, alive, block(gather_rows(x, alive)), p)
        return x

    def plain(x: Tensor) -> Tensor:
        outs = []
        for tokens in x:
            alive = torch.arange(12)
            for router, k in zip(routers, (6, 3), strict=True):
                scores = (tokens[alive] @ router).sigmoid()
                chosen = scores.topk(k).indices.sort().values
                alive = alive[chosen]
                update = scores[chosen, None] * block(tokens[alive])
                tokens = tokens.index_add(0, alive, update)
            outs.append(tokens)
        return torch.stack(outs)

    torch.testing.assert_close(native(x), plain(x))
    grads = [torch.autograd.grad(f(x).square().sum(), weight) for f in (native, plain)]
    torch.testing.assert_close(*grads)


def test_sums_of_many_rows_are_rounded_once() -> None:
    """bfloat16 ones: 256 + 1 is 256, but a sum in float32 knows better."""
    src = torch.ones(1000, 3, dtype=torch.bfloat16)
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    out = scatter_add_rows(x, torch.zeros(1000, dtype=torch.int64), src)
    assert out.tolist() == [[1000.0] * 3, [0.0] * 3]


def test_order_of_the_sum_and_threads() -> None:
    make = Make("cpu", torch.float32)
    x, src = make.normal(4, 500, 64), make.normal(4, 2000, 64)
    index = torch.randint(0, 500, (4, 2000), generator=torch.Generator().manual_seed(0))
    with threads(1):
        expected = scatter_add_rows(x, index, src)
    plain = x.clone()
    for j in range(2000):
        plain[torch.arange(4), index[:, j]] += src[:, j]
    assert torch.equal(expected, plain)
    for count in (2, 4):
        with threads(count):
            assert torch.equal(scatter_add_rows(x, index, src), expected)


def test_nan_of_an_index_outside_stays_there() -> None:
    x, src = torch.zeros(3, 2), torch.full((2, 2), torch.nan)
    index = torch.tensor([-1, 3])
    assert torch.equal(scatter_add_rows(x, index, src, torch.full((2,), torch.nan)), x)
    assert torch.equal(gather_rows(src, index.where(index < 0, 2)), torch.zeros(2, 2))
    far = torch.tensor([2**31 + 1, -(2**40)])
    assert torch.equal(scatter_add_rows(x, far, src), x)


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ERRORS = [
    ("x", {"x": ones(3, 4, 5, dtype=torch.int64)}),
    ("x", {"x": ones(5)}),
    ("index", {"index": ones(3, 2)}),
    ("index", {"index": ones(2, 2, dtype=torch.int64)}),
    ("index", {"index": ones(2, dtype=torch.int64)}),
    ("weights", {"weights": ones(3, 3)}),
    ("weights", {"weights": ones(3, 2, dtype=torch.bfloat16)}),
]


@pytest.mark.parametrize("argument, changes", ERRORS, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_argument_is_named(argument: str, changes: dict) -> None:
    call = {"x": ones(3, 4, 5), "index": ones(3, 2, dtype=torch.int64), "weights": ones(3, 2)}
    assert_rejects(argument, gather_rows, **call | changes)
    assert_rejects(argument, scatter_add_rows, **{"src": ones(3, 2, 5)} | call | changes)


def test_wrong_scores_and_rows_are_named() -> None:
    for k in (-1, 5):
        assert_rejects("k", token_topk, scores=ones(3, 4), k=k)
    assert_rejects("scores", token_topk, scores=ones(3, 4, dtype=torch.int32), k=1)
    assert_rejects("scores", token_topk, scores=torch.tensor(1.0), k=1)
    call = {"x": ones(3, 4, 5), "index": ones(3, 2, dtype=torch.int64)}
    for src in (ones(3, 2, 4), ones(3, 3, 5), ones(2, 5), ones(3, 2, 5, dtype=torch.float64)):
        assert_rejects("src", scatter_add_rows, **call, src=src)
