"""Arguments of the wrong Python type, in the words of the ops' own errors.

An op checks shapes, dtypes and values itself. What is no tensor or no number at all fails somewhere
on the way to it, with a message about attributes or conversions that names neither op nor argument.
`named` looks for such an argument then, and only then: a call that works is not looked at.
"""

import functools
import inspect
import numbers
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")

WORDS = {
    int: "an integer of 64 bits",
    float: "a number",
    bool: "True or False",
    str: "a string",
    Callable: "a function",
    types.NoneType: "None",
}
NUMBERS = {int: numbers.Integral, float: numbers.Real, bool: numbers.Real}


def named(function: Callable[P, R]) -> Callable[P, R]:
    """The function; where it fails and an argument has another type than its annotation says, the
    error is a ValueError "op: argument: expected ..., got ..."."""
    op = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, ValueError) and ": expected " in str(error):
                raise
            problem = _problem(function, args, kwargs)
            if problem is None:
                raise
            raise ValueError(f"{op}: {problem}") from error

    return call


def _problem(function: Callable, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """What is wrong with the first argument of another type; None where there is none."""
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        hints = get_type_hints(function)
    except (NameError, TypeError):  # too many arguments, or too few, which Python says well
        return None
    for name, value in given.items():
        found = _mismatch(name, hints.get(name, Any), value)
        if found is not None:
            return found
    return None


def _mismatch(name: str, hint: Any, value: Any) -> str | None:
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if not any(_fits(choice, value) for choice in choices):
        known = value is None or isinstance(value, numbers.Number | str)
        got = repr(value)[:60] if known else type(value).__name__
        return f"{name}: expected {' or '.join(map(_words, choices))}, got {got}"
    layout = str(getattr(value, "layout", "torch.strided"))
    if layout != "torch.strided":
        return f"{name}: expected a dense tensor, got one of layout {layout}"
    items = [get_args(choice)[0] for choice in choices if get_origin(choice) is Sequence]
    for index, item in enumerate(value if items and isinstance(value, list | tuple) else ()):
        found = _mismatch(f"{name}[{index}]", items[0], item)
        if found is not None:
            return found
    return None


def _fits(hint: Any, value: Any) -> bool:
    """Whether the value is of the type, whatever a list holds."""
    kind = get_origin(hint) or hint
    if kind is int and isinstance(value, numbers.Integral):
        return -(2**63) <= int(value) < 2**63
    if kind in (Sequence, Iterable) and isinstance(value, str):
        return False
    kind = NUMBERS.get(kind, kind)
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _words(hint: Any) -> str:
    kind = get_origin(hint) or hint
    return WORDS.get(kind) or f"a {getattr(kind, '__name__', kind)}".lower()
