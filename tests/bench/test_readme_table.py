"""The table of the README, from a run with known numbers."""

import json
import sys

import pytest

from bench import readme_table

TRAIN = "tabm_train/B=256/bf16"
README = "above\n<!-- results:begin -->\nold\n<!-- results:end -->\nbelow\n"


def timed(impl, seconds, **figures):
    return {"impl": impl, "median": seconds, "figures": figures}


def run(*cases):
    cpu = {"model": "A processor", "threads": 2, "isa_thrifty": "avx2"}
    return {
        "machine": {"cpu": cpu, "gpu": None},
        "versions": {"torch": "2.13.0"},
        "date": "2026-01-31T00:00:00",
        "source": {"sha": "0123456789abcdef"},
        "cases": [{"family": "ensemble", "name": name, "rows": rows} for name, rows in cases],
    }


@pytest.fixture
def generate(tmp_path, monkeypatch):
    def generate(
        content, readme="above\n<!-- results:begin -->\nold\n<!-- results:end -->\nbelow\n"
    ):
        (tmp_path / "README.md").write_text(readme)
        (tmp_path / "run.json").write_text(json.dumps(content))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["readme_table", "run.json"])
        readme_table.main()
        return (tmp_path / "README.md").read_text()

    return generate


def test_times_ratios_and_memory(generate):
    text = generate(
        run(
            (
                TRAIN,
                [
                    timed("thrifty", 2e-3, saved_bytes=2e6),
                    timed("eager", 5e-3, saved_bytes=7e6),
                    {"impl": "compile", "figures": {}},
                ],
            )
        )
    )
    assert f"| `{TRAIN}` | 2.00 ms | 5.00 ms (2.50x) | - | 2 MB / 7 MB |" in text
    assert "A processor, 2 threads, avx2; torch 2.13.0; 2026-01-31; commit 0123456789" in text
    assert "(run.json)" in text


def test_nothing_else_changes_and_a_second_time_is_the_same(generate):
    rows = [timed("thrifty", 2e-3), timed("eager", 5e-3)]
    once = generate(run((TRAIN, rows)))
    assert once.startswith("above\n<!-- results:begin -->\nA processor")
    assert once.endswith("<!-- results:end -->\nbelow\n")
    assert "old" not in once
    assert "saved for backward" not in once
    assert generate(run((TRAIN, rows)), readme=once) == once


def test_only_headlines(generate):
    text = generate(run(("tabm_infer/B=256,d=960/bf16", [timed("thrifty", 1.0)])))
    assert "tabm_infer" not in text


def test_a_readme_without_the_marks_is_an_error(generate):
    with pytest.raises(SystemExit):
        generate(run(), readme="nothing to fill\n")
