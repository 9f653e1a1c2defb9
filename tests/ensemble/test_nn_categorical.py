"""One-hot encoding: values, dtypes, categories out of range."""

import pytest
import torch

from thrifty.nn import TabM
from thrifty.nn.categorical import OneHotEncoding

CARDINALITIES = [3, 1, 4]


def columns(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.cat(
        [torch.randint(c, (*shape, 1), generator=generator) for c in CARDINALITIES], -1
    )


def one_hot(x: torch.Tensor) -> torch.Tensor:
    parts = [torch.nn.functional.one_hot(x[..., i], c) for i, c in enumerate(CARDINALITIES)]
    return torch.cat(parts, -1)


@pytest.mark.parametrize("shape", [(6,), (0,), (2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_are_torch_one_hot_in_the_wanted_dtype(shape, dtype):
    x = columns(*shape)
    out = OneHotEncoding(CARDINALITIES)(x, dtype)
    assert out.dtype == dtype
    assert torch.equal(out.long(), one_hot(x))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_narrow_integers_are_accepted(dtype):
    assert torch.equal(
        OneHotEncoding(CARDINALITIES)(columns(6).to(dtype)).long(), one_hot(columns(6))
    )


@pytest.mark.parametrize("value", [-1, 4, 2**40])
def test_an_unknown_category_is_an_error_that_names_it(value):
    x = columns(6)
    x[3, 2] = value
    with pytest.raises(
        ValueError, match=rf"x: expected categories in \[0, 4\) in column 2, got {value}"
    ):
        OneHotEncoding(CARDINALITIES)(x)


@pytest.mark.parametrize("value", [-1, 3, 2**40])
def test_an_unknown_category_can_be_the_zero_row(value):
    x = columns(6)
    expected = one_hot(x)
    expected[3, :3] = 0
    x[3, 0] = value
    assert torch.equal(OneHotEncoding(CARDINALITIES, "zero")(x).long(), expected)


def test_tabm_passes_the_option_on():
    torch.manual_seed(0)
    make = dict(n_num_features=1, cat_cardinalities=[2], d_out=1, k=3, d_block=8, activation="SiLU")
    x_num, known, unknown = torch.ones(1, 1), torch.tensor([[1]]), torch.tensor([[2]])
    with pytest.raises(ValueError, match="in column 0, got 2"):
        TabM.make(**make)(x_num, unknown)
    model = TabM.make(**make, unknown_category="zero").eval()
    assert not torch.equal(model(x_num, known), model(x_num, unknown))
    with torch.no_grad():
        model.backbone.blocks[0][0].r[:, 2] = 0  # silence category 1: then it is a zero row
    torch.testing.assert_close(model(x_num, known), model(x_num, unknown))


def test_a_compiled_program_asserts():
    x = columns(6)
    compiled = torch.compile(OneHotEncoding(CARDINALITIES), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x).long(), one_hot(x))
    x[0, 0] = 3
    with pytest.raises(RuntimeError, match="category out of range"):
        compiled(x)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: OneHotEncoding([]), "cardinalities: expected positive integers"),
        (lambda: OneHotEncoding([2, 0]), "cardinalities: expected positive integers"),
        (lambda: OneHotEncoding([2], "skip"), "unknown_category: expected one of"),
        (
            lambda: OneHotEncoding([2])(torch.ones(3, 1)),
            "x: expected an integer dtype, got torch.float32",
        ),
        (lambda: OneHotEncoding([2])(torch.ones(3, 2).long()), r"x: expected shape \(\*, 1\)"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
