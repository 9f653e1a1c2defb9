"""The version provider, and that the installed package carries its version."""

import importlib.metadata
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROVIDER = runpy.run_path(str(ROOT / "cmake" / "version.py"))


@pytest.mark.parametrize("local, suffix", [("", ""), ("cu130", "+cu130")])
def test_local_version(monkeypatch, local, suffix):
    monkeypatch.setenv("THRIFTY_LOCAL_VERSION", local)
    assert PROVIDER["dynamic_metadata"]({}, {}) == {"version": PROVIDER["VERSION"] + suffix}


def test_installed_version():
    assert importlib.metadata.version("thrifty").partition("+")[0] == PROVIDER["VERSION"]
