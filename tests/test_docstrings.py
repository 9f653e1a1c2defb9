"""The examples in docstrings run and print what they say."""

import doctest
import enum
import importlib
import importlib.util
import pkgutil

import pytest
import torch

import thrifty
from thrifty import nn


def is_python(name: str) -> bool:
    """Whether it is a source file: the native libraries lie in the package as well."""
    spec = importlib.util.find_spec(name)
    return spec is not None and str(spec.origin).endswith(".py")


MODULES = [
    module.name
    for module in pkgutil.walk_packages(thrifty.__path__, "thrifty.")
    if not module.name.endswith("__main__") and is_python(module.name)
]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    names = {**vars(nn), **vars(module), "torch": torch, "thrifty": thrifty}
    result = doctest.testmod(module, extraglobs=names, optionflags=FLAGS)
    assert result.failed == 0


def test_public_ops_have_examples() -> None:
    for family in thrifty.FAMILIES:
        for name in importlib.import_module(f"thrifty.{family}").__all__:
            public = getattr(thrifty, name)
            if isinstance(public, type) and issubclass(public, tuple | enum.Enum):
                continue  # what an op returns: the op has the example
            assert ">>> " in (public.__doc__ or ""), name


def test_modules_and_parts_of_transformers_have_examples() -> None:
    for module in (nn, thrifty.hf):
        missing = [
            name for name in module.__all__ if ">>> " not in (getattr(module, name).__doc__ or "")
        ]
        assert missing == [], module.__name__
