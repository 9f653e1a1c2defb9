"""awrs_sample: constraints of every kind, exact tokens, unbiased weights, few questions."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

import thrifty
from helpers import assert_rejects
from thrifty._awrs_sample import Walk
from thrifty.constraints import DFAConstraint

LOGITS = torch.randn(1, 400, generator=torch.Generator().manual_seed(2)) * 3
ALLOWED = torch.rand(400, generator=torch.Generator().manual_seed(4)) < 0.3


def keys(rows: int, offset: int = 0) -> dict[str, Tensor]:
    return {"seeds": torch.arange(rows), "offsets": torch.full((rows,), offset)}


def check(row: int, ids: list[int]) -> list[bool]:
    return ALLOWED[ids].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimator": "recursive"},
        {"estimator": "paper"},
        {"estimator": "paper", "lookahead": 3},
        {"extra": 12, "lookahead": 5},
        {"budget": 3},
    ],
)
def test_law_and_weight(options: dict) -> None:
    n = 1500
    p = LOGITS[0].double().softmax(0)
    z = p[ALLOWED].sum().item()
    drawn = thrifty.awrs_sample(LOGITS.expand(n, -1), check, **options, **keys(n))
    weight = drawn.logw.double().exp()
    assert abs(weight.mean().item() - z) < 6 * weight.std().item() / math.sqrt(n)
    found = drawn.status == 0
    assert ALLOWED[drawn.token[found]].all()
    if "budget" in options:
        assert (drawn.status[~found] == 2).all()
        assert (drawn.n_checked <= 3).all()
    else:
        assert found.all()
        top = torch.topk(torch.where(ALLOWED, p, 0), 12).indices
        counts = np.array([(drawn.token == t).sum().item() for t in top])
        expected = n * (p[top] / z).numpy()
        counts = np.append(counts, n - counts.sum())
        expected = np.append(expected, n - expected.sum())
        assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, 12)


def test_questions_are_few() -> None:
    """E n0 + 1 + extra, in order, and nothing is asked twice."""
    n, extra = 1000, 4
    p = LOGITS[0].double().softmax(0)
    z = p[ALLOWED].sum()
    asked: list[list[int]] = [[] for _ in range(n)]

    def spy(row: int, ids: list[int]) -> list[bool]:
        asked[row] += ids
        return check(row, ids)

    drawn = thrifty.awrs_sample(LOGITS.expand(n, -1), spy, extra=extra, **keys(n))
    counts = drawn.n_checked.double()
    expected = (p / (p + z))[~ALLOWED].sum().item() + 1 + extra
    assert abs(counts.mean().item() - expected) < 6 * counts.std().item() / math.sqrt(n)
    for row, ids in enumerate(asked):
        assert len(ids) == len(set(ids)) == drawn.n_checked[row]
        assert drawn.token[row] in ids


def test_goes_on_until_something_is_allowed() -> None:
    """The one allowed token is far down the order: several chunks."""
    logits = torch.linspace(8, 0, 3000)[None].expand(3, -1)
    targets = [2999, 2500, 0]
    drawn = thrifty.awrs_sample(
        logits, lambda row, ids: [i == targets[row] for i in ids], **keys(3)
    )
    assert drawn.token.tolist() == targets
    exact = logits.double().log_softmax(1)[range(3), targets]
    assert drawn.n_checked[0] > 100
    assert drawn.logw[0] <= exact[0] + math.log(3000)
    one = thrifty.awrs_sample(
        logits, lambda row, ids: [i == targets[row] for i in ids], extra=3000, **keys(3)
    )
    torch.testing.assert_close(one.logw.double(), exact, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"estimator": "paper"}, {"budget": 4}, {"lookahead": 3}])
def test_chunks_are_the_stream(options: dict) -> None:
    """The driver by chunks, for devices, and the native one, candidate by candidate, agree."""
    n, k = 40, keys(40)
    native = thrifty.awrs_sample(LOGITS.expand(n, -1), check, **options, **k)
    driver = Walk(
        LOGITS.expand(n, -1), check, options.get("lookahead", 1), options.get("budget"),
        {"inv_temperature": 1.0, **k},
    )  # fmt: skip
    chunks = driver.run(options.get("estimator", "desraj"), 4, -1)
    assert torch.equal(native.token, chunks.token)
    assert torch.equal(native.status, chunks.status)
    assert torch.equal(native.n_checked, chunks.n_checked)
    torch.testing.assert_close(native.logw, chunks.logw, atol=2e-6, rtol=1e-6)


def test_sixteen_bits_are_the_wide_numbers() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        narrow = LOGITS.to(dtype)
        got = thrifty.awrs_sample(narrow, check, **keys(1))
        wide = thrifty.awrs_sample(narrow.float(), check, **keys(1))
        assert all(torch.equal(a, b) for a, b in zip(got, wide, strict=True))


def test_edges() -> None:
    logits = torch.zeros(4, 20)
    logits[1, 2] = math.nan
    logits[2] = -math.inf
    drawn = thrifty.awrs_sample(logits, lambda row, ids: [row != 0] * len(ids), **keys(4))
    assert drawn.status.tolist() == [1, 4, 1, 0]
    assert drawn.token[:3].tolist() == [-1] * 3
    assert (drawn.logw[:3] == -math.inf).all()
    assert abs(drawn.logw[3].item()) < 1e-6  # everything is allowed
    spent = thrifty.awrs_sample(
        logits[3:], lambda row, ids: [False] * len(ids), budget=5, fallback_token=7, **keys(1)
    )
    assert (spent.token.item(), spent.status.item(), spent.n_checked.item()) == (7, 2, 5)
    with pytest.raises(ValueError, match=r"^awrs_sample: status: expected OK .*BUDGET"):
        thrifty.awrs_sample(
            logits[3:], lambda row, ids: [False] * len(ids), budget=5, strict=True, **keys(1)
        )
    empty = thrifty.awrs_sample(logits[:0], check, **keys(0))
    assert [t.shape[0] for t in empty] == [0] * 4


def test_an_exception_goes_through_and_leaves_nothing() -> None:
    class Broken(RuntimeError):
        pass

    expected = thrifty.awrs_sample(LOGITS, check, **keys(1))

    def broken(row: int, ids: list[int]) -> list[bool]:
        raise Broken("no grammar")

    with pytest.raises(Broken, match="no grammar"):
        thrifty.awrs_sample(LOGITS, broken, **keys(1))
    again = thrifty.awrs_sample(LOGITS, check, **keys(1))
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_bitmask_is_exact() -> None:
    mask = thrifty.pack_token_bitmask(ALLOWED[None])
    drawn = thrifty.awrs_sample(LOGITS, mask, **keys(1))
    assert ALLOWED[drawn.token].all()
    exact = LOGITS.log_softmax(1)[0][ALLOWED].logsumexp(0)
    torch.testing.assert_close(drawn.logw[0], exact)
    assert drawn.n_checked.item() == 0
    assert thrifty.awrs_sample(LOGITS, mask, estimator="none", **keys(1)).logw.item() == 0


def test_constraints_per_row_and_masks_agree() -> None:
    """The same texts by checks and by masks: tokens are allowed, weights have the same mean."""
    vocabulary = [bytes([97 + i % 26]) * (1 + i // 26) for i in range(399)] + [b""]
    dfa = thrifty.ByteDFA.from_regex(r"[a-f]{2,9}", vocabulary, eos_ids=399)

    class ByMask(DFAConstraint):
        mask_is_cheaper = True

    n = 400
    results = {}
    for kind in (DFAConstraint, ByMask):
        rows = [kind(dfa) for _ in range(n)]
        results[kind] = thrifty.awrs_sample(LOGITS.expand(n, -1), rows, **keys(n))
        assert all(rows[0].check([t])[0] for t in results[kind].token.tolist())
    by_checks, by_mask = results[DFAConstraint], results[ByMask]
    assert (by_mask.n_checked == 0).all()
    weight = by_checks.logw.double().exp()
    exact = by_mask.logw.double().exp()
    assert (exact == exact[0]).all()
    assert abs(weight.mean() - exact[0]) < 6 * weight.std() / math.sqrt(n)


def test_rows_do_not_depend_on_their_place() -> None:
    logits = LOGITS.expand(5, -1) * torch.tensor([1.0, 0.5, 2, 1, 1])[:, None]
    k = keys(5)
    whole = thrifty.awrs_sample(logits, check, **k)
    order = torch.tensor([4, 2])
    part = thrifty.awrs_sample(
        logits[order], check, seeds=k["seeds"][order], offsets=k["offsets"][order]
    )
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[order], b)
    same = thrifty.awrs_sample(
        logits[[0, 3]], check, seeds=torch.tensor([9, 9]), offsets=torch.zeros(2).long()
    )
    assert same.token[0] == same.token[1]
    assert same.logw[0] == same.logw[1]


def test_wrong_arguments() -> None:
    call = thrifty.awrs_sample
    assert_rejects("lookahead", call, LOGITS, check, lookahead=0, **keys(1))
    assert_rejects("constraint", call, LOGITS, [], **keys(1))
    assert_rejects("constraint", call, LOGITS, lambda row, ids: [], **keys(1))
    assert_rejects("logits", call, LOGITS.clone().requires_grad_(), check, **keys(1))
    for name, value in (("extra", 0), ("budget", 0), ("estimator", "geometric")):
        assert_rejects(name, call, LOGITS, check, **{name: value}, **keys(1))
    assert_rejects("inv_temperature", call, LOGITS, check, inv_temperature=0.0, **keys(1))
    assert_rejects("inv_temperature", call, LOGITS, check, inv_temperature=-1.0, **keys(1))
    assert_rejects("seeds", call, LOGITS, check, **keys(2))


# ---- variance


@pytest.mark.parametrize("name", ["half", "head banned", "two tokens", "peaked", "peak banned"])
def test_four_extras_halve_the_variance(name: str) -> None:
    """Settings of docs/sampling.md, V = 4096."""
    vocab, n = 4096, 600
    rank = torch.arange(vocab, dtype=torch.float64)
    p = (rank + 1.5) ** (-1.1 if name == "half" else -1.3)
    allowed = torch.rand(vocab, generator=torch.Generator().manual_seed(6)) < 0.5
    if name == "head banned":
        allowed[:12] = False
    if name == "two tokens":
        allowed[:] = False
        allowed[[80, 130]] = True
    if name.startswith("peak"):
        p = p / p[1:].sum() * 0.1
        p[0] = 0.9
        allowed[0] = name == "peaked"
    logits = p.log().float().expand(n, vocab)
    drawn = thrifty.sample_candidates(logits, 900 if name == "two tokens" else 200, **keys(n))
    verdicts = torch.where(drawn.ids >= 0, allowed[drawn.ids].to(torch.uint8), 0)
    variance = {}
    for extra in (1, 4):
        found = thrifty.awrs_weights(
            verdicts, drawn.logp, drawn.log_rest, drawn.log_tail, extra=extra
        )
        assert found.need_more.sum() <= n // 100
        weight = found.logw[~found.need_more].double().exp()
        variance[extra] = weight.var().item()
        exact = p[allowed].sum().item() / p.sum().item()
        if not found.need_more.any():
            assert abs(weight.mean().item() - exact) < 6 * weight.std().item() / math.sqrt(n)
    assert variance[4] <= 0.5 * variance[1]
