"""What every op has to pass, driven by its table of OpCases.

A family writes `class TestContract(OpContract): op = "its_op"` and gets the comparison with the
float64 oracle in each dtype, memory layouts, opcheck, compilation, bit-equality over thread counts;
with TrainedOpContract also gradcheck, each gradient alone, and the refused second derivative. The
functions before them serve the tests that are a family's own.
"""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thrifty.reference.cases import Call, OpCase, all_cases, check, map_tensors, run, tensors


def cases_of(op: str) -> list[OpCase]:
    found = [case for case in all_cases() if case.op == op]
    assert found, f"no cases of {op}"
    return found


# ---- contexts


def to_numpy(value: Any) -> Any:
    """Tensors, also in lists, as arrays over the same memory; bfloat16 by ml_dtypes."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bfloat16:
            import ml_dtypes

            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    return [to_numpy(item) for item in value] if isinstance(value, list) else value


def same_bits(got: Any, expected: Tensor) -> bool:
    """Whether the array has the dtype, the shape and the bits of the tensor."""
    wanted = to_numpy(expected.contiguous())
    return (got.dtype, got.shape, got.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


def capture(step: Callable[[], Any]) -> tuple["torch.cuda.CUDAGraph", Any]:
    """A CUDA graph of the step and the results that a replay writes again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # lazy initialisation is not for capturing
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    return graph, captured


def load_example(name: str) -> Any:
    """The module examples/<name>.py; skips the test where there are no examples."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"examples/{name}.py is in the source tree alone, which this is not")
    spec = importlib.util.spec_from_file_location(f"{name}_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New tensors start as NaN, so an element that a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# ---- memory layouts: the same values, other strides


def permuted(t: Tensor) -> Tensor:
    """Dense, dimensions stored in reverse: `empty_like` of it is not contiguous."""
    order = range(t.dim() - 1, -1, -1)
    return t.permute(*order).contiguous().permute(*order)


def sliced(t: Tensor) -> Tensor:
    """The inside of a larger tensor: rows apart, first element one item off any alignment."""
    if t.dim() == 0:
        return t
    padded = t.new_zeros(*t.shape[:-1], t.shape[-1] + 3)
    padded[..., 1:-2] = t
    return padded[..., 1:-2]


def strided(t: Tensor) -> Tensor:
    """Every other element of a larger tensor."""
    return t.repeat_interleave(2, dim=-1)[..., ::2] if t.dim() else t


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "permuted": permuted,
    "sliced": sliced,
    "strided": strided,
}


# ---- assertions


def assert_bitwise(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for what, value in expected.items():
        torch.testing.assert_close(got[what], value, rtol=0, atol=0, equal_nan=True, msg=what)


def assert_rejects(argument: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """ValueError in the form "op: argument: expected ..., got ..."."""
    form = rf"^{function.__name__}: (layer \d+: )?{re.escape(argument)}: expected .+, got .+"
    with pytest.raises(ValueError, match=form):
        function(*args, **kwargs)


def assert_one_graph(
    function: Callable[..., Tensor],
    calls: Sequence[tuple],
    leaves: Sequence[Tensor] = (),
    dynamic: bool = True,
) -> None:
    """Compiled once for all these calls, without a break, with eager's results and gradients."""
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for args in calls:
        with torch._dynamo.config.patch(error_on_recompile=True):
            got, expected = compiled(*args), function(*args)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        if leaves:
            grads = [torch.autograd.grad(out.square().sum(), leaves) for out in (got, expected)]
            torch.testing.assert_close(*grads, rtol=0, atol=0)


class Recorder(TorchDispatchMode):
    """The calls of native ops, as they reach the dispatcher below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "thrifty":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def native_calls(case: OpCase, call: Call, dtype: torch.dtype) -> list[tuple[Any, tuple, dict]]:
    """(op, args, kwargs) of every native call that this case makes, forward and backward."""
    with Recorder() as recorder:
        run(case.function, call, case.grad, dtype)
    assert recorder.calls, "the case reached no native op"
    return recorder.calls


def with_grad(value: Any) -> Any:
    return map_tensors(
        lambda t: t.detach().requires_grad_() if t.is_floating_point() else t.detach(), value
    )


# ---- the contract


class OpContract:
    """Base of a test class; `op` names the op whose cases it runs."""

    op: str

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        """Small calls are quicker so; test_thread_count_changes_nothing sets its own."""
        with threads(1):
            yield

    def test_agrees_with_the_oracle(self, typed_case: tuple, device: str) -> None:
        case, dtype = typed_case
        with poisoned_memory():
            outcomes = check(case, device, dtype)
        missed = [outcome for outcome in outcomes if not outcome.ok]
        assert not missed, missed

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_change_nothing(self, case: OpCase, layout: str, device: str) -> None:
        dtype = case.dtypes[-1]
        expected = run(case.function, case.call(device, dtype), case.grad, dtype)
        relayout = LAYOUTS[layout]
        call = map_tensors(
            lambda t: t if t.dtype == torch.uint8 else relayout(t),  # bytes have their own layout
            case.call(device, dtype),
        )
        got = run(case.function, call, case.grad, dtype)
        assert_bitwise(got, expected)
        assert all(out.is_contiguous() for what, out in got.items() if what.startswith("out"))

    def test_result_is_no_alias_and_arguments_stay(self, case: OpCase, device: str) -> None:
        dtype = case.dtypes[0]
        call, before = case.call(device, dtype), case.call(device, dtype)
        out = run(case.function, call, (), dtype)["out"]
        for got, expected in zip(tensors(call), tensors(before), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
            assert out.numel() == 0 or out.data_ptr() != got.data_ptr()

    def test_opcheck(self, case: OpCase, device: str) -> None:
        """Schema, fake kernel, autograd registration and AOT of each native op of the case.

        The first that is called is the forward op, which also runs with gradients. The cases take
        turns with dtypes and with layouts.
        """
        turn = cases_of(self.op).index(case)
        dtype = case.dtypes[turn % len(case.dtypes)]
        layout = permuted if turn % 3 == 0 else torch.clone
        calls = native_calls(case, map_tensors(layout, case.call(device, dtype)), dtype)
        for op, args, kwargs in calls:
            torch.library.opcheck(op, map_tensors(torch.detach, args), kwargs)
        if case.grad:
            op, args, kwargs = calls[0]
            torch.library.opcheck(op, with_grad(args), kwargs)

    def test_compiles(self, case: OpCase, device: str) -> None:
        """One graph, and eager's bits, forward and backward."""
        dtype = case.dtypes[-1]
        torch.compiler.reset()
        compiled = torch.compile(case.function, backend="aot_eager", fullgraph=True)
        expected = run(case.function, case.call(device, dtype), case.grad, dtype)
        assert_bitwise(run(compiled, case.call(device, dtype), case.grad, dtype), expected)

    def test_thread_count_changes_nothing(self, typed_case: tuple) -> None:
        case, dtype = typed_case
        results = []
        for count in (1, 2):
            with threads(count):
                results.append(run(case.function, case.call("cpu", dtype), case.grad, dtype))
        assert_bitwise(*results)


class TrainedOpContract(OpContract):
    """The same and the gradients, for an op that has them: each case with float64 and `grad`."""

    def test_gradcheck(self, trained_case: OpCase) -> None:
        """Every differentiable argument together, against finite differences in float64."""
        case = trained_case
        call = case.call("cpu", torch.float64)
        names = [name for name in case.grad if call.get(name) is not None]
        leaves = [call[name].requires_grad_() for name in names]

        def function(*values: Tensor) -> Any:
            return case.function(**{**call, **dict(zip(names, values, strict=True))})

        # One random direction: that each entry is right, the float64 oracle has shown.
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)

    def test_each_gradient_alone(self, trained_case: OpCase, device: str) -> None:
        """One argument that requires grad gets the gradient that it gets among all of them."""
        case = trained_case
        call = case.call(device, torch.float64)
        together = run(case.function, call, case.grad, torch.float64)
        for what, expected in together.items():
            if what.startswith("grad "):
                alone = run(case.function, call, (what.removeprefix("grad "),), torch.float64)
                # Which products are needed, and so the order of sums, depends on what is asked.
                torch.testing.assert_close(alone[what], expected, rtol=1e-12, atol=1e-12)

    def test_second_derivative_is_refused(self, trained_case: OpCase, device: str) -> None:
        case = trained_case
        call = case.call(device, torch.float64)
        name = case.grad[0]
        leaf = call[name].requires_grad_()
        (out, *_) = tensors(case.function(**call))
        (grad,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
        with pytest.raises(NotImplementedError, match=f"^{case.op}: second derivatives"):
            grad.sum().backward()
