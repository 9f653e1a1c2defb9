"""thrifty.debug(validate=True): errors that name token, slot and value."""

from collections.abc import Iterator

import pytest
import torch

import thrifty
from thrifty.reference.cases import Make
from thrifty.reference.moe_cases import mapped, mlp


@pytest.fixture
def validating() -> Iterator[None]:
    thrifty.debug(validate=True)
    yield
    thrifty.debug(validate=False)


@pytest.mark.usefixtures("validating")
@pytest.mark.parametrize(
    "name, value, text",
    [
        ("ids", 5, "ids: expected experts from 0 to 4, got 5"),
        ("ids", -1, "ids: expected experts from 0 to 4, got -1"),
        ("weights", torch.nan, "weights: expected numbers, got nan"),
    ],
)
def test_the_first_bad_slot_is_named(name: str, value: float, text: str) -> None:
    call = mlp(Make("cpu", torch.float32))
    thrifty.moe_mlp(**call)
    call[name][2, 1] = value
    call[name][6, 0] = value
    with pytest.raises(ValueError) as error:
        thrifty.moe_mlp(**call)
    assert str(error.value) == f"moe_mlp: {text} (token 2, slot 7)"


@pytest.mark.usefixtures("validating")
def test_nan_logits_are_named() -> None:
    logits = torch.zeros(3, 4)
    thrifty.moe_route(logits, 2)
    logits[1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"logits: expected numbers, got nan \(token 1, expert 3"):
        thrifty.moe_route(logits, 2)


@pytest.mark.usefixtures("validating")
def test_choices_of_nobody_are_none_of_its_business() -> None:
    """Weight 0 marks them; ids before a map may be more than the experts."""
    call = mlp(Make("cpu", torch.float32))
    call["ids"][2, 1], call["weights"][2, 1] = -1, 0
    thrifty.moe_mlp(**call)
    thrifty.moe_mlp(**mapped(Make("cpu", torch.float32)))
    mask = torch.arange(5) < 2
    weights, ids = thrifty.moe_route(torch.randn(9, 5), 3, expert_mask=mask)
    thrifty.moe_mlp(**call | {"ids": ids, "weights": weights})


def test_it_is_off_by_default() -> None:
    call = mlp(Make("cpu", torch.float32))
    call["ids"][2, 1] = 99
    thrifty.moe_mlp(**call)
