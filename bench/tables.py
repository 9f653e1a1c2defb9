"""The figures in README and docs, made of the runs under bench/results and of nothing else.

    make readme-table          (python -m bench.tables; --check only looks, for tests)

rewrites what stands between a mark `<!-- table: NAME -->` and the next `<!-- end of table -->`. Of
each machine and case the newest run counts; a table for each machine says which runs those are.
tests/test_docs.py fails when a page is not what this makes of the files.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path

from bench.report import seconds
from bench.summary import HEADS, line, timed
from bench.words import WORDS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
LONG_CONTEXT = RESULTS / "long-context.json"
MARKS = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end of table -->)", re.S)

README = (
    "hyper_attention_fwd/N=65536,H=1,causal=1/bf16",
    "hyper_attention_train/N=16384,H=1,causal=1/fp32",
    "ngram_draft/B=8,nodes=80/fp32",
    "row_stats/N=8,V=151936/fp32",
    "masked_sample/B=1,V=128256/fp32",
    "awrs_step/B=1,V=128256/fp32",
    "moe_mlp/T=512/bf16",
    "moe_mlp_train/T=512/bf16",
    "tabm_infer/B=1/fp32",
    "tabm_infer/B=1024/fp32",
    "tabm_train/B=1024/fp32",
    "tabm_train/B=1024/bf16",
)


@dataclass(frozen=True)
class Measured:
    """A case of a run, and the run's file."""

    case: Mapping
    run: Mapping
    file: Path


Machine = dict[str, Measured]  # by the case's name


def runs(folder: Path) -> list[tuple[Path, dict]]:
    """The runs of bench, oldest first; other files of the folder are not runs."""
    loaded = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return sorted((one for one in loaded if "cases" in one[1]), key=lambda one: one[1]["date"])


def machines(folder: Path) -> list[Machine]:
    """The newest measurement of each case, for each machine; those with a GPU first."""
    found: dict[str, Machine] = defaultdict(dict)
    for file, run in runs(folder):
        for case in run["cases"]:
            if any("median" in row for row in case["rows"]):
                found[run["machine"]["id"]][case["name"]] = Measured(case, run, file)
    return sorted(
        found.values(), key=lambda one: not next(iter(one.values())).run["machine"]["gpu"]
    )


def machine_text(run: Mapping) -> str:
    cpu, gpu = run["machine"]["cpu"], run["machine"]["gpu"]
    host = f"{cpu['model']}, {cpu['threads']} threads, {cpu['isa_thrifty']}"
    return f"{gpu['name']}; {host}" if gpu else host


def caption(used: Iterable[Measured], page: Path) -> str:
    """The machine, and each run's date and commit as a link to all of its samples."""
    files = {one.file: one.run for one in used}
    hosts = sorted(
        {f"{machine_text(run)}; torch {run['versions']['torch']}" for run in files.values()}
    )
    links = [
        f"[{run['date'][:10]}, {(run['source']['sha'] or 'no commit')[:7]}]"
        f"({relpath(file, page.parent)})"
        for file, run in files.items()
    ]
    return f"{'. '.join(hosts)}. Medians; all samples: {', '.join(links)}.\n"


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """The first `left` columns are words."""
    heads = list(heads)
    lines = [heads, ["---"] * left + ["---:"] * (len(heads) - left), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


# ---- the tables


def beside(names: Iterable[str]) -> Callable[[Machine, Path], str]:
    """A line a case: ours, the fastest of what one would use instead, ratio, error, roof."""
    names = tuple(names)

    def table(machine: Machine, page: Path) -> str:
        used = [machine[name] for name in names if name in machine and line(machine[name].case)]
        if not used:
            return ""
        rows = [line(one.case).cells() for one in used]  # type: ignore[union-attr]
        order = [HEADS.index(head) for head in ("what", "dtype", "instead of")]
        order += [i for i in range(len(HEADS)) if i not in order]
        heads, *cells = [[row[i] for i in order] for row in (HEADS, *rows)]
        return f"{caption(used, page)}\n{markdown(heads, cells, left=3)}"

    return table


def attention_times(machine: Machine, page: Path) -> str:
    """Both modes beside exact attention, from 16k tokens on."""
    used, rows = [], []
    for name, one in machine.items():
        case, dims = one.case, one.case["dims"]
        if not re.match(r"hyper_attention_(fwd|train)/", name) or dims["N"] < 16384:
            continue
        times = [timed(case, impl) for impl in ("exact", "paper", "means")]
        if not all(times):
            continue
        exact, *ours = [row["median"] for row in times]  # type: ignore[index]
        kind = "causal" if dims["causal"] else "full"
        step = ", forward and backward" if "train" in case["op"] else ""
        heads = f", {dims['H']} heads" if dims["H"] > 1 else ""
        used.append(one)
        cells = [f"{seconds(time)} ({exact / time:.1f}x)" for time in ours]
        rows.append([f"{kind}, {dims['N']:,}{heads}{step}", case["dtype"], seconds(exact), *cells])
    if not used:
        return ""
    heads = ["tokens of one head", "dtype", "exact", '"paper"', '"means"']
    return (
        f"{caption(used, page)}\n{markdown(heads, rows, left=2)}{attention_memory(machine, page)}"
    )


def attention_memory(machine: Machine, page: Path) -> str:
    parts = []
    used = [one for name, one in machine.items() if name.startswith("hyper_attention_memory/")]
    for one in used:
        bytes_of = {row["impl"]: row["figures"]["bytes_per_token"] for row in one.case["rows"]}
        kind = "causal" if one.case["dims"]["causal"] else "full"
        each = " and ".join(f'{value:.0f} ("{mode}")' for mode, value in bytes_of.items())
        parts.append(f"{kind} {each}")
    if not parts:
        return ""
    tokens = used[0].case["dims"]["N"]
    file = relpath(used[0].file, page.parent)
    return (
        f"\nMemory above inputs and results at {tokens:,} tokens, bytes per token and head: "
        f"{'; '.join(parts)} ([run]({file})).\n"
    )


def attention_errors(machine: Machine, page: Path) -> str:
    """The table of bench.attention_error, from the file that it writes."""
    from bench import attention_error  # which imports thrifty; nothing else here needs a build

    return attention_error.table(json.loads(attention_error.RESULT.read_text())["rows"]) + "\n"


def long_context(machine: Machine, page: Path) -> str:
    """Of examples/long_context_attention.py, from the file that its --json wrote."""
    results = json.loads(LONG_CONTEXT.read_text())["results"]
    by_call = {(row["tokens"], row["method"]): row for row in results}
    methods = ("exact", "paper", "means")
    rows = [
        [f"{tokens:,}"]
        + [f"{by_call[tokens, method]['seconds']:.2f}" for method in methods]
        + [f"{by_call[tokens, method]['perplexity']:.1f}" for method in methods]
        for tokens in sorted({tokens for tokens, _ in by_call})
    ]
    heads = ["tokens", "exact, s", "paper, s", "means, s", "exact, perplexity", "paper", "means"]
    return markdown(heads, rows) + "\n"


def tokens_per_pass(machine: Machine, page: Path) -> str:
    """What the example counts: no times, so that any machine gives the same."""
    found = [one for name, one in machine.items() if name.startswith("speculative_generate/")]
    if not found:
        return ""
    case = found[-1].case
    rows = [
        [words, f"{row['figures']['tokens_per_forward']:.2f}"]
        for impl, words in (
            ("plain", "plain `generate`"),
            ("prompt look-up", "`prompt_lookup_num_tokens=10`"),
            ("chain", "chain of 10, learning from the path"),
            ("path", f"tree of {case['dims']['nodes']}, learning from the path"),
            ("all nodes", f"tree of {case['dims']['nodes']}, learning from all nodes"),
        )
        if (row := timed(case, impl))
    ]
    file = relpath(found[-1].file, page.parent)
    return f"{markdown(['', 'tokens per pass'], rows)}\nFrom [this run]({file}).\n"


def table_bytes(machine: Machine, page: Path) -> str:
    one = machine.get("ngram_update/N=64/fp32")
    row = timed(one.case, "thrifty") if one else None
    if not row:
        return ""
    return f"\nThe table takes {row['figures']['bytes_per_token']:.0f} bytes per token of text.\n"


def joined(*parts: Callable[[Machine, Path], str]) -> Callable[[Machine, Path], str]:
    return lambda machine, page: "".join(part(machine, page) for part in parts)


def family(pattern: str) -> Callable[[Machine, Path], str]:
    """All measured cases whose name matches, in the order of bench.words, then by size."""
    order = list(WORDS)

    def key(one: Measured) -> tuple:
        case = one.case
        place = order.index(case["op"]) if case["op"] in order else len(order)
        return place, case["dtype"], case["flops"], case["bytes"], case["name"]

    def table(machine: Machine, page: Path) -> str:
        chosen = sorted((one for name, one in machine.items() if re.match(pattern, name)), key=key)
        return beside(one.case["name"] for one in chosen)(machine, page)

    return table


TABLES: dict[str, Callable[[Machine, Path], str]] = {
    "headlines": beside(README),
    "attention": attention_times,
    "attention-errors": attention_errors,
    "long-context": long_context,
    "drafting": joined(family(r"(ngram_|row_stats|speculative_step)"), table_bytes),
    "tokens-per-pass": tokens_per_pass,
    "sampling": family(r"(masked_sample|apply_token|awrs|regex|constrained)"),
    "moe": family("moe_"),
    "ensemble": family(r"(tabm|batch_ensemble|ensemble_linear)"),
}
ONE_MACHINE = ("attention-errors", "long-context", "tokens-per-pass")


def block(name: str, page: Path, found: list[Machine]) -> str:
    """What stands between the marks of a page."""
    if name not in TABLES:
        raise SystemExit(f"{page}: table: expected one of {', '.join(TABLES)}, got {name}")
    if name in ONE_MACHINE:
        found = found[-1:]
    texts = [text for machine in found if (text := TABLES[name](machine, page))]
    return "\n".join(texts) or "No run of this family is committed.\n"


def rewritten(page: Path, found: list[Machine]) -> str:
    return MARKS.sub(lambda m: f"{m[1]}{block(m[2], page, found)}{m[4]}", page.read_text())


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if stale")
    options = parser.parse_args(argv)
    found, stale = machines(RESULTS), []
    for page in pages():
        text = rewritten(page, found)
        if text != page.read_text():
            stale.append(page)
            if not options.check:
                page.write_text(text)
    for page in stale:
        verb = "is stale: make readme-table" if options.check else "written"
        print(f"{page.relative_to(ROOT)} {verb}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
