"""The checks of .ci: they pass on this build, and each finds what it is there to find."""

import shutil
import subprocess
import sys
from pathlib import Path

import check_abi
import check_weak_symbols
import cuda_resources
import pytest
import stub_cuda
import wheel_pythons


def compile_object(folder: Path, source: str, *flags: str) -> Path:
    path = folder / "planted.cpp"
    path.write_text(source)
    out = folder / ("planted.so" if "-shared" in flags else "planted.o")
    kind = [] if "-shared" in flags else ["-c"]
    subprocess.run(["c++", *kind, "-fPIC", "-O0", *flags, path, "-o", out], check=True)
    return out


# --- weak symbols -------------------------------------------------------------------------------


def test_no_weak_symbols(build_dir):
    assert check_weak_symbols.main(str(build_dir)) == 0


def test_weak_symbol_is_found(tmp_path):
    source = "inline int twice(int x) { return 2 * x; }\nint use(int x) { return twice(x); }\n"
    found = check_weak_symbols.weak_symbols([compile_object(tmp_path, source)])
    assert found == ["planted.o: twice(int)"]


def test_no_objects_is_an_error(tmp_path):
    assert check_weak_symbols.main(str(tmp_path)) == 1


# --- ABI ----------------------------------------------------------------------------------------


def test_abi(package_dir):
    assert check_abi.main(str(package_dir)) == 0


def test_unstable_symbol_is_found(tmp_path):
    source = "namespace at { int size(int); }\nint use(int x) { return at::size(x); }\n"
    library = compile_object(tmp_path, source, "-shared")
    assert check_abi.unstable_symbols(library) == ["at::size(int)"]


def test_odd_dependency_is_found(tmp_path):
    (tmp_path / "dependency").mkdir()
    odd = compile_object(tmp_path / "dependency", "int f() { return 1; }", "-shared")
    odd = odd.rename(odd.with_name("libodd.so"))
    flags = [
        "-shared",
        f"-L{odd.parent}",
        f"-Wl,-rpath,{odd.parent}",
        "-Wl,--no-as-needed",
        "-lodd",
    ]
    library = compile_object(tmp_path, "int g() { return 2; }", *flags)
    found = check_abi.odd_dependencies(library)
    assert found[0] == "libodd.so"
    assert str(odd.parent) in found[1]


# --- CUDA resources -----------------------------------------------------------------------------

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4slowPf' for 'sm_80'
ptxas info    : Function properties for _Z4slowPf
    272 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 16 registers, used 1 barriers, 272 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compiling entry function '_Z4fastPf' for 'sm_80'
ptxas info    : Function properties for _Z4fastPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 360 bytes cmem[0]
"""


def test_report_is_read():
    rows, problems = cuda_resources.parse(REPORT)
    slow = dict(kernel="_Z4slowPf", arch="sm_80", stack=272, registers=16, barriers=1, shared=512)
    fast = dict(kernel="_Z4fastPf", arch="sm_80", stack=0, registers=8, barriers=0, shared=0)
    assert rows == [slow, fast]
    assert problems == ["_Z4slowPf spills 8 + 4 bytes on sm_80"]


def test_serialised_wgmma_is_found():
    line = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async is serialized"
    assert cuda_resources.parse(line) == ([], [line])


def test_truncated_report_is_an_error():
    _, problems = cuda_resources.parse(REPORT[: REPORT.index("ptxas info    : Used 16")])
    assert any("cannot read" in problem for problem in problems)


def test_drift():
    old = [dict(kernel="a", arch="sm_80", registers=8), dict(kernel="b", arch="sm_80", registers=8)]
    new = [dict(kernel="a", arch="sm_80", registers=9), dict(kernel="c", arch="sm_80", registers=8)]
    changes = ["sm_80 a: registers 8 -> 9", "sm_80 b: gone", "sm_80 c: new"]
    assert cuda_resources.drift(old, new) == changes
    assert cuda_resources.drift(old, old) == []


def test_kernel_names_do_not_depend_on_the_build_folder():
    names = [
        f"_ZN7thrifty4cuda38_GLOBAL__N__{one}_6_toy_cu_{two}10toy_kernelILi64EEEvPKfPfl"
        for one, two in [("d39048d4", "2491b07c"), ("01234567", "89abcdef")]
    ]
    found = set(cuda_resources.demangle(names).values())
    assert found == {"thrifty::cuda::toy_kernel<64>(float const*, float*, long)"}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_nvcc_report_of_a_spilling_kernel(tmp_path):
    source = tmp_path / "spill.cu"
    load = "float a[64]; for (int i = 0; i < 64; ++i) a[i] = x[i * n];"
    mix = "for (int k = 0; k < n; ++k) for (int i = 0; i < 64; ++i) a[i] += a[i * 7 % 64] * x[k];"
    store = "for (int i = 0; i < 64; ++i) x[i * n] = a[i];"
    source.write_text(f"__global__ void spill(float* x, int n) {{ {load} {mix} {store} }}\n")
    nvcc = ["nvcc", "-O3", "-arch=sm_80", "-maxrregcount=32", "-Xptxas=-v", "-c", str(source)]
    launcher = Path(__file__).parents[2] / "cmake" / "nvcc_report.py"
    run = subprocess.run(
        ["python3", launcher, *nvcc, "-o", str(tmp_path / "spill.o")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0
    assert "ptxas info" not in run.stderr
    rows, problems = cuda_resources.parse((tmp_path / "spill.o.ptxas.txt").read_text())
    assert rows[0]["registers"] == 32
    assert "spills" in problems[0]


# --- wheels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, allowed",
    [((3, 9), False), ((3, 10), True), ((3, 12), False), ((3, 13), True), ((3, 14), False)],
)
def test_pythons_of_a_wheel(version, allowed):
    assert wheel_pythons.allows(">=3.10,!=3.12.*,<3.14", version) is allowed
    assert wheel_pythons.allows("!=3.12.*,<3.14,>=3.10", version) is allowed


def test_stubs_stand_in_for_a_library(tmp_path):
    """A library that wants a versioned symbol loads beside the stub of the one that has it."""
    real = compile_object(tmp_path, 'extern "C" int cuReal() { return 7; }', "-shared",
                          f"-Wl,--version-script={version_script(tmp_path)}")  # fmt: skip
    (tmp_path / "real").mkdir()
    real = real.rename(tmp_path / "real" / "libcureal.so.1")
    source = 'extern "C" int cuReal(); extern "C" int use() { return cuReal(); }'
    user = compile_object(tmp_path, source, "-shared", "-Wl,--no-as-needed",
                          f"-L{real.parent}", "-l:libcureal.so.1")  # fmt: skip
    assert stub_cuda.undefined(user)["cuReal"] == "REAL"
    owners = stub_cuda.versions_of(user)
    assert owners["REAL"] == "libcureal.so.1"
    stub_cuda.build(tmp_path, "libcureal.so.1", {"cuReal": "REAL"})
    code = f"import ctypes; print(ctypes.CDLL({str(user)!r}).use())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env={"LD_LIBRARY_PATH": str(tmp_path)})  # fmt: skip
    assert run.stdout == "100\n", run.stderr


def version_script(folder: Path) -> Path:
    path = folder / "real.map"
    path.write_text("REAL { cuReal; };\n")
    return path
