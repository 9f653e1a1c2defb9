"""--compare: ratio, noise band, threshold, and the refusal of a base that says nothing."""

import copy
import json
import math

import pytest

from bench.compare import Incomparable, compare, load, regressions


def make_run(thrifty=1.0, eager=2.0, spread=0.0):
    def row(impl, median):
        half = spread * median
        return {"impl": impl, "median": median, "p20": median - half, "p80": median + half}

    return {
        "schema": 1,
        "device": "cpu",
        "machine": {"id": "abc", "cpu": {"threads": 2}},
        "cases": [{"name": "toy/n=8", "rows": [row("thrifty", thrifty), row("eager", eager)]}],
    }


def verdicts(new, base, threshold=0.10):
    return {entry["impl"]: entry["verdict"] for entry in compare(new, base, threshold)}


def test_verdicts_around_the_threshold():
    assert verdicts(make_run(1.09), make_run()) == {"thrifty": "same", "eager": "same"}
    assert verdicts(make_run(1.11), make_run())["thrifty"] == "slower"
    assert verdicts(make_run(0.90), make_run())["thrifty"] == "faster"


def test_a_difference_inside_the_noise_band_is_the_same():
    noisy, base = make_run(1.2, spread=0.2), make_run(spread=0.2)
    (thrifty, _) = compare(noisy, base, 0.10)
    assert thrifty["ratio"] == pytest.approx(1.2)
    assert thrifty["band"] == pytest.approx(math.hypot(0.2, 0.2))
    assert thrifty["verdict"] == "same"
    assert verdicts(make_run(1.2, spread=0.05), make_run(spread=0.05))["thrifty"] == "slower"


def test_the_band_never_vanishes():
    (thrifty, _) = compare(make_run(1.02), make_run(), 0.0)
    assert thrifty["band"] == 0.03
    assert thrifty["verdict"] == "same"


def test_only_our_own_rows_are_regressions():
    entries = compare(make_run(thrifty=1.5, eager=4.0), make_run(), 0.10)
    assert [entry["verdict"] for entry in entries] == ["slower", "slower"]
    assert [entry["impl"] for entry in regressions(entries)] == ["thrifty"]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update(schema=0),
        lambda run: run.update(device="cuda"),
        lambda run: run["machine"].update(id="other"),
        lambda run: run["machine"]["cpu"].update(threads=1),
        lambda run: run["cases"][0].update(name="another"),
    ],
)
def test_another_machine_or_device_is_refused(change):
    base = copy.deepcopy(make_run())
    change(base)
    with pytest.raises(Incomparable):
        compare(make_run(), base, 0.10)


@pytest.mark.parametrize("text", [None, "no json", "[]", json.dumps({"schema": 7})])
def test_a_file_that_is_no_bench_json_is_refused(tmp_path, text):
    path = tmp_path / "base.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Incomparable):
        load(path, make_run())
