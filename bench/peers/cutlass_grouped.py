"""CUTLASS's grouped GEMM for Hopper, compiled where it is asked for: nvcc, the headers of the
`nvidia-cutlass` package and an sm_90 are needed, and some minutes the first time. A row says "skip"
and why where one of them is missing.
"""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from bench.harness import Unavailable

SOURCE = Path(__file__).with_suffix(".cu")
SCHEDULES = ("cooperative", "pingpong")
FLAGS = (
    "-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "--expt-extended-lambda",
    "-gencode=arch=compute_90a,code=sm_90a", "-Xcompiler=-fPIC", "-shared",
)  # fmt: skip


def headers() -> Path:
    spec = importlib.util.find_spec("cutlass_library")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("the headers of CUTLASS are missing (nvidia-cutlass==4.2.0.0)")
    return Path(next(iter(spec.submodule_search_locations))) / "source" / "include"


@cache
def library(schedule: str) -> ctypes.CDLL:
    """Compiled once per source and schedule, kept in the folder for temporary files."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).is_file():
        raise Unavailable("no nvcc to compile CUTLASS's grouped GEMM with")
    tag = hashlib.sha256(SOURCE.read_bytes() + nvcc.encode()).hexdigest()[:16]
    out = Path(tempfile.gettempdir()) / f"thrifty-bench-{os.getuid()}" / f"{schedule}-{tag}.so"
    if not out.exists():
        out.parent.mkdir(mode=0o700, exist_ok=True)
        made = out.with_suffix(f".{os.getpid()}")
        pingpong = f"-DTHRIFTY_PINGPONG={int(schedule == 'pingpong')}"
        line = [nvcc, *FLAGS, pingpong, "-isystem", str(headers()), str(SOURCE), "-o", str(made)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"nvcc does not compile CUTLASS's grouped GEMM: {done.stderr[-300:]}")
        made.rename(out)
    loaded = ctypes.CDLL(str(out))
    loaded.grouped_gemm_workspace.restype = ctypes.c_size_t
    return loaded


def grouped_mm(schedule: str, a: Tensor, w: Tensor, ends: Tensor) -> Callable[[], Tensor]:
    """A call that multiplies bf16 rows a (S, K) by their groups' w (E, N, K); ends int32 (E,)."""
    if a.device.type != "cuda" or torch.cuda.get_device_capability(a.device) != (9, 0):
        raise Unavailable("CUTLASS's grouped GEMM is compiled for sm_90a")
    native = library(schedule)
    processors = torch.cuda.get_device_properties(a.device).multi_processor_count
    out = a.new_empty(a.shape[0], w.shape[1])
    size = native.grouped_gemm_workspace(len(ends), processors)
    workspace = torch.empty(size, dtype=torch.uint8, device=a.device)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (a, w, out, ends)]
    numbers = [ctypes.c_int(i) for i in (len(ends), w.shape[1], w.shape[2], processors)]

    def call() -> Tensor:
        stream = ctypes.c_void_p(torch.cuda.current_stream(a.device).cuda_stream)
        status = native.grouped_gemm(
            *pointers, *numbers, ctypes.c_void_p(workspace.data_ptr()), stream
        )
        if status != 0:
            raise RuntimeError(f"CUTLASS's grouped GEMM ({schedule}): status {status}")
        return out

    return call
