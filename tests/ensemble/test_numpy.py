"""thrifty.numpy: the bits of the torch ops, on NumPy arrays."""

import numpy as np
import pytest
import torch

import thrifty
import thrifty.numpy as tn
from helpers import LAYOUTS, assert_rejects, same_bits, to_numpy
from thrifty.reference.cases import Make, OpCase, all_cases, map_tensors
from thrifty.reference.ensemble_cases import layer, network


def arguments(call: dict) -> dict:
    converted = {name: to_numpy(value) for name, value in call.items() if name != "packed"}
    if "seed" in call:
        converted["seed"] = tuple(call["seed"].tolist())
    return converted


CASES = [
    (case, dtype) for case in all_cases() if case.family == "ensemble" for dtype in case.dtypes
]


@pytest.mark.parametrize("case, dtype", CASES, ids=str)
def test_bits_of_the_torch_op(case: OpCase, dtype: torch.dtype) -> None:
    call = case.call("cpu", dtype)
    got = getattr(tn, case.op)(**arguments(call))
    assert got.flags.c_contiguous
    assert same_bits(got, case.function(**call))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_change_nothing(layout: str) -> None:
    call = layer(Make("cpu", torch.float32), activation="gelu")
    expected = thrifty.batch_ensemble_linear(**call)
    strided = map_tensors(LAYOUTS[layout], call)
    assert same_bits(tn.batch_ensemble_linear(**arguments(strided)), expected)


def test_expanded_misaligned_readonly_and_foreign_arrays() -> None:
    call = arguments(layer(Make("cpu", torch.float32), shared=False))
    expected = tn.batch_ensemble_linear(**call)
    x = call["x"]
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    swapped = x.astype(x.dtype.newbyteorder())
    for other in (misaligned, swapped):
        got = tn.batch_ensemble_linear(**call | {"x": other})
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.float32
    shared = x[:, 0]
    wide = np.broadcast_to(shared[:, None], x.shape)
    np.testing.assert_array_equal(
        tn.batch_ensemble_linear(**call | {"x": wide}),
        tn.batch_ensemble_linear(**call | {"x": shared}),
    )


def test_arguments_stay_as_they_are() -> None:
    call = arguments(layer(Make("cpu", torch.float32), activation="relu"))
    before = {name: np.copy(v) for name, v in call.items() if isinstance(v, np.ndarray)}
    tn.batch_ensemble_linear(**call)
    for name, value in before.items():
        np.testing.assert_array_equal(call[name], value)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_thread_count_changes_nothing(threads: int) -> None:
    calls = [
        (tn.batch_ensemble_linear, layer(Make("cpu", torch.float32), 150, 5, 100, 77)),
        (tn.batch_ensemble_mlp, network(Make("cpu", torch.bfloat16), batch=300, head=2)),
    ]
    before = tn.get_num_threads()
    try:
        tn.set_num_threads(1)
        expected = [op(**arguments(call)) for op, call in calls]
        tn.set_num_threads(threads)
        assert tn.get_num_threads() == threads
        for (op, call), right in zip(calls, expected, strict=True):
            assert op(**arguments(call)).tobytes() == right.tobytes()
    finally:
        tn.set_num_threads(before)


def test_wrong_arguments_are_named() -> None:
    call = arguments(layer(Make("cpu", torch.float32)))
    for argument, value in [
        ("x", np.ones(7, np.float32)),
        ("x", np.ones((5, 7), np.int64)),
        ("weight", np.ones((6, 8), np.float32)),
        ("weight", np.ones((6, 7))),
        ("s", np.ones((2, 6), np.float32)),
        ("activation", "elu"),
        ("dropout", 1.0),
    ]:
        assert_rejects(argument, tn.batch_ensemble_linear, **call | {argument: value})
    assert_rejects("seed", tn.batch_ensemble_linear, **call, dropout=0.5)
    assert_rejects("threads", tn.set_num_threads, 0)


def test_isa_is_the_one_of_torch(isa: str) -> None:
    assert tn.cpu_isa() == isa
