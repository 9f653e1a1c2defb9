"""The source distribution builds what the repository builds: nothing that is needed is left out."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BUILD = "import sys, scikit_build_core.build as b; print(b.build_sdist(sys.argv[1]))"


def test_sdist_has_every_source(tmp_path):
    pytest.importorskip("scikit_build_core")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing to compare with")
    folders = ["csrc", "cmake", "python", "tests", "CMakeLists.txt", "pyproject.toml", "LICENSE"]
    listing = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {name for name in listing.stdout.splitlines() if (ROOT / name).exists()}

    subprocess.run([sys.executable, "-c", BUILD, tmp_path], cwd=ROOT, check=True)
    (archive,) = tmp_path.glob("thrifty-*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert tracked - names == set()
    assert not [name for name in names if name.startswith((".venv", "build", "dist", ".git/"))]
