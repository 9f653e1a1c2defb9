"""masked_sample: the contract, its law, and rows that are nobody's business but their own."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

import thrifty
import thrifty.numpy
from helpers import OpContract, assert_one_graph, assert_rejects, threads
from thrifty.reference.sampling import unpack_token_bitmask
from thrifty.reference.sampling_cases import DTYPES
from thrifty.sampling import Status

ALPHA = 1e-6


class TestContract(OpContract):
    op = "masked_sample"


def rows_of(logits: Tensor, count: int) -> dict[str, Tensor]:
    """The same row `count` times, under a seed of its own each."""
    return {
        "logits": logits.expand(count, -1),
        "seeds": torch.arange(count),
        "offsets": torch.full((count,), 2**40 + 3),
    }


def keys(count: int) -> dict[str, Tensor]:
    return {"seeds": torch.arange(count) * 2**33, "offsets": torch.arange(count) - 5}


def assert_law(tokens: Tensor, p: Tensor) -> None:
    """Chi-square of the tokens against p, in float64; cells of expectation below 10 are merged."""
    counts = torch.bincount(tokens, minlength=len(p)).double()
    assert counts[p == 0].sum() == 0
    counts, p = counts[p > 0], p[p > 0]
    expected = p * len(tokens)
    order = expected.argsort()
    cells = (expected[order].cumsum(0) / 10).floor().long()
    cells = cells.clamp_max(int(cells[-1]) - 1)
    _, cells = cells.unique(return_inverse=True)
    size = int(cells[-1]) + 1
    e = torch.zeros(size, dtype=torch.float64).index_add(0, cells, expected[order])
    c = torch.zeros(size, dtype=torch.float64).index_add(0, cells, counts[order])
    statistic = float(((c - e).square() / e).sum())
    assert statistic < chi2.isf(ALPHA, size - 1), (statistic, size)


# ---- the law


@pytest.mark.parametrize("vocab", [5, 2000])
@pytest.mark.parametrize("masked", [False, True])
def test_draws_follow_the_softmax(vocab: int, masked: bool) -> None:
    """2000 tokens are two blocks, so both levels of the draw count."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(1, vocab, generator=generator) * 2
    allowed = torch.rand(1, vocab, generator=generator) < 0.6
    mask = thrifty.pack_token_bitmask(allowed) if masked else None
    count, tokens = 200_000, []
    call = rows_of(logits, 20_000)
    for part in range(count // 20_000):
        call["offsets"] = call["offsets"] + 1
        expanded = None if mask is None else mask.expand(20_000, -1)
        out = thrifty.masked_sample(bitmask=expanded, inv_temperature=1.5, **call)
        tokens.append(out.token)
        assert out.status.eq(0).all(), part
    kept = allowed if masked else torch.ones_like(allowed)
    p = (logits.double() * 1.5).masked_fill(~kept, -math.inf).softmax(-1)[0]
    assert_law(torch.cat(tokens), p)


def test_different_seeds_and_offsets_are_independent() -> None:
    """Chi-square over pairs of draws: (seed, seed + 1), (offset, offset + 1), two streams."""
    count = 20_000
    logits = torch.tensor([[0.0, 0.5, 1.0]]).expand(count, -1)
    p = logits[0].double().softmax(-1)
    seeds, zero = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    draw = lambda s, o: thrifty.masked_sample(logits, seeds=s, offsets=o).token
    first = draw(seeds, zero)
    high = 2**32
    for other in (draw(seeds + 1, zero), draw(seeds, zero + 1), draw(seeds, zero + high),
                  draw(seeds + high, zero)):  # fmt: skip
        assert_law(first * 3 + other, torch.outer(p, p).flatten())


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_masses_against_float64(dtype: torch.dtype) -> None:
    logits = (torch.randn(8, 40_000) * 4).to(dtype)
    allowed = torch.rand(8, 40_000) < 0.1
    mask = thrifty.pack_token_bitmask(allowed)
    out = thrifty.masked_sample(logits, mask, **keys(8))
    exact = logits.double()
    kept = exact.masked_fill(~allowed, -math.inf)
    log_z = kept.logsumexp(-1) - exact.logsumexp(-1)
    logp = kept.log_softmax(-1).gather(1, out.token[:, None])[:, 0]
    torch.testing.assert_close(out.log_z.double(), log_z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.logp.double(), logp, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gap", [27.6, 69.1, 300.0, 5000.0])
def test_tiny_mass_keeps_its_digits(gap: float) -> None:
    """Z = 1e-12, 1e-30 and far below float64: banned tokens hold all of the mass."""
    logits = torch.full((1, 3000), -math.inf)
    logits[0, 10], logits[0, 11], logits[0, 2999] = gap, 0.0, 1.0
    mask = thrifty.pack_token_bitmask(torch.arange(3000)[None] > 10)
    out = thrifty.masked_sample(logits, mask, **keys(1))
    expected = math.log(1 + math.e) - gap
    assert abs(float(out.log_z) - expected) <= 1e-5 + 1e-7 * gap
    assert int(out.token) in (11, 2999)
    assert abs(float(out.logp) - (float(logits[0, out.token]) - math.log(1 + math.e))) < 1e-5


def test_any_temperature_and_any_common_offset() -> None:
    """The law depends on differences of logits: from T = 1e-8 to 1e8, with logits near 1e6."""
    logits = torch.tensor([[1e6, 1e6 + 1, 1e6 - 1, 3.0]])
    for scale in (1e-8, 1e-3, 1.0, 30.0, 1e8):
        out = thrifty.masked_sample(logits, inv_temperature=scale, **keys(1))
        exact = (logits.double() * float(np.float32(scale))).log_softmax(-1)
        assert abs(float(out.logp) - float(exact[0, out.token])) < 1e-5, scale
        assert int(out.status) == Status.OK


# ---- a row is a function of its logits, seed and offset


def everything(**changes: object) -> dict:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 5000, generator=generator) * 3
    allowed = torch.rand(12, 5000, generator=generator) < 0.3
    call = {"logits": logits, "bitmask": thrifty.pack_token_bitmask(allowed), **keys(12)}
    return call | changes


@pytest.mark.parametrize("options", [{}, {"top_p": 0.8, "top_h": 0.7}], ids=["mask", "filters"])
def test_place_in_the_batch_changes_nothing(options: dict) -> None:
    call = everything(**options)
    expected = thrifty.masked_sample(**call)

    def some(rows: Tensor) -> None:
        part = {k: v[rows] if isinstance(v, Tensor) else v for k, v in call.items()}
        for got, whole in zip(thrifty.masked_sample(**part), expected, strict=True):
            assert torch.equal(got, whole[rows])

    some(torch.randperm(12))
    some(torch.tensor([7]))
    some(torch.tensor([3, 3, 3, 3, 3]))  # equal rows: equal tokens
    some(torch.arange(12))  # again
    padded = torch.nn.functional.pad(call["logits"], (0, 77))[:, :5000]
    for got, whole in zip(
        thrifty.masked_sample(**call | {"logits": padded}), expected, strict=True
    ):
        assert torch.equal(got, whole)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_16_bit_logits_are_the_widened_ones(dtype: torch.dtype) -> None:
    for options in ({}, {"top_k": 50, "min_p": 0.02}, {"inv_temperature": 0.6}):
        call = everything(**options)
        narrow = call["logits"].to(dtype)
        wide = thrifty.masked_sample(**call | {"logits": narrow.float()})
        for got, expected in zip(
            thrifty.masked_sample(**call | {"logits": narrow}), wide, strict=True
        ):
            assert torch.equal(got, expected)


def test_rows_beyond_32_bits() -> None:
    """Rows whose distance in memory passes 2^31 elements."""
    storage = torch.zeros(1).expand(1).as_strided((2, 64), (0, 0))
    call = {
        "seeds": torch.zeros(2, dtype=torch.int64),
        "offsets": torch.zeros(2, dtype=torch.int64),
    }
    out = thrifty.masked_sample(storage, **call)
    assert out.token[0] == out.token[1]


# ---- section 7: rows that have no answer, sizes, extremes


def test_nothing_to_draw() -> None:
    logits = torch.randn(5, 100)
    logits[1, 99], logits[2, 0], logits[3] = math.nan, math.inf, -math.inf
    mask = torch.full((5, 4), -1, dtype=torch.int32)
    mask[0] = 0
    out = thrifty.masked_sample(logits, mask, fallback_token=42, **keys(5))
    states = [Status.NOTHING_ALLOWED, Status.INVALID, Status.INVALID, Status.NOTHING_ALLOWED, 0]
    assert out.status.tolist() == states
    assert out.token[:4].eq(42).all()
    assert out.log_z[:4].eq(-math.inf).all()
    assert out.logp[:4].eq(-math.inf).all()
    assert (out.status.dtype, out.token.dtype) == (torch.int32, torch.int64)
    assert thrifty.masked_sample(logits, mask, **keys(5)).token[0] == -1
    with pytest.raises(ValueError, match=r"^masked_sample: status: expected OK .*INVALID"):
        thrifty.masked_sample(logits, mask, strict=True, **keys(5))
    thrifty.masked_sample(logits[4:], mask[4:], strict=True, **keys(1))


def test_nan_is_seen_wherever_it_stands() -> None:
    for vocab in (1, 5, 33, 1024, 2500):
        for place in {0, vocab // 2, vocab - 1}:
            for bad in (math.nan, -math.nan, math.inf):
                for scale in (1.0, math.inf):
                    logits = torch.randn(1, vocab)
                    logits[0, place] = bad
                    out = thrifty.masked_sample(logits, inv_temperature=scale, **keys(1))
                    assert int(out.status) == Status.INVALID, (vocab, place, bad, scale)


def test_all_allowed_weighs_nothing() -> None:
    logits = torch.randn(64, 3333) * 5
    mask = torch.full((64, 105), -1, dtype=torch.int32)
    assert thrifty.masked_sample(logits, mask, **keys(64)).log_z.eq(0).all()
    assert thrifty.masked_sample(logits, **keys(64)).log_z.eq(0).all()


def test_minus_infinity_is_never_drawn() -> None:
    logits = torch.full((4000, 40), -math.inf)
    logits[:, 7] = -80.0
    logits[:, 35] = -80.0
    for scale in (1.0, 0.0, 1e-30, 1e3):
        out = thrifty.masked_sample(logits, inv_temperature=scale, **keys(4000))
        assert set(out.token.tolist()) == {7, 35}
        torch.testing.assert_close(out.logp, torch.full((4000,), -math.log(2)))


def test_one_token_with_mass() -> None:
    logits = torch.full((1, 2100), -math.inf)
    logits[0, 2050] = -3.0
    out = thrifty.masked_sample(logits, **keys(1))
    assert (int(out.token), float(out.log_z), int(out.status)) == (2050, 0.0, 0)
    assert abs(float(out.logp)) < 1e-6


def test_empty_batches_and_vocabularies() -> None:
    for rows, vocab in ((0, 50), (0, 0), (3, 0)):
        out = thrifty.masked_sample(torch.zeros(rows, vocab), **keys(rows))
        assert [len(part) for part in out] == [rows] * 4
        assert out.status.eq(Status.NOTHING_ALLOWED).all()
    mask = torch.zeros(3, 0, dtype=torch.int32)  # covers nothing
    out = thrifty.masked_sample(torch.zeros(3, 50), mask, **keys(3))
    assert out.status.eq(Status.NOTHING_ALLOWED).all()


def test_greedy_is_the_first_of_the_largest() -> None:
    logits = torch.randn(3, 5000)
    logits[:, [17, 18, 4321]] = 9.0
    allowed = torch.ones(3, 5000, dtype=torch.bool)
    allowed[1, 17] = False
    allowed[2, [17, 18]] = False
    mask = thrifty.pack_token_bitmask(allowed)
    out = thrifty.masked_sample(logits, mask, inv_temperature=math.inf, top_p=0.5, **keys(3))
    assert out.token.tolist() == [17, 18, 4321]
    assert out.logp.eq(0).all()
    assert out.log_z.eq(0).all()


def test_wrong_arguments() -> None:
    logits, mask = torch.zeros(2, 40), torch.zeros(2, 2, dtype=torch.int32)
    refuse: Callable[..., None] = lambda name, *args, **options: assert_rejects(
        name, thrifty.masked_sample, *args, **{**keys(2), **options}
    )
    refuse("logits", logits.double())
    refuse("logits", logits[0])
    refuse("logits", logits.clone().requires_grad_())
    refuse("bitmask", logits, mask.long())
    refuse("bitmask", logits, mask[:1])
    refuse("bitmask", logits, torch.zeros(2, 3, dtype=torch.int32))
    refuse("mask_rows", logits, mask_rows=torch.zeros(2, dtype=torch.int32))
    for bad in (-2, 2):
        rows = torch.tensor([0, bad], dtype=torch.int32)
        refuse("mask_rows", logits, mask, mask_rows=rows)
    for name, values in {
        "inv_temperature": (-1.0, math.nan),
        "top_k": (-1,),
        "top_p": (-0.1, 1.1, math.nan),
        "min_p": (-0.1, 1.1),
        "top_n_sigma": (-1.0,),
        "top_h": (-0.1, 1.5),
    }.items():
        for value in values:
            refuse(name, logits, **{name: value})
            dtype = torch.int64 if name == "top_k" else torch.float32
            refuse(name, logits, **{name: torch.tensor([value, value], dtype=dtype)})
        refuse(name, logits, **{name: torch.ones(3)})
    refuse("top_h_variant", logits, top_h=0.5, top_h_variant="paper")
    refuse("seeds", logits, seeds=torch.zeros(3, dtype=torch.int64))
    refuse("seeds", logits, seeds=torch.zeros(2))
    refuse("offsets", logits, offsets=torch.zeros(2, dtype=torch.int32))


# ---- faces


def test_compiles_once_for_all_sizes() -> None:
    def function(logits: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        return thrifty.masked_sample(
            logits, mask, top_k=50, inv_temperature=0.7, seeds=seeds, offsets=seeds
        ).token

    calls = []
    for rows, vocab in ((3, 64), (5, 640), (7, 96)):
        mask = torch.full((rows, vocab // 32), -1, dtype=torch.int32)
        calls.append((torch.randn(rows, vocab), mask, torch.arange(rows)))
    assert_one_graph(function, calls)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_has_the_same_bits(dtype: torch.dtype) -> None:
    import ml_dtypes

    for options in ({}, {"top_p": 0.7, "min_p": 0.01, "inv_temperature": 0.8}, {"top_k": 9}):
        call = everything(**options)
        call["logits"] = call["logits"].to(dtype)
        expected = thrifty.masked_sample(**call)
        arrays = {k: v.numpy() for k, v in call.items() if isinstance(v, Tensor) and k != "logits"}
        logits = call["logits"]
        array = (
            logits.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            if dtype == torch.bfloat16
            else logits.numpy()
        )
        for count in (1, 2):
            with threads(count):
                thrifty.numpy.set_num_threads(count)
                got = thrifty.numpy.masked_sample(array, **arrays, **options)
            for part, whole in zip(got, expected, strict=True):
                assert np.array_equal(part, whole.numpy())
        masked = array.copy()
        thrifty.numpy.apply_token_bitmask_(masked, arrays["bitmask"])
        expected_mask = thrifty.apply_token_bitmask_(logits.clone(), call["bitmask"])
        assert np.array_equal(masked.astype(np.float32), expected_mask.float().numpy())
        theta = thrifty.numpy.filter_threshold(array, top_p=0.9)
        for part, whole in zip(theta, thrifty.filter_threshold(logits, top_p=0.9), strict=True):
            assert np.array_equal(part, whole.numpy())


def test_numpy_refuses() -> None:
    logits = np.zeros((2, 40), np.float32)
    logits.flags.writeable = False
    mask = np.zeros((2, 2), np.int32)
    with pytest.raises(ValueError, match=r"^apply_token_bitmask_: logits: expected a writable"):
        thrifty.numpy.apply_token_bitmask_(logits, mask)
    with pytest.raises(ValueError, match=r"^apply_token_bitmask_: logits: expected shape"):
        thrifty.numpy.apply_token_bitmask_(np.zeros((40, 2), np.float32).T, mask)


def test_filters_change_what_can_be_drawn_and_nothing_else() -> None:
    """Every token that passes is drawn in proportion, none that fails."""
    logits = torch.randn(1, 300) * 1.5
    theta, log_mass = thrifty.filter_threshold(logits, top_p=0.8)
    kept = logits >= theta[:, None]
    call = rows_of(logits, 50_000)
    out = thrifty.masked_sample(top_p=0.8, **call)
    p = logits.double().masked_fill(~kept, -math.inf).softmax(-1)[0]
    assert_law(out.token, p)
    torch.testing.assert_close(out.log_z[:1], log_mass)
    again = thrifty.masked_sample(threshold=theta, **call)
    assert torch.equal(out.token, again.token)


def test_filtered_model_under_a_mask() -> None:
    """The threshold of the whole model, handed to a masked draw: log p_F(A) = log_z - log_mass."""
    logits = torch.randn(4, 500) * 2
    allowed = torch.rand(4, 500) < 0.5
    mask = thrifty.pack_token_bitmask(allowed)
    theta, log_f = thrifty.filter_threshold(logits, top_k=40)
    out = thrifty.masked_sample(logits, mask, threshold=theta, **keys(4))
    filtered = logits.double().masked_fill(logits < theta[:, None], -math.inf).softmax(-1)
    exact = (filtered * unpack_token_bitmask(mask, 500)).sum(-1).log()
    torch.testing.assert_close((out.log_z - log_f).double(), exact, rtol=1e-5, atol=1e-5)
