"""What a run prints and writes: one aligned table per family, its geometric mean, and the JSON.

Columns: GB/s and GFLOP/s divide the case's model (not the traffic that happened) by the median;
"x base" is the baseline's median over this one's; the error is that of Case.judge.
"""

import math
import statistics
from collections import defaultdict
from datetime import datetime, timezone

from bench.harness import Case, Result, Row
from bench.roofline import Roof

SCHEMA = 1
HEADER = ("median", "p20-p80", "n", "GB/s", "GFLOP/s", "% roof", "x base", "error")
WIDTHS = (8, 15, 4, 7, 8, 6, 6, 6)


def seconds(value: float) -> str:
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if value * scale < 999.5:
            return f"{three_digits(value * scale)} {unit}"
    return f"{three_digits(value)} s"


def three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def interval(low: float, high: float) -> str:
    """The unit once when both have the same."""
    first, last = seconds(low), seconds(high)
    return f"{first.split()[0] if first.split()[1] == last.split()[1] else first}-{last}"


def figure(name: str, value: float) -> str:
    return f"{name} {value / 1e6:.1f} MB" if name.endswith("bytes") else f"{name} {value:.4g}"


def speedup(result: Result, row: Row) -> float | None:
    """How many times faster than the case's baseline."""
    base = result.median(result.case.baseline)
    return base / row.stats.median if base and row.stats else None


class Table:
    """Prints a family row by row, so that a long run shows what it has so far."""

    def __init__(self, family: str, cases: list[Case]) -> None:
        self.case_width = max(len(case.name) for case in cases)
        self.impl_width = max(len(impl) for case in cases for impl in case.impls)
        self.skipped: dict[tuple[str, str], int] = defaultdict(int)
        print(f"\n{family}: time of one call, x base = the case's baseline over this row")
        self.line("case", "impl", HEADER)

    def line(self, case: str, impl: str, cells: tuple[str, ...]) -> None:
        padded = " ".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))
        print(f"{case:<{self.case_width}} {impl:<{self.impl_width}} {padded}", flush=True)

    def add(self, result: Result, roof: Roof) -> None:
        name = result.case.name
        for row in result.rows.values():
            if row.status == "skip":
                self.skipped[row.impl, row.reason] += 1
                continue
            if row.stats is None:
                print(f"{name:<{self.case_width}} {row.impl:<{self.impl_width}} FAIL {row.reason}")
            else:
                self.line(name, row.impl, self.cells(result, row, roof))
                if row.reason:
                    print(f"{'':<{self.case_width}} {'':<{self.impl_width}} {row.reason}")
            name = ""
        notes = [
            f"{row.impl}: {figure(key, value)}"
            for row in result.rows.values()
            for key, value in row.figures.items()
        ]
        if notes:
            print("  " + "; ".join(notes), flush=True)

    def cells(self, result: Result, row: Row, roof: Roof) -> tuple[str, ...]:
        case, times = result.case, row.stats
        faster = speedup(result, row)
        return (
            seconds(times.median),
            interval(times.p20, times.p80),
            str(times.n),
            three_digits(case.bytes / times.median / 1e9),
            three_digits(case.flops / times.median / 1e9),
            f"{100 * roof.fraction(case, times.median):.0f}%",
            f"{faster:.2f}" if faster else "-",
            "-" if row.error is None else f"{row.error:.0e}",
        )

    def close(self, means: dict[str, tuple[float, int]]) -> None:
        for (impl, reason), count in self.skipped.items():
            print(f"skipped: {impl} in {count} case(s): {reason}")
        text = ", ".join(f"{impl} {mean:.2f}x (n={n})" for impl, (mean, n) in means.items())
        print(f"geometric mean of x base: {text or 'nothing was timed'}", flush=True)


def geometric_means(results: list[Result]) -> dict[str, tuple[float, int]]:
    """Per implementation, over the cases where both it and the baseline were timed."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for row in result.rows.values():
            faster = speedup(result, row)
            if faster and row.impl != result.case.baseline:
                ratios[row.impl].append(faster)
    return {
        impl: (statistics.geometric_mean(values), len(values)) for impl, values in ratios.items()
    }


def row_json(result: Result, row: Row, roof: Roof) -> dict:
    entry = {
        "impl": row.impl,
        "status": row.status,
        "reason": row.reason,
        # JSON has no infinity: an error that is not finite is null beside the status FAIL
        "error": row.error if row.error is None or math.isfinite(row.error) else None,
        "figures": row.figures,
    }
    if row.stats:
        entry |= {
            "median": row.stats.median,
            "p20": row.stats.p20,
            "p80": row.stats.p80,
            "n": row.stats.n,
            "samples": row.samples,
            "roof_fraction": roof.fraction(result.case, row.stats.median),
            "x_baseline": speedup(result, row),
        }
    return entry


def result_json(family: str, result: Result, roof: Roof) -> dict:
    case = result.case
    return {
        "family": family,
        "name": case.name,
        "op": case.op,
        "dims": dict(case.dims),
        "dtype": case.dtype,
        "threads": case.threads,
        "size": case.size,
        "bytes": case.bytes,
        "flops": case.flops,
        "baseline": case.baseline,
        "metric": case.metric,
        "rows": [row_json(result, row, roof) for row in result.rows.values()],
    }


def run_json(results: dict[str, list[Result]], roof: Roof, **facts) -> dict:
    """Times in seconds, sizes in bytes. `facts`: schema, machine, versions and the like."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
        "roof": {"bytes_per_s": roof.bandwidth, "flop_per_s": roof.peak},
        "geometric_means": {
            family: {impl: {"x_baseline": mean, "n": n} for impl, (mean, n) in means.items()}
            for family, means in ((f, geometric_means(r)) for f, r in results.items())
        },
        "cases": [
            result_json(family, result, roof) for family, rs in results.items() for result in rs
        ],
    }
