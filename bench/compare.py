"""Two runs side by side: time now over time then, with a noise band, on the same kind of machine.

The band joins both runs' own spread (half of p20-p80 over the median); it never falls under 3 %,
because the spread inside a run does not contain what changes between runs.
"""

import json
import math
from pathlib import Path

SMALLEST_BAND = 0.03


class Incomparable(Exception):
    """The two runs say nothing about each other."""


def spread(row: dict) -> float:
    return (row["p80"] - row["p20"]) / 2 / row["median"]


def timed_rows(run: dict) -> dict[tuple[str, str], dict]:
    return {
        (case["name"], row["impl"]): row
        for case in run["cases"]
        for row in case["rows"]
        if "median" in row
    }


def load(path: Path, new: dict) -> dict:
    """The base run; Incomparable before anything is timed if it does not fit the new one."""
    try:
        base = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Incomparable(f"{path.name}: {error}") from error
    require_same_machine(new, base)
    return base


def require_same_machine(new: dict, base: dict) -> None:
    if not isinstance(base, dict) or base.get("schema") != new["schema"]:
        raise Incomparable(f"expected a bench JSON of schema {new['schema']}")
    for name, pick in (
        ("machine id", lambda run: run["machine"]["id"]),
        ("threads", lambda run: run["machine"]["cpu"]["threads"]),
        ("device", lambda run: run["device"]),
    ):
        if pick(new) != pick(base):
            raise Incomparable(f"{name}: expected {pick(base)} as in the base, got {pick(new)}")


def compare(new: dict, base: dict, threshold: float) -> list[dict]:
    """One entry per row timed in both runs; verdict slower, faster or same.

    Slower (or faster) means past the threshold and past the noise band.
    """
    require_same_machine(new, base)
    before = timed_rows(base)
    entries = []
    for key, row in timed_rows(new).items():
        if key not in before:
            continue
        ratio = row["median"] / before[key]["median"]
        band = max(SMALLEST_BAND, math.hypot(spread(row), spread(before[key])))
        limit = 1.0 + max(threshold, band)
        verdict = "slower" if ratio > limit else "faster" if ratio < 1.0 / limit else "same"
        entries.append(
            {"case": key[0], "impl": key[1], "ratio": ratio, "band": band, "verdict": verdict}
        )
    if not entries:
        raise Incomparable("no case and implementation is timed in both runs")
    return entries


def regressions(entries: list[dict]) -> list[dict]:
    """The rows that fail a comparison: a slower peer is not ours to answer for."""
    return [e for e in entries if e["verdict"] == "slower" and e["impl"].startswith("thrifty")]


def print_comparison(entries: list[dict]) -> None:
    case_width = max(len(entry["case"]) for entry in entries)
    impl_width = max(len(entry["impl"]) for entry in entries)
    print("\ntime now / time in the base")
    for entry in entries:
        print(
            f"{entry['case']:<{case_width}} {entry['impl']:<{impl_width}} "
            f"{entry['ratio']:6.3f} +- {100 * entry['band']:4.1f}%  {entry['verdict']}"
        )
    print(f"{len(regressions(entries))} of thrifty's rows are slower", flush=True)
