"""The op libraries use nothing of torch but its stable ABI, no newer than torch 2.10, and need
nothing unusual.

Usage: check_abi.py PACKAGE_DIR

torch-abi-audit knows which shim came with which torch. What it reads is read here a second time
with nm and readelf: a mangled symbol of at::, c10:: or torch:: that has to come from elsewhere, and
a library that not every machine has."""

import json
import re
import subprocess
import sys
from pathlib import Path

MIN_TORCH = (2, 10)
# libtorch_cuda only in the CUDA library; cudart is linked statically.
SYSTEM = r"(libtorch_(cpu|cuda)|libstdc\+\+|libm|libgcc_s|libc|ld-linux-[\w-]+)\.so(\.\d+)?"


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def unstable_symbols(library: Path) -> list[str]:
    listing = output("nm", "-D", "--undefined-only", "--demangle", library)
    return [line.split(maxsplit=1)[1] for line in listing.splitlines() if UNSTABLE.search(line)]


UNSTABLE = re.compile(r"\b(at|c10|torch|caffe2)::")


def odd_dependencies(library: Path) -> list[str]:
    dynamic = output("readelf", "-d", "-W", library)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    odd = [name for name in needed if not re.fullmatch(SYSTEM, name)]
    return odd + re.findall(r"\((?:RUNPATH|RPATH)\).*", dynamic)


def audit(package: Path) -> list[str]:
    """What torch-abi-audit finds wrong; empty when every library is stable and old enough."""
    tool = Path(sys.executable).with_name("torch-abi-audit")
    report = json.loads(output(tool, "--json", package))
    problems = []
    for module in report["extensions"] + report["bundled_libs"]:
        torch, name = module["torch"], Path(module["path"]).name
        if name.startswith("_native") and torch["uses_torch"]:
            problems.append(f"{name}: uses torch")
        if torch["uses_torch"] and not torch["stable"]:
            problems.append(f"{name}: unstable {torch['unstable_symbols']}")
        version = torch["min_torch_version"]
        if version and tuple(map(int, version.split(".")[:2])) > MIN_TORCH:
            problems.append(f"{name}: needs torch {version}: {torch['version_defining_symbols']}")
    return problems


def main(package_dir: str) -> int:
    package = Path(package_dir)
    libraries = sorted(package.glob("libthrifty_ops_*.so")) + sorted(package.glob("_native.*.so"))
    if not any(library.name == "libthrifty_ops_cpu.so" for library in libraries):
        print(f"ABI: no libthrifty_ops_cpu.so in {package}")
        return 1
    problems = audit(package)
    for library in libraries:
        problems += [f"{library.name}: unstable {s}" for s in unstable_symbols(library)]
        problems += [f"{library.name}: needs {d}" for d in odd_dependencies(library)]
    for problem in problems:
        print(f"ABI: {problem}")
    print(f"ABI: {len(problems)} problems in {', '.join(library.name for library in libraries)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
