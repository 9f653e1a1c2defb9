"""smc_resample and SMC: copies have the right means, evidence is unbiased, streams do not move."""

import itertools
import math
import re

import pytest
import torch

import thrifty
import thrifty.numpy
from helpers import OpContract, assert_rejects

METHODS = ("stratified", "systematic", "multinomial", "residual")


class TestContract(OpContract):
    op = "smc_resample"


def streams(n: int) -> dict[str, torch.Tensor]:
    return {"seeds": torch.arange(n) * 7919 - 5, "offsets": torch.full((n,), 2**40 + 3)}


@pytest.mark.parametrize("method", METHODS)
def test_copies_have_their_means(method: str) -> None:
    n, populations = 6, 40_000
    weights = torch.tensor([0.05, 0.0, 0.4, 0.25, 0.1, 0.2], dtype=torch.float64)
    drawn = thrifty.smc_resample(
        weights.log().expand(populations, n), **streams(populations), method=method,
        ess_threshold=math.inf,
    )  # fmt: skip
    copies = torch.stack([(drawn.ancestors == j).sum(1) for j in range(n)], 1).double()
    expected = n * weights
    sigma = (expected / populations).sqrt()  # at most that of independent draws
    assert ((copies.mean(0) - expected).abs() <= 6 * sigma).all()  # alpha 2e-9 each
    assert (copies.sum(1) == n).all()
    low, high = copies.min(0).values, copies.max(0).values
    if method == "systematic":
        assert (low >= expected.floor()).all()
        assert (high <= expected.ceil()).all()
    if method == "stratified":
        assert (low > expected - 2).all()
        assert (high < expected + 2).all()
    if method == "residual":
        assert (low >= expected.floor()).all()
    assert (copies.std(0)[expected > 0] > 0).all()


def test_ess_and_increment() -> None:
    torch.manual_seed(1)
    logw = torch.randn(5, 9, dtype=torch.float64) * 2 - 700
    drawn = thrifty.smc_resample(logw, **streams(5), ess_threshold=0.4)
    weights = logw.softmax(1)
    ess = 1 / weights.square().sum(1)
    torch.testing.assert_close(drawn.ess, ess)
    low = ess < 0.4 * 9
    assert 0 < low.sum() < 5
    mean = logw.logsumexp(1) - math.log(9)
    torch.testing.assert_close(drawn.log_ml_increment, torch.where(low, mean, 0.0))
    torch.testing.assert_close(drawn.logw, torch.where(low[:, None], 0.0, logw), rtol=0, atol=0)
    assert (drawn.ancestors[~low] == torch.arange(9)).all()


@pytest.mark.parametrize("method", METHODS)
def test_populations_without_weight_stay(method: str) -> None:
    logw = torch.tensor([[-math.inf] * 3, [math.nan, 0.0, 0.0], [math.inf, 0.0, 0.0]])
    drawn = thrifty.smc_resample(logw, **streams(3), method=method, ess_threshold=math.inf)
    assert (drawn.ancestors == torch.arange(3)).all()
    assert drawn.ess[0] == 0
    assert drawn.ess[1:].isnan().all()
    assert (drawn.log_ml_increment == 0).all()
    torch.testing.assert_close(drawn.logw, logw, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_one_heavy_particle_takes_all(method: str) -> None:
    logw = torch.full((1, 5), -math.inf)
    logw[0, 3] = -80.0
    drawn = thrifty.smc_resample(logw, **streams(1), method=method)
    assert drawn.ancestors.tolist() == [[3] * 5]
    assert drawn.log_ml_increment.item() == pytest.approx(-80 - math.log(5))


@pytest.mark.parametrize("method", METHODS)
def test_place_in_the_batch_does_not_matter(method: str) -> None:
    logw = torch.randn(7, 33)
    keys = streams(7)
    whole = thrifty.smc_resample(logw, **keys, method=method, ess_threshold=1.0)
    order = torch.tensor([4, 0, 6])
    part = thrifty.smc_resample(
        logw[order], keys["seeds"][order], keys["offsets"][order], method=method, ess_threshold=1.0
    )
    assert torch.equal(whole.ancestors[order], part.ancestors)
    other = thrifty.smc_resample(
        logw, keys["seeds"], keys["offsets"] + 1, method=method, ess_threshold=1.0
    )
    assert not torch.equal(whole.ancestors, other.ancestors)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (2, 1)])
def test_sizes(shape: tuple[int, int]) -> None:
    drawn = thrifty.smc_resample(torch.zeros(shape), **streams(shape[0]), ess_threshold=math.inf)
    assert drawn.ancestors.shape == shape
    assert (drawn.ancestors == torch.arange(shape[1])).all()


def test_wrong_arguments() -> None:
    logw, keys = torch.zeros(2, 3), streams(2)
    call = thrifty.smc_resample
    assert_rejects("logw", call, logw[0], **keys)
    assert_rejects("logw", call, logw.half(), **keys)
    assert_rejects("logw", call, logw.clone().requires_grad_(), **keys)
    assert_rejects("seeds", call, logw, keys["seeds"][:1], keys["offsets"])
    assert_rejects("offsets", call, logw, keys["seeds"], keys["offsets"].int())
    assert_rejects("method", call, logw, **keys, method="killing")
    assert_rejects("ess_threshold", call, logw, **keys, ess_threshold=-0.5)


def test_numpy_has_the_same_bits() -> None:
    logw, keys = torch.randn(3, 8), streams(3)
    theirs = thrifty.smc_resample(logw, **keys, ess_threshold=0.9)
    mine = thrifty.numpy.smc_resample(
        logw.numpy(), keys["seeds"].numpy(), keys["offsets"].numpy(), ess_threshold=0.9
    )
    for a, b in zip(mine, theirs, strict=True):
        assert (a == b.numpy()).all()


# ---- SMC: three letters, one regular language, evidence by brute force

VOCABULARY = [b"a", b"b", b"c", b""]  # and the end
PATTERN = r"(ab|c)+a?"
LENGTH = 4  # then the model ends


def letters(text: list[int]) -> torch.Tensor:
    """A model whose letters depend on the last one; after LENGTH letters it ends."""
    table = torch.tensor(
        [[0.2, 1.1, -0.3, 0.0], [0.9, -0.5, 0.4, 0.3], [-0.2, 0.1, 0.6, 0.8], [0.5, 0.2, 0.1, -9.0]]
    )
    if len(text) == LENGTH:
        return torch.tensor([-math.inf, -math.inf, -math.inf, 0.0])
    return table[text[-1] if text else 3]


def evidence() -> float:
    """p(the model's text matches), over all texts."""
    total = 0.0
    for length in range(LENGTH + 1):
        for text in itertools.product(range(3), repeat=length):
            if re.fullmatch(PATTERN, "".join("abc"[t] for t in text)):
                steps = [*text, 3]
                logp = sum(
                    letters(list(text[:i])).log_softmax(0)[t].item() for i, t in enumerate(steps)
                )
                total += math.exp(logp)
    return total


def run(seed: int, method: str) -> thrifty.SMC:
    dfa = thrifty.ByteDFA.from_regex(PATTERN, VOCABULARY, eos_ids=3)
    smc = thrifty.SMC(4, eos_ids=3, method=method, ess_threshold=0.7, seed=seed)
    state = torch.zeros(4, dtype=torch.int32)
    while not smc.done:
        logits = torch.stack([letters([t for t in text if t != 3]) for text in smc.tokens])
        drawn = thrifty.awrs_sample_dfa(
            logits, dfa, state, extra=1, seeds=smc.seeds, offsets=smc.offsets
        )
        state = torch.where(smc.finished, state, drawn.new_state)
        ancestors = smc.update(drawn.token, drawn.logw)
        if ancestors is not None:
            state = state[ancestors]
    return smc


@pytest.mark.parametrize("method", ["stratified", "multinomial"])
def test_evidence_is_unbiased(method: str) -> None:
    runs = 1000
    estimates = torch.tensor(
        [math.exp(run(seed, method).log_ml) for seed in range(runs)], dtype=torch.float64
    )
    error = estimates.mean().item() - evidence()
    assert abs(error) < 6 * estimates.std().item() / math.sqrt(runs)
    assert estimates.std() > 0


def test_texts_are_valid_and_runs_repeat() -> None:
    first, second = run(3, "stratified"), run(3, "stratified")
    assert first.tokens == second.tokens
    assert first.log_ml == second.log_ml
    assert len(first) == 4
    for text, weight in zip(first.tokens, first.weights.tolist(), strict=True):
        if weight > 0:
            assert text[-1] == 3
            assert re.fullmatch(PATTERN, "".join("abc"[t] for t in text[:-1]))
    assert first.weights.sum().item() == pytest.approx(1.0)


def test_particles_end_and_die_apart() -> None:
    smc = thrifty.SMC(3, eos_ids=[9], ess_threshold=0.0)
    assert smc.update(torch.tensor([1, 9, 5]), torch.tensor([0.0, -1.0, -math.inf])) is None
    assert smc.tokens == [[1], [9], []]
    assert smc.finished.tolist() == [False, True, True]
    smc.update(torch.tensor([2, 7, 7]), torch.tensor([-0.5, math.nan, math.nan]))
    assert smc.tokens == [[1, 2], [9], []]
    assert smc.logw.tolist() == [-0.5, -1.0, -math.inf]
    assert smc.log_ml == pytest.approx(math.log((math.exp(-0.5) + math.exp(-1)) / 3))
    assert smc.reorder("xyz", torch.tensor([0, 0, 1])) == ["x", "x", "y"]
    smc.update(torch.tensor([9, 0, 0]), torch.zeros(3))
    assert smc.done


def test_wrong_particles() -> None:
    with pytest.raises(ValueError, match="^SMC: particles: expected"):
        thrifty.SMC(0, eos_ids=1)
    with pytest.raises(ValueError, match="^SMC: method: expected"):
        thrifty.SMC(2, eos_ids=1, method="killing")
    with pytest.raises(ValueError, match="^SMC: token, logw: expected shape"):
        thrifty.SMC(2, eos_ids=1).update(torch.zeros(3), torch.zeros(3))
