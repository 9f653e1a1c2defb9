"""trimmed_head: the k most probable of a small vocabulary, and a q that the verifier can use."""

import pytest
import torch

import thrifty
from helpers import assert_rejects
from thrifty import TrimmedHead, trimmed_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 5, 8), (0, 8)])
def test_values(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    hidden, weight = torch.randn(shape, dtype=dtype), torch.randn(40, 8, dtype=dtype)
    bias = torch.randn(40, dtype=dtype)
    index = torch.randperm(40)[:17]
    logits = torch.full((*shape[:-1], 40), -torch.inf, dtype=torch.float64)
    logits[..., index] = (hidden @ weight[index].T + bias[index]).double()
    top = logits.topk(6)
    ids, probs = trimmed_head(hidden, TrimmedHead(weight, index, bias), k=6, temperature=0.7)
    bound = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(
        probs.double(), (top.values / 0.7).softmax(-1), rtol=bound, atol=bound
    )
    assert ids.dtype == torch.int32
    if dtype != torch.bfloat16:  # two of its logits may be equal
        assert torch.equal(ids.long(), top.indices)
    assert (probs.diff(dim=-1) <= 0).all()
    assert torch.isin(ids, index).all()


def test_rows_can_be_gathered_in_the_call() -> None:
    hidden, weight, index = torch.randn(3, 8), torch.randn(40, 8), torch.tensor([5, 1, 30])
    once = TrimmedHead(weight, index)
    for got, expected in zip(
        trimmed_head(hidden, weight, index, k=2), once(hidden, 2), strict=True
    ):
        assert torch.equal(got, expected)
    assert not once.state_dict()


def test_its_q_goes_into_the_verifier() -> None:
    """Drafts from three tokens of seven; what is emitted has the target's law over all seven."""
    batch, vocabulary = 100_000, 7
    weight, hidden = torch.randn(vocabulary, 4), torch.randn(1, 4)
    target = torch.randn(vocabulary)
    ids, probs = trimmed_head(hidden, weight, torch.tensor([6, 2, 3]), k=3)
    chosen = ids[0, torch.multinomial(probs[0], batch, replacement=True)]
    verified = thrifty.verify_chain(
        target.expand(batch, 2, -1).contiguous(), chosen[:, None],
        q=probs.expand(batch, 1, -1).contiguous(), q_ids=ids.expand(batch, 1, -1).contiguous(),
        seed=9, offset=torch.arange(batch),
    )  # fmt: skip
    counts = torch.bincount(verified.tokens[:, 0].long(), minlength=vocabulary).double() / batch
    p = target.double().softmax(0)
    assert ((counts - p).abs() <= 6 * (p * (1 - p) / batch).sqrt()).all()
    assert (verified.lengths == 2).double().mean() > 0.3


def test_errors() -> None:
    hidden, weight, index = torch.randn(3, 8), torch.randn(40, 8), torch.tensor([5, 1, 30])
    assert_rejects("weight", trimmed_head, hidden, weight[0], index, k=2)
    assert_rejects("index", trimmed_head, hidden, weight, k=2)
    assert_rejects("index", trimmed_head, hidden, TrimmedHead(weight, index), index, k=2)
    assert_rejects("index", trimmed_head, hidden, weight, torch.tensor([5, 40]), k=2)
    assert_rejects("index", trimmed_head, hidden, weight, torch.tensor([5, 5]), k=2)
    assert_rejects("index", trimmed_head, hidden, weight, torch.tensor([0.5]), k=1)
    assert_rejects("hidden", trimmed_head, hidden[:, 1:], weight, index, k=2)
    assert_rejects("k", trimmed_head, hidden, weight, index, k=4)
    assert_rejects("temperature", trimmed_head, hidden, weight, index, k=2, temperature=0)
