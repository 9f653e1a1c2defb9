"""examples/moe_transformers.py runs, and its backends agree."""

from pathlib import Path
from typing import Any

import pytest

from helpers import load_example


def example() -> Any:
    return load_example("moe_transformers")


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
