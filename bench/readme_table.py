"""The results in README.md, made of files under bench/results/, and of nothing else.

    python -m bench.readme_table bench/results/<name>.json ...

rewrites what stands between the two `results` marks: per file one line that names the machine and
the versions, and one table of the cases in HEADLINES. tests/test_docs.py makes it again and
compares.
"""

import argparse
import json
import re
from pathlib import Path

from bench.report import seconds

BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->"

# Cases that stand for a family in the README, and what their columns are.
HEADLINES = {"ensemble": r"^tabm_(infer|train)/B=(1|32|256|1024)/(fp32|bf16)$"}
LEGENDS = {
    "ensemble": (
        "TabM with k = 32, three blocks of 512 and 100 inputs; train = forward and backward, "
        "dropout 0.1. eager, compile: the `tabm` package; gemm: the matrix products alone."
    )
}


def row_of(case: dict, impl: str) -> dict:
    """An implementation's row; empty when it was not timed."""
    return next((r for r in case["rows"] if r["impl"] == impl and "median" in r), {})


def cell(case: dict, impl: str) -> str:
    """The median, and over the bare time the ratio to thrifty's."""
    row, ours = row_of(case, impl), row_of(case, "thrifty")
    if not row:
        return "-"
    text = seconds(row["median"])
    if impl == "thrifty" or not ours:
        return text
    return f"{text} ({row['median'] / ours['median']:.2f}x)"


def saved(case: dict) -> str:
    """Bytes kept for backward, thrifty's beside eager's."""
    kept = [
        row_of(case, impl).get("figures", {}).get("saved_bytes") for impl in ("thrifty", "eager")
    ]
    return "" if None in kept else " / ".join(f"{value / 1e6:.0f} MB" for value in kept)


def table(cases: list[dict]) -> list[str]:
    impls = list(dict.fromkeys(row["impl"] for case in cases for row in case["rows"]))
    keeps = any(saved(case) for case in cases)
    heads = ["case", *impls, *(["saved for backward, thrifty / eager"] if keeps else [])]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for case in cases:
        cells = [f"`{case['name']}`", *(cell(case, impl) for impl in impls)]
        lines.append(f"| {' | '.join([*cells, saved(case)] if keeps else cells)} |")
    return lines


def section(file: Path, run: dict) -> str:
    cpu, gpu, versions = run["machine"]["cpu"], run["machine"]["gpu"], run["versions"]
    host = gpu["name"] if gpu else f"{cpu['model']}, {cpu['threads']} threads, {cpu['isa_thrifty']}"
    commit = f"commit {run['source']['sha'][:10]}" if run["source"]["sha"] else "no commit"
    facts = [host, f"torch {versions['torch']}", run["date"][:10], commit]
    lines = [f"{'; '.join(facts)} ([all samples]({file.as_posix()})). Medians; in brackets, time"]
    lines += ["over thrifty's in the same run."]
    for family, pattern in HEADLINES.items():
        chosen = [
            case
            for case in run["cases"]
            if case["family"] == family and re.search(pattern, case["name"])
        ]
        if chosen:
            lines += ["", *table(chosen), "", LEGENDS[family]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.readme_table", description=__doc__.splitlines()[0]
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="bench/results/<name>.json")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    text = options.readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        parser.error(f"{options.readme}: expected the marks {BEGIN.strip()} and {END}")
    sections = [section(file, json.loads(file.read_text())) for file in options.files]
    options.readme.write_text(before + BEGIN + "\n".join(sections) + END + after)


if __name__ == "__main__":
    main()
