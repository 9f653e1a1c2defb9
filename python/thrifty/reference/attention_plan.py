"""How `thrifty.hyper_attention` chooses keys, in plain PyTorch: buckets, windows, lists.

Nothing here is differentiable or needs to be: a plan is integers and draws. Every choice is stated
exactly, so that two implementations make the same plan, except where two scores differ by no more
than rounding. docs/attention.md has the reasons.

Random words are Philox4x32-10 with key = seed and counter

    (stream * 2^28 + slot, node, offset's low half, offset's high half)

where `node` is 0, or, in the causal recursion, the number of the first leaf of the square's
queries. No batch, head, sequence or row enters: a result does not depend on its place in a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thrifty.reference.philox import philox

PLANES, CENTROIDS, RESIDUAL = 0, 1, 2  # streams
CANDIDATES = 8  # keys that the first centroids are chosen among, for each of them
LLOYD_STEPS = 2
LLOYD_KEYS = 16  # keys of the Lloyd sample for each centroid
KEYS_PER_BUCKET = 8  # a square of few keys gets fewer buckets, of this many keys on average


# ---- draws


def words(seed: int | Tensor, stream: int, node: int, count: int) -> np.ndarray:
    """uint32 words [count, 4] of the slots 0 ... count - 1; seed: a number, or (seed, offset)."""
    pair = [seed, 0] if isinstance(seed, int) else seed.tolist()
    key, offset = (int(value) % 2**64 for value in pair)
    counter = np.zeros((count, 4), np.uint32)
    counter[:, 0] = np.arange(count) + (stream << 28)
    counter[:, 1] = node
    counter[:, 2] = offset & 0xFFFFFFFF
    counter[:, 3] = offset >> 32
    return philox(key, counter)


def lsh_planes(seed: int | Tensor, dim: int, planes: int) -> Tensor:
    """Normals of the hyperplanes, float32 [dim, planes], standard normal numbers.

    Box-Muller in double precision: element (d, r) has slot r * dim + d and is
    sqrt(-2 ln u) cos(2 pi u') with u = (word 0 + 1/2) / 2^32 and u' = (word 1 + 1/2) / 2^32.
    """
    u = (words(seed, PLANES, 0, planes * dim)[:, :2].astype(np.float64) + 0.5) / 2.0**32
    normal = np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * np.pi * u[:, 1])
    return torch.from_numpy(normal.reshape(planes, dim).T.astype(np.float32).copy())


def residual_ranks(seed: int | Tensor, node: int, keys: int, count: int) -> Tensor:
    """Ranks among the sorted keys, uniform with replacement: slot t is word 0 * keys >> 32."""
    word = words(seed, RESIDUAL, node, count)[:, 0].astype(np.uint64)
    return torch.from_numpy((word * np.uint64(keys) >> np.uint64(32)).astype(np.int64))


# ---- buckets


def gray_rank(code: Tensor) -> Tensor:
    """The place of a code of up to 16 bits in the Gray sequence: neighbours differ in one bit."""
    for shift in (1, 2, 4, 8):
        code = code ^ (code >> shift)
    return code


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """argmax_c <x, centroid_c>, the first of equals; NaN is never greater. int64 [..., N]."""
    return (x @ centroids.mT).nan_to_num(nan=-torch.inf).argmax(-1)


def unit(x: Tensor) -> Tensor:
    """x / |x|, and zeros where |x| is 0."""
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, x / norm, 0)


def bucket_count(keys: int, num_buckets: int) -> int:
    return max(1, min(num_buckets, keys // KEYS_PER_BUCKET))


def make_centroids(kc: Tensor, buckets: int, seed: int | Tensor, node: int) -> Tensor:
    """Unit vectors [B, H, buckets, D] from centred keys kc [B, H, N, D].

    1. Slot t of the M = min(N, 8 buckets) candidates takes the unit vector of the key
       lo + (word 0 * (hi - lo) >> 32) with lo, hi = t N / M, (t + 1) N / M, rounded down: one key
       of each stretch. The first centroid is candidate 0, the next always the candidate whose
       greatest product with those before is the least, the first of equals (Gonzalez, 1985).
    2. Two steps of Lloyd's algorithm on the sphere, on the unit vectors of the keys t N / T,
       t < T = min(N, 16 buckets): each goes to its nearest centroid, a centroid becomes the unit
       vector of their sum; one with a sum of zero stays.
    3. Ordered as a chain: the first stays, then always the one most similar to the last, the first
       of equals.
    """
    n = kc.shape[-2]
    candidates = min(n, CANDIDATES * buckets)
    slot = np.arange(candidates)
    lo, hi = slot * n // candidates, (slot + 1) * n // candidates
    word = words(seed, CENTROIDS, node, candidates)[:, 0].astype(np.uint64)
    drawn = lo + (word * (hi - lo).astype(np.uint64) >> np.uint64(32)).astype(np.int64)
    centroids = spread(unit(kc[..., torch.from_numpy(drawn).to(kc.device), :]), buckets)
    count = min(n, LLOYD_KEYS * buckets)
    sample = unit(kc[..., torch.arange(count, device=kc.device) * n // count, :])
    for _ in range(LLOYD_STEPS):
        member = torch.nn.functional.one_hot(nearest(sample, centroids), buckets).to(kc.dtype)
        total = member.mT @ sample
        centroids = torch.where(total.norm(dim=-1, keepdim=True) > 0, unit(total), centroids)
    return centroids.gather(-2, chain(centroids)[..., None].expand_as(centroids))


def spread(candidates: Tensor, count: int) -> Tensor:
    """`count` of the candidates [B, H, M, D] that lie far from each other, by step 1."""
    chosen = candidates[..., :1, :]
    taken = torch.zeros(candidates.shape[:-1], dtype=torch.bool, device=candidates.device)
    taken[..., 0] = True
    nearness = candidates.new_full(candidates.shape[:-1], -torch.inf)
    for _ in range(count - 1):
        product = (candidates @ chosen[..., -1:, :].mT).squeeze(-1).nan_to_num(nan=-torch.inf)
        nearness = torch.maximum(nearness, product)
        farthest = nearness.masked_fill(taken, torch.inf).argmin(-1, keepdim=True)
        taken = taken.scatter(-1, farthest, True)
        index = farthest[..., None].expand(*farthest.shape, candidates.shape[-1])
        chosen = torch.cat([chosen, candidates.gather(-2, index)], -2)
    return chosen


def chain(centroids: Tensor) -> Tensor:
    """The greedy order of step 3, int64 [B, H, buckets]."""
    similar = centroids @ centroids.mT
    similar = similar.nan_to_num(nan=-torch.inf)
    last = similar.new_zeros(similar.shape[:-2], dtype=torch.long)
    order = [last]
    for _ in range(centroids.shape[-2] - 1):
        similar = similar.scatter(
            -1, last[..., None, None].expand(*similar.shape[:-1], 1), -torch.inf
        )
        row = similar.gather(-2, last[..., None, None].expand(*last.shape, 1, similar.shape[-1]))
        last = row.squeeze(-2).argmax(-1)
        order.append(last)
    return torch.stack(order, -1)


def kept_keys(kc: Tensor, probe: Tensor | None, keep: int) -> Tensor:
    """The `keep` keys of the greatest <kc, probe>, int64 [B, H, keep] in rising order.

    The earlier of equals; NaN ranks last. Without a probe the first keys.
    """
    keep = min(keep, kc.shape[-2])
    if probe is None:
        first = torch.arange(keep, device=kc.device)
        return first.expand(*kc.shape[:-2], keep)
    score = (kc @ probe[..., None]).squeeze(-1).nan_to_num(nan=-torch.inf, posinf=torch.inf)
    best = score.sort(dim=-1, descending=True, stable=True).indices[..., :keep]
    return best.sort(-1).values


def bucket_windows(offsets: Tensor, window: int) -> Tensor:
    """[begin, end) of each bucket's window among the sorted keys, int32 [..., buckets, 2].

    `window` keys around the middle of the bucket, moved so far that they exist:
    begin = clamp(off[c] + floor((count - window) / 2), 0, max(total - window, 0)).
    """
    first, count, total = offsets[..., :-1], offsets.diff(dim=-1), offsets[..., -1:]
    begin = first + torch.div(count - window, 2, rounding_mode="floor")
    begin = torch.minimum(begin, total - window).clamp_min(0)
    return torch.stack([begin, torch.minimum(begin + window, total)], -1).int()


# ---- the causal recursion


@dataclass(frozen=True)
class Square:
    """Queries at positions [middle, end) that look at all keys at [begin, middle)."""

    begin: int
    middle: int
    end: int


def squares(n: int, leaf: int) -> Iterator[Square]:
    """The squares below the diagonal of n positions, by size, leaf, 2 leaf, ....

    Sides are powers of two times `leaf` and corners multiples of their sides, so a square's keys
    are always complete, and where the sequence ends changes nothing before it.
    """
    side = leaf
    while side < n:
        for middle in range(side, n, 2 * side):
            yield Square(middle - side, middle, min(middle + side, n))
        side *= 2
