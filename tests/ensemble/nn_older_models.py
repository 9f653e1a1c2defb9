"""The interface of TabM's older reference code, and torch-uncertainty's BatchLinear, in few lines.

Class names, attributes and parameter names are what `thrifty.nn.accelerate` knows them by.
"""

import torch
from torch import Tensor, nn


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 2)


class NLinear(nn.Module):
    def __init__(self, n: int, d_in: int, d_out: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = parameter(n, d_in, d_out)
        self.bias = parameter(n, d_out) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        out = torch.einsum("bni,nio->bno", x, self.weight)
        return out if self.bias is None else out + self.bias


class ScaleEnsemble(nn.Module):
    def __init__(self, k: int, d: int) -> None:
        super().__init__()
        self.weight = parameter(k, d)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class LinearEfficientEnsemble(nn.Module):
    def __init__(
        self, d_in: int, d_out: int, k: int, r: bool = True, s: bool = True, bias: str = "members"
    ) -> None:
        super().__init__()
        self.weight = parameter(d_out, d_in)
        self.register_parameter("r", parameter(k, d_in) if r else None)
        self.register_parameter("s", parameter(k, d_out) if s else None)
        shape = {"members": (k, d_out), "shared": (d_out,), "none": None}[bias]
        self.register_parameter("bias", None if shape is None else parameter(*shape))
        self.in_features, self.out_features, self.k = d_in, d_out, k

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 3
        x = x if self.r is None else x * self.r
        x = x @ self.weight.T
        x = x if self.s is None else x * self.s
        return x if self.bias is None else x + self.bias


class OneHotEncoding0d(nn.Module):
    """The index `cardinality` stands for an unknown category: a row of zeros."""

    def __init__(self, cardinalities: list[int]) -> None:
        super().__init__()
        self._cardinalities = cardinalities

    def forward(self, x: Tensor) -> Tensor:
        hot = [
            nn.functional.one_hot(column, c + 1)[..., :-1]
            for column, c in zip(x.unbind(-1), self._cardinalities, strict=True)
        ]
        return torch.cat(hot, -1)


class MLP(nn.Module):
    def __init__(self, make_linear, d_in: int, d: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(make_linear(d if i else d_in, d), nn.ReLU(), nn.Dropout(dropout))
            for i in range(blocks)
        )
        self.output = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Model(nn.Module):
    def __init__(
        self,
        arch_type: str,
        *,
        n_num: int = 4,
        cardinalities: tuple[int, ...] = (3, 5),
        k: int | None = 5,
        d: int = 24,
        d_out: int = 2,
        dropout: float = 0.0,
        share_training_batches: bool = True,
    ) -> None:
        super().__init__()
        d_in = n_num + sum(cardinalities)
        self.num_module = None
        self.cat_module = OneHotEncoding0d(list(cardinalities)) if cardinalities else None
        self.minimal_ensemble_adapter = ScaleEnsemble(k, d_in) if arch_type == "tabm-mini" else None
        make_linear = {
            "plain": nn.Linear,
            "tabm": lambda i, o: LinearEfficientEnsemble(i, o, k),
            "tabm-mini": nn.Linear,
            "tabm-packed": lambda i, o: NLinear(k, i, o),
        }[arch_type]
        self.backbone = MLP(make_linear, d_in, d, 3, dropout)
        self.output = nn.Linear(d, d_out) if k is None else NLinear(k, d, d_out)
        self.arch_type, self.k = arch_type, k
        self.share_training_batches = share_training_batches

    def forward(self, x_num: Tensor, x_cat: Tensor | None = None) -> Tensor:
        x = [x_num]
        if x_cat is not None:
            x.append(self.cat_module(x_cat).float())
        x = torch.column_stack([part.flatten(1, -1) for part in x])
        if self.k is not None:
            if self.share_training_batches or not self.training:
                x = x[:, None].expand(-1, self.k, -1)
            else:
                x = x.reshape(len(x) // self.k, self.k, *x.shape[1:])
            if self.minimal_ensemble_adapter is not None:
                x = self.minimal_ensemble_adapter(x)
        x = self.output(self.backbone(x))
        return x[:, None] if self.k is None else x


class BatchLinear(nn.Module):
    def __init__(self, d_in: int, d_out: int, num_estimators: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = d_in, d_out
        self.num_estimators = num_estimators
        self.linear = nn.Linear(d_in, d_out, bias=False)
        self.r_group = parameter(num_estimators, d_in)
        self.s_group = parameter(num_estimators, d_out)
        self.register_parameter("bias", parameter(num_estimators, d_out) if bias else None)

    def forward(self, inputs: Tensor) -> Tensor:
        each, extra = divmod(inputs.shape[0], self.num_estimators)

        def spread(vectors: Tensor) -> Tensor:
            rows = vectors.repeat_interleave(each, 0)
            return torch.cat([rows, rows[:extra]])

        out = self.linear(inputs * spread(self.r_group)) * spread(self.s_group)
        return out if self.bias is None else out + spread(self.bias)
