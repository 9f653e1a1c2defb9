"""thrifty.hf.enable: the experts of transformers' models."""

import copy
import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.integrations import moe as hf_moe

import thrifty
from hf.conftest import random_model
from thrifty.hf.experts import _phi, experts_forward
from thrifty.reference.cases import relative_error

thrifty.hf.enable()

ROUTED = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DEEPSEEK = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "n_group": 4,
    "topk_group": 2, "first_k_dense_replace": 1, "num_key_value_heads": 4, "q_lora_rank": 16,
    "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
OAI = {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 16}
MODELS: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {**ROUTED, "norm_topk_prob": True, "head_dim": 8, "decoder_sparse_step": 1},
    "Olmoe": {"num_experts": 6, "num_experts_per_tok": 2},
    "DeepseekV3": DEEPSEEK,
    "GptOss": {**OAI, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return random_model(request.param, initializer_range=0.2, **MODELS[request.param])


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 24, shape, generator=torch.Generator().manual_seed(1))


def calls_of_experts(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows with each call of the fused layer."""
    calls: list[None] = []
    fused = thrifty.moe_mlp

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(None)
        return fused(*args, **kwargs)

    monkeypatch.setattr(thrifty, "moe_mlp", spy)
    return calls


def logits(model: Any, implementation: str, ids: Tensor) -> Tensor:
    model.set_experts_implementation(implementation)
    with torch.inference_mode():
        return model(ids).logits.float()


def test_logits(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_experts(model, monkeypatch)
    expected = logits(model, "eager", tokens(3, 17))
    assert relative_error(logits(model, "thrifty", tokens(3, 17)), expected) < 2e-4
    layers = sum(type(module).__name__.endswith("Experts") for module in model.modules())
    assert len(calls) == layers > 0


def test_bfloat16_logits_are_no_worse_than_eagers(model: Any) -> None:
    """By the median over tokens: a rounding may send one to another expert."""
    half = copy.deepcopy(model).bfloat16()
    exact = logits(copy.deepcopy(half).float(), "eager", tokens(4, 40))
    gaps = {name: (logits(half, name, tokens(4, 40)) - exact).norm(dim=-1).median()
            for name in ("eager", "thrifty")}  # fmt: skip
    assert 0 < gaps["thrifty"] <= 1.2 * gaps["eager"], gaps


def test_greedy_tokens(model: Any) -> None:
    ids, found = tokens(2, 9), {}
    for implementation in ("eager", "thrifty"):
        model.set_experts_implementation(implementation)
        found[implementation] = model.generate(ids, max_new_tokens=24, do_sample=False)
        assert model.config._experts_implementation == implementation
    assert torch.equal(found["thrifty"], found["eager"])


def test_a_training_step(model: Any) -> None:
    ids, found = tokens(2, 15), {}
    for implementation in ("eager", "thrifty"):
        model.set_experts_implementation(implementation)
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        found[implementation] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
    model.zero_grad()
    assert found["thrifty"].keys() == found["eager"].keys()
    for name, expected in found["eager"].items():
        got = found["thrifty"][name]
        torch.testing.assert_close(
            got, expected, rtol=2e-3, atol=1e-5 + 1e-4 * expected.abs().max()
        )


# ---- experts classes by themselves


class AnyConfig:
    """The attributes that any experts class reads: 5 experts, H = 16, I = 12."""

    _experts_implementation = "eager"
    VALUES = (
        ("__", None), ("limit", 0.7), ("alpha", 1.5), ("softcap", 2.0), ("act", "silu"),
        ("eps", 1e-6), ("expert", 5), ("intermediate", 12), ("ffn", 12), ("hidden", 16),
        ("dim", 16), ("latent", 16), ("bias", False),
    )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        name = name.replace("moe_intermediate", "intermediate")
        value = next((value for key, value in self.VALUES if key in name), None)
        if value is None:
            raise AttributeError(name)
        return value


def decorated_classes() -> dict[str, str]:
    """Experts class to the name of its module."""
    found = {}
    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        pattern = r"@use_experts_implementation[^\n]*\nclass (\w+)"
        module = f"transformers.models.{path.parent.name}.{path.stem}"
        found |= dict.fromkeys(re.findall(pattern, path.read_text()), module)
    return found


CLASSES = decorated_classes()
UNFUSED = {"BeamExperts", "Inkling2Experts", "MuseSparkExperts"}
QUICK = ("MixtralExperts", "GptOssExperts", "MiniMaxM3VLExperts", "DeepseekV4Experts",
         "AriaExperts", "NemotronHExperts", "MuseSparkExperts", "BeamExperts")  # fmt: skip


def experts_of(name: str) -> Any:
    torch.manual_seed(2)
    module = getattr(importlib.import_module(CLASSES[name]), name)(AnyConfig())
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def routed(count: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(count, 16), torch.rand(count, 5).argsort(-1)[:, :2], torch.rand(count, 2)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CLASSES]
)
def test_every_experts_class(name: str) -> None:
    """Forward and backward of eager, on the fused path unless its gate is none of moe_mlp's."""
    module, (x, ids, weights) = experts_of(name), routed()
    assert (_phi(module, module.has_gate) is None) == (name in UNFUSED)
    results = []
    for forward in (module.forward, lambda *call: experts_forward(module, *call)):
        leaves = [x.clone().requires_grad_(), weights.clone().requires_grad_()]
        out = forward(leaves[0], ids, leaves[1])
        leaves += list(module.parameters())
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    for got, expected in zip(*reversed(results), strict=True):
        assert relative_error(got, expected) < 1e-4


def test_a_gate_of_a_subclass_is_not_taken_for_its_parents() -> None:
    parent = type(experts_of("GptOssExperts"))

    class GptOssExperts(parent):  # type: ignore[valid-type, misc]
        def _apply_gate(self, gate_up: Tensor) -> Tensor:
            return gate_up[..., ::2]

    module = GptOssExperts(AnyConfig())
    assert _phi(module, gated=True) is None
    mixtral = experts_of("MixtralExperts")
    mixtral.act_fn = nn.GELU(approximate="tanh")  # moe_mlp has it, but a name has one meaning
    assert _phi(mixtral, gated=True) is None
    x, ids, weights = routed()
    expected = mixtral(x, ids, weights)
    torch.testing.assert_close(experts_forward(mixtral, x, ids, weights), expected)


@pytest.mark.parametrize("name", ["MixtralExperts", "MuseSparkExperts"])
def test_ids_of_other_ranks_add_nothing(name: str) -> None:
    """Expert parallelism marks foreign slots by id = num_experts and weight 0."""
    module, (x, ids, weights) = experts_of(name), routed()
    expected = experts_forward(module, x, ids[:, :1], weights[:, :1])
    ids[:, 1] = 5
    got = experts_forward(module, x, ids, weights)
    torch.testing.assert_close(got, expected)
    weights[:, 1] = torch.nan
    assert torch.equal(experts_forward(module, x, ids, weights), got)


def test_dtypes_meet_as_under_autocast() -> None:
    """Hidden states of another dtype than the weights: the product's is the weights'."""
    module, (x, ids, weights) = experts_of("MixtralExperts").bfloat16(), routed()
    out = experts_forward(module, x, ids, weights.half())
    assert out.dtype == torch.float32
    expected = experts_forward(module, x.bfloat16(), ids, weights.half().float()).float()
    assert torch.equal(out, expected)


def test_weights_without_kernels_are_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    module, call = experts_of("MixtralExperts"), routed()
    monkeypatch.setattr(hf_moe, "grouped_mm_experts_forward", lambda *args: "theirs")
    module.gate_up_proj = nn.Parameter(module.gate_up_proj.to(torch.float8_e4m3fn), False)
    assert experts_forward(module, *call) == "theirs"


def test_the_experts_compile_in_one_graph() -> None:
    for name in ("MixtralExperts", "GptOssExperts", "BeamExperts"):
        module, call = experts_of(name), routed()
        compiled = torch.compile(experts_forward, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(module, *call), experts_forward(module, *call))


def test_old_versions_without_flags() -> None:
    """5.0: no has_gate, no is_concatenated, and gpt-oss interleaved all the same."""
    for name in ("MixtralExperts", "GptOssExperts"):
        module, call = experts_of(name), routed()
        expected = experts_forward(module, *call)
        for flag in ("has_gate", "is_concatenated", "has_post_expert_norm", "_is_expert_parallel"):
            delattr(module, flag)
        assert torch.equal(experts_forward(module, *call), expected)


def test_it_takes_the_place_of_grouped_mm_in_5_0(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    registry = SimpleNamespace(register=lambda name, function: names.append(name))
    monkeypatch.setattr(hf_moe, "ALL_EXPERTS_FUNCTIONS", registry)
    thrifty.hf.enable()
    monkeypatch.setattr(hf_moe, "ExpertsInterface", object)
    thrifty.hf.enable()
    assert names == ["thrifty", "grouped_mm"]
