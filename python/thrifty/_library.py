"""Finds and loads the native op libraries; importing this module registers `torch.ops.thrifty.*`.

The CPU library defines the ops, the CUDA library adds kernels to them and is loaded only where
torch has CUDA. Both are built on torch's stable ABI and serve every torch from 2.10 on.
"""

import warnings
from pathlib import Path

import torch

import thrifty
from thrifty import _fit

CPU_LIBRARY = "libthrifty_ops_cpu.so"
CUDA_LIBRARY = "libthrifty_ops_cuda.so"
OLDEST_TORCH = (2, 10)


def find(name: str) -> Path | None:
    """A file of the package; in an editable install it is not beside the Python sources."""
    paths = (Path(folder) / name for folder in thrifty.__path__)
    return next((path for path in paths if path.is_file()), None)


def _load() -> bool:
    """Loads what this torch can use; whether the CUDA kernels are among it."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        raise ImportError(f"thrifty needs torch 2.10 or newer, this is torch {torch.__version__}")
    cpu, cuda = find(CPU_LIBRARY), find(CUDA_LIBRARY)
    if cpu is None:
        raise ImportError(
            f"thrifty: {CPU_LIBRARY} is not in {', '.join(thrifty.__path__)}; build it with "
            "`pip install --no-build-isolation .` in the source tree"
        )
    try:
        torch.ops.load_library(cpu)
    except OSError as error:
        raise ImportError(_fit.library_problem(CPU_LIBRARY, error)) from error
    if torch.version.cuda is None:
        return False
    problem = _fit.cuda_problem(thrifty.__version__, torch.version.cuda, _fit.driver_cuda())
    if problem is not None:
        warnings.warn(problem, stacklevel=2)
    if problem is not None or cuda is None:
        return False
    try:
        torch.ops.load_library(cuda)
    except OSError as error:
        warnings.warn(f"thrifty: the CUDA kernels cannot be used: {error}", stacklevel=2)
        return False
    return True


cuda_loaded = _load()
