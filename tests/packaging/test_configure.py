"""What a user sees when something that the build needs is missing: one sentence that says what to
do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake")


def configure(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [CMAKE, "-S", ROOT, "-B", folder / "build", f"-DPython_EXECUTABLE={sys.executable}"]
    command += [f"-DCMAKE_PREFIX_PATH={pybind11_folder()}", *options]
    env = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CXX", "CXXFLAGS")}
    return subprocess.run(command, env=env | environment, capture_output=True, text=True)


def pybind11_folder() -> str:
    return pytest.importorskip("pybind11").get_cmake_dir()


def sentence(run: subprocess.CompletedProcess[str]) -> str:
    """The only error, unwrapped from CMake's lines."""
    assert run.returncode != 0
    assert run.stderr.count("CMake Error") == 1, run.stderr
    text = re.sub(r"\s+", " ", run.stderr)
    found = re.search(r"thrifty: .*?\.(?= |$)(?! \d)", text)
    assert found, run.stderr
    return found[0]


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def fake_torch(folder: Path, version: str) -> str:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").touch()
    info = folder / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return str(folder)


def test_no_compiler(tmp_path):
    run = configure(tmp_path, "-DCMAKE_CXX_COMPILER=", CXX=str(tmp_path / "missing"))
    assert "no C++ compiler found; install one" in sentence(run)


def test_no_torch(tmp_path):
    # -S: no site-packages, so nothing but the standard library is there.
    python = script(tmp_path / "python", f'exec {sys.executable} -S "$@"')
    run = configure(tmp_path, f"-DPython_EXECUTABLE={python}")
    assert "install torch>=2.10, then: pip install --no-build-isolation ." in sentence(run)


def test_old_torch(tmp_path):
    run = configure(tmp_path, PYTHONPATH=fake_torch(tmp_path, "2.9.1"))
    assert "needs torch 2.10 or newer, found 2.9.1." in sentence(run)


def test_no_python_headers(tmp_path):
    python = script(tmp_path / "python3", "exit 1")
    make = ["make", "test", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    # As a user calls it, also when `make test` is what runs this test.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = subprocess.run(make, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode != 0
    assert run.stdout.startswith(f"thrifty: {python} is older than 3.10 or lacks its headers")


def test_cuda_misspelled(tmp_path):
    assert "expected AUTO, ON or OFF, got yes" in sentence(
        configure(tmp_path, "-DTHRIFTY_CUDA=yes")
    )


def test_old_nvcc(tmp_path):
    nvcc = script(tmp_path / "nvcc", "echo 'Cuda compilation tools, release 11.8, V11.8.89'")
    wanted = "nvcc 12.4 or newer is needed"
    assert wanted in sentence(configure(tmp_path, "-DTHRIFTY_CUDA=ON", CUDACXX=nvcc))

    run = configure(tmp_path, "-DTHRIFTY_CUDA=AUTO", CUDACXX=nvcc)
    assert run.returncode == 0, run.stderr
    assert f"thrifty: skipping the CUDA kernels: {wanted}" in run.stderr


def test_broken_nvcc(tmp_path):
    nvcc = script(tmp_path / "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    run = configure(tmp_path, "-DTHRIFTY_CUDA=ON", CUDACXX=nvcc)
    assert "does not work with" in sentence(run)
