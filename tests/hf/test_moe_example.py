"""examples/moe_transformers.py runs, and its backends agree."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "moe_transformers.py"
pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="no examples here")


def example() -> Any:
    spec = importlib.util.spec_from_file_location("moe_transformers_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_quick_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    results = example().main(["--quick", "--dtype", "float32", "--json", str(file)])
    assert [result.backend for result in results] == ["eager", "grouped_mm", "thrifty"]
    assert results[0].tokens == results[1].tokens == results[2].tokens
    assert max(result.error for result in results) < 1e-5
    for result in results:
        assert len(result.tokens) == 4
        assert 0 < result.milliseconds("decode_experts") < result.milliseconds("decode")
        assert 0 < result.milliseconds("prefill_experts") < result.milliseconds("prefill")
    assert capsys.readouterr().out.count("x ") >= len(results)
    assert file.exists()


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    module = example()
    results = [
        module.Result(name, [2e-3], [1e-3], [4e-3], [3e-3], [1], 0.0) for name in ("eager", "other")
    ]
    options = module.arguments(["--plot", str(tmp_path / "times.png")])
    module.plot(results, options)
    assert options.plot.read_bytes().startswith(b"\x89PNG")
