"""Generate several texts per prompt with drafts from an n-gram table, and without.

    python examples/speculative_generate.py --quick
    python examples/speculative_generate.py --plot speculative.png
    python examples/speculative_generate.py --model <a causal LM> --device cuda --greedy

Prints tokens per forward pass, time per token and the table's size for plain generate, generate's
own prompt look-up, and `thrifty.hf.speculative_generate` with a chain and with trees, learning from
the accepted path or from all verified nodes. Without --model it runs the 1.1 M-parameter Llama of
tests/assets, trained on the source of Python's standard library, for which any pass is cheap: look
at its tokens per pass, and at the time of your own model. Needs `transformers`; --plot matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import thrifty
import thrifty.hf

TINY_LLAMA = Path(__file__).parents[1] / "tests" / "assets" / "tiny-stdlib-llama"
PROMPTS = (
    "import os\nimport sys\n\ndef main(",
    "class Handler(object):\n    def __init__(self, ",
    "    def test_",
    '# Copyright (C) 2001\n"""This module',
)
QUICK = {"prompts": 2, "trajectories": 3, "tokens": 48}


@dataclass
class Result:
    """One method: of each trajectory, in order, over all prompts."""

    method: str
    tokens: list[int] = field(default_factory=list)
    forwards: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    table_bytes: int = 0

    @property
    def tokens_per_forward(self) -> float:
        return sum(self.tokens) / sum(self.forwards)

    @property
    def milliseconds_per_token(self) -> float:
        """The median over texts: the first calls warm up."""
        return 1e3 * statistics.median(
            s / n for s, n in zip(self.seconds, self.tokens, strict=True)
        )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(TINY_LLAMA), help="a folder or a name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help=f"1 to {len(PROMPTS)}")
    parser.add_argument("--trajectories", type=int, default=6, help="texts per prompt")
    parser.add_argument("--tokens", type=int, default=160, help="per text")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--greedy", action="store_true", help="no sampling: all texts are equal")
    parser.add_argument("--nodes", type=int, default=80, help="of a tree")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"some seconds: {QUICK}")
    parser.add_argument("--plot", type=Path, help="a PNG")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.quick:
        for name, value in QUICK.items():
            setattr(options, name, value)
    return options


def methods(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """Each method's extra arguments of generate, made anew: drafters start with empty tables."""

    def drafts(**settings: Any) -> dict[str, Any]:
        return {
            "custom_generate": thrifty.hf.speculative_generate,
            "drafter": thrifty.hf.NgramDrafter(**settings),
        }

    tree = options.nodes
    return {
        "plain generate": dict,
        "prompt look-up, 10 tokens": lambda: {"prompt_lookup_num_tokens": 10},
        "thrifty, chain of 10": lambda: drafts(tree=thrifty.DraftTree.chain(10), update="path"),
        f"thrifty, tree of {tree}, path": lambda: drafts(tree=tree, update="path"),
        f"thrifty, tree of {tree}, all nodes": lambda: drafts(tree=tree, update="all"),
    }


@contextmanager
def counted(model: torch.nn.Module) -> Iterator[list[int]]:
    """The forward passes of the model while this is open."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    hook = model.register_forward_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


def run(
    name: str, extra: dict[str, Any], model: Any, prompts: list[Tensor], options: argparse.Namespace
) -> Result:
    """All texts of one method. A drafter's table is kept over all of them."""
    result = Result(name)
    sampling: dict[str, Any] = {"do_sample": False}
    if not options.greedy:
        sampling = {"do_sample": True, "temperature": options.temperature, "top_k": 0}
    torch.manual_seed(options.seed)
    for ids in prompts:
        for _ in range(options.trajectories):
            with counted(model) as calls:
                begin = time.perf_counter()
                out = model.generate(ids, max_new_tokens=options.tokens, **sampling, **extra)
                result.seconds.append(time.perf_counter() - begin)
            result.tokens.append(out.shape[1] - ids.shape[1])
            result.forwards.append(calls[0])
    if "drafter" in extra:
        result.table_bytes = int(extra["drafter"].stats()["bytes"])
    return result


def load(options: argparse.Namespace) -> tuple[Any, list[Tensor]]:
    """The model, and the prompts' ids."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype)
    )
    model = model.to(options.device).eval()
    if options.model == str(TINY_LLAMA):
        model.generation_config.eos_token_id = None  # its files name none of its own
    chosen = PROMPTS[: options.prompts]
    ids = [tokenizer(text, return_tensors="pt").input_ids.to(options.device) for text in chosen]
    return model, ids


def report(results: list[Result]) -> None:
    """The table on the terminal; ratios are to plain generate."""
    plain = results[0].milliseconds_per_token
    print(f"\n{'':32s} {'tokens/pass':>11s} {'ms/token':>9s} {'speed':>7s} {'table':>9s}")
    for result in results:
        size = f"{result.table_bytes / 1e6:.1f} MB" if result.table_bytes else "-"
        ms = result.milliseconds_per_token
        print(
            f"{result.method:32s} {result.tokens_per_forward:11.2f} {ms:9.2f} {plain / ms:6.2f}x "
            f"{size:>9s}"
        )


def by_trajectory(result: Result, trajectories: int) -> list[float]:
    """Tokens per pass of the first, second, ... text of each prompt."""
    return [
        sum(result.tokens[i::trajectories]) / sum(result.forwards[i::trajectories])
        for i in range(trajectories)
    ]


def plot(results: list[Result], options: argparse.Namespace) -> None:
    """Left: tokens per pass as the table fills. Right: time per token."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, result in enumerate(results):
        rates = by_trajectory(result, options.trajectories)
        left.plot(range(1, len(rates) + 1), rates, "o-", color=f"C{i}", label=result.method)
    left.set(xlabel="text of the same prompt", ylabel="tokens per forward pass", ylim=(0, None))
    left.grid(color="0.9")
    left.legend(fontsize="small")
    names = [result.method for result in results][::-1]
    times = [result.milliseconds_per_token for result in results][::-1]
    right.barh(names, times, color=[f"C{i}" for i in range(len(results))][::-1])
    right.set(xlabel="milliseconds per token")
    figure.savefig(options.plot, dpi=130)
    print(f"\nwrote {options.plot}")


def main(argv: list[str] | None = None) -> list[Result]:
    """Run everything that the command line asks for and return the results."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    model, prompts = load(options)
    results = [
        run(name, make(), model, prompts, options) for name, make in methods(options).items()
    ]
    report(results)
    if options.plot:
        plot(results, options)
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        rows = [asdict(r) | {"tokens_per_forward": r.tokens_per_forward} for r in results]
        options.json.write_text(json.dumps({"settings": settings, "results": rows}, indent=1))
    return results


if __name__ == "__main__":
    main()
