"""A row is timed only if it agrees with its oracle; whatever else happens is said in the row."""

import math

import pytest
import torch
import toy

from bench.harness import Impl, Unavailable, max_error, rms_error, run_case
from bench.timing import CpuTimer, Plan

PLAN = Plan(budget_s=0.01, min_rounds=2, max_rounds=3, sample_s=1e-5)


def rows_of(impls, **changes):
    case = toy.case(impls=impls, **changes)
    return run_case(case, torch.device("cpu"), CpuTimer(), PLAN, compiled=False).rows


def test_agreeing_rows_are_timed():
    row = rows_of({"thrifty": toy.total})["thrifty"]
    assert (row.status, row.error) == ("ok", 0.0)
    assert len(row.samples) == row.stats.n == 3


def test_a_wrong_row_fails_and_is_never_timed():
    calls = []

    def factory(state):
        def call():
            calls.append(1)
            return state.sum() * 1.001

        return call

    rows = rows_of({"wrong": factory, "eager": toy.total})
    assert rows["wrong"].status == "FAIL"
    assert rows["wrong"].error == pytest.approx(1e-3, rel=1e-3)
    assert "above 1e-05" in rows["wrong"].reason
    assert rows["wrong"].stats is None
    assert rows["wrong"].samples == []
    assert len(calls) == 1
    assert rows["eager"].stats is not None


@pytest.mark.parametrize(
    "result", [torch.tensor(math.nan), torch.zeros(2), (torch.tensor(36.0),) * 2, None]
)
def test_nan_shape_and_count_fail(result):
    row = rows_of({"wrong": lambda state: lambda: result})["wrong"]
    assert row.status == "FAIL"
    assert row.reason
    assert row.stats is None


def test_an_exception_fails_its_row_only():
    def broken(state):
        raise RuntimeError("first line\nsecond line")

    rows = rows_of({"broken": broken, "eager": toy.total})
    assert rows["broken"].status == "FAIL"
    assert rows["broken"].reason == "RuntimeError: first line"
    assert rows["eager"].status == "ok"


def test_a_timed_call_that_fails_is_a_failed_row():
    def broken():
        raise RuntimeError("only when timed")

    rows = rows_of({"broken": lambda state: Impl(broken, check=lambda: state.sum())})
    assert rows["broken"].status == "FAIL"
    assert "only when timed" in rows["broken"].reason


def test_a_missing_peer_is_skipped_with_its_reason():
    def missing(state):
        raise Unavailable("peer is not installed")

    row = rows_of({"peer": missing})["peer"]
    assert (row.status, row.reason) == ("skip", "peer is not installed")


def test_a_quick_run_says_that_it_leaves_compile_out():
    row = rows_of({"compile": toy.total, "eager": toy.total})["compile"]
    assert row.status == "skip"
    assert "quick" in row.reason


def test_a_broken_setup_fails_every_row():
    def setup(device):
        raise ValueError("no data")

    rows = rows_of({"thrifty": toy.total, "eager": toy.total}, setup=setup)
    assert {row.status for row in rows.values()} == {"FAIL"}
    assert "no data" in rows["eager"].reason


def test_a_floor_is_timed_unchecked_and_figures_are_kept():
    rows = rows_of(
        {
            "gemm": lambda state: Impl(lambda: None, compared=False),
            "thrifty": lambda state: Impl(state.sum, figures=lambda: {"saved_bytes": 5.0}),
        }
    )
    assert rows["gemm"].stats is not None
    assert rows["gemm"].error is None
    assert rows["thrifty"].figures == {"saved_bytes": 5.0}


def test_the_check_may_differ_from_the_timed_call():
    rows = rows_of({"random": lambda state: Impl(lambda: torch.rand(3), check=state.sum)})
    assert rows["random"].status == "ok"
    assert rows["random"].stats is not None


def test_error_metrics():
    expected = torch.tensor([3.0, -4.0])
    got = torch.tensor([3.0, -4.5])
    assert max_error(got, expected) == pytest.approx(0.125)
    assert rms_error(got, expected) == pytest.approx(0.1)
    exact, off = torch.ones(3), torch.full((3,), 1.5)
    assert max_error({"a": exact, "b": [off]}, [exact, exact]) == pytest.approx(0.5)
    assert rms_error(torch.tensor([math.inf]), torch.ones(1)) == math.inf
    # the second tensor's NaN must not hide behind the first one's small error
    assert max_error([exact, torch.tensor([1.0, math.nan, 1.0])], [exact, exact]) == math.inf


def test_gradients_are_judged_by_their_norm():
    bump = torch.zeros(10_000)
    bump[0] = 1e-2  # one element moved by a ReLU's kink, 1e-4 of the norm

    def moved(state):
        return lambda: torch.ones(10_000) + bump

    impls, oracle = {"thrifty": moved}, lambda state: torch.ones(10_000)
    assert rows_of(impls, oracle=oracle)["thrifty"].status == "FAIL"
    assert rows_of(impls, oracle=oracle, gradients=True)["thrifty"].status == "ok"
