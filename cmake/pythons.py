"""Which Pythons the pybind11 module is built for, each by the folder of its headers.

The op libraries serve every Python, so one wheel serves as many as there are headers at hand when
it is built. THRIFTY_PYTHONS names folders that hold a Python.h, or is "all" for those that lie
where Debian, manylinux images and pyenv keep them, or "own" for the Python that builds alone. Unset
is "own", too, but the metadata do not say so.

Run by CMake, prints one line a Python: version|suffix|folder.
"""

import glob
import os
import re
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

SUPPORTED = [(3, minor) for minor in range(10, 15)]
PLACES = ["/opt/python/cp3*-cp3*/include/python3.*", "/usr/include/python3.*",
          "/usr/local/include/python3.*", "~/.pyenv/versions/3.*/include/python3.*"]  # fmt: skip


class Headers(NamedTuple):
    version: tuple[int, int]
    folder: Path

    @property
    def suffix(self) -> str:
        """Of the extension module, as this Python looks for it."""
        machine = sysconfig.get_platform().partition("-")[2]
        return f".cpython-{self.version[0]}{self.version[1]}-{machine}-linux-gnu.so"


def read(folder: Path) -> Headers:
    """ValueError where the folder holds no Python's headers."""
    if not (folder / "Python.h").is_file() or not (folder / "patchlevel.h").is_file():
        raise ValueError(f"thrifty: THRIFTY_PYTHONS: expected folders with Python.h, got {folder}")
    text = (folder / "patchlevel.h").read_text()
    pattern = r"#define PY_{}_VERSION\s+(\d+)"
    major, minor = (int(re.search(pattern.format(part), text)[1]) for part in ("MAJOR", "MINOR"))
    return Headers((major, minor), folder)


def own() -> Headers:
    return Headers(sys.version_info[:2], Path(sysconfig.get_path("include")))


def found(wanted: str) -> list[Headers]:
    """The Python that builds and the others, by version; one folder for each."""
    if wanted == "own":
        return [own()]
    if wanted == "all":
        places = [os.path.expanduser(place) for place in PLACES]
        folders = [Path(path) for place in places for path in sorted(glob.glob(place))]
        others = [read(folder) for folder in folders if (folder / "Python.h").is_file()]
    else:
        others = [read(Path(folder)) for folder in wanted.split()]
    by_version = {headers.version: headers for headers in reversed([own(), *others])}
    return [by_version[version] for version in SUPPORTED if version in by_version]


def requires_python(pythons: list[Headers]) -> str:
    """Exactly these: ">=3.10,!=3.12.*,<3.14"."""
    versions = [headers.version for headers in pythons]
    first, last = versions[0], versions[-1]
    gaps = [v for v in SUPPORTED if first < v < last and v not in versions]
    return ",".join(
        [f">=3.{first[1]}", *(f"!=3.{minor}.*" for _, minor in gaps), f"<3.{last[1] + 1}"]
    )


if __name__ == "__main__":
    for headers in found(os.environ.get("THRIFTY_PYTHONS", "")):
        print(f"3.{headers.version[1]}", headers.suffix, headers.folder, sep="|")
