"""Quantiles, the order of the rounds, repeats inside a sample, and what happens to slow calls."""

import time

import pytest

from bench.timing import CpuTimer, Plan, interleave, stats


class Clock:
    """A timer whose calls last what they are told, and which records who was sampled."""

    def __init__(self):
        self.order = []

    def sample(self, call, repeats):
        name, seconds = call()
        self.order += [name] * repeats
        return seconds

    def repeats(self, once_s, sample_s):
        return CpuTimer().repeats(once_s, sample_s)


def test_stats_are_the_quantiles_of_the_samples():
    measured = stats([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert measured.median == 3.5
    assert measured.p20 == 2.0
    assert measured.p80 == 5.0
    assert measured.n == 6


def test_stats_of_one_sample():
    assert stats([2.0]).p20 == stats([2.0]).median == stats([2.0]).p80 == 2.0


def test_stats_interpolate_between_neighbours():
    assert stats([0.0, 1.0]).p80 == pytest.approx(0.8)


def test_implementations_take_turns():
    clock = Clock()
    calls = {name: lambda name=name: (name, 1.0) for name in "ABC"}
    samples = interleave(calls, clock, Plan(budget_s=9.0, min_rounds=2, slow_s=5.0))
    assert "".join(clock.order) == "ABC" + "ABC" * 3  # one estimate each, then the rounds
    assert {name: len(taken) for name, taken in samples.items()} == {"A": 3, "B": 3, "C": 3}


def test_a_slow_call_is_sampled_once_and_the_others_go_on():
    clock = Clock()
    calls = {"slow": lambda: ("slow", 60.0), "fast": lambda: ("fast", 0.5)}
    samples = interleave(calls, clock, Plan(budget_s=2.0, min_rounds=3, slow_s=5.0))
    assert samples == {"slow": [60.0], "fast": [0.5] * 4}
    assert clock.order.count("slow") == 1


def test_rounds_fill_the_budget_within_their_limits():
    plan = Plan(budget_s=4.0, min_rounds=5, max_rounds=100)
    assert plan.rounds(0.1) == 40
    assert plan.rounds(10.0) == 5
    assert plan.rounds(1e-6) == 100


def test_a_short_call_repeats_inside_a_sample():
    clock = Clock()
    interleave({"A": lambda: ("A", 1e-4)}, clock, Plan(budget_s=1e-9, min_rounds=1, sample_s=1e-3))
    assert len(clock.order) == 1 + 3 + 10  # once, then the best of three says how often


def test_cpu_samples_are_seconds_of_one_call():
    timer = CpuTimer()
    call, note = timer.prepare(lambda: time.sleep(0.01))
    assert note == ""
    assert 0.01 <= timer.sample(call, 3) < 0.02
