"""Where the build is: the folder that `pip install -e .` used, and the package it installed."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / ".ci"))


@pytest.fixture(scope="session")
def build_dir() -> Path:
    folder = ROOT / "build" / sys.implementation.cache_tag
    if not (folder / "compile_commands.json").exists():
        pytest.skip(f"no objects to look at in {folder}: `make build` leaves them there")
    return folder


@pytest.fixture(scope="session")
def package_dir() -> Path:
    native = pytest.importorskip("thrifty._native")
    return Path(native.__file__).parent
