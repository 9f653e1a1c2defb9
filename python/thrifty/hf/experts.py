"""The experts of `transformers`' mixture models on thrifty's kernels: `enable()`.

Every experts module of `transformers` 5 (Mixtral, Qwen3-MoE, OLMoE, DeepSeek, gpt-oss, ...) hands
its tokens, ids and routing weights to a function of a registry. `experts_forward` is such a
function: the fused layer where the module's activation is one that `thrifty.moe_mlp` has, otherwise
the module's own activation between two `thrifty.grouped_mm`.
"""

from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.integrations import moe as hf_moe

import thrifty
from thrifty import _library  # noqa: F401  defines the ops

# Names of moe_mlp for a module's act_fn: with a gate, without one.
_ACTIVATIONS = {
    "torch.nn.functional.silu": ("swiglu", "silu"),
    "torch.nn.modules.activation.ReLU": ("reglu", "relu"),
    "torch.nn.modules.activation.SiLU": ("swiglu", "silu"),
    "transformers.activations.GELUActivation": ("geglu", "gelu"),
    "transformers.activations.GELUTanh": ("geglu_tanh", "gelu_tanh"),
    "transformers.activations.NewGELUActivation": ("geglu_tanh", "gelu_tanh"),
    "transformers.activations.ReLUSquaredActivation": (None, "relu2"),
    "transformers.activations.SiLUActivation": ("swiglu", "silu"),
}


class _Gate(NamedTuple):
    """The `_apply_gate` of a class that has its own: a formula and where its constants are."""

    activation: str
    limit: str
    alpha: str | None = None
    act_fn: bool = False  # the formula holds if act_fn is SiLU


_GATES = {
    "DeepseekV4Experts": _Gate("swiglu_clamp", "limit", act_fn=True),
    "Glm5NextTextExperts": _Gate("swiglu_clamp", "swiglu_limit"),
    "GptOssExperts": _Gate("swiglu_oai", "limit", "alpha"),
    "HYV4Experts": _Gate("swiglu_clamp", "swiglu_limit"),
    "MiniMaxM3VLExperts": _Gate("swiglu_oai", "swiglu_limit", "swiglu_alpha"),
    "OpenAIPrivacyFilterExperts": _Gate("swiglu_oai", "limit", "alpha"),
}

_DEVICES = tuple(
    key.lower()
    for key in ("CPU", "CUDA", "Meta")
    if torch._C._dispatch_has_kernel_for_dispatch_key("thrifty::moe_mlp_fwd", key)
)


class _Phi(NamedTuple):
    activation: str
    alpha: float = 1.0
    limit: float = 1.0  # unused, but checked to be positive


def _phi(module: Any, gated: bool) -> _Phi | None:
    """What moe_mlp calls the module's activation; None: it has no name for it."""
    if getattr(module, "has_post_expert_norm", False):
        return None
    act, kind = getattr(module, "act_fn", None), type(module)
    act = act if isinstance(act, FunctionType) else type(act)
    name = _ACTIVATIONS.get(f"{act.__module__}.{act.__name__}", (None, None))[not gated]
    if not gated or kind._apply_gate is hf_moe._default_apply_gate:
        return None if name is None else _Phi(name)
    # A subclass, or a gate that was put in its place, is not the gate of the table.
    own = kind.__dict__.get("_apply_gate")
    gate = _GATES.get(kind.__name__)
    if gate is None or own is None or own.__qualname__ != f"{kind.__name__}._apply_gate":
        return None
    if gate.act_fn and name != "swiglu":
        return None
    alpha = 1.0 if gate.alpha is None else getattr(module, gate.alpha)
    return _Phi(gate.activation, float(alpha), float(getattr(module, gate.limit)))


def _has_kernels(*weights: Tensor) -> bool:
    """Whether thrifty's ops take these weights: not if they are quantised or distributed."""
    return all(
        w.device.type in _DEVICES
        and w.dtype == weights[0].dtype
        and w.dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        and not is_traceable_wrapper_subclass(w)
        for w in weights
    )


def experts_forward(
    self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The function that `enable` registers: `self` is an experts module of `transformers`.

    Args:
        hidden_states: (T, H).
        top_k_index: (T, K); an id that is no expert's (another rank's, padding) adds nothing.
        top_k_weights: (T, K).

    Returns:
        (T, H) in the dtype of hidden_states. Weights that thrifty has no kernels for (quantised,
        distributed, on another kind of device) take the way of `transformers`' "grouped_mm".
    """
    module: Any = self
    # Attributes that older versions lack have the values which these imply.
    gated, biased = getattr(module, "has_gate", True), getattr(module, "has_bias", False)
    transposed = getattr(module, "is_transposed", False)
    w1, w2 = module.gate_up_proj if gated else module.up_proj, module.down_proj
    if not _has_kernels(w1, w2):
        return hf_moe.grouped_mm_experts_forward(module, hidden_states, top_k_index, top_k_weights)
    b1 = (module.gate_up_proj_bias if gated else module.up_proj_bias) if biased else None
    b2 = module.down_proj_bias if biased else None
    x, weights = hidden_states.to(w1.dtype), top_k_weights
    if weights.dtype != x.dtype:
        weights = weights.float()
    phi = _phi(module, gated)
    if phi is None:
        out = _unfused(module, x, w1, w2, top_k_index, weights, b1, b2)
    else:
        interleaved = not getattr(module, "is_concatenated", type(module).__name__ != _GPT_OSS)
        out = thrifty.moe_mlp(
            x, w1, w2, top_k_index, weights, b1=b1, b2=b2, activation=phi.activation,
            transposed=transposed, interleaved=gated and interleaved, alpha=phi.alpha,
            limit=phi.limit,
        )  # fmt: skip
    return out.to(hidden_states.dtype)


_GPT_OSS = "GptOssExperts"  # interleaved in 5.0, too, where no module says so


def _unfused(
    module: Any,
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    ids: Tensor,
    weights: Tensor,
    b1: Tensor | None,
    b2: Tensor | None,
) -> Tensor:
    """The module's own gate and norm between thrifty's products."""
    (tokens, top_k), experts = ids.shape, w1.shape[0]
    if not getattr(module, "is_transposed", False):
        w1, w2 = w1.mT, w2.mT
    slot, offsets, inverse = thrifty.moe_permute(ids, experts)
    z = thrifty.grouped_mm(x, w1, offsets[1:], a_idx=slot // top_k, bias=b1)
    a = module._apply_gate(z) if getattr(module, "has_gate", True) else module.act_fn(z)
    rows = thrifty.grouped_mm(a, w2, offsets[1:], bias=b2)
    if getattr(module, "has_post_expert_norm", False):
        rows = module.post_expert_norm(rows)
    weights = weights.masked_fill((ids < 0) | (ids >= experts), 0)
    by_slot = rows.index_select(0, inverse).view(tokens, top_k, -1)
    return (by_slot * weights.unsqueeze(-1)).sum(1).to(x.dtype)


def enable() -> None:
    """Makes "thrifty" an `experts_implementation` of `transformers` 5.

    ::

        thrifty.hf.enable()
        model = AutoModelForCausalLM.from_pretrained(name, experts_implementation="thrifty")
        model.set_experts_implementation("thrifty")  # or later, on a model that is loaded

    Nothing else changes: weights stay where and as they are, `generate`, training, LoRA on other
    modules and `torch.compile` work as before. Results are those of "eager" up to rounding, which
    is smaller: sums are taken in float32 and rounded once. The choice is not saved with a model.

    Modules whose activation thrifty does not know (or whose experts end in a norm) run their own
    code for it between two grouped products; weights without kernels here (quantised, distributed,
    on other devices) are left to `transformers`. Calling it again changes nothing.

    transformers 5.0 allows no new names: there it takes the place of "grouped_mm", its default.

    Example::

        >>> thrifty.hf.enable()
        >>> from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
        >>> "thrifty" in ALL_EXPERTS_FUNCTIONS.keys()
        True
    """
    name = "thrifty" if hasattr(hf_moe.ExpertsInterface, "get_interface") else "grouped_mm"
    hf_moe.ALL_EXPERTS_FUNCTIONS.register(name, experts_forward)
