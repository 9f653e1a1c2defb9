"""The experts' backends of `transformers` on Qwen3-MoE's module: what a user of it runs today."""

from typing import Any

import torch
from torch import Tensor

from bench.harness import Unavailable
from bench.peers import require

GPU_KERNELS = ("sonicmoe", "deepgemm")  # CuTe and Triton; `kernels` fetches them at first use


def experts(w1: Tensor, w2: Tensor) -> Any:
    """The module, over the given weights: nothing is copied."""
    require("transformers")
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    config = Qwen3MoeConfig(
        hidden_size=w2.shape[1],
        moe_intermediate_size=w2.shape[2],
        num_experts=w1.shape[0],
        hidden_act="silu",
    )
    with torch.device("meta"):
        module = Qwen3MoeExperts(config)
    module.gate_up_proj = torch.nn.Parameter(w1, requires_grad=w1.requires_grad)
    module.down_proj = torch.nn.Parameter(w2, requires_grad=w2.requires_grad)
    return module


def backend(name: str, w1: Tensor, w2: Tensor) -> Any:
    """`name`: eager, batched_mm, grouped_mm or one of GPU_KERNELS; takes (x, ids, weights)."""
    if name in GPU_KERNELS:
        module = require(f"transformers.integrations.{name}")
        try:
            getattr(module, f"is_{name}_loadable")(raise_error=True)
        except ImportError as error:
            raise Unavailable(str(error)) from error
    module = experts(w1, w2)
    module.config._experts_implementation = name
    return module
