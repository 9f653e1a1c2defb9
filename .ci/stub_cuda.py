"""Puts empty libraries in place of NVIDIA's, so that a torch built for CUDA loads where there is no
GPU: wheels are tried under it without 4 GB of libraries that nothing would call.

Usage: stub_cuda.py PYTHON   (that has torch installed with --no-deps)
"""

import re
import subprocess
import sys
from pathlib import Path

WHERE = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"


def dynamic(library: Path, tag: str) -> set[str]:
    text = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(rf"\({tag}\).*\[(.*)\]", text))


def undefined(library: Path) -> dict[str, str]:
    """Symbols that a library wants of others, with the version that they must have, if any."""
    text = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^\s+U (\S+)$", text, re.M)
    return dict(name.replace("@@", "@").partition("@")[::2] for name in names)


def versions_of(library: Path) -> dict[str, str]:
    """Version of symbols -> the library that it is of."""
    text = subprocess.run(
        ["readelf", "-VW", str(library)], capture_output=True, text=True, check=True
    ).stdout
    found, file = {}, ""
    for of_file, version in re.findall(r"File: (\S+)|Name: (\S+)  Flags", text):
        file = of_file or file
        if version:
            found[version] = file
    return found


def build(folder: Path, name: str, symbols: dict[str, str]) -> None:
    source = folder / "stub.s"
    lines = [".text"]
    for symbol in sorted(symbols):
        lines += [f".globl {symbol}", f".type {symbol}, @function", f"{symbol}:"]
    source.write_text("\n".join([*lines, "mov $100, %eax", "ret", ".section .note.GNU-stack", ""]))
    command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{name}", str(source)]
    versions = sorted({version for version in symbols.values() if version})
    script = folder / "stub.map"
    script.write_text(
        "".join(
            f"{v} {{ {' '.join(f'{s};' for s, of in symbols.items() if of == v)} }};\n"
            for v in versions
        )
    )
    if versions:
        command.append(f"-Wl,--version-script={script}")
    subprocess.run([*command, "-o", str(folder / name)], check=True)
    source.unlink()
    script.unlink()


def main(python: str) -> None:
    where = subprocess.run([python, "-c", WHERE], capture_output=True, text=True, check=True)
    folder = Path(where.stdout.strip()) / "lib"
    libraries = sorted(folder.glob("*.so*"))
    here = {path.name for path in libraries}
    needed = {name for path in libraries for name in dynamic(path, "NEEDED")} - here
    foreign = sorted(name for name in needed if re.match(r"lib(cu|nv|nccl)", name))
    wanted: dict[str, str] = {}
    owners: dict[str, str] = {}
    for path in libraries:
        wanted |= undefined(path)
        owners |= versions_of(path)
    prefix = re.compile(r"(cu|CU|nv|nccl|__cuda|__nv|__fatbin)")
    wanted = {name: version for name, version in wanted.items() if prefix.match(name)}
    for name in foreign:  # what has no version may stand in any of them
        build(folder, name, {s: v for s, v in wanted.items() if owners.get(v, foreign[0]) == name})
    print(f"stub_cuda: {len(foreign)} empty libraries, {len(wanted)} symbols")


if __name__ == "__main__":
    main(*sys.argv[1:])
