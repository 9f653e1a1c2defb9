"""The layer rule: a file of a layer that includes what its layer may not does not compile."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

PYBIND11, CUDA, CUTLASS = "pybind11/pybind11.h", "cuda_runtime_api.h", "cutlass/version.h"
STABLE, CORE = "torch/csrc/stable/library.h", "core/error.h"


def include_flags(build_dir: Path, target: str) -> list[str]:
    """-D, -I and -isystem of any file of a target."""
    for entry in json.loads((build_dir / "compile_commands.json").read_text()):
        if f"/{target}.dir/" in f"/{entry['output']}":
            words = re.sub(r"-isystem[ =]", "-isystem", entry["command"])
            return [w for w in shlex.split(words) if w.startswith(("-D", "-I", "-isystem"))]
    assert "cuda" in target, f"no file of {target} was compiled"
    pytest.skip((build_dir / "cuda.txt").read_text().strip())  # why CUDA is not part of the build


def compiles(build_dir: Path, target: str, header: str) -> bool:
    command = ["c++", "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    run = subprocess.run(
        command + include_flags(build_dir, target),
        input=f"#include <{header}>\n",
        text=True,
        stderr=subprocess.PIPE,
    )
    assert run.returncode == 0 or "No such file" in run.stderr, run.stderr
    return run.returncode == 0


@pytest.mark.parametrize(
    "target, header, allowed",
    [
        ("thrifty_core", CORE, True),
        ("thrifty_core", STABLE, False),
        ("thrifty_core", PYBIND11, False),
        ("thrifty_core", CUDA, False),
        ("thrifty_isa_avx2", STABLE, False),
        ("thrifty_isa_avx2", PYBIND11, False),
        ("thrifty_ops_cpu", STABLE, True),
        ("thrifty_ops_cpu", PYBIND11, False),
        ("thrifty_ops_cpu", CUDA, False),
        ("_native", PYBIND11, True),
        ("_native", STABLE, False),
        ("thrifty_cuda", CUTLASS, True),
        ("thrifty_cuda", STABLE, False),
        ("thrifty_cuda", PYBIND11, False),
        ("thrifty_ops_cuda", STABLE, True),
        ("thrifty_ops_cuda", CUDA, True),
        ("thrifty_ops_cuda", CUTLASS, False),
    ],
)
def test_include(build_dir, target, header, allowed):
    assert compiles(build_dir, target, header) is allowed


@pytest.mark.parametrize("target", ["thrifty_ops_cpu", "thrifty_ops_cuda"])
def test_target_version_is_torch_2_10(build_dir, target):
    flags = include_flags(build_dir, target)
    assert "-DTORCH_TARGET_VERSION=0x020a000000000000" in flags
