"""A Qwen3-MoE of `transformers` with the experts of thrifty, beside transformers' own.

    python examples/moe_transformers.py --quick
    python examples/moe_transformers.py --plot moe_transformers.png
    python examples/moe_transformers.py --dtype float32 --backends eager thrifty

The model has Qwen3-MoE's form in small: 4 layers of 64 experts, 8 of which a token visits, 108
million parameters, 20 million of them at work for a token. Its weights are random, so it is good
for times and not for text. Tokens are Python's documentation through a trained tokenizer, that of
tests/assets, whose 4,096 tokens leave the time to the layers. Per backend of the experts:

    prefill    milliseconds per token of the first pass, over the whole prompt
    decode     milliseconds per token behind it, one at a time
    experts    how much of that the experts' modules take: all that a backend can change
    error      of the prompt's logits, the norm of the difference to float32 "eager" over its norm

Prefill is the experts' products, so a faster layer shows; of decoding at this size more than half
is the rest of the model, small torch ops, which no backend can change.

The backends take turns within a round, in changing order, and times are medians over rounds. Needs
`transformers`; --plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import thrifty.hf

TOKENIZER = Path(__file__).parents[1] / "tests" / "assets" / "tiny-stdlib-llama"
BACKENDS = ("eager", "grouped_mm", "thrifty")
QUICK = {"prompt": 48, "tokens": 4, "rounds": 2, "layers": 1, "experts": 16}


@dataclass
class Result:
    """One backend: of each round, seconds per token, and those inside the experts."""

    backend: str
    prefill: list[float] = field(default_factory=list)
    prefill_experts: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    decode_experts: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    error: float = 0.0

    def milliseconds(self, name: str) -> float:
        return 1e3 * statistics.median(getattr(self, name))


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), metavar="NAME")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--tokens", type=int, default=32, help="decoded behind the prompt")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"some seconds: {QUICK}")
    parser.add_argument("--plot", type=Path, help="a PNG")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.quick:
        for name, value in QUICK.items():
            setattr(options, name, value)
    return options


def prompt(options: argparse.Namespace) -> tuple[Tensor, int]:
    """Token ids (1, prompt) of what `help()` says of Python, and the tokenizer's size."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
    topics = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics))[: 8 * options.prompt]
    ids = tokenizer(text, return_tensors="pt").input_ids[:, : options.prompt]
    return ids.to(options.device), len(tokenizer)


def build(options: argparse.Namespace, vocabulary: int) -> Any:
    """The model, in float32."""
    thrifty.hf.enable()
    config = transformers.Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=512,
        moe_intermediate_size=256,
        num_hidden_layers=options.layers,
        num_experts=options.experts,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
    )
    torch.manual_seed(options.seed)
    return transformers.Qwen3MoeForCausalLM(config).to(options.device).eval()


class Clock:
    """Seconds of a pass, and of those the ones inside the experts' modules."""

    def __init__(self, model: torch.nn.Module, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"
        self.inside = self._entered = 0.0
        for module in model.modules():
            if type(module).__name__.endswith("Experts"):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _enter(self, *_: Any) -> None:
        self._entered = self.now()

    def _leave(self, *_: Any) -> None:
        self.inside += self.now() - self._entered

    @contextmanager
    def timed(self, tokens: int, all_of_it: list[float], experts: list[float]) -> Iterator[None]:
        self.inside = 0.0
        begin = self.now()
        yield
        all_of_it.append((self.now() - begin) / tokens)
        experts.append(self.inside / tokens)


def logits_of(model: Any, ids: Tensor, backend: str) -> Tensor:
    model.set_experts_implementation(backend)
    with torch.inference_mode():
        return model(ids).logits.float()


def run(model: Any, ids: Tensor, clock: Clock, result: Result, tokens: int) -> None:
    """One round of one backend: the prompt, then `tokens` greedy tokens through the cache."""
    model.set_experts_implementation(result.backend)
    with torch.inference_mode():
        with clock.timed(ids.shape[1], result.prefill, result.prefill_experts):
            out = model(ids, use_cache=True, logits_to_keep=1)
        result.tokens = []
        with clock.timed(tokens, result.decode, result.decode_experts):
            for _ in range(tokens):
                token = out.logits[:, -1:].argmax(-1)
                result.tokens.append(int(token))
                out = model(token, past_key_values=out.past_key_values, use_cache=True)


def measure(model: Any, ids: Tensor, options: argparse.Namespace) -> list[Result]:
    """All backends, by turns."""
    exact = logits_of(model, ids, "eager")
    model.to(getattr(torch, options.dtype))
    results = [Result(name) for name in options.backends]
    for result in results:
        error = (logits_of(model, ids, result.backend) - exact).norm() / exact.norm()
        result.error = float(error)
    clock = Clock(model, options.device)
    for turn in range(options.rounds):
        first = turn % len(results)
        for result in results[first:] + results[:first]:
            run(model, ids, clock, result, options.tokens)
    return results


def report(results: list[Result], options: argparse.Namespace) -> None:
    """The table on the terminal; ratios are to the first backend."""
    print(f"\n{options.dtype}, {options.threads} threads, a prompt of {options.prompt} tokens\n")
    columns = ("prefill ms/token", "experts", "ratio", "decode ms/token", "experts", "ratio")
    print(f"{'':12s}" + "".join(f"{name:>17s}" for name in (*columns, "error")))
    for result in results:
        row = f"{result.backend:12s}"
        for name in ("prefill", "decode"):
            whole = result.milliseconds(name)
            ratio = results[0].milliseconds(name) / whole
            experts = result.milliseconds(f"{name}_experts")
            row += f"{whole:17.3f}{experts:17.3f}{ratio:16.2f}x"
        print(f"{row}{result.error:17.1e}")


def plot(results: list[Result], options: argparse.Namespace) -> None:
    """Prefill and decode: the experts' part of each bar, and the rest of the model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    names = [result.backend for result in results][::-1]
    for axis, what in zip(axes, ("prefill", "decode"), strict=True):
        whole = [result.milliseconds(what) for result in results][::-1]
        experts = [result.milliseconds(f"{what}_experts") for result in results][::-1]
        rest = [a - b for a, b in zip(whole, experts, strict=True)]
        axis.barh(names, experts, color="C0", label="experts")
        axis.barh(names, rest, left=experts, color="0.8", label="attention, router, logits")
        axis.set(xlabel=f"{what}, milliseconds per token")
    axes[0].legend(fontsize="small")
    figure.savefig(options.plot, dpi=130)
    print(f"\nwrote {options.plot}")


def main(argv: list[str] | None = None) -> list[Result]:
    """Run everything that the command line asks for and return the results."""
    options = arguments(argv)
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    ids, vocabulary = prompt(options)
    model = build(options, vocabulary)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")
    results = measure(model, ids, options)
    report(results, options)
    if options.plot:
        plot(results, options)
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        rows = [asdict(result) for result in results]
        options.json.write_text(json.dumps({"settings": settings, "results": rows}, indent=1))
    return results


if __name__ == "__main__":
    main()
