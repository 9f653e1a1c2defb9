"""Fixtures of the Python tests: devices, the instruction set, the cases of an OpContract."""

import pytest
import torch

import thrifty
from helpers import OpContract, cases_of
from thrifty.selfcheck import devices

MARKS = {"cpu": (), "cuda": (pytest.mark.gpu,)}


def pytest_report_header() -> str:
    absent = "" if "cuda" in devices() else "; no cuda: no GPU, or no CUDA kernels in this build"
    return f"thrifty: {thrifty.info()['isa']} kernels, tests on {', '.join(devices())}{absent}"


@pytest.fixture(params=[pytest.param(name, marks=MARKS[name]) for name in devices()])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that has kernels here; the report's header says why one is missing."""
    return request.param


@pytest.fixture(scope="session")
def isa() -> str:
    """The instruction set that all CPU kernels use here; THRIFTY_ISA caps it for the whole run."""
    return thrifty.info()["isa"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case`, `trained_case` and `typed_case`, (case, dtype), run over the class's op's table."""
    if metafunc.cls is None or not issubclass(metafunc.cls, OpContract):
        return
    cases = cases_of(metafunc.cls.op)
    trained = [case for case in cases if case.grad and torch.float64 in case.dtypes]
    for name, listed in (("case", cases), ("trained_case", trained)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, listed, ids=lambda case: case.name)
    if "typed_case" in metafunc.fixturenames:
        typed = [(case, dtype) for case in cases for dtype in case.dtypes]
        ids = [f"{case.name}-{str(dtype).removeprefix('torch.')}" for case, dtype in typed]
        metafunc.parametrize("typed_case", typed, ids=ids)
