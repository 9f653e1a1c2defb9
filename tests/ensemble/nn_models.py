"""Models of the `tabm` package and of thrifty.nn with one and the same random state."""

import torch
from torch import Tensor, nn

import thrifty.nn

ARCHS = ("tabm", "tabm-mini", "tabm-packed")
CARDINALITIES = [3, 5]


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw r, s, biases and scalings from N(0, 1): ones and signs would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        scaling = "affine" in name or "adapter" in name or parameter.ndim == 1
        if name.endswith("weight") and not scaling:
            draw /= parameter.shape[-1 if parameter.ndim == 2 else -2] ** 0.5
        parameter.data = draw.to(parameter.dtype)
    return model


def arguments(arch: str, **overrides) -> dict:
    """Arguments of TabM.make for a small model with odd sizes."""
    defaults = {
        "n_num_features": 4,
        "cat_cardinalities": CARDINALITIES,
        "d_out": 2,
        "n_blocks": 3,
        "d_block": 24,
        "k": 5,
        "dropout": 0.0,
        "arch_type": arch,
    }
    return defaults | overrides


def pair(arch: str, dtype: torch.dtype = torch.float64, **overrides) -> tuple[nn.Module, nn.Module]:
    """(model of the package, model of thrifty) with equal parameters."""
    import tabm

    package = randomise_(tabm.TabM.make(**arguments(arch, **overrides))).to(dtype)
    ours = thrifty.nn.TabM.make(**arguments(arch, **overrides)).to(dtype)
    ours.load_state_dict(package.state_dict())
    return package, ours


def batch(
    rows: int = 7, dtype: torch.dtype = torch.float64, members: int | None = None, seed: int = 1
) -> tuple[Tensor, Tensor]:
    """(x_num, x_cat), with one batch per member when `members` is given."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows,) if members is None else (rows, members)
    x_num = torch.randn(*shape, 4, generator=generator, dtype=torch.float64).to(dtype)
    columns = [torch.randint(c, (*shape, 1), generator=generator) for c in CARDINALITIES]
    return x_num, torch.cat(columns, -1)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    difference = (got.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


def gradients(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of the output, by parameter name."""
    model.zero_grad()
    out = model(*inputs)
    direction = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    (out.double() * direction).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}
