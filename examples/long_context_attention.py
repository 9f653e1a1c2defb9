"""Read long Python source with exact attention, HyperAttention as published, and bucket means.

    python examples/long_context_attention.py --quick
    python examples/long_context_attention.py --plot attention.png
    python examples/long_context_attention.py --lengths 8192 65536 --exact-layers 1

One forward pass of the 1.1 M-parameter Llama of tests/assets over the source of Python's standard
library, at growing lengths: seconds, memory above the model and its input, and perplexity, over all
tokens and over the last quarter.

What the figures show, and what they do not: time and memory are those of a real prompt. The
perplexities compare attention with attention, no more. The model was trained on pieces of 128
tokens of this very text, so that even exact attention gets worse with length; --rope-factor scales
positions by so much ("linear" rope scaling). A model that needs its long context would suffer more
from an approximation than this one, which has learnt to use little of it: measure your own. Needs
`transformers`; --plot matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import sysconfig
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import thrifty.hf

TINY_LLAMA = Path(__file__).parents[1] / "tests" / "assets" / "tiny-stdlib-llama"
LENGTHS = [2048, 4096, 8192, 16384, 32768]
QUICK_LENGTHS = [1024, 2560]
METHODS = ("exact", "paper", "means")


@dataclass
class Row:
    """One forward pass."""

    tokens: int
    method: str
    seconds: float
    megabytes: float  # NaN where the system does not tell
    perplexity: float
    tail: float  # perplexity of the last quarter


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens")
    parser.add_argument("--exact-layers", type=int, default=0, help="the first ones, of three")
    parser.add_argument("--rope-factor", type=float, default=1.0, help="1: positions as trained")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help=f"some seconds: {QUICK_LENGTHS}")
    parser.add_argument("--plot", type=Path, help="a PNG")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.quick:
        options.lengths = QUICK_LENGTHS
    return options


def load(options: argparse.Namespace) -> Any:
    """The model, which may be told that its positions lie closer together."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(TINY_LLAMA)
    if options.rope_factor != 1:
        scaled = {"rope_type": "linear", "factor": options.rope_factor}
        config.rope_parameters = config.rope_parameters | scaled
    config.max_position_embeddings = max(options.lengths)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        TINY_LLAMA, config=config, dtype=getattr(torch, options.dtype)
    )
    return model.eval()


def source_tokens(count: int) -> Tensor:
    """The first tokens of the standard library's files, in a fixed order."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY_LLAMA)
    ids: list[int] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        ids += tokenizer(path.read_text(encoding="utf-8", errors="ignore")).input_ids
        if len(ids) >= count:
            return torch.tensor(ids[:count])
    raise SystemExit(f"--lengths: expected at most {len(ids)} tokens, got {count}")


def implementations(options: argparse.Namespace) -> dict[str, str]:
    """transformers' name of each method."""
    names = {"exact": "sdpa"}
    for mode in ("paper", "means"):
        names[mode] = thrifty.hf.enable_hyper_attention(
            exact_layers=options.exact_layers, min_len=0, mode=mode, name=f"thrifty-{mode}"
        )
    return names


def status(key: str) -> float:
    """Megabytes of this process: VmRSS, or VmHWM, the most since `forget_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))
    except OSError:
        return math.nan


def forget_peak() -> None:
    """VmHWM starts again from what is in use."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def losses(model: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """-log p of each token but the first; logits of a thousand tokens at a time."""
    parts = []
    for at in range(0, len(ids) - 1, 1024):
        logits = model.lm_head(hidden[at : at + 1024]).float()
        targets = ids[at + 1 : at + 1 + len(logits)]
        parts.append(F.cross_entropy(logits[: len(targets)], targets, reduction="none"))
    return torch.cat(parts)


@torch.inference_mode()
def run(model: Any, ids: Tensor, method: str, name: str) -> Row:
    """One pass over all tokens."""
    model.set_attn_implementation(name)
    forget_peak()
    before = status("VmRSS")
    begin = time.perf_counter()
    hidden = model.model(ids[None], use_cache=False).last_hidden_state[0]
    seconds = time.perf_counter() - begin
    megabytes = status("VmHWM") - before
    loss = losses(model, hidden, ids)
    tail = loss[-len(ids) // 4 :].mean()
    return Row(len(ids), method, seconds, megabytes, loss.mean().exp().item(), tail.exp().item())


def report(rows: list[Row]) -> None:
    """The table on the terminal; speed is the ratio to exact attention at the same length."""
    print(f"{'tokens':>7s} {'':6s} {'seconds':>8s} {'speed':>7s} {'MB':>7s} "
          f"{'perplexity':>11s} {'last quarter':>13s}")  # fmt: skip
    exact = {row.tokens: row.seconds for row in rows if row.method == "exact"}
    for row in rows:
        print(
            f"{row.tokens:7d} {row.method:6s} {row.seconds:8.2f} "
            f"{exact[row.tokens] / row.seconds:6.1f}x {row.megabytes:7.0f} "
            f"{row.perplexity:11.1f} {row.tail:13.1f}"
        )


def plot(rows: list[Row], path: Path) -> None:
    """Seconds, memory and perplexity over the length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = {"seconds": "seconds", "megabytes": "MB above model and input",
               "perplexity": "perplexity"}  # fmt: skip
    figure, axes = pyplot.subplots(1, len(columns), figsize=(12, 4), layout="constrained")
    for axis, (column, label) in zip(axes, columns.items(), strict=True):
        for method in METHODS:
            own = [row for row in rows if row.method == method]
            axis.plot(
                [r.tokens for r in own], [getattr(r, column) for r in own], "o-", label=method
            )
        axis.set(xlabel="tokens", ylabel=label, xscale="log")
        axis.grid(color="0.9")
    axes[0].set_yscale("log")
    axes[0].legend()
    figure.savefig(path, dpi=130)
    print(f"\nwrote {path}")


def main(argv: list[str] | None = None) -> list[Row]:
    """Run everything that the command line asks for and return the rows."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    model, names = load(options), implementations(options)
    ids = source_tokens(max(options.lengths))
    for method in METHODS:  # first calls load and allocate
        run(model, ids[:1024], method, names[method])
    rows = [
        run(model, ids[:length], method, names[method])
        for length in options.lengths
        for method in METHODS
    ]
    report(rows)
    if options.plot:
        plot(rows, options.plot)
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        content = {"settings": settings, "results": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
