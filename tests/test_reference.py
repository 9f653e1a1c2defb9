"""The references themselves: known answers of Philox, and what counts as an error."""

import math

import numpy as np
import pytest
import torch

from thrifty.reference.cases import FLOATS, Make, all_cases, relative_error, tensors
from thrifty.reference.philox import philox

# Known answers of the authors' Random123 library (kat_vectors, philox4x32 with 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_philox_known_answers(counter: tuple, key: int, words: tuple) -> None:
    assert tuple(philox(key, np.array(counter, np.uint32))) == words
    many = philox(key, np.array([counter] * 3, np.uint32))
    assert (many == np.array(words, np.uint32)).all()


def test_error_is_relative_with_a_floor() -> None:
    expected = torch.tensor([100.0, 1e-9, -100.0])
    rms = expected.square().mean().sqrt().item()
    assert relative_error(expected, expected) == 0
    for wrong, error in (
        (torch.tensor([1.0, 0, 0]), 1 / 100),
        (torch.tensor([0, 1.0, 0]), 1 / rms),
    ):
        assert relative_error(expected + wrong, expected) == pytest.approx(error)


def test_nan_and_infinity_agree_with_themselves_alone() -> None:
    expected = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])
    assert relative_error(expected.clone(), expected) == 0
    for i in range(4):
        for wrong in (0.0, torch.nan, torch.inf, -torch.inf):
            got = expected.clone()
            got[i] = wrong
            same = torch.equal(got.nan_to_num(7), expected.nan_to_num(7))
            assert same or relative_error(got, expected) in (1.0, math.inf)


def test_wrong_shape_is_an_infinite_error() -> None:
    assert relative_error(torch.ones(3, 1), torch.ones(3)) == math.inf


def test_numbers_are_the_same_in_every_dtype() -> None:
    expected = Make("cpu", torch.float64)
    values, lattice = expected.normal(50), expected.lattice(50, step=0.5)
    assert 0 not in lattice
    for dtype in FLOATS:
        make = Make("cpu", dtype)
        torch.testing.assert_close(make.normal(50), values.to(dtype), rtol=0, atol=0)
        torch.testing.assert_close(make.lattice(50, step=0.5).double(), lattice, rtol=0, atol=0)


def test_case_names_are_unique_and_cases_repeat() -> None:
    names = [str(case) for case in all_cases()]
    assert len(set(names)) == len(names)
    for case in all_cases():
        first, second = (case.call("cpu", case.dtypes[0]) for _ in range(2))
        assert first.keys() == second.keys()
        for one, other in zip(tensors(first), tensors(second), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
