"""The roof of this machine, measured: copy bandwidth and GEMM rate per dtype.

    % of roof = max(bytes / bandwidth, flops / peak) / time

Both come from torch (a copy far larger than the caches, the best square torch.mm), so a roof is
what a library reaches here, not a data sheet. They are measured once per machine id and kept in
the user's cache folder; --recalibrate measures them again.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.harness import DTYPES, Case
from bench.timing import CpuTimer, CudaTimer

ENOUGH_S = 0.05  # a GEMM of this length shows the peak; a larger one would only take longer


@dataclass(frozen=True)
class Roof:
    bandwidth: float  # bytes/s, read plus written
    peak: dict[str, float]  # dtype -> FLOP/s

    def fraction(self, case: Case, seconds: float) -> float:
        compute = case.flops / self.peak[case.dtype] if case.flops else 0.0
        return max(case.bytes / self.bandwidth, compute) / seconds


def best(timer, call, tries: int) -> float:
    ready, _ = timer.prepare(call)
    return min(timer.sample(ready, 1) for _ in range(tries))


def measure_bandwidth(device: torch.device, timer) -> float:
    size = 2**28 if device.type == "cuda" else 2**27  # bytes; several times any L3
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / best(timer, lambda: target.copy_(source), 5)


def measure_peak(device: torch.device, timer, dtype: torch.dtype) -> float:
    peak = 0.0
    for n in (512, 1024, 2048) if device.type == "cpu" else (2048, 4096, 8192):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        product = torch.empty_like(a)
        started = time.perf_counter()
        seconds = best(timer, lambda a=a, b=b, c=product: torch.mm(a, b.t(), out=c), 3)
        peak = max(peak, 2 * n**3 / seconds)
        if time.perf_counter() - started > 5 * ENOUGH_S:
            break
    return peak


def cache_file(machine_id: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "thrifty" / f"roofline-{machine_id}.json"


def measure(device: torch.device, dtypes: list[str], known: dict) -> dict:
    timer = CudaTimer(device, warm=True) if device.type == "cuda" else CpuTimer()
    peak = dict(known.get("peak", {}))
    with timer.session():
        for name in dtypes:
            if name not in peak:
                peak[name] = measure_peak(device, timer, DTYPES[name])
        bandwidth = known.get("bandwidth") or measure_bandwidth(device, timer)
    return {"bandwidth": bandwidth, "peak": peak}


def roofline(device: torch.device, machine: dict, dtypes: list[str], recalibrate: bool) -> Roof:
    """The cached roof, completed by what is missing in it."""
    path = cache_file(machine["id"])
    key = f"{device.type} threads={torch.get_num_threads()} torch={torch.__version__}"
    try:
        cache = json.loads(path.read_text())
    except (OSError, ValueError):
        cache = {}
    known = {} if recalibrate else cache.get(key, {})
    cache[key] = measured = measure(device, sorted({"fp32", *dtypes}), known)
    if measured != known:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(cache, indent=1))
        except OSError:
            pass  # a read-only home costs a measurement per run, nothing else
    # Where torch multiplies a half type slower than float32 (a CPU without bf16 instructions),
    # widening first is the better algorithm, so the float32 rate is the lower bound of the roof.
    peak = {
        name: max(rate, measured["peak"]["fp32"]) if name in ("bf16", "fp16") else rate
        for name, rate in measured["peak"].items()
    }
    return Roof(measured["bandwidth"], peak)
