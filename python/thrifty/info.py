"""`thrifty.info()`: which build this is and what it uses of the machine."""

import importlib.metadata
import importlib.util
import sys
from typing import Any

try:
    __version__ = importlib.metadata.version("thrifty")
except importlib.metadata.PackageNotFoundError:  # Python files on the path, never installed
    __version__ = "unknown"


def info() -> dict[str, Any]:
    """What is running, as plain values.

    Returns:
        A dict with
        - `version`: of thrifty;
        - `isa`: the instruction set of the CPU kernels: "baseline", "avx2", "avx512" or "amx", the
          best that the processor has, or that the environment variable THRIFTY_ISA allows;
        - `torch`: its version, or None where it is not installed;
        - `threads`: how many the torch ops use (`torch.set_num_threads`);
        - `numpy_threads`: how many `thrifty.numpy` uses (`thrifty.numpy.set_num_threads`), or
          None where this Python has no `thrifty._native`;
        - `cuda`: {"built": the CUDA kernels are part of this build, "loaded": they are in use,
          "torch": the CUDA version of torch or None, "devices": names of the GPUs};
        - `python`: its version.

    Raises:
        ValueError: THRIFTY_ISA is set to none of the four names.

    Example::

        >>> import thrifty
        >>> thrifty.info()["isa"] in ("baseline", "avx2", "avx512", "amx")
        True
    """
    found: dict[str, Any] = {
        "version": __version__,
        "isa": None,
        "torch": None,
        "threads": None,
        "numpy_threads": None,
        "cuda": {"built": None, "loaded": False, "torch": None, "devices": []},
        "python": sys.version.split()[0],
    }
    # Prebuilt op libraries serve every Python, but _native only the one that it was built for.
    if importlib.util.find_spec("thrifty._native") is not None:
        found |= _native_info()
    if importlib.util.find_spec("torch") is not None:
        found |= _torch_info()
    return found


def _native_info() -> dict[str, Any]:
    from thrifty import _native

    return {"isa": _native.cpu_isa(), "numpy_threads": _native.get_num_threads()}


def _torch_info() -> dict[str, Any]:
    import torch

    from thrifty import _library

    devices = range(torch.cuda.device_count())
    return {
        "isa": torch.ops.thrifty.cpu_isa(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": {
            "built": _library.find(_library.CUDA_LIBRARY) is not None,
            "loaded": _library.cuda_loaded,
            "torch": torch.version.cuda,
            "devices": [torch.cuda.get_device_name(index) for index in devices],
        },
    }
