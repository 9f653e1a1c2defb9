"""Dropout in the ensemble layers: the mask is Philox's, fair, and the same forward and backward."""

import pytest
import torch
from torch import Tensor

from thrifty import batch_ensemble_linear, ensemble_linear
from thrifty.reference.philox import dropout_mask

ROWS, K, OUT = 500, 4, 500


def mask_of(
    seed: Tensor | None,
    p: float,
    dtype: torch.dtype = torch.float32,
    out: int = OUT,
    rows: int = ROWS,
    device: str = "cpu",
) -> Tensor:
    """The factors that dropout applies: a layer whose y is 1 everywhere."""
    x = torch.zeros(rows, 1, dtype=dtype, device=device)
    weight = torch.zeros(out, 1, dtype=dtype, device=device)
    bias = torch.ones(K, out, dtype=dtype, device=device)
    seed = seed if seed is None else seed.to(device)
    return batch_ensemble_linear(x, weight, bias=bias, dropout=p, seed=seed)


def seed_of(*pair: int) -> Tensor:
    return torch.tensor(pair, dtype=torch.int64)


@pytest.mark.parametrize("out", [1, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("pair", [(0, 0), (1, 2), (-5, 2**40 + 3), (2**63 - 1, -(2**63))], ids=str)
def test_mask_is_philox_of_row_and_column(pair: tuple, out: int, device: str) -> None:
    seed = seed_of(*pair)
    expected = dropout_mask(seed, 0.3, 7 * K, out).view(7, K, out)
    got = mask_of(seed, 0.3, torch.float64, out, 7, device)
    torch.testing.assert_close(got.cpu(), expected)


def test_mask_is_the_same_in_every_dtype_and_layer() -> None:
    seed = seed_of(3, 4)
    expected = mask_of(seed, 0.5) > 0
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(mask_of(seed, 0.5, dtype) > 0, expected)
    x, weight = torch.zeros(ROWS, 1), torch.zeros(K, 1, OUT)
    packed = ensemble_linear(x, weight, torch.ones(K, OUT), dropout=0.5, seed=seed)
    assert torch.equal(packed > 0, expected)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_fraction_is_fair(p: float) -> None:
    """Chi-square of kept and dropped over 10^6 draws, one degree of freedom, alpha 1e-6."""
    kept = mask_of(seed_of(11, 0), p) > 0
    n = kept.numel()
    expected = n * (1 - p)
    chi_square = (kept.sum().item() - expected) ** 2 * (1 / expected + 1 / (n * p))
    assert chi_square < 23.93


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_no_row_member_or_column_is_special(dim: int) -> None:
    """Chi-square over the rows, members or columns; alpha 1e-6 by the normal approximation."""
    p = 0.3
    kept = (mask_of(seed_of(12, 0), p) > 0).double()
    cells = kept.shape[dim]
    n = kept.numel() / cells
    counts = kept.sum([d for d in range(3) if d != dim])
    chi_square = ((counts - n * (1 - p)) ** 2 / (n * p * (1 - p))).sum().item()
    assert abs(chi_square - cells) < 4.9 * (2 * cells) ** 0.5


def test_neighbours_are_independent() -> None:
    """An element and its neighbour in any dimension: both dropped p^2 of the time."""
    p = 0.3
    dropped = mask_of(seed_of(13, 0), p) == 0
    for dim in range(3):
        n = dropped.shape[dim] - 1
        both = dropped.narrow(dim, 0, n) & dropped.narrow(dim, 1, n)
        deviation = (both.double().mean().item() - p**2) / (p**2 * (1 - p**2) / both.numel()) ** 0.5
        assert abs(deviation) < 6  # 4.9 for alpha 1e-6, times the correlation of overlapping pairs


def test_seed_and_offset_each_give_another_mask() -> None:
    masks = [
        mask_of(seed_of(*pair), 0.5) for pair in ((0, 0), (1, 0), (0, 1), (2**32, 0), (0, 2**32))
    ]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert 0.49 < (one == other).double().mean() < 0.51


def test_kept_elements_grow_and_p_0_is_exact() -> None:
    mask = mask_of(seed_of(0, 0), 0.75)
    assert set(mask.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(mask_of(None, 0.0), torch.ones(ROWS, K, OUT))


def test_drawn_seed_follows_torch_manual_seed(device: str) -> None:
    torch.manual_seed(5)
    first, second = mask_of(None, 0.5, device=device), mask_of(None, 0.5, device=device)
    torch.manual_seed(5)
    assert torch.equal(mask_of(None, 0.5, device=device), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_backward_has_the_mask_of_forward(dtype: torch.dtype, device: str) -> None:
    """With y = bias and one row, the gradient of bias is the mask itself."""
    bias = torch.ones(1, 300, dtype=dtype, device=device, requires_grad=True)
    x, weight = torch.zeros_like(bias[:, :1]), torch.zeros_like(bias.T)
    out = batch_ensemble_linear(x, weight, bias=bias, activation="relu", dropout=0.4)
    (grad,) = torch.autograd.grad(out.sum(), bias)
    assert 0 < (out == 0).sum() < 300
    torch.testing.assert_close(grad, out[0].detach(), rtol=0, atol=0)
