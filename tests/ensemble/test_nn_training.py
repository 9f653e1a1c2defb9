"""Training on a real table: TabM beats its members and an MLP, and equals the `tabm` package."""

import importlib.util
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

for needed in ("tqdm", "ISLP", "tabm_train"):
    if importlib.util.find_spec(needed) is None:
        reason = f"{needed} is missing: `make test` installs it, examples/ is in the source tree"
        pytest.skip(reason, allow_module_level=True)

import tabm_train  # noqa: E402
from tabm_data import bikeshare  # noqa: E402
from tabm_model import TabMRegressor  # noqa: E402


def train(*arguments: str) -> list[dict]:
    common = ["--dataset", "bikeshare", "--quiet", "--baselines", "mlp"]
    return tabm_train.main([*common, *arguments])["results"]


def test_the_table_is_split_without_overlap_and_leaks_no_target():
    table = bikeshare(0)
    parts = (table.train, table.valid, table.test)
    assert sum(map(len, parts)) == len(np.unique(np.concatenate(parts))) == len(table.y) == 8645
    assert (table.x_cat >= 0).all()
    assert (table.x_cat < torch.tensor(table.cardinalities)).all()
    assert table.x_num.abs().max() < 4
    # casual + registered is the target; each alone would correlate with it at 0.9 and more.
    columns = torch.cat([table.x_num, table.x_cat.float()], 1)
    correlation = torch.corrcoef(torch.cat([table.y[:, None], columns], 1).T)[0, 1:]
    assert correlation.abs().max() < 0.5
    assert not np.array_equal(bikeshare(1).test, table.test)


@pytest.mark.parametrize("arch", ["tabm", "tabm-mini", "tabm-packed"])
def test_an_epoch_ends_where_the_package_s_ends(arch):
    """Same seed, same start, same batches, no dropout: only rounding differs."""
    pytest.importorskip("tabm")
    table = bikeshare(0)

    def rows(part: np.ndarray) -> tuple[torch.Tensor, ...]:
        return table.x_num[part], table.x_cat[part], table.y[part]

    losses = []
    for backend in ("thrifty", "tabm"):
        model = TabMRegressor(
            backend, arch, k=4, n_blocks=2, d_block=32, dropout=0.0, epochs=1, progress=False
        )
        model.fit(*rows(table.train), valid=rows(table.valid), cardinalities=table.cardinalities)
        losses.append(model.history[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] < 1.0  # in units of the target's variance: it has learned


def test_a_short_run_beats_its_mean_member_and_the_mlp(tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--seeds", "1", "--epochs", "40", "--k", "8", "--d-block", "96"]
    figure, numbers = tmp_path / "curves.png", tmp_path / "run.json"
    tabm, mlp = train(*options, "--plot", str(figure), "--json", str(numbers))
    assert tabm["ensemble"] < tabm["mean_member"]
    assert tabm["ensemble"] < mlp["ensemble"] < 60
    assert figure.stat().st_size > 10_000
    assert '"valid_rmse"' in numbers.read_text()


@pytest.mark.slow
def test_over_three_seeds_the_ensemble_beats_the_mlp_and_its_mean_member():
    options = ["--seeds", "3", "--epochs", "60", "--k", "16", "--d-block", "128"]
    results = train(*options)
    tabm = [r for r in results if r["model"] == "thrifty"]
    mlp = [r for r in results if r["model"] == "mlp"]
    assert len(tabm) == len(mlp) == 3
    for one in tabm:
        assert one["ensemble"] < one["mean_member"]
    mean = statistics.mean
    assert mean(r["ensemble"] for r in tabm) < mean(r["ensemble"] for r in mlp)
