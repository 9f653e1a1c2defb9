"""The roof is arithmetic over two measurements, which are plausible and kept between runs."""

import json

import pytest
import torch
import toy

from bench import machine
from bench.roofline import Roof, cache_file, roofline

CPU = torch.device("cpu")


def test_fraction_takes_the_tighter_of_bandwidth_and_compute():
    roof = Roof(bandwidth=1e9, peak={"fp32": 1e9})
    case = toy.case(bytes=1e6, flops=2e6)  # 1 ms of traffic, 2 ms of arithmetic
    assert roof.fraction(case, 4e-3) == pytest.approx(0.5)
    assert roof.fraction(toy.case(bytes=8e6, flops=2e6), 8e-3) == pytest.approx(1.0)


def test_a_case_without_flops_needs_no_peak():
    assert Roof(1e9, {}).fraction(toy.case(flops=0, dtype="int64"), 2e-3) == pytest.approx(0.5)


def test_measured_roof_is_sane_cached_and_remeasured_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    facts = machine.machine(CPU)
    roof = roofline(CPU, facts, ["bf16"], recalibrate=False)
    assert 5e8 < roof.bandwidth < 5e12
    assert 1e8 < roof.peak["fp32"] < 1e15
    assert roof.peak["bf16"] >= roof.peak["fp32"]

    path = cache_file(facts["id"])
    assert path.is_relative_to(tmp_path)
    assert roofline(CPU, facts, ["bf16"], recalibrate=False) == roof

    cache = json.loads(path.read_text())
    (key,) = cache
    cache[key]["bandwidth"] = 1.0
    path.write_text(json.dumps(cache))
    assert roofline(CPU, facts, [], recalibrate=False).bandwidth == 1.0
    assert roofline(CPU, facts, [], recalibrate=True).bandwidth > 5e8


def test_a_damaged_cache_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    facts = machine.machine(CPU)
    path = cache_file(facts["id"])
    path.parent.mkdir()
    path.write_text("{")
    assert roofline(CPU, facts, [], recalibrate=False).bandwidth > 5e8
