"""apply_token_bitmask_: the contract, and the bits of XGrammar's own kernel."""

import numpy as np
import pytest
import torch

import thrifty
from helpers import LAYOUTS, OpContract, assert_rejects, threads
from thrifty.reference.cases import OpCase, map_tensors, run
from thrifty.reference.sampling import unpack_token_bitmask
from thrifty.reference.sampling_cases import DTYPES


class TestContract(OpContract):
    """As for every op, but that the result is the argument."""

    op = "apply_token_bitmask_"

    def test_result_is_no_alias_and_arguments_stay(self, case: OpCase, device: str) -> None:
        call = case.call(device, torch.float32)
        assert case.function(**call) is call["logits"]

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_change_nothing(self, case: OpCase, layout: str, device: str) -> None:
        dtype = case.dtypes[-1]
        expected = run(case.function, case.call(device, dtype), (), dtype)["out"]
        call = map_tensors(LAYOUTS[layout], case.call(device, dtype))
        before = call["logits"]
        assert case.function(**call) is before
        torch.testing.assert_close(before.contiguous(), expected, rtol=0, atol=0)


def masks(rows: int, vocab: int) -> torch.Tensor:
    words = np.random.default_rng(vocab).integers(-(2**31), 2**31, (rows, (vocab + 31) // 32))
    return torch.from_numpy(words.astype(np.int32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 128_256, 151_936])
def test_every_bit_is_kept_or_minus_infinity(vocab: int, dtype: torch.dtype) -> None:
    logits = torch.randint(0, 65536, (3, vocab)).to(torch.uint16).view(torch.float16)
    logits = logits.view(dtype) if dtype.itemsize == 2 else torch.randn(3, vocab)
    mask = masks(3, vocab)
    allowed = unpack_token_bitmask(mask, vocab)
    expected = logits.clone()
    expected[~allowed] = -torch.inf
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    for count in (1, 2):
        with threads(count):
            got = thrifty.apply_token_bitmask_(logits.clone(), mask)
        assert torch.equal(got.view(bits), expected.view(bits))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [32, 33, 151_936])
def test_bits_of_xgrammar(vocab: int, dtype: torch.dtype) -> None:
    xgrammar = pytest.importorskip("xgrammar")
    logits, mask = torch.randn(4, vocab).to(dtype), masks(4, vocab)
    for indices in (None, [2, 0]):
        expected = logits.clone()
        xgrammar.apply_token_bitmask_inplace(expected, mask, indices=indices)
        rows = None if indices is None else torch.tensor(indices, dtype=torch.int32)
        got = thrifty.apply_token_bitmask_(logits.clone(), mask, rows)
        assert torch.equal(got.float(), expected.float())


def test_one_row() -> None:
    logits = torch.arange(40.0)
    assert thrifty.apply_token_bitmask_(logits, masks(1, 40)[0]) is logits
    assert logits.isinf().any()


def test_pack_is_the_inverse_of_unpack() -> None:
    for vocab in (1, 31, 32, 33, 100):
        allowed = torch.rand(3, vocab) < 0.5
        packed = thrifty.pack_token_bitmask(allowed)
        assert packed.shape == (3, (vocab + 31) // 32)
        assert torch.equal(unpack_token_bitmask(packed, vocab), allowed)


def test_wrong_arguments() -> None:
    logits, mask = torch.zeros(2, 40), masks(2, 40)
    apply = thrifty.apply_token_bitmask_
    rows = torch.zeros(1, dtype=torch.int32)
    assert_rejects("logits", apply, logits.double(), mask)
    assert_rejects("logits", apply, logits.requires_grad_(), mask)
    logits = torch.zeros(2, 40)
    assert_rejects("bitmask", apply, logits, mask.long())
    assert_rejects("bitmask", apply, logits, masks(3, 40))
    assert_rejects("bitmask", apply, logits, masks(2, 65))
    assert_rejects("indices", apply, logits, mask, rows + 2)
    assert_rejects("indices", apply, logits, mask, rows - 1)
    assert_rejects("indices", apply, logits, mask, rows.long())
    assert_rejects("row_map", apply, logits, mask, rows, rows)
    assert_rejects("row_map", apply, logits, mask, None, rows)
    assert_rejects("row_map", apply, logits, mask[:1], None, rows + 2)
    assert_rejects("vocab_size", apply, logits, mask, vocab_size=41)
    assert logits.eq(0).all(), "a refused call changed something"
    assert apply(logits, masks(2, 65), vocab_size=40) is logits
