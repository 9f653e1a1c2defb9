"""examples/speculative_generate.py runs, and its tables of n-grams pay."""

from pathlib import Path
from typing import Any

import pytest

from helpers import load_example


def example() -> Any:
    return load_example("speculative_generate")


def test_quick_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = example().main(["--quick", "--json", str(tmp_path / "results.json")])
    rates = [result.tokens_per_forward for result in results]
    assert rates[0] == 1
    assert min(rates[3:]) > 1.4
    assert all(sum(result.tokens) == 2 * 3 * 48 for result in results)
    assert capsys.readouterr().out.count("x ") >= len(results)


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    module = example()
    results = [
        module.Result(name, [8, 8], [8 // rate, 8 // rate], [0.1, 0.1])
        for name, rate in (("plain", 1), ("drafts", 2))
    ]
    options = module.arguments(["--trajectories", "2", "--plot", str(tmp_path / "rates.png")])
    module.plot(results, options)
    assert options.plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_tokens_per_forward() -> None:
    """Temperature 0.6, trees of 80 nodes, one table over 6 texts of each of 4 prompts."""
    results = example().main([])
    by_name = {result.method: result.tokens_per_forward for result in results}
    assert by_name["thrifty, tree of 80, path"] >= 2.0
    assert by_name["thrifty, tree of 80, all nodes"] >= 2.5
