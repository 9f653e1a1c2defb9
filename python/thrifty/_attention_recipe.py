"""The numbers that hyper_attention is told, checked, and those that it chooses; without torch."""

from itertools import pairwise
from typing import Any

# From how many queries and keys on it approximates on the CPU, by the bytes of a number. Both modes
# are the faster ones from 1536 on, causal or not, in float32 and bfloat16 (AVX2, two threads,
# D = 64, `python -m bench attention`); doubled for 16 bits, which torch multiplies faster on
# processors with AMX.
CPU_MIN_LEN = {2: 4096, 4: 2048, 8: 2048}


def expect(good: bool, op: str, argument: str, expected: str, got: Any) -> None:
    if not good:
        raise ValueError(f"{op}: {argument}: expected {expected}, got {got}")


def check_cuts(op: str, cuts: list[int], length: int) -> None:
    rising = all(a <= b for a, b in pairwise(cuts))
    whole = len(cuts) > 0 and cuts[0] == 0 and cuts[-1] == length
    expect(rising and whole, op, "cu_seqlens", f"numbers that rise from 0 to {length}", cuts)


def check_recipe(op: str, mode: str, **numbers: int) -> None:
    """num_buckets, window, leaf: at least 1; residual, keep: at least 0; planes: 1 to 16."""
    expect(mode in ("means", "paper"), op, "mode", '"means" or "paper"', repr(mode))
    for name, value in numbers.items():
        low = 0 if name in ("residual", "keep") else 1
        if value < low:
            expect(False, op, name, f"at least {low}", value)
    expect(numbers["planes"] <= 16, op, "planes", "at most 16", numbers["planes"])


def exact_recipe(keys: int) -> dict[str, Any]:
    """The options that make one leaf, or one window, of all keys: exact attention."""
    every = max(keys, 1)
    return {"mode": "means", "num_buckets": 1, "keep": 0, "window": every, "leaf": every}
