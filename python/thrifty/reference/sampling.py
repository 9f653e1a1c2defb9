"""Definitions of the sampling family, row by row in float64."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from thrifty.reference.philox import philox

BLOCK = 1024  # tokens; a draw picks a block, then a token of it
DRAWS, COINS, RESAMPLING = 1, 2, 3  # streams of Philox


def unpack_token_bitmask(bitmask: Tensor, vocab: int) -> Tensor:
    """Booleans (..., V) of a bit mask (..., W) of int32; False beyond the mask."""
    bits = bitmask.unsqueeze(-1) >> torch.arange(32, device=bitmask.device) & 1
    allowed = bits.flatten(-2).bool()[..., :vocab]
    return torch.nn.functional.pad(allowed, (0, vocab - allowed.shape[-1]))


def uniforms(seed: int, offset: int, stream: int, index: int) -> tuple[float, float]:
    """Two numbers in [0, 1) of 53 bits: Philox under the key `seed` at the counter (index, stream,
    low and high half of offset)."""
    offset %= 2**64
    counter = np.array([index, stream, offset & 0xFFFFFFFF, offset >> 32], np.uint32)
    words = [int(word) for word in philox(seed % 2**64, counter)]
    u, v = ((high >> 5) * 2**26 + (low >> 6) for high, low in (words[:2], words[2:]))
    return u * 2.0**-53, v * 2.0**-53


def apply_token_bitmask_(
    logits: Tensor,
    bitmask: Tensor,
    indices: Tensor | None = None,
    row_map: Tensor | None = None,
    vocab_size: int | None = None,
) -> Tensor:
    """See `thrifty.apply_token_bitmask_`."""
    vocab = logits.shape[-1]
    allowed = unpack_token_bitmask(bitmask, vocab)
    if vocab_size is not None:
        allowed[..., vocab_size:] = False
    if indices is not None:
        rows, masks = indices.long(), indices.long()
    else:
        masks = torch.arange(len(bitmask), device=logits.device)
        rows = masks if row_map is None else row_map.long()
    logits[rows] = logits[rows].masked_fill(~allowed[masks], -math.inf)
    return logits


def top_h_kept(x: Tensor, alpha: float, variant: str) -> int:
    """How many of the scaled logits x, in falling order, Top-H keeps."""
    if variant == "renorm":
        log_p = x.log_softmax(0)
        p = log_p.exp()
        terms = torch.where(p > 0, -p * log_p, 0.0)
        mass = p.cumsum(0)
        entropy = terms.cumsum(0) / mass + mass.log()  # of each prefix, renormalised
        too_much = entropy > alpha * terms.sum()
    else:
        p = x[:100].softmax(0)
        terms = torch.where(p > 0, -p * p.log(), 0.0)
        too_much = terms.cumsum(0) > alpha * terms.sum()
    too_much[0] = False
    first = too_much.nonzero()
    return int(first[0]) if len(first) else len(too_much)


def row_threshold(
    logits: Tensor, scale: float, filters: dict[str, float], top_h_variant: str
) -> float:
    """Theta of one row's allowed logits, which are sorted in falling order and not -inf."""
    if not len(logits):
        return math.inf
    x = logits * scale
    bounds = [-math.inf]
    k = int(filters["top_k"])
    if 0 < k < len(logits):
        bounds.append(float(logits[k - 1]))
    if filters["top_p"] < 1:
        p = torch.where(logits >= bounds[-1], x, -math.inf).softmax(0)
        before = p.cumsum(0) - p
        kept = (before < filters["top_p"]) & (p > 0)
        kept[0] = True
        if not kept.all():
            bounds.append(float(logits[kept][-1]))
    if filters["min_p"] > 0:
        bounds.append(float(logits[0]) + math.log(filters["min_p"]) / scale)
    if filters["top_n_sigma"] > 0:
        sigma = float(logits.std(unbiased=False))
        bounds.append(float(logits[0]) - filters["top_n_sigma"] * sigma)
    if filters["top_h"] > 0:
        kept = top_h_kept(x, filters["top_h"], top_h_variant)
        bounds.append(float(logits[kept - 1]))
    return max(bounds)


class Rows:
    """Arguments that are one number or one per row, and masks, seen row by row."""

    def __init__(self, logits, bitmask, mask_rows, inv_temperature, **filters) -> None:  # type: ignore[no-untyped-def]
        self.logits, self.filters = logits, filters
        self.inv_temperature = inv_temperature
        vocab = logits.shape[1]
        self.allowed = torch.ones_like(logits, dtype=torch.bool)
        if bitmask is not None:
            masks = unpack_token_bitmask(bitmask, vocab)
            which = range(len(logits)) if mask_rows is None else mask_rows.tolist()
            for row, mask in enumerate(which):
                if mask >= 0:
                    self.allowed[row] = masks[mask]

    @staticmethod
    def value(argument: float | Tensor | None, row: int, absent: float) -> float:
        if argument is None:
            return absent
        if isinstance(argument, Tensor):
            return float(argument[row if argument.numel() > 1 else 0])
        return float(argument)

    def scale(self, row: int) -> float:
        return max(self.value(self.inv_temperature, row, 1.0), 2.0**-126)

    def valid(self, row: int) -> bool:
        return not bool((self.logits[row].isnan() | (self.logits[row] == math.inf)).any())

    def threshold(self, row: int, variant: str) -> float:
        logits = self.logits[row][self.allowed[row]]
        ordered = logits[logits > -math.inf].sort(descending=True).values
        absent = {"top_p": 1.0}
        filters = {
            name: self.value(argument, row, absent.get(name, 0.0))
            for name, argument in self.filters.items()
        }
        return row_threshold(ordered, self.scale(row), filters, variant)


def pick(weights: Tensor, u: float) -> int:
    """The first whose running sum passes u times the total."""
    sums = weights.cumsum(0)
    return int((sums > u * sums[-1]).nonzero()[0])


def draw(x: Tensor, seed: int, offset: int, index: int = 0) -> int:
    """A token with probability softmax(x), by its block and by its share of that block."""
    u, v = uniforms(seed, offset, DRAWS, index)
    weights = (x - x.max()).exp()
    blocks = torch.nn.functional.pad(weights, (0, -len(x) % BLOCK)).view(-1, BLOCK)
    block = pick(blocks.sum(1), u)
    return block * BLOCK + pick(blocks[block], v)


def masked_sample(
    logits: Tensor,
    bitmask: Tensor | None = None,
    *,
    inv_temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    top_n_sigma: float | Tensor | None = None,
    top_h: float | Tensor | None = None,
    top_h_variant: str = "hf",
    threshold: float | Tensor | None = None,
    mask_rows: Tensor | None = None,
    seeds: Tensor,
    offsets: Tensor,
    fallback_token: int = -1,
    strict: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `thrifty.masked_sample`."""
    rows = Rows(
        logits, bitmask, mask_rows, inv_temperature,
        top_k=top_k, top_p=top_p, min_p=min_p, top_n_sigma=top_n_sigma, top_h=top_h,
    )  # fmt: skip
    found = []
    for row, (seed, offset) in enumerate(zip(seeds.tolist(), offsets.tolist(), strict=True)):
        if not rows.valid(row):
            found.append((fallback_token, -math.inf, -math.inf, 4))
            continue
        greedy = rows.scale(row) > 1e30
        theta = Rows.value(threshold, row, -math.inf)
        if not greedy:
            theta = max(theta, rows.threshold(row, top_h_variant))
        kept = rows.allowed[row] & (logits[row] >= theta) & (logits[row] > -math.inf)
        if not kept.any():
            found.append((fallback_token, -math.inf, -math.inf, 1))
            continue
        x = logits[row].double() * (1.0 if greedy else rows.scale(row))
        allowed = torch.where(kept, x, -math.inf)
        if greedy:
            found.append((int(allowed.argmax()), 0.0, 0.0, 0))
            continue
        token = draw(allowed, seed, offset)
        logp = float(allowed.log_softmax(0)[token])
        log_z = float(allowed.logsumexp(0) - x.logsumexp(0))
        found.append((token, logp, log_z, 0))
    columns = list(zip(*found, strict=True)) or [(), (), (), ()]
    dtypes = (torch.int64, torch.float32, torch.float32, torch.int32)
    token, logp, log_z, status = (
        torch.tensor(column, dtype=dtype, device=logits.device)
        for column, dtype in zip(columns, dtypes, strict=True)
    )
    return token, logp, log_z, status


def filter_threshold(
    logits: Tensor,
    bitmask: Tensor | None = None,
    *,
    inv_temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    top_n_sigma: float | Tensor | None = None,
    top_h: float | Tensor | None = None,
    top_h_variant: str = "hf",
    mask_rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `thrifty.filter_threshold`."""
    rows = Rows(
        logits, bitmask, mask_rows, inv_temperature,
        top_k=top_k, top_p=top_p, min_p=min_p, top_n_sigma=top_n_sigma, top_h=top_h,
    )  # fmt: skip
    thresholds = torch.full((len(logits),), math.nan, dtype=torch.float32, device=logits.device)
    masses = torch.full_like(thresholds, -math.inf)
    for row in range(len(logits)):
        if rows.valid(row):
            theta = rows.threshold(row, top_h_variant)
            thresholds[row] = theta
            x = logits[row].double() * rows.scale(row)
            kept = rows.allowed[row] & (logits[row] >= theta)
            masses[row] = torch.where(kept, x, -math.inf).logsumexp(0) - x.logsumexp(0)
    return thresholds, masses


def sample_candidates(
    logits: Tensor,
    k: int,
    *,
    bitmask: Tensor | None = None,
    mask_rows: Tensor | None = None,
    inv_temperature: float | Tensor = 1.0,
    drawn: Tensor | None = None,
    seeds: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `thrifty.sample_candidates`."""
    rows = Rows(logits, bitmask, mask_rows, inv_temperature)
    k = min(k, logits.shape[1])
    ids = torch.full((len(logits), k), -1, dtype=torch.int32, device=logits.device)
    logp = torch.full((len(logits), k), -math.inf, device=logits.device)
    log_rest = logp.clone()
    log_tail = torch.full((len(logits),), -math.inf, device=logits.device)
    lse, status = log_tail.clone(), torch.zeros_like(log_tail, dtype=torch.int32)
    for row, (seed, offset) in enumerate(zip(seeds.tolist(), offsets.tolist(), strict=True)):
        if not rows.valid(row):
            status[row] = 4
            continue
        x = logits[row].double() * rows.scale(row)
        total = x.logsumexp(0)
        lse[row] = total
        left = torch.where(rows.allowed[row], x, -math.inf)
        before = [] if drawn is None else [t for t in drawn[row].tolist() if t >= 0]
        left[before] = -math.inf
        if left.max() == -math.inf:
            status[row] = 1
        first = 0 if drawn is None else drawn.shape[1]
        for j in range(k):
            if left.max() == -math.inf:
                break
            log_rest[row, j] = left.logsumexp(0) - total
            token = draw(left, seed, offset, first + j)
            ids[row, j], logp[row, j] = token, x[token] - total
            left[token] = -math.inf
        log_tail[row] = left.logsumexp(0) - total
    return ids, logp, log_rest, log_tail, lse, status


def awrs_coins(seeds: Tensor, offsets: Tensor, k: int) -> Tensor:
    """See `thrifty.awrs_coins`."""
    rows = zip(seeds.tolist(), offsets.tolist(), strict=True)
    coins = [[uniforms(seed, offset, COINS, j)[0] for j in range(k)] for seed, offset in rows]
    return torch.tensor(coins, dtype=torch.float64, device=seeds.device).view(len(seeds), k)


def awrs_row(
    verdicts: list[int],
    p: list[float],
    rest: list[float],
    tail: float,
    coins: list[float] | None,
    estimator: str,
    extra: int,
    budget: float,
) -> tuple[int, float, bool, int]:
    """One row of awrs_weights: (pos, weight, need_more, n_checked)."""
    order = [j for j, mass in enumerate(p) if mass > 0]
    asked = list(itertools.takewhile(lambda j: verdicts[j] < 2, order))
    asked = asked[: int(min(budget, len(order)))]
    first = next((j for j in asked if verdicts[j] == 1), None)
    ended = tail == 0 and len(asked) == len(order)
    if first is None:
        done = ended or len(asked) == budget
        return -1, 0.0, not done, len(asked) + (not done)
    if estimator == "none":
        return first, 1.0, False, first + 1
    if estimator == "paper":
        rejected = first
        for j in [*order[first + 1 :], None]:
            if j is None:
                return first, rest[first] / (rejected + 1), tail > 0, len(order) + (tail > 0)
            assert coins is not None
            if coins[j] < p[first] / (rest[j] + p[first]):
                return first, rest[first] / (rejected + 1), False, j
            if verdicts[j] == 2:
                return first, 0.0, True, j + 1
            if verdicts[j] == 1:
                return first, rest[first] / (rejected + 1), False, j + 1
            rejected += 1
    terms = int(min(1 if estimator == "recursive" else extra, budget - first - 1))
    if terms == 0:
        return first, rest[first], False, first + 1
    seen, values = p[first], []
    for j in asked[first + 1 : first + 1 + terms]:
        values.append(seen + rest[j] * verdicts[j])
        seen += p[j] * verdicts[j]
    done = ended or len(values) == terms
    used = first + 1 + (len(values) if done else terms)
    values += [seen] * (terms - len(values))  # when all mass has been seen
    return first, sum(values) / terms, not done, used


def awrs_weights(
    allowed: Tensor,
    logp: Tensor,
    log_rest: Tensor,
    log_tail: Tensor,
    *,
    estimator: str = "desraj",
    extra: int = 4,
    budget: int | None = None,
    coins: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `thrifty.awrs_weights`."""
    found = [
        awrs_row(
            allowed[b].tolist(), logp[b].exp().tolist(), log_rest[b].exp().tolist(),
            log_tail[b].exp().item(), None if coins is None else coins[b].tolist(),
            estimator, extra, budget or math.inf,
        )
        for b in range(len(allowed))
    ]  # fmt: skip
    pos, weight, more, checked = zip(*found, strict=True) if found else ((), (), (), ())
    device = logp.device
    weights = torch.tensor(weight, dtype=torch.float64, device=device)
    need_more = torch.tensor(more, dtype=torch.bool, device=device)
    logw = torch.where(need_more, -math.inf, weights.log()).to(logp.dtype)
    return (
        torch.tensor(pos, dtype=torch.int32, device=device),
        logw,
        need_more,
        torch.tensor(checked, dtype=torch.int32, device=device),
    )


def smc_resample(
    logw: Tensor,
    seeds: Tensor,
    offsets: Tensor,
    *,
    method: str = "stratified",
    ess_threshold: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `thrifty.smc_resample`."""
    populations, n = logw.shape
    ancestors = torch.arange(n, device=logw.device).repeat(populations, 1)
    fresh, ess, increment = logw.clone(), logw.new_zeros(populations), logw.new_zeros(populations)
    for row, (seed, offset) in enumerate(zip(seeds.tolist(), offsets.tolist(), strict=True)):
        if n == 0 or logw[row].max() == -math.inf:
            continue
        weights = logw[row].double().softmax(0)
        ess[row] = 1 / weights.square().sum()
        if not ess[row] < ess_threshold * n:  # also of NaN
            continue
        u = [uniforms(seed, offset, RESAMPLING, i)[0] for i in range(n)]
        kept = []
        if method == "residual":
            copies = (n * weights).floor().long()
            kept = torch.arange(n).repeat_interleave(copies.cpu()).tolist()
            weights = n * weights - copies
        left = n - len(kept)
        if method == "stratified":
            u = [(i + u[i]) / n for i in range(n)]
        if method == "systematic":
            u = [(i + u[0]) / n for i in range(n)]
        kept += [pick(weights, u[i]) for i in range(left)]
        ancestors[row] = torch.tensor(kept)
        fresh[row] = 0
        increment[row] = logw[row].double().logsumexp(0) - math.log(n)
    return ancestors, fresh, ess, increment
