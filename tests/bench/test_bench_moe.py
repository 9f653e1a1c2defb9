"""The moe cases: bars name what exists; the layer that is put together on CUTLASS's product is the
layer."""

import pytest
import torch

from bench import moe, moe_grouped
from bench.harness import Unavailable
from bench.peers import cutlass_grouped
from thrifty.reference import moe as reference


def test_bars_name_cases_and_implementations():
    by_name = {case.name: case for case in moe.cases(torch.device("cpu"))}
    for bar in moe.BARS:
        of = bar.of if isinstance(bar.of, tuple) else (bar.of,)
        divisor = {bar.over} if isinstance(bar.over, str) and bar.over else set()
        assert divisor.union(of) <= set(by_name[bar.case].impls)


def test_both_schedules_stand_beside_the_layer_and_the_product_on_a_gpu():
    cases = {case.name: case for case in moe.cases(torch.device("cuda"))}
    for tokens in (1, 16, 512, 4096):
        assert set(cutlass_grouped.SCHEDULES) <= set(cases[f"moe_mlp/T={tokens}/bf16"].impls)
    for case in moe_grouped.cases():
        assert set(cutlass_grouped.SCHEDULES) <= set(case.impls)


def test_cutlass_is_skipped_with_a_reason_without_a_hopper():
    layer = moe.layer_setup(4, "bf16", skew=False)(torch.device("cpu"))
    with pytest.raises(Unavailable, match="sm_90a"):
        moe.cutlass("pingpong", layer)


def test_the_layer_on_cutlass_is_the_layer(monkeypatch):
    """With torch's product in the place of CUTLASS's."""

    def product(schedule, a, w, ends):
        return lambda: torch.nn.functional.grouped_mm(a, w.mT, offs=ends)

    monkeypatch.setattr(cutlass_grouped, "grouped_mm", product)
    torch.manual_seed(0)
    layer = moe.layer_setup(9, "bf16", skew=False)(torch.device("cpu"))
    call = moe.cutlass("cooperative", layer).call
    for ids, weights in [*layer.routings, *layer.routings[:1]]:
        wide = (t.double() for t in (layer.x, layer.w1, layer.w2))
        expected = reference.moe_mlp(*wide, ids, weights.double())
        error = (call().double() - expected).norm() / expected.norm()
        assert error < 0.01
