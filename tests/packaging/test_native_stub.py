"""python/thrifty/_native.pyi says what the compiled module has: the same names, classes with the
same members, functions with the same number of arguments."""

import ast
import re
from pathlib import Path

from thrifty import _native

STUB = ast.parse((Path(__file__).parents[2] / "python/thrifty/_native.pyi").read_text())


def defined(body: list[ast.stmt]) -> set[str]:
    """Names of functions, classes and attributes; `__init__` and the like apart."""
    names = {one.name for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef)}
    names |= {ast.unparse(one.target) for one in body if isinstance(one, ast.AnnAssign)}
    return {name for name in names if not name.startswith("__")}


def public(owner: object) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def stated(function: ast.FunctionDef) -> int:
    """How many arguments the stub gives a function, `self` apart."""
    names = function.args
    listed = [*names.posonlyargs, *names.args, *names.kwonlyargs]
    return len([one for one in listed if one.arg != "self"])


def compiled(function: object) -> int:
    """How many pybind11 gives it: the first line of its docstring is the signature."""
    first = (function.__doc__ or "").strip().splitlines()[0]
    return len(re.findall(r"(?:^|[(,] ?)(?!self\b)\w+: ", first))


def test_the_module_has_the_names_of_the_stub() -> None:
    assert public(_native) == defined(STUB.body)


def test_classes_have_the_members_of_the_stub() -> None:
    classes = [one for one in STUB.body if isinstance(one, ast.ClassDef)]
    assert classes
    for one in classes:
        assert public(getattr(_native, one.name)) == defined(one.body), one.name


def test_functions_have_as_many_arguments() -> None:
    functions = [one for one in STUB.body if isinstance(one, ast.FunctionDef)]
    counts = {one.name: (stated(one), compiled(getattr(_native, one.name))) for one in functions}
    assert {name: pair for name, pair in counts.items() if pair[0] != pair[1]} == {}
