"""Says which torch `make` is about to install, before several GB arrive.

Usage: torch_flavour.py requirements.txt [extra index]. pip decides and is asked without installing
anything; when torch is there already, or pip cannot tell, that is said instead."""

import importlib.metadata
import json
import re
import subprocess
import sys


def wanted(requirements: str) -> str:
    with open(requirements) as lines:
        return next(line.strip() for line in lines if re.match(r"torch\b", line))


def resolve(requirement: str, index: list[str]) -> str:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--no-deps", "--report", "-", requirement]
    if index:
        command += ["--extra-index-url", index[0]]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        return f"{requirement}, which pip cannot find: {run.stderr.strip().splitlines()[-1]}"
    version = json.loads(run.stdout)["install"][0]["metadata"]["version"]
    local = version.partition("+")[2]
    if not local:
        return f"torch {version}, the platform's default (on Linux x86-64: CUDA, several GB)"
    return f"torch {version}, {'without CUDA' if local == 'cpu' else f'the {local} build'}"


def main(requirements: str, *index: str) -> None:
    requirement = wanted(requirements)
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        installed = ""
    if installed.partition("+")[0] == requirement.partition("==")[2]:
        print(f"thrifty: torch {installed} is installed", flush=True)
    else:
        print(f"thrifty: installing {resolve(requirement, list(index))}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
