"""Everything that needs a GPU, in one call: `make gpu`, or `python tests/gpu/run.py`.

The parts run one after another, each under a share of the time; their output goes to OUT/gpu.log
and what came of them to OUT/gpu.json:

    instructions  the device headers on the hardware against plain loops (tests/hostcuda)
    tests         pytest -m gpu: the op contracts on the device, capture and replay in a CUDA graph
    sanitizer     compute-sanitizer's memcheck, racecheck and synccheck over a short list of tests
    bench         python -m bench --device cuda

The native files come from LIBRARIES (`make gpu-build` on a machine with nvcc; they serve every
torch from 2.10 on and every Python) or, without it, from the installed package. No network is used.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SANITIZED = (
    *(f"tests/ensemble/test_{op}_linear.py" for op in ("batch_ensemble", "ensemble")),
    *(f"tests/moe/test_{name}.py" for name in ("moe_mlp", "routing", "token_rows")),
)
SANITIZED_TESTS = "gpu and not compile and not slow"
# Shapes with more than one tile in each direction.
SANITIZED_NAMES = "several and (blocks or tiles or threads)"
SECONDS = {"instructions": 60, "tests": 200, "sanitizer": 150, "bench": 120}


def stage(libraries: Path, out: Path) -> Path:
    """A folder for PYTHONPATH: the package's Python files, the prebuilt libraries beside them."""
    package = out / "package" / "thrifty"
    shutil.rmtree(package.parent, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "thrifty", package)
    found = [path for path in libraries.iterdir() if path.suffix == ".so"]
    names = {path.name for path in found}
    missing = {"libthrifty_ops_cpu.so", "libthrifty_ops_cuda.so"} - names
    if missing:
        raise SystemExit(f"gpu: {libraries}: expected {', '.join(sorted(missing))}, got {names}")
    for path in found:
        shutil.copy(path, package)
    return package.parent


def commands(part: str, libraries: Path | None, out: Path, tests: str) -> list[list[str]]:
    """The command lines of a part; none when what it needs is not there."""
    python = [sys.executable, "-m"]
    if part == "instructions":
        program = (libraries or ROOT / "build" / "gpu") / "hostcuda_device"
        return [[str(program)]] if program.is_file() else []
    if part == "tests":
        marks = "gpu and not compile" if tests == "quick" else "gpu"
        return [[*python, "pytest", "-q", "-m", marks, "tests"]]
    if part == "sanitizer":
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not Path(tool).is_file():
            return []
        pytest = [*python, "pytest", "-q", "-m", SANITIZED_TESTS, "-k", SANITIZED_NAMES, *SANITIZED]
        checks = ("memcheck", "racecheck", "synccheck")
        return [[tool, "--tool", check, "--error-exitcode", "9", *pytest] for check in checks]
    return [[*python, "bench", "--device", "cuda", "--quick", "--json", str(out / "bench.json")]]


def run_part(lines: list[list[str]], limit: float, env: dict[str, str], log: Path) -> dict:
    """Runs the command lines under one limit; `rc` is the first that is not 0."""
    result: dict = {"rc": 0, "commands": []}
    start = time.monotonic()
    for line in lines:
        left = max(5.0, limit - (time.monotonic() - start))
        with log.open("a") as stream:
            stream.write(f"\n=== {' '.join(line)}\n")
            stream.flush()
            try:
                rc = subprocess.run(
                    line, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                rc = 124
        last = [text for text in log.read_text().splitlines() if text.strip()][-1]
        result["commands"].append({"line": " ".join(line[:6]), "rc": rc, "last_line": last})
        result["rc"] = result["rc"] or rc
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


def machine(env: dict[str, str]) -> dict:
    """`thrifty.info()` as the staged package gives it."""
    code = "import json, thrifty; print(json.dumps(thrifty.info()))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"gpu: thrifty cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", type=Path, help="folder of prebuilt native files")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-results")
    parser.add_argument("--only", nargs="+", choices=tuple(SECONDS), default=list(SECONDS))
    parser.add_argument("--tests", choices=("quick", "full"), default="quick")
    options = parser.parse_args(argv)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ)
    if options.libraries is not None:
        env["PYTHONPATH"] = str(stage(options.libraries.resolve(), out))
    info = machine(env)
    if not info["cuda"]["loaded"] or not info["cuda"]["devices"]:
        print(f"gpu: skipped, no GPU that the CUDA kernels can use: {info['cuda']}")
        return 0
    report: dict = {"schema": 1, "info": info, "parts": {}}
    log = out / "gpu.log"
    log.write_text("")
    for part in options.only:
        lines = commands(part, options.libraries, out, options.tests)
        # Every allocation on its own, so that the sanitizer sees where each one ends.
        extra = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if part == "sanitizer" else {}
        done = run_part(lines, SECONDS[part], env | extra, log) if lines else {"skipped": True}
        report["parts"][part] = done
        print(f"gpu: {part}: {done}", flush=True)
        (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    return int(any(part.get("rc") for part in report["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
