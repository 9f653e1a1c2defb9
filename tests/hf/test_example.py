"""examples/speculative_generate.py runs, and its tables of n-grams pay."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "speculative_generate.py"
pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="no examples here")


def example() -> Any:
    spec = importlib.util.spec_from_file_location("speculative_generate_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


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
