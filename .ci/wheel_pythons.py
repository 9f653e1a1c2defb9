"""Prints yes when this Python may install a wheel, else why not.

Usage: wheel_pythons.py WHEEL
"""

import re
import sys
import zipfile


def allows(required: str, version: tuple[int, int]) -> bool:
    """Of the forms that cmake/pythons.py writes: >=3.10, <3.14, !=3.12.*"""
    for part in required.split(","):
        sign, major, minor = re.fullmatch(r"\s*(>=|<|!=)(\d+)\.(\d+)(?:\.\*)?", part).groups()
        other = (int(major), int(minor))
        if not {">=": version >= other, "<": version < other, "!=": version != other}[sign]:
            return False
    return True


def main(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    required = re.search(r"^Requires-Python: (.*)$", metadata, re.M)[1]
    version = sys.version_info[:2]
    here = ".".join(map(str, version))
    print("yes" if allows(required, version) else f"the wheel is for Python {required}, not {here}")


if __name__ == "__main__":
    main(*sys.argv[1:])
