"""Texts of a small language model that satisfy a constraint: by adaptive weighted rejection
sampling with sequential Monte Carlo, beside masking every token.

    python examples/constrained_json.py [--quick] [--particles 16] [--plot constrained_json.png]

The model is a Llama of 1.1 M parameters, trained on Python's standard library. Two constraints: a
regular expression, a method of Python, which runs natively through `ByteDFA`; and a JSON schema,
through llguidance (`pip install llguidance`; left out where it is missing). Per way:

    valid      share of the texts that satisfy the constraint (checked by `re` and `json`)
    checks     tokens that the constraint was asked about, per token of text
    sampling   microseconds per token for constraint and sampling, without the model
    token      the same with the model
    ESS        effective sample size over the number of particles, lowest over the steps
    log Z      estimate of the log probability that the model satisfies the constraint

Masking samples each token from what is allowed, which prefers texts that the model finds unlikely
but could not avoid; its weights are exact and ignored. The others carry weights and resample.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

import thrifty
import thrifty.hf
from thrifty.constraints import Constraint, DFAConstraint, LLGuidanceConstraint

MODEL = Path(__file__).parents[1] / "tests/assets/tiny-stdlib-llama"
PATTERN = (
    r"def [a-z_]{1,24}\(self(, [a-z_]{1,12}(=(None|True|False|-?[0-9]{1,3}))?){0,4}\):\n"
    r'        ("""[A-Z][a-z ]{3,60}\."""|return [a-z_.]{1,24}|pass)\n'
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z_]{1,12}$"},
        "size": {"type": "integer", "minimum": 0, "maximum": 9999},
        "tags": {"type": "array", "items": {"enum": ["io", "text", "net"]}, "maxItems": 3},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
EXAMPLES = [
    {"name": "open", "size": 120, "tags": ["io"]},
    {"name": "split_lines", "size": 7, "tags": ["text", "io"]},
    {"name": "connect", "size": 31, "tags": ["net"]},
]


def fits_schema(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return (
        set(value) == {"name", "size", "tags"}
        and re.fullmatch("[a-z_]{1,12}", value["name"]) is not None
        and 0 <= value["size"] <= 9999
        and len(value["tags"]) <= 3
        and set(value["tags"]) <= {"io", "text", "net"}
    )


@dataclass
class Task:
    name: str
    prompt: str
    start: Callable[[], Constraint]
    fits: Callable[[str], bool]


@dataclass
class Run:
    """What one way did on one task."""

    texts: list[str] = field(default_factory=list)
    valid: float = 0.0
    tokens: int = 0
    checks: int = 0
    sampling: float = 0.0  # seconds
    total: float = 0.0
    ess: list[float] = field(default_factory=list)  # per step, over N
    log_z: float = 0.0

    def row(self) -> list[str]:
        per_token = 1e6 / max(self.tokens, 1)
        return [
            f"{self.valid:.0%}",
            f"{self.checks / max(self.tokens, 1):.1f}",
            f"{self.sampling * per_token:.0f} us",
            f"{self.total * per_token:.0f} us",
            f"{min(self.ess):.2f}",
            f"{self.log_z:.2f}",
        ]


class Model:
    """Next-token logits of N texts, with a cache that follows resampling."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.eos = self.tokenizer.convert_tokens_to_ids("<|eot|>")
        self.vocabulary = thrifty.hf.vocabulary(self.tokenizer, self.model.config.vocab_size)

    def start(self, prompt: str, n: int) -> torch.Tensor:
        self.cache = DynamicCache()
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        return self.advance(ids.expand(n, -1))

    @torch.no_grad()
    def advance(self, ids: torch.Tensor) -> torch.Tensor:
        out = self.model(ids, past_key_values=self.cache, use_cache=True)
        return out.logits[:, -1].contiguous()

    def text(self, tokens: list[int]) -> str:
        spelt = b"".join(self.vocabulary[t] for t in tokens if t != self.eos)
        return spelt.decode(errors="replace")


def mask_step(logits: torch.Tensor, texts: list[Constraint], keys: dict) -> tuple:
    """Every token's verdict for every text, then an exact draw."""
    mask = torch.zeros(len(texts), (logits.shape[1] + 31) // 32, dtype=torch.int32)
    for row, text in zip(mask, texts, strict=True):
        text.fill_bitmask(row)
    drawn = thrifty.masked_sample(logits, mask, **keys)
    checks = torch.full((len(texts),), logits.shape[1])
    return drawn.token, drawn.log_z, checks


def awrs_step(extra: int) -> Callable:
    def step(logits: torch.Tensor, texts: list[Constraint], keys: dict) -> tuple:
        if all(isinstance(text, DFAConstraint) for text in texts):
            states = torch.tensor([text.state for text in texts], dtype=torch.int32)
            drawn = thrifty.awrs_sample_dfa(logits, texts[0].dfa, states, extra=extra, **keys)
        else:
            drawn = thrifty.awrs_sample(
                logits, lambda row, ids: texts[row].check(ids), extra=extra, **keys
            )
        return drawn.token, drawn.logw, drawn.n_checked

    return step


WAYS: dict[str, tuple[Callable, float]] = {  # with the share of N below which to resample
    "masking": (mask_step, 0.0),
    "AWRS, 1 extra, SMC": (awrs_step(1), 0.5),
    "AWRS, 4 extras, SMC": (awrs_step(4), 0.5),
}


def generate(model: Model, task: Task, way: str, n: int, max_tokens: int, seed: int) -> Run:
    step, ess_threshold = WAYS[way]
    run, started = Run(), time.perf_counter()
    smc = thrifty.SMC(n, eos_ids=model.eos, ess_threshold=ess_threshold, seed=seed)
    constraints = [task.start() for _ in range(n)]
    logits = model.start(task.prompt, n)
    while not smc.done and smc.steps < max_tokens:
        live = (~smc.finished).nonzero().flatten()
        before = time.perf_counter()
        texts = [constraints[i] for i in live.tolist()]
        keys = {"seeds": smc.seeds[live], "offsets": smc.offsets[live]}
        drawn, weight, checks = step(logits[live], texts, keys)
        for text, chosen, logw in zip(texts, drawn.tolist(), weight.tolist(), strict=True):
            if logw > -torch.inf:
                text.accept(chosen)
        token, logw = torch.full((n,), model.eos), torch.zeros(n)
        token[live], logw[live] = drawn.clamp_min(0), weight
        ancestors = smc.update(token, logw)
        if ancestors is not None:
            constraints = [c.copy() for c in smc.reorder(constraints, ancestors)]
            model.cache.reorder_cache(ancestors)
            token = token[ancestors]
        run.sampling += time.perf_counter() - before
        run.tokens += len(live)
        run.checks += int(checks.sum())
        run.ess.append(smc.ess / n)
        if not smc.done:
            logits = model.advance(token[:, None])
    run.total = time.perf_counter() - started
    run.log_z = smc.log_ml
    run.texts = [model.text(tokens) for tokens in smc.tokens]
    ended = [text for text, end in zip(run.texts, smc.finished.tolist(), strict=True) if end]
    run.valid = sum(map(task.fits, ended)) / max(len(ended), 1)
    return run


def tasks(model: Model) -> list[Task]:
    dfa = thrifty.ByteDFA.from_regex(PATTERN, model.vocabulary, model.eos)
    found = [
        Task(
            "regular expression",
            "class Reader:\n\n    ",
            lambda: DFAConstraint(dfa),
            lambda text: re.fullmatch(PATTERN, text) is not None,
        )
    ]
    try:
        import llguidance
    except ImportError:
        print("llguidance is not installed: no JSON schema (pip install llguidance)")
        return found
    tokens = [model.vocabulary[i] or b"\xff<|control|>" for i in range(len(model.vocabulary))]
    tokens[model.eos] = b"\xff<|eot|>"
    wrapped = llguidance.TokenizerWrapper(Described(tokens, model))
    tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=len(tokens), eos_token=model.eos)
    examples = "".join(json.dumps(value) + "\n" for value in EXAMPLES)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA))

    def start() -> Constraint:
        return LLGuidanceConstraint(llguidance.LLMatcher(tokenizer, grammar), model.eos)

    return [*found, Task("JSON schema", examples, start, fits_schema)]


class Described:
    """The tokenizer as llguidance wants it described."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], model: Model) -> None:
        self.tokens, self.eos_token_id = tokens, model.eos
        self.special_token_ids = [i for i, t in enumerate(tokens) if t.startswith(b"\xff<|")]
        self.encode = model.tokenizer.encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self.encode(text.decode() if isinstance(text, bytes) else text)


def print_table(title: str, runs: dict[str, Run]) -> None:
    head = ["", "valid", "checks", "sampling", "token", "ESS", "log Z"]
    rows = [head, *([way, *run.row()] for way, run in runs.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    print(f"\n{title}")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    for way, run in runs.items():
        print(f"  {way}: {run.texts[0]!r}")


def plot(path: Path, results: dict[str, dict[str, Run]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(5 * len(results), 6), squeeze=False)
    for column, (task, runs) in enumerate(results.items()):
        top, bottom = axes[:, column]
        for way, run in runs.items():
            top.plot(run.ess, label=way)
        top.set(title=task, xlabel="step", ylabel="ESS / N", ylim=(0, 1.05))
        top.legend(fontsize="small")
        checks = [run.checks / run.tokens for run in runs.values()]
        bars = bottom.bar(list(runs), checks)
        bottom.bar_label(bars, fmt="%.1f")
        bottom.set(yscale="log", ylabel="checks per token")
        bottom.tick_params(axis="x", labelsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"\nwrote {path}")


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Run]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=Path("constrained_json.png"))
    parser.add_argument("--quick", action="store_true", help="4 particles, some seconds")
    options = parser.parse_args(arguments)
    n = 4 if options.quick else options.particles
    torch.set_num_threads(1)  # the model is small
    model = Model(options.model)
    results: dict[str, dict[str, Run]] = {}
    for task in tasks(model):
        results[task.name] = {
            way: generate(model, task, way, n, options.max_tokens, options.seed) for way in WAYS
        }
        print_table(f"{task.name}, {n} particles", results[task.name])
    plot(options.plot, results)
    return results


if __name__ == "__main__":
    main()
