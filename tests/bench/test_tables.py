"""The figures of README and docs, from runs with known numbers."""

import json

import pytest

from bench import tables, words

TRAIN, DRAW = "tabm_train/B=256/bf16", "masked_sample/B=1,V=8/fp32"
PAGE = "above\n<!-- table: {} -->\nold\n<!-- end of table -->\nbelow\n"


def row(impl, seconds, **facts):
    return {
        "impl": impl, "median": seconds, "figures": {}, "error": 1e-6, "roof_fraction": 0.5,
        **facts,
    }  # fmt: skip


def case(name, *rows, **dims):
    op, _, dtype = name.split("/")
    return {
        "family": "any", "name": name, "op": op, "dims": dims, "dtype": dtype, "flops": 1.0,
        "bytes": 1.0, "baseline": "eager", "rows": list(rows),
    }  # fmt: skip


def run(*cases, machine="here", gpu=None, date="2026-01-31T00:00:00", sha="0123456789abcdef"):
    cpu = {"model": "A processor", "threads": 2, "isa_thrifty": "avx2"}
    return {
        "machine": {"id": machine, "cpu": cpu, "gpu": gpu},
        "versions": {"torch": "2.13.0"},
        "date": date,
        "source": {"sha": sha},
        "cases": list(cases),
    }


@pytest.fixture
def rewrite(tmp_path):
    """What a page with one table becomes, of runs that lie in results/."""

    def rewrite(table, **files):
        (tmp_path / "results").mkdir(exist_ok=True)
        for name, content in files.items():
            (tmp_path / "results" / f"{name}.json").write_text(json.dumps(content))
        page = tmp_path / "page.md"
        page.write_text(PAGE.format(table))
        return tables.rewritten(page, tables.machines(tmp_path / "results"))

    return rewrite


def test_a_line_of_the_fastest_peer(rewrite):
    slow, fast = row("eager", 5e-3), row("compile", 3e-3)
    text = rewrite("ensemble", a=run(case(TRAIN, row("thrifty", 2e-3), slow, fast, B=256)))
    line = next(line for line in text.splitlines() if line.startswith("| TabM"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "TabM, forward and backward, batch 256", "bf16", "`tabm`, torch.compile",
        "2.00 ms", "3.00 ms", "1.50x", "1e-06", "50%",
    ]  # fmt: skip
    assert "A processor, 2 threads, avx2; torch 2.13.0." in text
    assert "[2026-01-31, 0123456](results/a.json)" in text


def test_nothing_else_changes_and_a_second_time_is_the_same(rewrite, tmp_path):
    once = rewrite("ensemble", a=run(case(TRAIN, row("thrifty", 2e-3), B=256)))
    assert once.startswith("above\n<!-- table: ensemble -->\nA processor")
    assert once.endswith("\n<!-- end of table -->\nbelow\n")
    assert "old" not in once
    page = tmp_path / "page.md"
    page.write_text(once)
    assert tables.rewritten(page, tables.machines(tmp_path / "results")) == once


def test_the_newest_run_of_a_case_counts(rewrite):
    def one(seconds, date):
        return run(case(DRAW, row("thrifty", seconds), B=1, V=8), date=date)

    text = rewrite("sampling", b=one(1e-3, "2026-02-01"), a=one(4e-3, "2026-03-01"))
    assert "4.00 ms" in text
    assert "1.00 ms" not in text
    assert "results/b.json" not in text


def test_a_table_for_each_machine(rewrite):
    cpu = run(case(DRAW, row("thrifty", 4e-3), B=1, V=8))
    gpu = run(case(DRAW, row("thrifty", 1e-5), B=1, V=8), machine="there", gpu={"name": "A GPU"})
    text = rewrite("sampling", cpu=cpu, gpu=gpu)
    assert text.index("A GPU; A processor") < text.index("10.0 us") < text.index("4.00 ms")


def test_an_approximation_has_its_own_error_and_no_roof(rewrite):
    name = "hyper_attention_fwd/N=65536,H=1,causal=1/bf16"
    ours = row("means", 1.0, figures={"error": 0.02}, error=None, roof_fraction=3.0)
    dims = {"N": 65536, "H": 1, "causal": 1}
    text = rewrite("headlines", a=run(case(name, ours, row("exact", 9.0), **dims)))
    assert "| 1.00 s | 9.00 s | 9.00x | 2e-02 | - |" in text


def test_a_family_without_a_run_says_so(rewrite):
    assert "No run" in rewrite("moe", a=run(case(DRAW, row("thrifty", 1.0), B=1, V=8)))


def test_an_unknown_table_is_an_error(rewrite):
    with pytest.raises(SystemExit, match="expected one of headlines"):
        rewrite("nonsense", a=run())


def test_words_name_implementations_and_dims():
    """Of every case of every family, on both devices."""
    import importlib

    import torch

    from bench import FAMILIES

    ops = set()
    for device in ("cpu", "cuda"):
        for family in FAMILIES:
            for one in importlib.import_module(f"bench.{family}").cases(torch.device(device)):
                said = words.WORDS.get(one.op)
                ops.add(one.op)
                if said is not None:
                    assert said.ours in one.impls
                    said.text.format(**one.dims)
    assert words.WORDS.keys() <= ops
