"""Timing: the implementations of a case take turns in rounds (A B C A B C ...).

Clock drift, neighbours and frequency changes then hit all of them alike, which timing one after the
other would turn into a difference. A sample is at least `sample_s` long: short calls repeat inside
it. CPU samples are perf_counter intervals; GPU samples are CUDA events around the replay of a
graph, after a write over twice the L2 cache unless the caller asks for a warm one.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """How long one case may take; times in seconds."""

    budget_s: float = 4.0  # for the samples of all implementations together
    min_rounds: int = 5
    max_rounds: int = 100
    sample_s: float = 2e-3
    slow_s: float = 4.0  # a call that takes longer is sampled once

    def rounds(self, round_s: float) -> int:
        if round_s <= 0.0:
            return self.max_rounds
        return max(self.min_rounds, min(self.max_rounds, int(self.budget_s / round_s)))


@dataclass(frozen=True)
class Stats:
    median: float
    p20: float
    p80: float
    n: int


def quantile(ordered: list[float], q: float) -> float:
    """Linear interpolation between the two nearest of the sorted values."""
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def stats(samples: list[float]) -> Stats:
    ordered = sorted(samples)
    median, p20, p80 = (quantile(ordered, q) for q in (0.5, 0.2, 0.8))
    return Stats(median, p20, p80, len(ordered))


class CpuTimer:
    def session(self) -> AbstractContextManager:
        """What everything of a case runs in, from its setup on."""
        return nullcontext()

    def prepare(self, call: Call, warm: bool = False) -> tuple[Call, str]:
        """Warms up; returns what `sample` is to call, and a note for the row.

        `warm` says that the call has run before, which spares a slow one the first of its two.
        """
        # Twice: with a tuned allocator the heap grows to two generations of outputs, not one.
        started = time.perf_counter()
        if not warm:
            call()
        if time.perf_counter() - started < 1.0:
            call()
        return call, ""

    def sample(self, call: Call, repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - started) / repeats

    def repeats(self, once_s: float, sample_s: float) -> int:
        return max(1, math.ceil(sample_s / max(once_s, 1e-9)))


class CudaTimer:
    """Replays a captured graph, so that the launch cost of Python is not what is measured."""

    def __init__(self, device: torch.device, warm: bool) -> None:
        # A backward pass runs on the stream of its forward pass, and a graph captures one stream,
        # so setup, checks and timing all happen on this one.
        self.stream = torch.cuda.Stream(device)
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = None if warm else torch.empty(2 * l2_bytes, dtype=torch.uint8, device=device)

    def session(self) -> AbstractContextManager:
        return torch.cuda.stream(self.stream)

    def prepare(self, call: Call, warm: bool = False) -> tuple[Call, str]:
        """The replay, or the call itself with a note when it cannot be captured."""
        for _ in range(3):
            call()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                call()
        except RuntimeError as error:
            torch.cuda.synchronize(self.stream.device)
            return call, f"launched without a graph: {str(error).splitlines()[0]}"
        return graph.replay, ""

    def sample(self, call: Call, repeats: int) -> float:
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        if self.flush is not None:
            self.flush.zero_()
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats

    def repeats(self, once_s: float, sample_s: float) -> int:
        # A second call inside a sample would find the data of the first in L2.
        if self.flush is not None:
            return 1
        return max(1, math.ceil(sample_s / max(once_s, 1e-9)))


def interleave(calls: Mapping[str, Call], timer, plan: Plan) -> dict[str, list[float]]:
    """Seconds per call of prepared calls, one entry per round.

    A call slower than `plan.slow_s` has one entry only and takes no part in the rounds.
    """
    repeats: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    round_s = 0.0
    for name, call in calls.items():
        once = timer.sample(call, 1)
        if once > plan.slow_s:
            samples[name].append(once)
            continue
        if once < plan.sample_s:  # the first call after another implementation finds cold caches
            once = min(timer.sample(call, 1) for _ in range(3))
        repeats[name] = timer.repeats(once, plan.sample_s)
        round_s += once * repeats[name]
    gc.collect()
    gc.disable()
    try:
        for _ in range(plan.rounds(round_s) if repeats else 0):
            if round_s > 0.1:  # long calls hold large tensors, which a cycle would keep alive
                gc.collect()
            for name, count in repeats.items():
                samples[name].append(timer.sample(calls[name], count))
    finally:
        gc.enable()
    return samples
