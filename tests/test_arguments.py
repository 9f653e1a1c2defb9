"""Arguments that are no tensor or no number at all: a ValueError that names op and argument, as for
wrong shapes and dtypes; and nothing of it on a call that works."""

import pytest
import torch

import thrifty
from thrifty._arguments import named

NUMBERS, ROW = torch.ones(2, 3), torch.ones(2, dtype=torch.int64)

WRONG = {
    "moe_mlp: x: expected a tensor, got None": lambda: thrifty.moe_mlp(None, *[NUMBERS] * 4),
    "bucket_sort: ids: expected a tensor, got list": lambda: thrifty.bucket_sort([1, 2], 3),
    "bucket_sort: buckets: expected an integer of 64 bits, got 18446744073709551616": (
        lambda: thrifty.bucket_sort(ROW, 2**64)
    ),
    "bucket_sort: ids: expected a dense tensor, got one of layout torch.sparse_coo": (
        lambda: thrifty.bucket_sort(ROW.to_sparse(), 3)
    ),
    "token_topk: k: expected an integer of 64 bits, got 'two'": (
        lambda: thrifty.token_topk(NUMBERS, "two")
    ),
    "moe_permute: capacity: expected an integer of 64 bits or None, got 'all'": (
        lambda: thrifty.moe_permute(ROW[None], 2, capacity="all")
    ),
    "batch_ensemble_linear: weight: expected a tensor, got 1.5": (
        lambda: thrifty.batch_ensemble_linear(NUMBERS, 1.5)
    ),
    "batch_ensemble_mlp: weight[0]: expected a tensor, got None": (
        lambda: thrifty.batch_ensemble_mlp(NUMBERS, [None])
    ),
    "hyper_attention: q: expected a tensor, got 1": lambda: thrifty.hyper_attention(1, 2, 3),
    "hyper_attention: window: expected an integer of 64 bits, got None": (
        lambda: thrifty.hyper_attention(*torch.ones(3, 1, 1, 4, 2), window=None)
    ),
    "masked_sample: logits: expected a tensor, got ndarray": (
        lambda: thrifty.masked_sample(NUMBERS.numpy(), seeds=ROW, offsets=ROW)
    ),
    "awrs_sample: constraint: expected a function or a sequence or a tensor, got 5": (
        lambda: thrifty.awrs_sample(NUMBERS, 5, seeds=ROW, offsets=ROW)
    ),
    "verify_tree: draft: expected a draft, got None": lambda: thrifty.verify_tree(NUMBERS, None),
    "NgramTable: capacity: expected an integer of 64 bits, got None": (
        lambda: thrifty.NgramTable(None)
    ),
    "ExpertCache: n_slots: expected an integer of 64 bits, got 1.5": (
        lambda: thrifty.ExpertCache(4, 1.5)
    ),
    "SMC: particles: expected an integer of 64 bits, got '8'": lambda: thrifty.SMC("8", eos_ids=0),
}

# Tensors and numbers that used to reach torch, or pass.
UNFIT = {
    "row_stats: logits: expected 2 dimensions": lambda: thrifty.row_stats(torch.tensor(1.0)),
    "row_stats: seed: expected an integer of 64 bits, got 1.5": (
        lambda: thrifty.row_stats(NUMBERS, seed=1.5)
    ),
    "row_stats: top_k: expected an integer of 64 bits, got nan": (
        lambda: thrifty.row_stats(NUMBERS, top_k=float("nan"))
    ),
    "verify_chain: tokens: expected int32 or int64, got torch.float32": (
        lambda: thrifty.verify_chain(torch.ones(1, 2, 3), torch.ones(1, 1))
    ),
    "trimmed_head: weight: expected a floating dtype, got torch.int64": (
        lambda: thrifty.TrimmedHead(ROW[None], ROW[:1] * 0)
    ),
    "trimmed_head: bias: expected torch.float32 (2,), got torch.float32 (3,)": (
        lambda: thrifty.TrimmedHead(NUMBERS, ROW[:1], torch.ones(3))
    ),
    "trimmed_head: index: expected rows of 2, got -5": (
        lambda: thrifty.TrimmedHead(NUMBERS, ROW * torch.tensor([1, -5]))
    ),
    "trimmed_head: hidden: expected weight's torch.float32, got torch.float64": (
        lambda: thrifty.trimmed_head(NUMBERS.double(), NUMBERS, ROW[:1], k=1)
    ),
    "hyper_core: list_v: expected None without list_k, got (2, 3)": (
        lambda: thrifty.hyper_core(
            *torch.ones(3, 1, 1, 4, 2), *[ROW.int()] * 4, list_v=NUMBERS
        )
    ),
    "SMC: particles: expected 1 to 2^31 - 1, got 1099511627776": (
        lambda: thrifty.SMC(2**40, eos_ids=0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", [*WRONG, *UNFIT])
def test_the_error_names_op_and_argument(message: str) -> None:
    with pytest.raises(ValueError) as caught:
        (WRONG | UNFIT)[message]()
    assert str(caught.value).startswith(message)


def test_what_a_callback_raises_stays_as_it_is() -> None:
    def check(row: int, ids: list[int]) -> list[bool]:
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        thrifty.awrs_sample(NUMBERS, check, seeds=ROW, offsets=ROW)


def test_a_missing_argument_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="missing"):
        thrifty.bucket_sort(ROW)


def test_errors_of_fitting_arguments_pass() -> None:
    @named
    def op(x: torch.Tensor, k: int = 1) -> torch.Tensor:
        raise RuntimeError("CUDA error: out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        op(NUMBERS, k=3)


def test_numbers_of_numpy_and_bool_are_numbers() -> None:
    import numpy as np

    expected = thrifty.bucket_sort(ROW, 3)
    for buckets in (np.int32(3), np.uint8(3)):
        got = thrifty.bucket_sort(ROW, buckets)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.compile
def test_compiled_programs_have_no_graph_break() -> None:
    def step(ids: torch.Tensor) -> torch.Tensor:
        return thrifty.bucket_sort(ids, 3)[0] + 1

    torch._dynamo.reset()
    assert torch.equal(torch.compile(step, fullgraph=True, backend="eager")(ROW), step(ROW))
