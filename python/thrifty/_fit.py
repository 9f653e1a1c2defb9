"""Whether this build fits the Python, the torch and the driver that are here, each as one sentence
that says what is wrong and what to take."""

import ctypes
import sys
from collections.abc import Iterable
from pathlib import Path

# The oldest driver for the CUDA of a build, by its major version (NVIDIA's compatibility guide).
DRIVERS = {12: 525, 13: 580}
NATIVE = "_native.cpython-3"


def variant(version: str) -> str:
    """What a wheel is for, "cpu" or "cu130", by its version; empty for a build from source."""
    return version.partition("+")[2]


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver serves; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    found = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(found)) != 0:
        return None
    return found.value // 1000, found.value % 1000 // 10


def cuda_problem(
    version: str, torch_cuda: str | None, driver: tuple[int, int] | None
) -> str | None:
    """Why the CUDA kernels of this build cannot run here, though torch and driver could.

    The runtime is linked into the kernels, so that what they need is a driver for their major
    version, whatever the CUDA that torch was built by.
    """
    wheel = variant(version)
    if torch_cuda is None or driver is None:
        return None
    major = int(torch_cuda.partition(".")[0])
    if wheel == "cpu":
        return (
            f"thrifty {version} is the wheel without CUDA kernels and this torch is for CUDA "
            f"{torch_cuda}: take the wheel +cu{major}x to use the GPU"
        )
    if not wheel.startswith("cu"):
        return None
    built = int(wheel[2:4])
    if driver[0] >= built:
        return None
    needed = f", which needs a driver of {DRIVERS[built]} or newer" if built in DRIVERS else ""
    take = f"take the wheel +cu{driver[0]}x, or update the driver"
    if major < built:
        take = f"take the wheel +cu{major}x, as this torch is for CUDA {torch_cuda}"
    return (
        f"thrifty {version} was built by CUDA {built}{needed}; the driver here serves CUDA "
        f"{driver[0]}.{driver[1]}: {take}"
    )


def python_problem(folders: Iterable[str] = ()) -> str:
    """Why `thrifty._native` is missing from the package, or from the folders."""
    folders = folders or sys.modules["thrifty"].__path__
    files = [path.name for folder in folders for path in Path(folder).glob(f"{NATIVE}*.so")]
    minors = sorted(int(name.removeprefix(NATIVE).partition("-")[0]) for name in files)
    here = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    if not minors:
        return (
            "thrifty: thrifty._native is not built; build it with "
            "`pip install --no-build-isolation .` in the source tree"
        )
    has = ", ".join(f"3.{minor}" for minor in minors)
    return (
        f"thrifty: this wheel is for Python {has} and this is {here}: take one whose "
        "requires-python names it, or build from source"
    )


def library_problem(library: str, error: object) -> str:
    """Why the op library of the CPU does not load: another system, or another torch."""
    return (
        f"thrifty: {library} does not load on {sys.platform} ({error}): take the wheel of this "
        "platform for torch 2.10 or newer, or build from source"
    )
