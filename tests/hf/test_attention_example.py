"""examples/long_context_attention.py runs, and its figures are those of one model."""

from pathlib import Path
from typing import Any

import pytest

from helpers import load_example


def example() -> Any:
    return load_example("long_context_attention")


def test_quick_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text of one leaf is exact in every mode; of more, perplexities are near exact's."""
    rows = example().main(["--quick", "--threads", "1", "--json", str(tmp_path / "rows.json")])
    by_call = {(row.tokens, row.method): row.perplexity for row in rows}
    assert len(by_call) == 6
    for mode in ("paper", "means"):
        assert by_call[1024, mode] == pytest.approx(by_call[1024, "exact"], rel=1e-3)
        assert by_call[2560, mode] == pytest.approx(by_call[2560, "exact"], rel=0.2)
    assert 10 < by_call[1024, "exact"] < 1000
    assert capsys.readouterr().out.count("x ") >= len(rows)


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    module = example()
    rows = [module.Row(n, m, 1.0, 1.0, 9.0, 9.0) for n in (1, 2) for m in module.METHODS]
    module.plot(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
