"""awrs_weights: every estimator is properly weighted, by enumeration of all orders in fractions."""

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

import thrifty
import thrifty.numpy
from helpers import OpContract, assert_rejects

Order = tuple[int, ...]
DEAD = torch.tensor(-math.inf, dtype=torch.float64)


class TestContract(OpContract):
    op = "awrs_weights"


def probabilities(size: int, seed: int) -> list[Fraction]:
    parts = [Fraction(int(n)) for n in np.random.default_rng(seed).integers(1, 40, size)]
    return [part / sum(parts) for part in parts]


def orders(p: list[Fraction]) -> Iterator[tuple[Fraction, Order]]:
    """Every without-replacement order with its probability."""
    for order in itertools.permutations(range(len(p))):
        chance, left = Fraction(1), Fraction(1)
        for token in order:
            chance *= p[token] / left
            left -= p[token]
        yield chance, order


def subsets(size: int) -> Iterator[set[int]]:
    for count in range(1, size + 1):
        yield from map(set, itertools.combinations(range(size), count))


def arrays(p: list[Fraction], all_orders: list[Order], allowed: set[int]) -> tuple[Tensor, ...]:
    """The arguments of awrs_weights, one row per order, from exact masses."""
    rests = [[1 - sum(p[t] for t in o[:j]) for j in range(len(o))] for o in all_orders]
    verdicts = torch.tensor([[t in allowed for t in o] for o in all_orders], dtype=torch.uint8)
    logp = torch.tensor([[float(p[t]) for t in o] for o in all_orders], dtype=torch.float64).log()
    log_rest = torch.tensor([[float(r) for r in row] for row in rests], dtype=torch.float64).log()
    return verdicts, logp, log_rest, DEAD.expand(len(all_orders))


def expectations(
    p: list[Fraction], allowed: set[int], weigh: Callable[..., tuple[Tensor, Tensor]]
) -> tuple[list[float], float]:
    """E[Zhat 1(x = a)] for every token a, and E[Zhat^2]."""
    chances, all_orders = zip(*orders(p), strict=True)
    pos, weight = weigh(*arrays(p, list(all_orders), allowed))
    found, square = [0.0] * len(p), 0.0
    for chance, order, at, w in zip(
        chances, all_orders, pos.tolist(), weight.tolist(), strict=True
    ):
        if at >= 0:
            found[order[at]] += float(chance) * w
        square += float(chance) * w * w
    return found, square


def by(**options: object) -> Callable[..., tuple[Tensor, Tensor]]:
    def weigh(*args: Tensor) -> tuple[Tensor, Tensor]:
        result = thrifty.awrs_weights(*args, **options)
        assert not result.need_more.any()
        return result.pos, result.logw.exp()

    return weigh


def assert_proper(p: list[Fraction], allowed: set[int], found: list[float]) -> None:
    wanted = [float(p[t]) if t in allowed else 0.0 for t in range(len(p))]
    assert found == pytest.approx(wanted, rel=0, abs=1e-12)


@pytest.mark.parametrize("budget", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("extra", [1, 2, 3, 4])
def test_desraj_is_proper(extra: int, budget: int | None) -> None:
    for size in (1, 2, 3, 4):
        p = probabilities(size, seed=10 + size)
        for allowed in subsets(size):
            found, _ = expectations(p, allowed, by(extra=extra, budget=budget))
            assert_proper(p, allowed, found)


@pytest.mark.parametrize("allowed", [{0}, {1, 4}, {0, 2, 3}, {0, 1, 2, 3, 4, 5}])
@pytest.mark.parametrize("options", [{"extra": 4}, {"estimator": "recursive"}, {"budget": 3}])
def test_desraj_is_proper_on_six_tokens(allowed: set[int], options: dict) -> None:
    p = probabilities(6, seed=3)
    found, _ = expectations(p, allowed, by(**options))
    assert_proper(p, allowed, found)


def paper(loops: int = 1) -> Callable[..., tuple[Tensor, Tensor]]:
    """The paper's estimator with its coins integrated out: they stop before candidate s, or never.

    The weight of an order is the mean over s; `loops` other than 1 rescales it as the wrong
    generalisation of the paper's formula would.
    """

    def weigh(verdicts: Tensor, logp: Tensor, log_rest: Tensor, tail: Tensor):
        rows, size = verdicts.shape
        first = verdicts.argmax(1)
        own = logp.exp().gather(1, first[:, None])
        chance = own / (log_rest.exp() + own)  # that a coin stops before candidate j
        after = torch.arange(size) > first[:, None]
        chance = torch.where(after, chance, 0.0)
        mean, going = torch.zeros(rows, dtype=torch.float64), torch.ones(rows, dtype=torch.float64)
        for stop in range(size + 1):
            coins = torch.full((rows, size), 1 - 2.0**-53, dtype=torch.float64)
            coins[:, stop:] = 0.0  # 0 also counts before x, where there are no coins
            result = thrifty.awrs_weights(
                verdicts, logp, log_rest, tail, estimator="paper", coins=coins
            )
            assert not result.need_more.any()
            share = going * (chance[:, stop] if stop < size else 1.0)
            going = going - share
            mean += share * result.logw.exp()
        assert going.abs().max() < 1e-12
        return result.pos, mean

    return weigh


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_paper_is_proper(size: int) -> None:
    p = probabilities(size, seed=20 + size)
    for allowed in subsets(size):
        found, _ = expectations(p, allowed, paper())
        assert_proper(p, allowed, found)


# ---- negative controls: the enumeration tells right from wrong


def test_two_loops_more_are_biased() -> None:
    """(1 - psi0) L / (n + L) with L = 2: 13/24 where Z = 1/2."""
    half = Fraction(1, 2)
    # Orders (0, 1) and (1, 0), A = {0}. In each further loop token 1 is rejected with probability
    # 1/2 until it is gone: n rejections in all, Zhat = (1 - psi0) 2 / (n + 2).
    accepted_first = half * (half * half + Fraction(3, 4) * Fraction(2, 3))  # n = 0 or 1
    rejected_first = half * half * Fraction(2, 3)
    assert half * (Fraction(1, 4) * 1 + Fraction(3, 4) * Fraction(2, 3)) + rejected_first == (
        Fraction(13, 24)
    )
    assert accepted_first + rejected_first == Fraction(13, 24)
    found, _ = expectations([half, half], {0}, paper())  # L = 1, the same p and A
    assert sum(found) == pytest.approx(0.5, abs=1e-12)


def test_stopping_when_it_looks_good_is_biased() -> None:
    """One term where the first verdict is good, else two: not decided before looking."""

    def adaptive(*args: Tensor) -> tuple[Tensor, Tensor]:
        one, two = (thrifty.awrs_weights(*args, extra=m) for m in (1, 2))
        after = torch.nn.functional.pad(args[0], (0, 1)).gather(1, one.pos.long()[:, None] + 1)
        return one.pos, torch.where(after[:, 0] == 1, one.logw, two.logw).exp()

    ratios = []
    for size in (3, 4, 5):
        p = probabilities(size, seed=5)
        allowed = set(range(1, size, 2)) | {0}
        found, _ = expectations(p, allowed, adaptive)
        ratios.append(sum(found) / float(sum(p[t] for t in allowed)))
    assert max(ratios) > 1.005


def test_harness_sees_a_wrong_weight() -> None:
    p = probabilities(4, seed=1)
    found, _ = expectations(p, {0, 2}, by(estimator="none"))
    wrong = sum(found) / float(p[0] + p[2])
    assert wrong == pytest.approx(1 / float(p[0] + p[2]))  # weight 1 is not proper


# ---- second moments


@pytest.mark.parametrize("allowed", [{0, 3}, {1}, {2, 4, 5}])
def test_monte_carlo_agrees_with_the_enumerated_moments(allowed: set[int]) -> None:
    p = probabilities(6, seed=8)
    exact = float(sum(p[t] for t in allowed))
    n = 100_000
    logits = torch.tensor([[float(q) for q in p]]).log().expand(n, 6)
    drawn = thrifty.sample_candidates(
        logits, 6, seeds=torch.arange(n), offsets=torch.zeros(n, dtype=torch.int64)
    )
    verdicts = torch.isin(drawn.ids, torch.tensor(sorted(allowed))).to(torch.uint8)
    for options in ({"extra": 1}, {"extra": 3}, {"extra": 4, "budget": 3}):
        _, square = expectations(p, allowed, by(**options))
        sigma = math.sqrt(max(square - exact**2, 0) / n)
        weights = thrifty.awrs_weights(
            verdicts, drawn.logp, drawn.log_rest, drawn.log_tail, **options
        ).logw.double().exp()  # fmt: skip
        assert abs(weights.mean().item() - exact) < 6 * sigma + 1e-7, options


def test_more_extras_have_less_variance() -> None:
    p = probabilities(5, seed=9)
    exact = float(p[1] + p[3])
    variances = [expectations(p, {1, 3}, by(extra=m))[1] - exact**2 for m in (1, 2, 3, 4)]
    assert variances == sorted(variances, reverse=True)


# ---- what is asked for, bounds, ends


def one_row(verdicts: list[int], masses: list[float], tail: float = 0.0) -> tuple[Tensor, ...]:
    p = torch.tensor([masses], dtype=torch.float64)
    rest = torch.flip(torch.flip(p, (1,)).cumsum(1), (1,)) + tail
    allowed = torch.tensor([verdicts], dtype=torch.uint8)
    return allowed, p.log(), rest.log(), torch.tensor([tail], dtype=torch.float64).log()


def test_asks_for_what_it_needs() -> None:
    masses = [0.3, 0.25, 0.2, 0.1]
    ask = lambda verdicts, **o: thrifty.awrs_weights(*one_row(verdicts, masses, 0.15), **o)
    for verdicts, options, needed in [
        ([2, 2, 2, 2], {}, 1),
        ([0, 2, 2, 2], {}, 2),
        ([0, 0, 0, 0], {}, 5),
        ([0, 1, 2, 2], {"extra": 2}, 4),
        ([0, 1, 2, 2], {"extra": 9}, 11),
        ([0, 1, 2, 2], {"extra": 9, "budget": 3}, 3),
        ([0, 1, 0, 2], {"extra": 2}, 4),
    ]:
        result = ask(verdicts, **options)
        assert result.need_more.item()
        assert result.n_checked.item() == needed, verdicts
    for verdicts, options, used in [
        ([1, 1, 0, 2], {"extra": 2}, 3),
        ([0, 0, 2, 2], {"budget": 2}, 2),
        ([0, 1, 2, 2], {"budget": 2}, 2),
        ([0, 1, 2, 2], {"estimator": "none"}, 2),
    ]:
        result = ask(verdicts, **options)
        assert not result.need_more.item()
        assert result.n_checked.item() == used
    assert ask([0, 1, 2, 2], estimator="none").logw.item() == 0
    assert ask([0, 0, 2, 2], budget=2).pos.item() == -1
    assert ask([0, 0, 2, 2], budget=2).logw.item() == -math.inf


def test_everything_allowed_weighs_one() -> None:
    for options in ({"extra": 1}, {"extra": 3}, {"budget": 1}):
        args = one_row([1, 1, 1], [0.5, 0.3, 0.2])
        assert abs(thrifty.awrs_weights(*args, **options).logw.item()) < 1e-12


def test_nothing_allowed_weighs_nothing() -> None:
    for estimator in ("desraj", "paper", "none"):
        coins = torch.zeros(1, 2, dtype=torch.float64)
        result = thrifty.awrs_weights(
            *one_row([0, 0], [0.6, 0.4]), estimator=estimator, coins=coins
        )
        assert (result.pos.item(), result.logw.item()) == (-1, -math.inf)
        assert not result.need_more.item()


@pytest.mark.parametrize("log_z", [-27.63, -69.08, -650.0])
def test_tiny_masses_are_exact(log_z: float) -> None:
    """One banned token with all but Z of the mass; the only allowed one has Z: Zhat = Z."""
    logp = torch.tensor([[0.0, log_z]], dtype=torch.float64)
    log_rest = torch.tensor([[0.0, log_z]], dtype=torch.float64)
    verdicts = torch.tensor([[0, 1]], dtype=torch.uint8)
    for estimator in ("desraj", "recursive", "paper"):
        result = thrifty.awrs_weights(
            verdicts, logp, log_rest, DEAD[None], estimator=estimator, extra=7,
            coins=torch.full((1, 2), 0.5, dtype=torch.float64),
        )  # fmt: skip
        rejections = math.log(2) if estimator == "paper" else 0
        assert result.logw.item() == pytest.approx(log_z - rejections, abs=1e-12)


def test_empty() -> None:
    nothing = torch.zeros(0, 3)
    result = thrifty.awrs_weights(nothing.to(torch.uint8), nothing, nothing, torch.zeros(0))
    assert [tuple(t.shape) for t in result] == [(0,)] * 4
    none = torch.zeros(2, 0)
    result = thrifty.awrs_weights(none.to(torch.uint8), none, none, torch.tensor([0.0, -math.inf]))
    assert result.need_more.tolist() == [True, False]


def test_wrong_arguments() -> None:
    allowed, logp, rest, tail = one_row([0, 1], [0.6, 0.4])
    call = thrifty.awrs_weights
    assert_rejects("allowed", call, allowed.int(), logp, rest, tail)
    assert_rejects("allowed", call, allowed[0], logp, rest, tail)
    assert_rejects("logp", call, allowed, logp.half(), rest, tail)
    assert_rejects("logp", call, allowed, logp[:, :1], rest, tail)
    assert_rejects("log_rest", call, allowed, logp, rest.float(), tail)
    assert_rejects("log_tail", call, allowed, logp, rest, tail[0])
    assert_rejects("estimator", call, allowed, logp, rest, tail, estimator="geometric")
    assert_rejects("extra", call, allowed, logp, rest, tail, extra=0)
    assert_rejects("budget", call, allowed, logp, rest, tail, budget=0)
    assert_rejects("coins", call, allowed, logp, rest, tail, estimator="paper")
    coins = torch.zeros(1, 2, dtype=torch.float64)
    assert_rejects(
        "budget", call, allowed, logp, rest, tail, estimator="paper", coins=coins, budget=3
    )
    assert_rejects(
        "coins", call, allowed, logp, rest, tail, estimator="paper", coins=coins.float()
    )


def test_numpy_has_the_same_bits() -> None:
    args = arrays(probabilities(4, 2), [o for _, o in orders(probabilities(4, 2))], {1, 2})
    got = thrifty.numpy.awrs_weights(*(a.numpy() for a in args), extra=2)
    for mine, theirs in zip(got, thrifty.awrs_weights(*args, extra=2), strict=True):
        assert (mine == theirs.numpy()).all()
