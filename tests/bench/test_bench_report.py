"""Bars, geometric means, the JSON and the plots, from results with known numbers."""

import json
import math

import pytest
import toy

from bench import bars, plot, report, summary
from bench.bars import Bar
from bench.harness import Result, Row
from bench.roofline import Roof
from bench.timing import stats

ROOF = Roof(bandwidth=1e9, peak={"fp32": 1e9})


def timed(impl, seconds, **facts):
    return Row(impl, stats=stats([seconds]), samples=[seconds], **facts)


def result(size=8, thrifty_s=1e-3, eager_s=4e-3, **rows):
    rows = {"thrifty": timed("thrifty", thrifty_s), "eager": timed("eager", eager_s)} | rows
    return Result(toy.case(size=size, impls={name: toy.total for name in rows}), rows)


def test_geometric_mean_of_speedups():
    assert report.geometric_means([result(thrifty_s=1e-3), result(thrifty_s=4e-3)]) == {
        "thrifty": (pytest.approx(2.0), 2)
    }


def test_geometric_mean_counts_timed_pairs_only():
    failed = result(thrifty_s=1e-3)
    failed.rows["thrifty"] = Row("thrifty", "FAIL", "wrong")
    assert report.geometric_means([result(thrifty_s=1e-3), failed])["thrifty"][1] == 1


def test_table_shows_time_error_and_failure(capsys):
    shown = result(other=Row("other", "FAIL", "max error 3.0e-01 is above 1e-05"))
    shown.rows["thrifty"] = timed("thrifty", 1e-3, error=2e-7, figures={"saved_bytes": 3e6})
    shown.rows["peer"] = Row("peer", "skip", "peer is not installed")
    table = report.Table("toy", [shown.case])
    table.add(shown, ROOF)
    table.close(report.geometric_means([shown]))
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if " thrifty " in line)
    # case, impl, median, p20-p80, n, 1 MB and 2 MFLOP in 1 ms, twice the roof, 4x eager, error
    assert line.split()[2:] == [
        *("1.00", "ms", "1.00-1.00", "ms", "1", "1.00", "2.00", "200%", "4.00", "2e-07")
    ]
    assert "FAIL max error 3.0e-01" in text
    assert "skipped: peer in 1 case(s): peer is not installed" in text
    assert "saved_bytes 3.0 MB" in text
    assert "thrifty 4.00x (n=1)" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234e-6, "1.23 us"), (9.996e-4, "1.00 ms"), (0.0456, "45.6 ms"), (2.5, "2.50 s")],
)
def test_times_have_three_digits(value, text):
    assert report.seconds(value) == text


def test_bars_measure_ratios_errors_and_figures():
    measured = result(
        compile=timed("compile", 3e-3, error=2e-3),
        thrifty=timed("thrifty", 1e-3, error=1e-3, figures={"saved_bytes": 2e8}),
    )
    name = measured.case.name
    entries = bars.judge(
        [
            Bar("faster", name, ("eager", "compile"), "thrifty", at_least=3.0),
            Bar("too much to ask", name, "eager", "thrifty", at_least=4.1),
            Bar("near", name, "thrifty", "compile", at_most=0.3),
            Bar("error", name, "thrifty", "compile", at_most=0.5, value="error"),
            Bar("memory", name, "thrifty", at_most=2.1e8, value="saved_bytes"),
            Bar("missing", name, "thrifty", "gemm", at_most=1.3),
            Bar("no case", "another", "thrifty", at_most=1.0),
        ],
        [measured],
    )
    assert [entry["passed"] for entry in entries] == [True, False, False, True, True, False, False]
    assert [entry["measured"] for entry in entries] == [
        *(pytest.approx(value) for value in (3.0, 4.0, 1 / 3, 0.5, 2e8)),
        *(None, None),
    ]


def test_json_holds_every_sample_and_is_strict(tmp_path):
    failed = result(wrong=Row("wrong", "FAIL", "nan", error=math.inf))
    written = report.run_json({"toy": [failed]}, ROOF, schema=report.SCHEMA, device="cpu")
    run = json.loads(json.dumps(written, allow_nan=False))
    assert run["schema"] == 1
    assert run["roof"]["bytes_per_s"] == 1e9
    (case,) = run["cases"]
    assert (case["family"], case["name"], case["dims"]) == ("toy", "toy/n=8/fp32", {"n": 8})
    rows = {row["impl"]: row for row in case["rows"]}
    assert rows["thrifty"]["samples"] == [1e-3]
    assert rows["thrifty"]["x_baseline"] == 4.0
    assert rows["thrifty"]["roof_fraction"] == pytest.approx(2.0)
    assert rows["wrong"]["error"] is None
    assert "median" not in rows["wrong"]
    assert run["geometric_means"]["toy"]["thrifty"] == {"x_baseline": pytest.approx(4.0), "n": 1}


def test_plot_writes_one_png_per_operation(tmp_path):
    pytest.importorskip("matplotlib")
    results = {"toy": [result(size) for size in (8, 64, 512)]}
    paths = plot.plot(report.run_json(results, ROOF), tmp_path / "plots")
    assert [path.name for path in paths] == ["summary.png", "toy_fp32_over_n.png"]
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in paths)


def test_summary_has_the_largest_case_beside_its_baseline(capsys):
    results = {"toy": [result(8, 1e-3, 2e-3), result(64, 2e-3, 5e-3)]}
    run = report.run_json(results, ROOF)
    run["cases"][1]["flops"] += 1
    summary.print_summary(run)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    ours = next(line for line in lines if line[:1] == ["toy,"])
    # what, dtype, thrifty, instead, ratio, error, roof, instead of
    assert ours == [
        *("toy,", "n", "=", "64", "fp32", "2.00", "ms", "5.00", "ms", "2.50x", "-", "100%", "eager")
    ]
    assert sum(line[:1] == ["toy,"] for line in lines) == 1


def test_a_single_size_is_no_curve():
    assert plot.panels(report.run_json({"toy": [result(8)]}, ROOF)) == {}
    (lines,) = plot.panels(report.run_json({"toy": [result(8), result(9)]}, ROOF)).values()
    assert [size for size, _ in lines["thrifty"]] == [8, 9]
