"""Train TabM on a real table and compare it with its own members, an MLP and boosted trees.

    python examples/tabm_train.py --quick
    python examples/tabm_train.py --dataset bikeshare --seeds 3 --plot bikeshare.png
    python examples/tabm_train.py --dataset flights --backend thrifty tabm --epochs 3

Prints the test error of each model and the time of an epoch; `--backend thrifty tabm` runs the
same training twice, on thrifty's modules and on the `tabm` package. See tabm_data.py for the
tables and tabm_model.py for the training.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabm_data import TABLES, Table
from tabm_model import TabMRegressor

QUICK = {"dataset": "bikeshare", "seeds": 1, "epochs": 30, "k": 8, "d_block": 96, "patience": 12}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=sorted(TABLES), default="bikeshare")
    parser.add_argument("--backend", nargs="+", choices=("thrifty", "tabm"), default=["thrifty"])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, of the split too")
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    parser.add_argument("--patience", type=int, default=16)
    parser.add_argument("--arch", default="tabm", choices=("tabm", "tabm-mini", "tabm-packed"))
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--n-blocks", type=int, default=3)
    parser.add_argument("--d-block", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, help="default: 256, or 1024 above 100,000 rows")
    parser.add_argument("--embeddings", action="store_true", help="piecewise-linear embeddings")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 in the networks")
    parser.add_argument(
        "--baselines", nargs="*", choices=("mlp", "boosting"), default=["mlp", "boosting"]
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; default: all")
    parser.add_argument("--quick", action="store_true", help="seconds: for a first look and for CI")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--plot", type=Path, help="write a figure here (PNG)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(argv)
    if options.quick:
        vars(options).update(QUICK)
    return options


def regressor(backend: str, options: argparse.Namespace, rows: int, seed: int) -> TabMRegressor:
    """The model of one run."""
    return TabMRegressor(
        backend=backend,
        arch_type=options.arch,
        k=options.k,
        n_blocks=options.n_blocks,
        d_block=options.d_block,
        dropout=options.dropout,
        embeddings=options.embeddings,
        batch_size=options.batch_size or (256 if rows < 100_000 else 1024),
        lr=options.lr,
        epochs=options.epochs,
        patience=options.patience,
        autocast=options.autocast,
        seed=seed,
        device=options.device,
        progress=not options.quiet,
    )


def run_network(
    table: Table, backend: str, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train one network and score it on the test rows."""

    def rows(part: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index = torch.from_numpy(part)
        return table.x_num[index], table.x_cat[index], table.y[index]

    model = regressor(backend, options, len(table.train), seed)
    start = time.perf_counter()
    model.fit(*rows(table.train), valid=rows(table.valid), cardinalities=table.cardinalities)
    seconds = time.perf_counter() - start
    return {
        "model": backend,
        "seed": seed,
        **model.score(*rows(table.test)),
        "epochs": len(model.history),
        "seconds": seconds,
        "seconds_per_epoch": statistics.median(h["seconds"] for h in model.history),
        "valid_rmse": [h["valid_rmse"] for h in model.history],
    }


def run_boosting(table: Table, seed: int) -> dict[str, Any]:
    """scikit-learn's gradient-boosted trees, with early stopping on the same validation rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    x = torch.cat([table.x_num, table.x_cat.float()], 1).numpy()
    y = table.y.numpy()
    categorical = np.arange(x.shape[1]) >= table.x_num.shape[1]
    start = time.perf_counter()
    model = HistGradientBoostingRegressor(
        learning_rate=0.1,
        max_iter=1000,
        categorical_features=categorical,
        early_stopping=True,
        n_iter_no_change=20,
        random_state=seed,
    )
    model.fit(x[table.train], y[table.train], X_val=x[table.valid], y_val=y[table.valid])
    error = model.predict(x[table.test]) - y[table.test]
    return {
        "model": "boosting",
        "seed": seed,
        "ensemble": float(np.sqrt(np.mean(error**2))),
        "seconds": time.perf_counter() - start,
        "epochs": int(model.n_iter_),
    }


def summary(results: list[dict[str, Any]]) -> list[tuple[str, list[float], float | None]]:
    """(name, test RMSE by seed, median seconds of an epoch) for each model, and TabM's members."""
    lines = []
    for name in dict.fromkeys(r["model"] for r in results):
        runs = [r for r in results if r["model"] == name]
        epoch = [r["seconds_per_epoch"] for r in runs if "seconds_per_epoch" in r]
        is_tabm = name in ("thrifty", "tabm")
        label = f"TabM ({name})" if is_tabm else {"mlp": "MLP"}.get(name, "boosted trees")
        median = statistics.median(epoch) if epoch else None
        lines.append((label, [r["ensemble"] for r in runs], median))
        if is_tabm:
            lines.append((f"  mean member ({name})", [r["mean_member"] for r in runs], None))
    return lines


def report(table: Table, results: list[dict[str, Any]]) -> None:
    """The table of test errors on the terminal."""
    print(f"\n{table.name}: {table.target}, test RMSE [{table.unit or 'log'}]")
    for label, errors, epoch in summary(results):
        spread = f" +- {statistics.stdev(errors):.4f}" if len(errors) > 1 else ""
        timing = "" if epoch is None else f"   {epoch:8.3f} s/epoch"
        print(f"  {label:24s} {statistics.mean(errors):9.4f}{spread}{timing}")


def plot(table: Table, results: list[dict[str, Any]], path: Path) -> None:
    """Left: validation error by epoch. Right: test error of every model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colors = {"thrifty": "C0", "tabm": "C1", "mlp": "C2", "boosting": "C3"}
    for result in results:
        if "valid_rmse" in result:
            label = result["model"] if result["seed"] == 0 else None
            epochs = range(1, result["epochs"] + 1)
            left.plot(epochs, result["valid_rmse"], color=colors[result["model"]], label=label)
    curves = [r["valid_rmse"] for r in results if "valid_rmse" in r]
    left.set_ylim(min(map(min, curves)) * 0.97, max(np.quantile(c, 0.9) for c in curves) * 1.03)
    left.set(xlabel="epoch", ylabel=f"validation RMSE [{table.unit}]", title=table.target)
    left.legend()
    lines = summary(results)[::-1]
    for position, (_, errors, _) in enumerate(lines):
        right.plot(errors, [position] * len(errors), "o", color="0.6")
        right.plot(statistics.mean(errors), position, "k|", markersize=22, markeredgewidth=2)
    right.set_yticks(range(len(lines)), [label.strip() for label, _, _ in lines])
    right.set_ylim(-0.6, len(lines) - 0.4)
    right.grid(axis="x", color="0.9")
    right.set(
        xlabel=f"test RMSE [{table.unit}]; a dot is a seed, the bar their mean", title=table.name
    )
    figure.savefig(path, dpi=130)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run everything that the command line asks for and return the results."""
    options = arguments(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        table = TABLES[options.dataset](seed)
        networks = [*options.backend, *(name for name in options.baselines if name == "mlp")]
        results += [run_network(table, name, options, seed) for name in networks]
        if "boosting" in options.baselines:
            results.append(run_boosting(table, seed))
    report(table, results)
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in vars(options).items()}
    out = {
        "settings": settings,
        "rows": {"train": len(table.train), "valid": len(table.valid), "test": len(table.test)},
        "features": {"numeric": table.x_num.shape[1], "cardinalities": table.cardinalities},
        "machine": {"cpu": platform.processor(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "results": results,
    }
    if options.json:
        options.json.write_text(json.dumps(out, indent=1))
    if options.plot:
        plot(table, results, options.plot)
    return out


if __name__ == "__main__":
    main()
