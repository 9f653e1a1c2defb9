"""What the numbers were taken on: hardware, software and source, for the JSON and for --compare.

Nothing here names a host, a user or a folder. The machine id is a digest of the hardware's own
description, so two machines of one kind share it and their results may be compared.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy
import torch

ROOT = Path(__file__).resolve().parent.parent


def output(*command: str) -> str | None:
    """Standard output of a command; None when it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    fields = dict(re.findall(r"^(model name|cpu family|model|stepping)\s*: (.*)$", text, re.M))
    name = fields.pop("model name", platform.machine())
    return name + "".join(f", {key} {fields[key]}" for key in sorted(fields))


def governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def thrifty_info() -> dict:
    """thrifty.info(); empty when thrifty is not built."""
    try:
        import thrifty

        return thrifty.info()
    except (ImportError, AttributeError):
        return {}


def cpu() -> dict:
    return {
        "model": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "isa_thrifty": thrifty_info().get("isa"),
        "isa_torch": torch.backends.cpu.get_cpu_capability(),
        "governor": governor(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "malloc": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")},
    }


def gpu(device: torch.device) -> dict | None:
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    fields = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")
    index = str(device.index or 0)
    queried = output(
        "nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={index}"
    )
    values = [value.strip() for value in queried.split(",")] if queried else [None] * len(fields)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        **dict(zip(fields, values, strict=True)),
    }


def machine(device: torch.device) -> dict:
    cpu_part, gpu_part = cpu(), gpu(device)
    identity = [platform.machine(), cpu_part["model"], cpu_part["cores"]]
    identity += [gpu_part["name"]] if gpu_part else []
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    return {"id": digest, "system": platform.system(), "cpu": cpu_part, "gpu": gpu_part}


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict:
    compiler = output(os.environ.get("CXX", "c++"), "--version")
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": numpy.__version__,
        "thrifty": package_version("thrifty"),
        "thrifty_cuda": thrifty_info().get("cuda"),
        "tabm": package_version("tabm"),
        "compiler": compiler.splitlines()[0] if compiler else None,
    }


def source() -> dict:
    """The commit that was measured, and whether files differ from it."""
    status = output("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "sha": output("git", "rev-parse", "HEAD"),
        "dirty": None if status is None else status != "",
    }
