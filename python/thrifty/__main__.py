"""`python -m thrifty info` and `python -m thrifty selfcheck`."""

import argparse

from thrifty.info import info


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m thrifty")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print what this build is and uses")
    check = commands.add_parser(
        "selfcheck", help="compare every op with its definition; exit code 1 when one misses"
    )
    check.add_argument("--family", action="append", help="only this family, may be repeated")
    check.add_argument("--device", action="append", help="only this device, may be repeated")
    arguments = parser.parse_args()
    if arguments.command == "info":
        for key, value in info().items():
            print(f"{key:<14} {value}")
        return 0

    from thrifty.selfcheck import selfcheck

    return selfcheck(arguments.family, arguments.device)


if __name__ == "__main__":
    raise SystemExit(main())
