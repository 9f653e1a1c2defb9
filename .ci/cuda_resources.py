"""Registers, shared memory and spills of every CUDA kernel, compared with the committed table.

Usage: cuda_resources.py BUILD_DIR [--update] [--table bench/results/cuda_resources.json]

Reads what ptxas reported of each object (kept by cmake/nvcc_report.py). A spill or a serialised
wgmma (C7510) is an error in any case; a kernel that changed, came or went is one until the table is
updated and committed with the change that explains it. Tables of different nvcc versions are not
compared: register allocation differs between them."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

Row = dict[str, str | int]
TABLE = Path("bench/results/cuda_resources.json")


def reports(build_dir: Path) -> list[Path]:
    """The reports of the objects in today's build, not of sources that are gone."""
    commands = json.loads((build_dir / "compile_commands.json").read_text())
    kernels = re.compile(r"thrifty_cuda(_sm90)?\.dir/.*\.cu\.o$")
    outputs = [build_dir / c["output"] for c in commands if kernels.search(c["output"])]
    return [Path(f"{output}.ptxas.txt") for output in outputs]


def nvcc_version(build_dir: Path) -> str:
    (found,) = build_dir.glob("CMakeFiles/*/CMakeCUDACompiler.cmake")
    match = re.search(r'CMAKE_CUDA_COMPILER_VERSION "(.*)"', found.read_text())
    assert match, found
    return match[1]


def demangle(symbols: list[str]) -> dict[str, str]:
    # nvcc names an anonymous namespace after the file and a hash of its path: back to the ABI's
    # name for it.
    plain = [
        re.sub(r"\d+_GLOBAL__N__[0-9a-f]{8}_\d+_\w+?_[0-9a-f]{8}", "12_GLOBAL__N_1", s)
        for s in symbols
    ]
    run = subprocess.run(["c++filt", *plain], capture_output=True, text=True, check=True)
    names = [
        re.sub(r"\(anonymous namespace\)::|^void ", "", name) for name in run.stdout.splitlines()
    ]
    return dict(zip(symbols, names, strict=True))


ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
PROPERTIES = re.compile(r"Function properties for (\S+)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(
    r"Used (?P<registers>\d+) registers|used (?P<barriers>\d+) barriers|(?P<shared>\d+) bytes smem"
)


def parse(report: str) -> tuple[list[Row], list[str]]:
    """(one row per kernel and architecture, what is wrong with them) of one object's report."""
    rows: list[Row] = []
    problems = [line for line in report.splitlines() if "C7510" in line]
    function = arch = ""
    for line in report.splitlines():
        if match := ENTRY.search(line):
            function, arch = match.groups()
            rows.append({"kernel": function, "arch": arch})
        elif match := PROPERTIES.search(line):
            function = match[1]
        elif match := FRAME.search(line):
            stack, stores, loads = map(int, match.groups())
            if stores or loads:
                problems.append(f"{function} spills {stores} + {loads} bytes on {arch}")
            if rows and function == rows[-1]["kernel"]:
                rows[-1] |= {"stack": stack}
        elif "Used " in line:
            used = {"registers": 0, "barriers": 0, "shared": 0}
            for match in USED.finditer(line):
                used[str(match.lastgroup)] = int(match[str(match.lastgroup)])
            rows[-1] |= used
    if incomplete := [row for row in rows if len(row) != 6]:
        problems.append(f"cannot read the report of {incomplete[0]}")
    return rows, problems


def collect(build_dir: Path) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    problems: list[str] = []
    for path in reports(build_dir):
        more, wrong = parse(path.read_text())
        rows += more
        problems += [f"{path.name.removesuffix('.o.ptxas.txt')}: {p}" for p in wrong]
    names = demangle([str(row["kernel"]) for row in rows])
    for row in rows:
        row["kernel"] = names[str(row["kernel"])]
    return sorted(rows, key=lambda row: (str(row["kernel"]), str(row["arch"]))), problems


def drift(old: list[Row], new: list[Row]) -> list[str]:
    before = {(row["kernel"], row["arch"]): row for row in old}
    after = {(row["kernel"], row["arch"]): row for row in new}
    changes = []
    for key in sorted(before.keys() | after.keys(), key=str):
        was, now = before.get(key), after.get(key)
        if was is None or now is None:
            changes.append(f"{key[1]} {key[0]}: {'new' if was is None else 'gone'}")
        elif was != now:
            fields = [f"{f} {was[f]} -> {now[f]}" for f in now if was.get(f) != now[f]]
            changes.append(f"{key[1]} {key[0]}: {', '.join(fields)}")
    return changes


def write(table: Path, version: str, rows: list[Row]) -> None:
    kernels = ",\n".join("  " + json.dumps(row) for row in rows)
    table.write_text(f'{{\n"schema": 1,\n"nvcc": "{version}",\n"kernels": [\n{kernels}\n]\n}}\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build_dir", type=Path)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args()

    version = nvcc_version(args.build_dir)
    rows, problems = collect(args.build_dir)
    if args.update:
        write(args.table, version, rows)
    committed = {"nvcc": version, "kernels": []}
    if args.table.exists():
        committed = json.loads(args.table.read_text())
    if committed["nvcc"] == version:
        problems += drift(committed["kernels"], rows)
    else:
        print(f"CUDA resources: table of nvcc {committed['nvcc']}, not compared with {version}")
    for problem in problems:
        print(f"CUDA resources: {problem}")
    print(f"CUDA resources: {len(rows)} kernels by nvcc {version}, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
