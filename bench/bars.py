"""Bars: ratios that a family promises, declared beside its cases and checked by `--bars`.

A bar compares implementations of one case measured in one run, so it holds on any machine of the
kind it was set for. It can also bound the error or a figure (bytes saved for backward).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.harness import Result, Row


@dataclass(frozen=True)
class Bar:
    text: str
    case: str  # Case.name
    of: str | tuple[str, ...]  # several implementations: the best (smallest) of them
    over: str = ""  # the divisor; empty: the value itself is bounded
    at_most: float | None = None
    at_least: float | None = None
    device: str = "cpu"
    value: str = "time"  # "time", "error" or the name of a figure

    def measured(self, results: dict[str, Result]) -> float | None:
        """None when a part of it was not measured."""
        result = results.get(self.case)
        if result is None:
            return None
        names = (self.of,) if isinstance(self.of, str) else self.of
        parts = [self.part(result.rows.get(name)) for name in names]
        divisor = self.part(result.rows.get(self.over)) if self.over else 1.0
        if not divisor or any(part is None for part in parts):
            return None
        return min(parts) / divisor

    def part(self, row: Row | None) -> float | None:
        if row is None or row.status != "ok":
            return None
        if self.value == "time":
            return row.stats.median if row.stats else None
        return row.error if self.value == "error" else row.figures.get(self.value)

    def passed(self, value: float | None) -> bool:
        if value is None:
            return False
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)

    @property
    def limit(self) -> str:
        sign, bound = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        return f"{sign} {bound:.4g}"


def judge(bars: Iterable[Bar], results: Iterable[Result]) -> list[dict]:
    """One entry per bar, as printed and as written to the JSON."""
    by_name = {result.case.name: result for result in results}
    entries = []
    for bar in bars:
        value = bar.measured(by_name)
        entries.append(
            {
                "text": bar.text,
                "case": bar.case,
                "limit": bar.limit,
                "measured": value,
                "passed": bar.passed(value),
            }
        )
    return entries


def print_bars(entries: list[dict]) -> None:
    width = max((len(entry["text"]) for entry in entries), default=0)
    print("\nbars")
    for entry in entries:
        value = entry["measured"]
        shown = "not measured" if value is None else f"{value:.4g}"
        verdict = "pass" if entry["passed"] else "MISS"
        print(f"{verdict}  {entry['text']:<{width}}  {entry['limit']:>10}  measured {shown}")
    print(f"{sum(entry['passed'] for entry in entries)} of {len(entries)} bars met", flush=True)
