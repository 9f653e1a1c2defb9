"""The error of hyper_attention by data set: `python -m bench.attention_error`.

Relative error is |out - exact| / |exact| in the Frobenius norm, lse |lse - exact lse|; both as the
mean and the largest over seeds. A seed draws the data and what the op draws. Prints a table as in
docs/attention.md and writes bench/results/attention-error.json.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from bench.attention_data import HELD_OUT, QKV, TUNED, llama_layers, synthetic
from bench.machine import machine
from thrifty import hyper_attention

RESULT = Path(__file__).parent / "results" / "attention-error.json"
MODES = ("paper", "means")


def exact(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """What torch computes on the CPU, in float32, with its lse."""
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return op(q.contiguous(), k.contiguous(), v.contiguous(), 0.0, causal)


def errors(qkv: QKV, causal: bool, seed: int) -> dict[str, tuple[float, float]]:
    """(relative error, mean |lse - exact lse|) of each mode, the mean over heads."""
    out, lse = exact(*qkv, causal)
    found = {}
    for mode in MODES:
        got, got_lse = hyper_attention(
            *qkv, causal=causal, mode=mode, seed=seed, min_len=0, return_lse=True
        )
        ratio = (got - out).flatten(2).norm(dim=-1) / out.flatten(2).norm(dim=-1)
        found[mode] = (ratio.mean().item(), (got_lse - lse).abs().mean().item())
    return found


def data(name: str, seed: int, n: int) -> QKV:
    if name.startswith("tiny Llama, layer "):
        return llama_layers(seed, n)[int(name.rsplit(" ", 1)[1])]
    return synthetic(name, seed, n)


def measure(name: str, causal: bool, seeds: int, n: int) -> dict:
    runs = [errors(data(name, seed, n), causal, seed) for seed in range(seeds)]
    row: dict = {"set": name, "causal": causal, "N": n, "seeds": seeds}
    for mode in MODES:
        for index, what in enumerate(("error", "lse")):
            values = torch.tensor([run[mode][index] for run in runs])
            row[f"{mode} {what}"] = round(values.mean().item(), 5)
            row[f"{mode} {what} max"] = round(values.max().item(), 5)
    return row


def table(rows: list[dict]) -> str:
    lines = [
        "| set | full: paper | full: means | lse | causal: paper | causal: means | lse |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    names = list(dict.fromkeys(row["set"] for row in rows))
    for name in names:
        cells = []
        for causal in (False, True):
            row = next((r for r in rows if r["set"] == name and r["causal"] == causal), None)
            columns = ("paper error", "means error", "means lse")
            cells += [f"{row[column]:.3f}" if row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--llama-seeds", type=int, default=5, help="texts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    rows: list[dict] = []

    def add(name: str, causal: bool, seeds: int) -> None:
        rows.append(measure(name, causal, seeds, options.n))
        print(rows[-1], flush=True)
        content = {"machine": machine(torch.device("cpu")), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")

    with torch.inference_mode():
        for layer in range(len(llama_layers(0, options.n)) if options.llama_seeds else 0):
            add(f"tiny Llama, layer {layer}", True, options.llama_seeds)
        for name in [*TUNED, *HELD_OUT]:
            for causal in (False, True):
                add(name, causal, options.seeds)
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
