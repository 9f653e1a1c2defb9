"""hyper_attention as an attention implementation of `transformers`, for prompts that are long."""

from collections.abc import Collection
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from thrifty.attention import automatic_min_len, hyper_attention

NAME = "thrifty"
_OPTIONS = {
    name
    for name, parameter in signature(hyper_attention).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
} - {"causal", "scale", "return_lse", "cu_seqlens"}


def enable_hyper_attention(
    *,
    exact_layers: int | Collection[int] = 2,
    min_len: int | None = None,
    mode: str = "means",
    name: str = NAME,
    **options: Any,
) -> str:
    """Registers `hyper_attention` with `transformers` as ``attn_implementation="thrifty"``.

    Then ``from_pretrained(..., attn_implementation="thrifty")``, or
    ``model.set_attn_implementation("thrifty")`` for a model that is there. A forward pass over a
    long prompt goes through `hyper_attention`. All else goes through the implementation "sdpa",
    with its very results: decoding steps, the layers of `exact_layers`, prompts below `min_len`,
    padded or packed batches and chunked prefill (whatever comes with a mask), layers with a sliding
    window, dropout.

    Args:
        exact_layers: a number n: the first n layers stay exact; or which layers do, by index.
            Approximating the first layers costs most: what they get wrong, all later ones read.
        min_len: the shortest prompt that is approximated; None: from where it is faster.
        mode: "means" or "paper", as all further options those of `hyper_attention`.
        name: of the implementation. A second call with the same name replaces the first one's
            options, with another name it registers another implementation.

    Returns:
        The name.

    An approximation: measure what it does to your model and task.

    Raises:
        TypeError: an option that `hyper_attention` does not have.

    Example::

        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> name = thrifty.hf.enable_hyper_attention(exact_layers=1, min_len=256)
        >>> config = LlamaConfig(vocab_size=99, hidden_size=32, intermediate_size=64,
        ...     num_hidden_layers=2, num_attention_heads=2)
        >>> model = LlamaForCausalLM(config).eval()
        >>> model.set_attn_implementation(name)
        >>> model(torch.ones(1, 300, dtype=torch.long)).logits.shape
        torch.Size([1, 300, 99])
    """
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise TypeError(f"enable_hyper_attention: unknown option {sorted(unknown)[0]!r}")
    layers = range(exact_layers) if isinstance(exact_layers, int) else frozenset(exact_layers)

    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        shortest = min_len
        if shortest is None:
            shortest = automatic_min_len(mode, causal, query.dtype, query.device.type)
        approximate = (
            attention_mask is None
            and dropout == 0.0
            and getattr(module, "layer_idx", None) not in layers
            and query.shape[2] == key.shape[2] >= max(shortest, 2)
            and all(kwargs.get(other) is None for other in _FOREIGN)
        )
        if not approximate:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                is_causal=is_causal, **kwargs,
            )  # fmt: skip
        out = hyper_attention(
            query, key, value, causal=causal, scale=scaling, mode=mode, min_len=0, **options
        )
        assert isinstance(out, Tensor)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


# What changes the scores or the keys in ways that hyper_attention does not know.
_FOREIGN = ("sliding_window", "softcap", "position_bias", "cache", "s_aux")
