"""thrifty in Hugging Face `transformers`, 5.x. Nothing is imported before it is used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thrifty.hf.attention import enable_hyper_attention
    from thrifty.hf.constrained import ConstrainedLogitsProcessor, vocabulary
    from thrifty.hf.ngram_drafter import NgramDrafter
    from thrifty.hf.speculative import speculative_generate

_PLACES = {
    "ConstrainedLogitsProcessor": "constrained",
    "NgramDrafter": "ngram_drafter",
    "enable_hyper_attention": "attention",
    "speculative_generate": "speculative",
    "vocabulary": "constrained",
}
__all__ = [
    "ConstrainedLogitsProcessor",
    "NgramDrafter",
    "enable_hyper_attention",
    "speculative_generate",
    "vocabulary",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'thrifty.hf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thrifty.hf.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_PLACES)
