"""No weak symbol may leave an object that was compiled for one instruction set.

Usage: check_weak_symbols.py BUILD_DIR

Inline functions and template instances with external linkage are weak: every object brings its copy
and the linker keeps one. If that were the AVX-512 copy, every machine would run it and older ones
would die of SIGILL."""

import subprocess
import sys
from pathlib import Path


def weak_symbols(objects: list[Path]) -> list[str]:
    """'object: symbol' for each weak (W, V) or unique (u) definition."""
    found = []
    for obj in objects:
        run = subprocess.run(
            ["nm", "--defined-only", "--demangle", obj], capture_output=True, text=True, check=True
        )
        for line in run.stdout.splitlines():
            _, kind, name = line.split(" ", 2)
            if kind in "WVu":
                found.append(f"{obj.name}: {name}")
    return found


def main(build_dir: str) -> int:
    objects = sorted(Path(build_dir).glob("**/thrifty_isa_*.dir/**/*.o"))
    if not objects:
        print(f"weak symbols: no ISA objects below {build_dir}")
        return 1
    found = weak_symbols(objects)
    for symbol in found:
        print(f"weak symbol in {symbol}")
    print(f"weak symbols: {len(found)} in {len(objects)} ISA objects")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
