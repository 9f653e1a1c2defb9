"""The wheel holds the package, its native files and its metadata, and nothing else; one module for
each Python that it says it is for; not above 60 MB.

Usage: check_wheel_files.py WHEEL
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

NATIVE = r"thrifty/(libthrifty_ops_(cpu|cuda)\.so|_native\..*\.so)"
METADATA = r"thrifty-[\w.+]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)"


def main(wheel: str) -> int:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    tracked = subprocess.run(
        ["git", "ls-files", "python/thrifty"], capture_output=True, text=True, check=True
    )
    sources = {name.removeprefix("python/") for name in tracked.stdout.split()}
    native = {name for name in names if re.fullmatch(NATIVE, name)}
    extra = {n for n in names - sources - native if not re.fullmatch(METADATA, n)}
    for name in sorted(sources - names):
        print(f"wheel: {name} is missing")
    for name in sorted(extra):
        print(f"wheel: {name} does not belong there")
    size = Path(wheel).stat().st_size // 1024
    print(f"wheel: {wheel}, {size} KB, {', '.join(sorted(native))}")
    well_named = "-py3-none-manylinux_" in wheel and "+" in wheel
    if not well_named:
        print("wheel: expected a variant and -py3-none-manylinux_ in its name")
    if size > 60 * 1024:
        print("wheel: larger than 60 MB")
    good = well_named and size <= 60 * 1024 and not extra and sources <= names
    return 0 if good and len(native) >= 2 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
