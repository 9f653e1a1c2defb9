"""Benchmarks of thrifty beside what a user would run instead: `python -m bench --help`.

A family adds one module, bench/<family>.py, with `cases(device)` and, if it promises ratios,
`BARS`; everything else (checking, timing, roofline, report) is shared.
"""

FAMILIES = ("attention", "drafting", "sampling", "moe", "ensemble")
