"""A run in a minute: one line per op, its largest case beside the fastest thing to use instead.

Works on the JSON of a run, so that a run prints what README and docs show of a committed one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.report import seconds, three_digits
from bench.words import words


@dataclass(frozen=True)
class Line:
    what: str
    dtype: str
    time: float  # ours; seconds
    instead: str  # the fastest of what a user would run; empty: nothing was timed
    instead_time: float
    error: float | None
    roof: float | None  # share of what memory or arithmetic of the machine allow

    @property
    def ratio(self) -> float:
        return self.instead_time / self.time

    def cells(self) -> tuple[str, ...]:
        faster = (seconds(self.instead_time), f"{three_digits(self.ratio)}x")
        return (
            self.what,
            self.dtype,
            seconds(self.time),
            *(faster if self.instead else ("-", "-")),
            "-" if self.error is None else f"{self.error:.0e}",
            "-" if self.roof is None else f"{100 * self.roof:.0f}%",
            self.instead or "-",
        )


HEADS = ("what", "dtype", "thrifty", "instead", "ratio", "error", "roof", "instead of")


def timed(case: Mapping, impl: str) -> Mapping | None:
    """An implementation's row, when it was timed."""
    return next((row for row in case["rows"] if row["impl"] == impl and "median" in row), None)


def line(case: Mapping) -> Line | None:
    """None when ours was not timed."""
    said = words(case)
    ours = timed(case, said.ours)
    if ours is None:
        return None
    others = {name: timed(case, impl) for impl, name in said.instead.items()}
    times = {name: row["median"] for name, row in others.items() if row is not None}
    best = min(times, key=times.__getitem__, default="")
    approximate = not said.exact
    unsaid = {key: value for key, value in case["dims"].items() if "{" + key not in said.text}
    return Line(
        ", ".join([said.text.format(**case["dims"]), *(f"{k} = {v}" for k, v in unsaid.items())]),
        case["dtype"],
        ours["median"],
        best,
        times.get(best, 0.0),
        ours["figures"].get("error") if approximate else ours["error"],
        None if approximate else ours["roof_fraction"],
    )


def largest(cases: Iterable[Mapping]) -> list[Mapping]:
    """Of each op the case with most operations, then bytes, among those where ours was timed."""
    best: dict[str, Mapping] = {}
    for case in cases:
        if timed(case, words(case).ours) is None:
            continue
        other = best.get(case["op"])
        if other is None or (case["flops"], case["bytes"]) > (other["flops"], other["bytes"]):
            best[case["op"]] = case
    return list(best.values())


def print_summary(run: Mapping) -> None:
    rows = [cells.cells() for case in largest(run["cases"]) if (cells := line(case)) is not None]
    if not rows:
        return
    widths = [max(len(row[i]) for row in (HEADS, *rows)) for i in range(len(HEADS))]
    print("\nsummary: of each op its largest case here, and the fastest thing to run instead")
    for row in (HEADS, *rows):
        texts = (  # words to the left, numbers to the right
            cell.ljust(width) if head in ("what", "dtype", "instead of") else cell.rjust(width)
            for head, cell, width in zip(HEADS, row, widths, strict=True)
        )
        print("  ".join(texts).rstrip())
    print(
        "ratio: time of what stands in the last column over thrifty's. error: of the largest value,"
        "\nof gradients the norm's, against float64. roof: share of what this machine's memory or"
        "\narithmetic allows; 100% cannot be passed, unless data stay in cache.",
        flush=True,
    )
