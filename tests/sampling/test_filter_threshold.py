"""filter_threshold: the contract, and the sets that the warpers of `transformers` keep."""

import math

import pytest
import torch
from torch import Tensor

import thrifty
from helpers import OpContract, assert_rejects
from thrifty.reference.sampling_cases import DTYPES


class TestContract(OpContract):
    op = "filter_threshold"


def warped(name: str, logits: Tensor, *args: float) -> Tensor:
    """What a warper of `transformers` keeps."""
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name)(*args)(None, logits.float()) > -math.inf


def kept(logits: Tensor, theta: Tensor) -> Tensor:
    return logits.float() >= theta[:, None]


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_sets_of_transformers(scale: float) -> None:
    """Logits that all differ: the warpers cut between equal ones, we do not."""
    generator = torch.Generator().manual_seed(int(scale * 2))
    values = (torch.randn(20_000, generator=generator) * scale).unique()
    order = [torch.randperm(len(values), generator=generator)[:12_000] for _ in range(6)]
    logits = values[torch.stack(order)]
    for p in (0.1, 0.5, 0.9, 0.99):
        assert torch.equal(
            kept(logits, thrifty.top_p_threshold(logits, p)), warped("TopPLogitsWarper", logits, p)
        )
    for p in (0.01, 0.1, 0.5, 1.0):
        assert torch.equal(
            kept(logits, thrifty.min_p_threshold(logits, p)), warped("MinPLogitsWarper", logits, p)
        )
    for k in (1, 7, 200, 5000, 12_000):
        assert torch.equal(
            kept(logits, thrifty.top_k_threshold(logits, k)), warped("TopKLogitsWarper", logits, k)
        )
    for alpha in (0.1, 0.4, 0.8, 0.95):
        assert torch.equal(
            kept(logits, thrifty.top_h_threshold(logits, alpha)),
            warped("TopHLogitsWarper", logits, alpha),
        )


def test_top_k_then_top_p_as_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(6, 3000) * 2
    scores = transformers.TopKLogitsWarper(60)(None, logits)
    scores = transformers.TopPLogitsWarper(0.8)(None, scores)
    theta, _ = thrifty.filter_threshold(logits, top_k=60, top_p=0.8)
    assert torch.equal(kept(logits, theta), scores > -math.inf)


@pytest.mark.parametrize("dtype", DTYPES)
def test_top_n_sigma_is_of_raw_logits_and_finite_ones(dtype: torch.dtype) -> None:
    logits = (torch.randn(4, 9000) * 3 + 1000).to(dtype)
    logits[:, ::7] = -math.inf
    exact = logits.double()
    finite = [row[row > -math.inf] for row in exact]
    expected = torch.stack([row.max() - 1.5 * row.std(unbiased=False) for row in finite])
    theta = thrifty.top_n_sigma_threshold(logits, 1.5)
    torch.testing.assert_close(theta.double(), expected, rtol=1e-6, atol=0)
    colder = thrifty.filter_threshold(logits, top_n_sigma=1.5, inv_temperature=3.0)
    assert torch.equal(colder.threshold, theta)


@pytest.mark.parametrize("k", [1, 2, 127, 128, 129, 1023, 1024, 1025, 4999, 5000, 6000])
def test_top_k_of_any_order(k: int) -> None:
    """Rising, falling, random, constant rows, rows with -inf: each a trap for a selection."""
    ramp = torch.arange(5000.0) / 100
    rows = torch.stack([ramp, ramp.flip(0), ramp[torch.randperm(5000)], torch.ones(5000), ramp])
    rows[4, 100:] = -math.inf
    theta = thrifty.top_k_threshold(rows, k)
    for row, bound in zip(rows, theta, strict=True):
        finite = row[row > -math.inf]
        expected = finite.sort(descending=True).values[k - 1] if k <= len(finite) else -math.inf
        assert float(bound) == float(expected) or (row >= bound).sum() == (row >= expected).sum()


def test_the_largest_always_passes() -> None:
    logits = torch.randn(3, 100)
    options = {"top_k": 1, "top_p": 0.0, "min_p": 1.0, "top_n_sigma": 1e-6, "top_h": 1e-6}
    for name, value in options.items():
        theta, log_mass = thrifty.filter_threshold(logits, **{name: value})
        assert torch.equal(kept(logits, theta).sum(1), torch.ones(3, dtype=torch.int64)), name
        torch.testing.assert_close(log_mass, logits.log_softmax(-1).max(-1).values)


def test_nothing_allowed_and_broken_rows() -> None:
    logits = torch.randn(3, 40)
    logits[1, 3], logits[2] = math.nan, -math.inf
    mask = torch.tensor([[0, 0], [-1, -1], [-1, -1]], dtype=torch.int32)
    theta, log_mass = thrifty.filter_threshold(logits, mask, top_k=3)
    assert theta[[0, 2]].eq(math.inf).all()
    assert theta[1].isnan()
    assert log_mass.eq(-math.inf).all()


def test_wrong_arguments() -> None:
    logits = torch.zeros(2, 40)
    assert_rejects("top_p", thrifty.filter_threshold, logits, top_p=2.0)
    assert_rejects("logits", thrifty.filter_threshold, logits.double())
    assert_rejects("logits", thrifty.filter_threshold, logits.requires_grad_())
