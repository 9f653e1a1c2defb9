"""The moe family in thrifty.numpy: the bits of the torch ops."""

import numpy as np
import pytest
import torch

import thrifty.numpy as tn
from helpers import assert_rejects, same_bits, to_numpy
from thrifty.reference.cases import Make, OpCase, all_cases, tensors
from thrifty.reference.moe_cases import mlp

OPS = ("moe_route", "moe_permute", "grouped_mm", "moe_mlp", "token_topk", "gather_rows",
       "scatter_add_rows")  # fmt: skip
TORCH_ALONE = {"recompute", "stats", "threshold"}  # gradients, statistics


CASES = [(case, dtype) for case in all_cases() if case.op in OPS for dtype in case.dtypes]


@pytest.mark.parametrize("case, dtype", CASES, ids=str)
def test_bits_of_the_torch_op(case: OpCase, dtype: torch.dtype) -> None:
    call = {k: v for k, v in case.call("cpu", dtype).items() if k not in TORCH_ALONE}
    got = getattr(tn, case.op)(**{name: to_numpy(value) for name, value in call.items()})
    got = got if isinstance(got, tuple) else (got,)
    for a, b in zip(got, tensors(case.function(**call)), strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("threads", [1, 3])
def test_thread_count_changes_nothing(threads: int) -> None:
    call = {k: to_numpy(v) for k, v in mlp(Make("cpu", torch.float32), 300, 70, 130, 6, 2).items()}
    before = tn.get_num_threads()
    expected = tn.moe_mlp(**call)
    try:
        tn.set_num_threads(threads)
        assert tn.moe_mlp(**call).tobytes() == expected.tobytes()
    finally:
        tn.set_num_threads(before)


def test_wrong_arguments_are_named() -> None:
    call = {k: to_numpy(v) for k, v in mlp(Make("cpu", torch.float32)).items()}
    for argument, value in [
        ("x", np.ones(7, np.float32)),
        ("w1", np.ones((5, 14, 12), np.float32)),
        ("ids", np.ones((9, 3), np.float32)),
        ("activation", "elu"),
    ]:
        assert_rejects(argument, tn.moe_mlp, **call | {argument: value})
