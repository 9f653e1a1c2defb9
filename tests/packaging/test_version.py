"""The version provider, and that the installed package carries its version."""

import importlib.metadata
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROVIDER = runpy.run_path(str(ROOT / "cmake" / "version.py"))


@pytest.mark.parametrize("local, suffix", [("", ""), ("cu130", "+cu130")])
def test_local_version(monkeypatch, local, suffix):
    monkeypatch.setenv("THRIFTY_LOCAL_VERSION", local)
    monkeypatch.delenv("THRIFTY_PYTHONS", raising=False)
    found = PROVIDER["dynamic_metadata"]({}, {})
    assert found == {"version": PROVIDER["VERSION"] + suffix, "requires-python": ">=3.10"}


def headers(folder: Path, minor: int) -> str:
    folder.mkdir()
    (folder / "Python.h").touch()
    text = f"#define PY_MAJOR_VERSION\t3\n#define PY_MINOR_VERSION  {minor}\n"
    (folder / "patchlevel.h").write_text(text)
    return str(folder)


def test_a_wheel_is_for_the_pythons_that_it_has_a_module_for(monkeypatch, tmp_path):
    pythons = PROVIDER["pythons"]
    monkeypatch.setattr(pythons, "own", lambda: pythons.Headers((3, 11), tmp_path))
    wanted = f"{headers(tmp_path / 'a', 14)} {headers(tmp_path / 'b', 13)}"
    monkeypatch.setenv("THRIFTY_PYTHONS", wanted)
    assert PROVIDER["dynamic_metadata"]({}, {})["requires-python"] == ">=3.11,!=3.12.*,<3.15"
    suffixes = [found.suffix.split("-")[1] for found in pythons.found(wanted)]
    assert suffixes == ["311", "313", "314"]


def test_only_the_python_that_builds(monkeypatch):
    minor = sys.version_info[1]
    monkeypatch.setenv("THRIFTY_PYTHONS", "own")
    found = PROVIDER["dynamic_metadata"]({}, {})["requires-python"]
    assert found == f">=3.{minor},<3.{minor + 1}"


def test_a_folder_without_headers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="THRIFTY_PYTHONS: expected folders with"):
        PROVIDER["pythons"].found(str(tmp_path))


def test_installed_version():
    assert importlib.metadata.version("thrifty").partition("+")[0] == PROVIDER["VERSION"]
