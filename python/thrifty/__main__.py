"""`thrifty info`, `thrifty selfcheck`, `thrifty bench`; also as `python -m thrifty`."""

import argparse
import subprocess
import sys
from pathlib import Path

from thrifty.info import info


def bench(arguments: list[str]) -> int:
    """The benchmarks are in the source tree: those of the one that this package is used from."""
    tree = Path(__file__).resolve().parents[2]
    if not (tree / "bench" / "__main__.py").exists():
        print(
            "thrifty bench: the benchmarks are not in the wheel; in a clone of thrifty, "
            "run `make bench`",
            file=sys.stderr,
        )
        return 2
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=tree).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="thrifty")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print what this build is and uses")
    check = commands.add_parser(
        "selfcheck", help="compare every op with its definition; exit code 1 when one misses"
    )
    check.add_argument("--family", action="append", help="only this family, may be repeated")
    check.add_argument("--device", action="append", help="only this device, may be repeated")
    commands.add_parser("bench", help="the benchmarks of a clone, with their own arguments")
    arguments, rest = parser.parse_known_args()
    if arguments.command == "bench":
        return bench(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "info":
        for key, value in info().items():
            print(f"{key:<14} {value}")
        return 0

    from thrifty.selfcheck import selfcheck

    return selfcheck(arguments.family, arguments.device)


if __name__ == "__main__":
    raise SystemExit(main())
