"""Queries, keys and values to measure the error of approximate attention on; [1, 1, N, D] each.

`TUNED` are the sets that the recipe was chosen on, `HELD_OUT` were made after it was fixed. Scores
are <q, k> / sqrt(D); "in-cluster logit 9" means 9 for a query and a key of one cluster's centre.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

QKV = tuple[Tensor, Tensor, Tensor]
LLAMA = Path(__file__).parents[1] / "tests" / "assets" / "tiny-stdlib-llama"


class Draw:
    """A seeded source of normal numbers and directions."""

    def __init__(self, seed: int, n: int, d: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.n, self.d = n, d

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def rows(self) -> Tensor:
        return self.normal(self.n, self.d)

    def unit(self, *shape: int) -> Tensor:
        return F.normalize(self.normal(*shape), dim=-1)

    def choice(self, among: int, weights: Tensor | None = None) -> Tensor:
        weights = torch.ones(among) if weights is None else weights
        return torch.multinomial(weights, self.n, True, generator=self.generator)


def gauss(draw: Draw) -> QKV:
    return draw.rows(), draw.rows(), draw.rows() + 1


def clusters(
    draw: Draw,
    count: int,
    logit: float = 9.0,
    noise: float = 0.3,
    zipf: bool = False,
    spread: bool = False,
) -> QKV:
    """Keys and queries around common centres, values around a mean per centre.

    noise: of the rows, as a share of the centre's length; spread: a noise per centre, 0 to 3 of it.
    """
    size = math.sqrt(logit * math.sqrt(draw.d))
    centre, value = draw.unit(count, draw.d), draw.normal(count, draw.d)
    weights = 1 / torch.arange(1, count + 1) if zipf else None
    of_q, of_k = draw.choice(count), draw.choice(count, weights)
    level = noise * 3 * torch.rand(count, generator=draw.generator) if spread else None

    def rows(of: Tensor) -> Tensor:
        around = draw.rows() / math.sqrt(draw.d) * (noise if level is None else level[of, None])
        return size * (centre[of] + around)

    q, k = rows(of_q), rows(of_k)
    return q, k, draw.rows() + value[of_k]


def offset(draw: Draw, count: int, times: float) -> QKV:
    """A constant added to all keys, which exact attention does not notice."""
    q, k, v = clusters(draw, count)
    return q, k + times * math.sqrt(9 * math.sqrt(draw.d)) * draw.unit(draw.d), v


def planted(draw: Draw, logit: float = 14.0) -> QKV:
    """Each query points to one key."""
    k, of = draw.rows(), draw.choice(draw.n)
    q = k[of] * (logit * math.sqrt(draw.d) / k[of].square().sum(-1, keepdim=True))
    return q + 0.3 * draw.rows(), k, draw.rows()


def sinks(draw: Draw, count: int) -> QKV:
    """A few keys that all queries like."""
    q, k, v = clusters(draw, 256)
    size = math.sqrt(9 * math.sqrt(draw.d))
    liked = draw.unit(draw.d)
    q = q + 0.7 * size * liked
    k = k + 0.5 * size * draw.unit(draw.d)
    k[torch.randperm(draw.n, generator=draw.generator)[:count]] = 1.6 * size * liked
    return q, k, v


def low_rank(draw: Draw, rank: int) -> QKV:
    """No clusters: a normal distribution in a subspace, logits of deviation 2.25 sqrt(D / rank)."""
    basis = torch.linalg.qr(draw.normal(draw.d, draw.d))[0][:, :rank] * math.sqrt(draw.d / rank)
    q, k = (1.5 * draw.normal(draw.n, rank) @ basis.T for _ in range(2))
    return q, k, draw.rows() + k


def rotary(qkv: QKV, base: float = 10000.0) -> QKV:
    q, k, v = qkv
    n, d = q.shape
    angle = torch.arange(n)[:, None] * base ** (-torch.arange(0, d, 2) / d)

    def turn(x: Tensor) -> Tensor:
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        parts = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
        return torch.stack(parts, -1).flatten(-2)

    return turn(q), turn(k), v


def heavy_tails(draw: Draw) -> QKV:
    """Rows of Student's t with 3 degrees of freedom: a common factor per row."""

    def factor() -> Tensor:
        return (3 / draw.normal(draw.n, 3).square().sum(-1, keepdim=True)).sqrt()

    return draw.rows() * factor(), draw.rows() * factor(), draw.rows() + 1


def outlier_dimensions(draw: Draw) -> QKV:
    """Four dimensions ten times as large in the keys, with an offset, as trained models have."""
    q, k, v = clusters(draw, 200, noise=0.6)
    k[:, :4] = 10 * k[:, :4] + 20
    q[:, :4] = q[:, :4] / 10
    return q, k, v


def drift(draw: Draw) -> QKV:
    """A random walk: neighbours in position are neighbours in space."""
    step = draw.rows() * 0.15
    walk = (step - step.mean(0)).cumsum(0)
    walk = walk / walk.norm(dim=-1, keepdim=True) * math.sqrt(9 * math.sqrt(draw.d))
    return walk + 0.4 * draw.rows(), walk + 0.4 * draw.rows(), draw.rows() + walk


TUNED: dict[str, Callable[[Draw], QKV]] = {
    "gauss, V + 1": gauss,
    "64 clusters": lambda d: clusters(d, 64),
    "512 clusters": lambda d: clusters(d, 512),
    "planted": planted,
    "skewed clusters": lambda d: clusters(d, 256, zipf=True),
    "64 clusters, key offset": lambda d: offset(d, 64, 1.5),
    "8 sinks": lambda d: sinks(d, 8),
    "low rank 8": lambda d: low_rank(d, 8),
    "low rank 32": lambda d: low_rank(d, 32),
    "rotary clusters": lambda d: rotary(offset(d, 256, 0.4)),
}
HELD_OUT: dict[str, Callable[[Draw], QKV]] = {
    "20 clusters, wide": lambda d: clusters(d, 20, noise=0.8),
    "150 clusters, logit 5": lambda d: clusters(d, 150, logit=5.0),
    "3000 clusters": lambda d: clusters(d, 3000),
    "skewed, mixed widths": lambda d: clusters(d, 100, zipf=True, spread=True),
    "key offset x 5": lambda d: offset(d, 100, 5.0),
    "30 sinks": lambda d: sinks(d, 30),
    "planted, logit 10": lambda d: planted(d, 10.0),
    "low rank 3": lambda d: low_rank(d, 3),
    "low rank 16, rotary": lambda d: rotary(low_rank(d, 16), 500.0),
    "heavy tails": heavy_tails,
    "outlier dimensions": outlier_dimensions,
    "random walk": drift,
}


def synthetic(name: str, seed: int, n: int, d: int = 64) -> QKV:
    make = {**TUNED, **HELD_OUT}[name]
    q, k, v = make(Draw(seed, n, d))
    return q[None, None], k[None, None], v[None, None]


@lru_cache(maxsize=2)
def llama_layers(seed: int, n: int) -> list[QKV]:
    """q, k, v [1, 4, N, 32] of each layer of the tiny Llama over N tokens of the standard library.

    It was trained on 128 tokens, so that these are a trained model's, but not a long-context one's.
    """
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32).eval()
    tokens = stdlib_tokens(n * (seed + 1))[n * seed :]
    found: list[QKV] = []

    def record(module, query, key, value, mask, scaling=None, **_):  # type: ignore[no-untyped-def]
        found.append((query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return out.transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("recorded", record)
    model.set_attn_implementation("recorded")
    with torch.inference_mode():
        model(tokens[None], logits_to_keep=1)
    return found


def sources() -> Iterator[str]:
    """The files of the standard library, in a fixed order."""
    import sysconfig

    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="ignore")


def stdlib_tokens(count: int) -> Tensor:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(LLAMA)
    ids: list[int] = []
    for text in sources():
        ids += tokenizer(text).input_ids
        if len(ids) >= count:
            return torch.tensor(ids[:count])
    raise ValueError(f"stdlib_tokens: expected at most {len(ids)} tokens, got {count}")
