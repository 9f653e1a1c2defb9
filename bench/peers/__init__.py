"""Other libraries a user could take instead of thrifty: optional imports, never requirements."""

import importlib
from types import ModuleType

from bench.harness import Unavailable


def require(name: str) -> ModuleType:
    """The peer's module, or Unavailable: its row then says "skip" and why."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name} cannot be imported: {error}") from error
