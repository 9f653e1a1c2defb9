"""The command line: choose families and cases, run them, print, write, compare.

Exit code 0: every row agreed with its reference; 1: a FAIL, a thrifty row that could not run, a
missed bar, or a slower thrifty row than in the base; 2: the command cannot be carried out.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

# glibc returns large freed blocks to the system and faults them in again at the next call, which
# doubles the time of eager elementwise code. Every implementation runs with that switched off,
# the same for all: a baseline that loses to its allocator would flatter us.
TUNED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
QUICK_S = 30.0  # of a quick run's minute; what is late then takes few samples
PATH_OPTIONS = ("--json", "--compare", "--plot")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks of thrifty.", allow_abbrev=False
    )
    add = arguments.add_argument
    add("families", nargs="*", metavar="family", help="default: every family that has cases")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    extent = arguments.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="small cases, under a minute")
    extent.add_argument("--full", action="store_true", help="every case, more samples")
    extent.add_argument("--bars", action="store_true", help="cases with declared bars, judged")
    add("--filter", default="", metavar="REGEX", help="only cases whose name contains a match")
    add("--list", action="store_true", help="print the cases and stop")
    add("--threads", type=int, default=0, help="CPU threads; default: the cores at hand")
    add("--warm", action="store_true", help="GPU: leave L2 warm between samples")
    add("--json", type=Path, metavar="FILE", help="write all samples")
    add("--compare", type=Path, metavar="FILE", help="an earlier --json of this kind of machine")
    add("--threshold", type=float, default=0.10, help="slowdown that fails --compare; default 0.10")
    add("--plot", type=Path, metavar="DIR", help="PNG plots of time against size")
    add("--recalibrate", action="store_true", help="measure the machine's roof again")
    add("--stock-malloc", action="store_true", help="leave glibc's malloc thresholds alone")
    return arguments


def use_tuned_malloc(argv: list[str]) -> None:
    """Starts this program again: glibc reads the thresholds only when a process begins."""
    wanted = "--stock-malloc" not in argv and platform.libc_ver()[0] == "glibc"
    if wanted and any(name not in os.environ for name in TUNED_MALLOC):
        environment = TUNED_MALLOC | dict(os.environ)
        os.execve(sys.executable, [sys.executable, "-m", "bench", *argv], environment)


def without_folders(argv: list[str]) -> list[str]:
    """The command line for the JSON: the folder of a path says where someone keeps files."""
    shown: list[str] = []
    for word in argv:
        option, sign, value = word.partition("=")
        if sign and option in PATH_OPTIONS:
            word = f"{option}={Path(value).name}"
        elif shown and shown[-1] in PATH_OPTIONS:
            word = Path(word).name
        shown.append(word)
    return shown


def fail(message: str) -> int:
    print(f"bench: {message}", file=sys.stderr)
    return 2


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    import torch

    from bench import plot, run
    from bench.compare import Incomparable

    if options.device == "cuda" and not torch.cuda.is_available():
        return fail("--device cuda: expected a CUDA device, torch sees none")
    if options.plot and not plot.available():
        return fail("--plot needs matplotlib: pip install matplotlib")
    try:
        selected = run.select(options)
    except ValueError as error:
        return fail(str(error))
    if options.list:
        run.print_list(selected)
        return 0
    torch.set_num_threads(options.threads or run.machine.cores())
    quick_s = QUICK_S if options.quick else None
    try:
        return run.run(options, selected, without_folders(argv), quick_s)
    except Incomparable as error:
        return fail(f"--compare: {error}")


if __name__ == "__main__":
    use_tuned_malloc(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
