"""PyTorch kernels that do less work for the same result.

The ops of all families are importable from here; `thrifty.nn` holds the modules, `thrifty.numpy`
the same kernels on NumPy arrays. torch is imported by the first use of something that needs it, so
that `import thrifty.numpy` works, and stays quick, where there is none.
"""

import importlib
from typing import TYPE_CHECKING, Any

from thrifty import _fit
from thrifty._debug import debug as debug
from thrifty.info import __version__ as __version__
from thrifty.info import info as info

if TYPE_CHECKING:
    import thrifty.hf
    import thrifty.nn
    import thrifty.numpy
    import thrifty.reference
    import thrifty.vllm  # noqa: F401
    from thrifty.attention import *  # noqa: F403
    from thrifty.drafting import *  # noqa: F403
    from thrifty.ensemble import *  # noqa: F403
    from thrifty.moe import *  # noqa: F403
    from thrifty.sampling import *  # noqa: F403

FAMILIES = ("attention", "ensemble", "drafting", "moe", "sampling")
_MODULES = (*FAMILIES, "constraints", "hf", "nn", "numpy", "reference", "vllm")


def __getattr__(name: str) -> Any:
    if name == "_native":  # one per Python: where this one's is missing, say so
        try:
            return importlib.import_module("thrifty._native")
        except ModuleNotFoundError as error:
            raise ImportError(_fit.python_problem()) from error
    if name in _MODULES:
        return importlib.import_module(f"thrifty.{name}")
    if not name.startswith("_"):
        for family in FAMILIES:
            module = importlib.import_module(f"thrifty.{family}")
            if name in module.__all__:
                globals()[name] = getattr(module, name)  # a second look-up would take 5 us again
                return globals()[name]
    raise AttributeError(f"module 'thrifty' has no attribute {name!r}")


def __dir__() -> list[str]:
    ops = (importlib.import_module(f"thrifty.{family}").__all__ for family in FAMILIES)
    return sorted(
        {"__version__", "debug", "info", *_MODULES, *(name for names in ops for name in names)}
    )
