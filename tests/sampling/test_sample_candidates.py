"""sample_candidates: the law of the order, chunks, masses without cancellation, edges."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

import thrifty
import thrifty.numpy
from helpers import OpContract, assert_rejects

ALPHA = 1e-6


class TestContract(OpContract):
    op = "sample_candidates"


def keys(rows: int, offset: int = 0) -> dict[str, Tensor]:
    return {"seeds": torch.arange(rows), "offsets": torch.full((rows,), offset)}


def chi_square(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Cells below 10 expected are merged into one."""
    small = expected < 10
    counts = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    kept = expected > 0
    assert counts[~kept].sum() == 0
    statistic = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    return statistic < chi2.isf(ALPHA, max(kept.sum() - 1, 1))


def test_law_of_the_first_two() -> None:
    n = 200_000
    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
    drawn = thrifty.sample_candidates(p.log().float().expand(n, 5), 2, **keys(n)).ids
    counts, expected = [], []
    for a, b in itertools.permutations(range(5), 2):
        counts.append(((drawn[:, 0] == a) & (drawn[:, 1] == b)).sum().item())
        expected.append(n * (p[a] * p[b] / (1 - p[a])).item())
    assert sum(counts) == n
    assert chi_square(np.array(counts), np.array(expected))


def test_law_of_the_first_over_blocks() -> None:
    n, vocab = 100_000, 2000
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(3)) * 2
    drawn = thrifty.sample_candidates(logits.expand(n, vocab), 1, **keys(n, 5)).ids[:, 0]
    counts = torch.bincount(drawn, minlength=vocab).numpy()
    assert chi_square(counts, n * logits.double().softmax(0).numpy())


def test_law_of_rejections() -> None:
    """E n0 = sum p_r / (p_r + Z), and the whole law of n0 by enumeration."""
    n, allowed = 100_000, {1, 4}
    p = np.array([0.45, 0.05, 0.2, 0.15, 0.03, 0.12])
    z = sum(p[t] for t in allowed)
    logits = torch.tensor(p, dtype=torch.float32).log().expand(n, 6)
    drawn = thrifty.sample_candidates(logits, 6, **keys(n, 9))
    verdicts = torch.isin(drawn.ids, torch.tensor(sorted(allowed))).to(torch.uint8)
    got = thrifty.awrs_weights(
        verdicts, drawn.logp, drawn.log_rest, drawn.log_tail, estimator="none"
    ).pos.double()  # fmt: skip
    law = np.zeros(6)
    for order in itertools.permutations(range(6)):
        chance, left = 1.0, 1.0
        for t in order:
            chance, left = chance * p[t] / left, left - p[t]
        law[next(j for j, t in enumerate(order) if t in allowed)] += chance
    mean = sum(p[t] / (p[t] + z) for t in range(6) if t not in allowed)
    assert mean == pytest.approx((law * np.arange(6)).sum(), abs=1e-9)
    assert abs(got.mean().item() - mean) < 6 * got.std().item() / math.sqrt(n)
    assert chi_square(np.bincount(got.int().numpy(), minlength=6), n * law)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_are_the_longer_list(dtype: torch.dtype) -> None:
    logits = (torch.randn(3, 5000) * 3).to(dtype)
    whole = thrifty.sample_candidates(logits, 32, **keys(3))
    parts, drawn = [], None
    for _ in range(4):
        parts.append(thrifty.sample_candidates(logits, 8, drawn=drawn, **keys(3)))
        drawn = torch.cat([part.ids for part in parts], 1)
    for name in ("ids", "logp", "log_rest"):
        joined = torch.cat([getattr(part, name) for part in parts], 1)
        assert torch.equal(joined, getattr(whole, name)), name
    assert torch.equal(parts[-1].log_tail, whole.log_tail)


def test_masses_are_what_is_left() -> None:
    logits = torch.randn(2, 300) * 4
    found = thrifty.sample_candidates(logits, 40, **keys(2))
    p = logits.double().softmax(1)
    for row in range(2):
        left = p[row].clone()
        for j, token in enumerate(found.ids[row].tolist()):
            assert found.log_rest[row, j].item() == pytest.approx(left.sum().log().item(), abs=2e-6)
            assert found.logp[row, j].item() == pytest.approx(p[row, token].log().item(), abs=2e-6)
            left[token] = 0
        assert found.log_tail[row].item() == pytest.approx(left.sum().log().item(), abs=2e-6)
    torch.testing.assert_close(found.lse, logits.logsumexp(1))


@pytest.mark.parametrize("gap", [27.6, 69.0, 200.0, 1000.0])
def test_tiny_masses(gap: float) -> None:
    """A banned token with nearly all mass: what is left keeps its digits (1e-12, 1e-30, ...)."""
    logits = torch.full((1, 3000), -math.inf)
    logits[0, 700], logits[0, 2500], logits[0, 2600] = 0.0, -gap, -gap - 1
    exact = torch.tensor([0.0, -gap, -gap - 1], dtype=torch.float64)
    exact = exact - exact.logsumexp(0)
    found = thrifty.sample_candidates(logits, 5, **keys(1))
    assert found.ids[0, 0] == 700
    left = exact[1:].logsumexp(0).item()
    assert found.log_rest[0, 1].item() == pytest.approx(left, abs=1e-5, rel=1e-7)
    assert found.ids[0, 3:].tolist() == [-1, -1]
    assert found.log_tail[0] == -math.inf
    for only in (2500, 2600):
        drawn = thrifty.awrs_sample(
            logits, lambda row, ids, only=only: [i == only for i in ids], **keys(1)
        )
        wanted = exact[1 if only == 2500 else 2].item()
        assert drawn.token.item() == only
        assert drawn.logw.item() == pytest.approx(wanted, abs=1e-5, rel=1e-7)


def test_place_in_the_batch_does_not_matter() -> None:
    logits, k = torch.randn(6, 3000), keys(6)
    whole = thrifty.sample_candidates(logits, 9, **k)
    order = torch.tensor([5, 1, 1])
    part = thrifty.sample_candidates(
        logits[order], 9, seeds=k["seeds"][order], offsets=k["offsets"][order]
    )
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[order], b)
    other = thrifty.sample_candidates(logits, 9, seeds=k["seeds"] + 6, offsets=k["offsets"])
    assert not torch.equal(whole.ids, other.ids)


def test_seeds_are_independent() -> None:
    """Joint law of the first tokens under two seeds."""
    n = 50_000
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(n, 3)
    a = thrifty.sample_candidates(logits, 1, **keys(n)).ids[:, 0]
    b = thrifty.sample_candidates(
        logits, 1, seeds=keys(n)["seeds"] + 1, offsets=torch.zeros(n).long()
    )
    counts = torch.bincount(a * 3 + b.ids[:, 0], minlength=9).numpy()
    p = np.array([0.5, 0.3, 0.2])
    assert chi_square(counts, n * np.outer(p, p).ravel())


def test_status() -> None:
    logits = torch.zeros(4, 40)
    logits[0] = -math.inf
    logits[1, 3], logits[2, 39] = math.nan, math.inf
    found = thrifty.sample_candidates(logits, 3, **keys(4))
    assert found.status.tolist() == [1, 4, 4, 0]
    assert (found.ids[:3] == -1).all()
    for name in ("logp", "log_rest", "log_tail"):
        assert (getattr(found, name)[:3] == -math.inf).all()


def test_huge_temperature_is_uniform_over_what_has_mass() -> None:
    logits = torch.tensor([[0.0, 50.0, -math.inf, -30.0]])
    found = thrifty.sample_candidates(logits, 4, inv_temperature=1e-30, **keys(1))
    assert sorted(found.ids[0].tolist()) == [-1, 0, 1, 3]
    torch.testing.assert_close(found.logp[0, :3], torch.full((3,), -math.log(3)))


def test_wrong_arguments() -> None:
    logits, k = torch.zeros(2, 40), keys(2)
    call = thrifty.sample_candidates
    assert_rejects("logits", call, logits.double(), 3, **k)
    assert_rejects("logits", call, logits[0], 3, **k)
    assert_rejects("logits", call, logits.clone().requires_grad_(), 3, **k)
    assert_rejects("k", call, logits, -1, **k)
    assert_rejects("inv_temperature", call, logits, 3, inv_temperature=-1.0, **k)
    assert_rejects("inv_temperature", call, logits, 3, inv_temperature=math.inf, **k)
    assert_rejects("inv_temperature", call, logits, 3, inv_temperature=0.0, **k)
    assert_rejects("drawn", call, logits, 3, drawn=torch.zeros(2, 1), **k)
    assert_rejects("drawn", call, logits, 3, drawn=torch.zeros(1, 1, dtype=torch.int32), **k)
    assert_rejects("seeds", call, logits, 3, seeds=k["seeds"][:1], offsets=k["offsets"])
    assert_rejects("bitmask", call, logits, 3, bitmask=torch.zeros(2, 3, dtype=torch.int32), **k)


def test_numpy_has_the_same_bits() -> None:
    logits, k = torch.randn(2, 2000), keys(2)
    theirs = thrifty.sample_candidates(logits, 6, inv_temperature=0.7, **k)
    mine = thrifty.numpy.sample_candidates(
        logits.numpy(), 6, inv_temperature=0.7, seeds=k["seeds"].numpy(),
        offsets=k["offsets"].numpy(),
    )  # fmt: skip
    for a, b in zip(mine, theirs, strict=True):
        assert (a == b.numpy()).all()
