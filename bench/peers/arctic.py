"""arctic-inference's suffix trees: the drafting without a draft model that vLLM users run today.

`pip install --no-deps arctic-inference` builds its C++ in some minutes; vLLM is not needed.
"""

from typing import Any

import numpy as np

from bench.peers import require


def cache_of(texts: list[np.ndarray]) -> Any:
    """One active request per text, which is its prompt."""
    cache = require("arctic_inference.suffix_decoding").SuffixDecodingCache()
    for request, text in enumerate(texts):
        cache.start_request(request, text)
    return cache


def draft_trees(cache: Any, contexts: list[np.ndarray], nodes: int) -> list:
    return [
        cache.speculate(
            request, context, max_spec_tokens=nodes, max_spec_factor=float(nodes),
            min_token_prob=0.001, use_tree_spec=True,
        )
        for request, context in enumerate(contexts)
    ]  # fmt: skip
