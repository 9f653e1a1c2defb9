"""The ensemble cases: one oracle, honest floors, and bars that name what exists."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import ensemble
from bench.ensemble_networks import Network, gemm_floor, oracle, saved_bytes, train_step
from bench.harness import max_error

CPU = torch.device("cpu")


def small(arch="tabm", dtype="fp64", batch=3) -> Network:
    return Network(batch, dtype, arch, d_in=5, d=16, blocks=3, k=4).fill(CPU)


@pytest.mark.parametrize("arch", ["tabm", "tabm-mini", "tabm-packed"])
def test_the_oracle_is_the_package(arch):
    pytest.importorskip("tabm")
    pytest.importorskip("thrifty.reference.ensemble")
    net = small(arch)
    assert max_error(train_step(net.model("tabm", 0.0), net), oracle(net, training=True)) < 1e-12
    assert oracle(net, training=False)[0].shape == (3, 4, 1)


def test_every_parameter_differs_between_members():
    for name, value in small().params.items():
        if not name.startswith("backbone.blocks") or not name.endswith("weight"):
            assert not torch.equal(value[0], value[1]), name


@pytest.mark.parametrize("arch", ["tabm", "tabm-packed"])
@pytest.mark.parametrize("training", [False, True])
def test_the_floor_does_the_hidden_gemms_and_nothing_else(arch, training):
    net = small(arch, "fp32")
    call = gemm_floor(net, training).call
    with FlopCounterMode(display=False) as counter:
        call()
    head = net.batch * net.k * 2 * net.d
    assert counter.get_total_flops() == (net.forward_flops - head) * (3 if training else 1)


def test_saved_bytes_counts_each_storage_once_and_no_parameter():
    net = small(dtype="fp32")
    weight = torch.nn.Linear(5, 7)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = weight

        def forward(self, x):
            h = self.layer(x).sigmoid()  # sigmoid and the product keep h; the layer keeps x
            return h * h

    assert saved_bytes(Model(), net) == {"saved_bytes": 3 * 7 * 4}


def test_names_are_unique_and_bars_name_cases():
    listed = ensemble.cases(CPU)
    by_name = {case.name: case for case in listed}
    assert len(by_name) == len(listed)
    for bar in ensemble.BARS:
        case = by_name[bar.case]
        impls = {bar.of} if isinstance(bar.of, str) else set(bar.of)
        assert impls | ({bar.over} - {""}) <= set(case.impls)
        assert (bar.at_most is None) != (bar.at_least is None)


def test_every_case_has_a_model_of_bytes_and_flops():
    for case in ensemble.cases(CPU):
        assert case.bytes > 0
        assert case.flops > 0
        assert case.baseline in case.impls
        assert "thrifty" in case.impls
        assert case.size in case.dims
