"""One run: the chosen cases of each family, then bars, JSON, comparison and plots."""

import importlib
import importlib.util
import json
import re
import time
from argparse import Namespace
from dataclasses import dataclass

import torch

from bench import FAMILIES, bars, compare, machine, plot, report, roofline, summary
from bench.harness import Case, Result, run_case
from bench.timing import CpuTimer, CudaTimer, Plan

QUICK = Plan(budget_s=0.4, min_rounds=3, slow_s=0.5)
USUAL = Plan()
FULL = Plan(budget_s=10.0)
LATE = Plan(budget_s=0.0, min_rounds=3, slow_s=0.1)  # when a family's share of a quick run is spent
TIERS = ("quick", "default", "full")


@dataclass
class Selected:
    family: str
    cases: list[Case]
    bars: list[bars.Bar]


def select(options: Namespace) -> list[Selected]:
    """The cases to run; ValueError when a name or pattern matches nothing."""
    present = [name for name in FAMILIES if importlib.util.find_spec(f"bench.{name}")]
    for name in options.families:
        if name not in present:
            raise ValueError(f"family: expected one of {', '.join(present)}, got {name}")
    try:
        pattern = re.compile(options.filter)
    except re.error as error:
        raise ValueError(f"--filter: {error}") from error
    device = torch.device(options.device)
    limit = 0 if options.quick else 1
    chosen = []
    for family in options.families or present:
        module = importlib.import_module(f"bench.{family}")
        declared = [bar for bar in getattr(module, "BARS", ()) if bar.device == device.type]
        named = {bar.case for bar in declared}
        cases = [
            case
            for case in module.cases(device)
            if device.type in case.devices
            and pattern.search(case.name)
            and (case.name in named if options.bars else options.full or case.tier <= limit)
        ]
        kept = {case.name for case in cases}
        if cases:
            chosen.append(Selected(family, cases, [bar for bar in declared if bar.case in kept]))
    if not chosen:
        raise ValueError("no case matches")
    return chosen


def print_list(selected: list[Selected]) -> None:
    for part in selected:
        for case in part.cases:
            print(f"{part.family}  {case.name}  [{TIERS[case.tier]}]  {' '.join(case.impls)}")


def plan_for(options: Namespace) -> Plan:
    return QUICK if options.quick else FULL if options.full or options.bars else USUAL


def run_family(part: Selected, options: Namespace, roof, deadline: float | None) -> list[Result]:
    device, plan = torch.device(options.device), plan_for(options)
    timer = CudaTimer(device, options.warm) if device.type == "cuda" else CpuTimer()
    table = report.Table(part.family, part.cases)
    results = []
    for case in part.cases:
        if deadline is not None and plan is not LATE and time.monotonic() > deadline:
            print("this family's share of a quick run is used up: few samples a row from here on")
            plan = LATE
        results.append(run_case(case, device, timer, plan, compiled=not options.quick))
        table.add(results[-1], roof)
    table.close(report.geometric_means(results))
    return results


def broken(results: dict[str, list[Result]]) -> bool:
    """A wrong or crashed row, or thrifty itself missing from the comparison."""
    rows = [row for part in results.values() for result in part for row in result.rows.values()]
    return any(r.status == "FAIL" or (r.status == "skip" and r.impl == "thrifty") for r in rows)


def run(options: Namespace, selected: list[Selected], argv: list[str], quick_s) -> int:
    """Returns the exit code. `quick_s`: of a quick run, shared out over the families; else None."""
    device = torch.device(options.device)
    facts = machine.machine(device)
    header = {"schema": report.SCHEMA, "device": device.type, "machine": facts}
    base = compare.load(options.compare, header) if options.compare else None
    dtypes = [case.dtype for part in selected for case in part.cases if case.flops]
    roof = roofline.roofline(device, facts, dtypes, options.recalibrate)
    print_machine(facts, roof)
    results = {}
    for part in selected:
        deadline = quick_s and time.monotonic() + quick_s / len(selected)
        results[part.family] = run_family(part, options, roof, deadline)
    written = report.run_json(
        results,
        roof,
        **header,
        argv=argv,
        versions=machine.versions(),
        source=machine.source(),
    )
    code = 1 if broken(results) else 0
    if options.bars:
        written["bars"] = bars.judge(
            [bar for part in selected for bar in part.bars],
            [result for part in results.values() for result in part],
        )
        bars.print_bars(written["bars"])
        code |= not all(entry["passed"] for entry in written["bars"])
    summary.print_summary(written)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1) + "\n")
        print(f"wrote {options.json}")
    if options.plot:
        print("\n".join(f"wrote {path}" for path in plot.plot(written, options.plot)))
    if base is not None:
        entries = compare.compare(written, base, options.threshold)
        compare.print_comparison(entries)
        code |= bool(compare.regressions(entries))
    return int(code)


def print_machine(facts: dict, roof: roofline.Roof) -> None:
    cpu, gpu = facts["cpu"], facts["gpu"]
    host = f"{cpu['model']}; {cpu['threads']} threads; ISA {cpu['isa_thrifty']}"
    print(f"{gpu['name']}; {host}" if gpu else host)
    peaks = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in sorted(roof.peak.items()))
    print(f"roof: copy {roof.bandwidth / 1e9:.1f} GB/s; GEMM GFLOP/s: {peaks}")
    if cpu["load_1min"] and cpu["load_1min"] > 0.5 * cpu["cores"]:
        print(f"load {cpu['load_1min']} on {cpu['cores']} cores: expect noise")
