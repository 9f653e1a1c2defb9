"""A build that does not fit says in one sentence what is wrong and what to take."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from thrifty import _fit

TORCH_13, TORCH_12 = "13.0", "12.8"


@pytest.mark.parametrize(
    "version, torch_cuda, driver, wanted",
    [
        # a driver too old for the wheel: of the same major as torch, and of another
        ("0.1.0+cu130", TORCH_13, (12, 8), "needs a driver of 580 or newer; the driver here "
         "serves CUDA 12.8: take the wheel +cu12x, or update the driver"),
        ("0.1.0+cu130", TORCH_12, (12, 8), "needs a driver of 580 or newer; the driver here "
         "serves CUDA 12.8: take the wheel +cu12x, as this torch is for CUDA 12.8"),
        ("0.1.0+cu124", TORCH_12, (11, 8), "needs a driver of 525 or newer"),
        # the wheel without kernels where there is a GPU
        ("0.1.0+cpu", TORCH_13, (13, 0), "take the wheel +cu13x to use the GPU"),
    ],
)  # fmt: skip
def test_what_does_not_fit(version, torch_cuda, driver, wanted):
    problem = _fit.cuda_problem(version, torch_cuda, driver)
    assert problem.startswith(f"thrifty {version} ")
    assert wanted in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "version, torch_cuda, driver",
    [
        ("0.1.0+cu130", TORCH_13, (13, 0)),
        ("0.1.0+cu131", TORCH_13, (13, 0)),  # minor versions are compatible
        ("0.1.0+cu130", TORCH_12, (13, 0)),  # the kernels bring their own runtime
        ("0.1.0+cu124", TORCH_13, (13, 0)),  # drivers serve older CUDA
        ("0.1.0+cu130", TORCH_13, None),  # no driver: no GPU, nothing to say
        ("0.1.0+cu130", None, (12, 8)),  # torch without CUDA: the CPU is what is wanted
        ("0.1.0+cpu", None, (13, 0)),
        ("0.1.0", TORCH_13, (12, 8)),  # from source: the loader's own word
    ],
)
def test_what_fits(version, torch_cuda, driver):
    assert _fit.cuda_problem(version, torch_cuda, driver) is None


def test_driver_is_asked_without_torch(monkeypatch):
    class Driver:
        def cuDriverGetVersion(self, out):
            out._obj.value = 12080
            return 0

    monkeypatch.setattr(_fit.ctypes, "CDLL", lambda name: Driver())
    assert _fit.driver_cuda() == (12, 8)


def test_no_driver(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(_fit.ctypes, "CDLL", missing)
    assert _fit.driver_cuda() is None


def test_a_wheel_that_does_not_fit_warns_and_leaves_cuda_off(monkeypatch):
    torch = pytest.importorskip("torch")
    from thrifty import _library

    monkeypatch.setattr(torch.version, "cuda", TORCH_12)
    monkeypatch.setattr("thrifty.__version__", "0.1.0+cu130")
    monkeypatch.setattr(_fit, "driver_cuda", lambda: (12, 8))
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(_library, "find", lambda name: Path(name))
    with pytest.warns(UserWarning, match="take the wheel"):
        assert _library._load() is False
    monkeypatch.setattr(_fit, "driver_cuda", lambda: (13, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _library._load() is True


@pytest.mark.parametrize(
    "minors, wanted",
    [((10, 9), "this wheel is for Python 3.9, 3.10 and this is Python 3."), ((), "is not built")],
)
def test_another_python(tmp_path, minors, wanted):
    for minor in minors:
        (tmp_path / f"_native.cpython-3{minor}-x86_64-linux-gnu.so").touch()
    assert wanted in _fit.python_problem([str(tmp_path)])


IMPORT = """
import sys
sys.modules["thrifty._native"] = None  # as where no module is built for this Python
import thrifty
try:
    import thrifty.numpy
except ImportError as error:
    print(error)
"""


def test_numpy_face_without_a_module_for_this_python():
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert run.stdout.startswith("thrifty: "), run.stdout + run.stderr
    assert "Python" in run.stdout or "is not built" in run.stdout


def test_a_library_of_another_system(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    from thrifty import _library

    broken = tmp_path / _library.CPU_LIBRARY
    broken.write_bytes(b"MZ not for here")
    monkeypatch.setattr(_library, "find", lambda name: broken)
    with pytest.raises(ImportError, match=r"does not load on linux .*: take the wheel of this"):
        _library._load()


def test_old_torch(monkeypatch):
    torch = pytest.importorskip("torch")
    from thrifty import _library

    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(ImportError, match=r"needs torch 2\.10 or newer, this is torch 2\.9\.1"):
        _library._load()
