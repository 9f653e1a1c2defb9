"""A scikit-learn-like regressor around TabM, the `tabm` package's TabM, or a plain MLP.

The three differ in the network alone: data, loss (mean over members of each member's squared
error), optimiser (AdamW), gradient clipping, early stopping and seeds are the same.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

BACKENDS = ("thrifty", "tabm", "mlp")


class PlainMLP(nn.Module):
    """One MLP of the same width and depth, with outputs (B, 1, 1) like an ensemble of one."""

    def __init__(self, n_num: int, cardinalities: list[int], options: dict[str, Any]) -> None:
        super().__init__()
        self.cardinalities = cardinalities
        d_in, d = n_num + sum(cardinalities), options["d_block"]
        blocks: list[nn.Module] = []
        for i in range(options["n_blocks"]):
            linear = nn.Linear(d if i else d_in, d)
            blocks += [linear, nn.ReLU(), nn.Dropout(options["dropout"])]
        self.net = nn.Sequential(*blocks, nn.Linear(d, 1))

    def forward(self, x_num: Tensor, x_cat: Tensor) -> Tensor:
        columns = zip(x_cat.unbind(1), self.cardinalities, strict=True)
        hot = [nn.functional.one_hot(column, n).to(x_num) for column, n in columns]
        return self.net(torch.cat([x_num, *hot], 1))[:, None]


@dataclass
class TabMRegressor:
    """fit(x_num, x_cat, y, valid=(...)), then predict(x_num, x_cat).

    `history` has one entry per epoch: train_loss, valid_rmse (ensemble), seconds (training alone).
    """

    backend: str = "thrifty"
    arch_type: str = "tabm"
    k: int = 32
    n_blocks: int = 3
    d_block: int = 512
    dropout: float = 0.1
    embeddings: bool = False  # piecewise-linear, 48 bins, 16 dimensions
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 3e-4
    epochs: int = 100
    patience: int = 16
    autocast: bool = False  # bfloat16
    seed: int = 0
    device: str = "cpu"
    progress: bool = True
    history: list[dict[str, float]] = field(default_factory=list)

    def _make(self, x_num: Tensor, cardinalities: list[int]) -> nn.Module:
        options = {"n_blocks": self.n_blocks, "d_block": self.d_block, "dropout": self.dropout}
        if self.backend == "mlp":
            return PlainMLP(x_num.shape[1], cardinalities, options)
        if self.backend == "thrifty":
            from thrifty.nn import TabM
        elif self.backend == "tabm":
            from tabm import TabM
        else:
            raise ValueError(f"backend: expected one of {BACKENDS}, got {self.backend!r}")
        num_embeddings = None
        if self.embeddings:
            from thrifty.nn import piecewise_linear_embeddings

            num_embeddings = piecewise_linear_embeddings(x_num)
        return TabM.make(
            n_num_features=x_num.shape[1],
            cat_cardinalities=cardinalities,
            d_out=1,
            k=self.k,
            arch_type=self.arch_type,
            num_embeddings=num_embeddings,
            **options,
        )

    def fit(
        self,
        x_num: Tensor,
        x_cat: Tensor,
        y: Tensor,
        *,
        valid: tuple[Tensor, Tensor, Tensor],
        cardinalities: list[int],
    ) -> TabMRegressor:
        """Train until `patience` epochs bring no better ensemble on `valid`, and keep the best."""
        torch.manual_seed(self.seed)
        self.mean, self.std = y.mean().item(), y.std().item()
        self.model = self._make(x_num, cardinalities).to(self.device)
        optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        data = [t.to(self.device) for t in (x_num, x_cat, (y - self.mean) / self.std)]
        best, best_state, waited = float("inf"), {}, 0
        label = f"{self.backend} seed {self.seed}"
        quiet = None if self.progress else True  # None: a bar on terminals alone
        with tqdm(total=self.epochs, desc=label, unit="epoch", disable=quiet) as bar:
            for _ in range(self.epochs):
                start = time.perf_counter()
                loss = self._epoch(optimiser, *data)
                seconds = time.perf_counter() - start
                rmse = _rmse(self.predict(valid[0], valid[1]), valid[2])
                self.history.append({"train_loss": loss, "valid_rmse": rmse, "seconds": seconds})
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", valid=f"{rmse:.3f}", s=f"{seconds:.2f}")
                waited += 1
                if rmse < best:
                    best, best_state, waited = rmse, copy.deepcopy(self.model.state_dict()), 0
                if waited > self.patience:
                    break
        self.model.load_state_dict(best_state)
        return self

    def _epoch(
        self, optimiser: torch.optim.Optimizer, x_num: Tensor, x_cat: Tensor, y: Tensor
    ) -> float:
        self.model.train()
        total = torch.zeros((), device=self.device)
        for rows in torch.randperm(len(y)).to(self.device).split(self.batch_size):
            with self._precision():
                out = self.model(x_num[rows], x_cat[rows])
            # Mean of the members' losses, never the loss of their mean: members learn apart.
            loss = (out.float().squeeze(-1) - y[rows, None]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            total += loss.detach() * len(rows)
        return total.item() / len(y)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.autocast)

    @torch.no_grad()
    def predict_members(self, x_num: Tensor, x_cat: Tensor) -> Tensor:
        """Every member's prediction, (rows, k), in the target's unit."""
        self.model.eval()
        outs = []
        for num, cat in zip(x_num.split(4096), x_cat.split(4096), strict=True):
            with self._precision():
                outs.append(self.model(num.to(self.device), cat.to(self.device)).float().cpu())
        return torch.cat(outs).squeeze(-1) * self.std + self.mean

    def predict(self, x_num: Tensor, x_cat: Tensor) -> Tensor:
        """The ensemble's prediction: the members' mean, (rows,)."""
        return self.predict_members(x_num, x_cat).mean(1)

    def score(self, x_num: Tensor, x_cat: Tensor, y: Tensor) -> dict[str, float]:
        """RMSE of the ensemble, and the mean of its members' own RMSEs."""
        members = self.predict_members(x_num, x_cat)
        singles = [_rmse(member, y) for member in members.unbind(1)]
        return {
            "ensemble": _rmse(members.mean(1), y),
            "mean_member": sum(singles) / len(singles),
            "best_member": min(singles),
        }


def _rmse(prediction: Tensor, y: Tensor) -> float:
    return (prediction - y).double().square().mean().sqrt().item()
