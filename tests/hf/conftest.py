"""Models of the Hugging Face tests: the tiny Llama of tests/assets, and random ones of any kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5")

TINY_LLAMA = Path(__file__).parents[1] / "assets" / "tiny-stdlib-llama"


@pytest.fixture(autouse=True)
def _quiet_and_serial() -> Iterator[None]:
    """One thread: these models are too small for two to help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_llama() -> Any:
    """In float32. The end-of-text token is its tokenizer's own."""
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY_LLAMA, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.bos_token_id = None
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(TINY_LLAMA, padding_side="left")


def random_model(kind: str = "Llama", vocabulary: int = 24, seed: int = 0, **changes: Any) -> Any:
    """Two small layers of random weights, sharp enough that greedy choices have no ties."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
        "initializer_range": 0.5,
    }
    if kind == "GPT2":
        sizes = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 4,
                 "n_positions": 64, "eos_token_id": None, "bos_token_id": None,
                 "initializer_range": 0.3}  # fmt: skip
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**sizes | changes)
    names = {"GPT2": "GPT2LMHeadModel"}
    model = getattr(transformers, names.get(kind, f"{kind}ForCausalLM"))(config)
    return model.float().eval()
