"""thrifty.info(), the command line's `info`, THRIFTY_ISA, and importing without torch."""

import os
import subprocess
import sys

import pytest
import torch

import thrifty

ISAS = ("baseline", "avx2", "avx512", "amx")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_info_is_true() -> None:
    info = thrifty.info()
    assert info["version"] == thrifty.__version__
    assert info["isa"] == torch.ops.thrifty.cpu_isa()
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert info["cuda"]["loaded"] <= (torch.version.cuda is not None)


def test_info_of_the_command_line() -> None:
    result = run("-m", "thrifty", "info")
    assert result.returncode == 0, result.stderr
    printed = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert printed == {key: str(value) for key, value in thrifty.info().items()}


def test_isa_is_capped_by_the_environment(isa: str) -> None:
    code = "import thrifty.numpy; print(thrifty.numpy.cpu_isa())"
    for name in ISAS[: ISAS.index(isa) + 1]:
        assert run("-c", code, THRIFTY_ISA=name).stdout.strip() == name


def test_unknown_isa_is_a_clear_error() -> None:
    code = "import torch, thrifty; thrifty.pack_weight(torch.ones(3, 3))"
    for snippet in (code, "import thrifty.numpy; thrifty.numpy.cpu_isa()"):
        stderr = run("-c", snippet, THRIFTY_ISA="sse9").stderr
        assert "ValueError: THRIFTY_ISA: expected " in stderr
        assert "sse9" in stderr


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # import torch raises ImportError
import numpy as np
import thrifty, thrifty.numpy
x = np.ones((2, 3), np.float32)
assert (thrifty.numpy.batch_ensemble_linear(x, x, k=2) == 3).all()
"""


def test_numpy_face_works_without_torch() -> None:
    result = run("-c", WITHOUT_TORCH)
    assert result.returncode == 0, result.stderr


def test_numpy_face_does_not_import_torch() -> None:
    code = "import sys, thrifty, thrifty.numpy; print('torch' in sys.modules)"
    assert run("-c", code).stdout.strip() == "False"


def test_names_are_found_and_listed() -> None:
    for name in ("batch_ensemble_linear", "ensemble_linear", "nn", "numpy", "info"):
        assert name in dir(thrifty)
        assert getattr(thrifty, name)
    with pytest.raises(AttributeError, match="no attribute 'attention_is_all'"):
        thrifty.attention_is_all  # noqa: B018


def test_info_stays_a_function_after_imports() -> None:
    """A module of the same name exists."""
    import thrifty.info

    assert callable(thrifty.info)
