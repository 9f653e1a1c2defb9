"""What the drafting family computes, in plain Python and torch, float64.

Only what is determined stands here; what is random is in `drafting_laws`, as programs whose exact
law can be enumerated. STAND, arXiv 2506.04708; VocabTrim, arXiv 2506.22694; RASD, arXiv 2503.03434.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thrifty._draft_tree import Draft
from thrifty.reference.drafting_laws import Node
from thrifty.reference.sampling import draw

# ---- the table


class NgramTable:
    """Of each context of n_min to n_max tokens the running mean of its k most probable followers.

    A dict that never forgets: `thrifty.NgramTable` is the same as long as nothing was evicted.
    """

    def __init__(self, k: int = 10, n_min: int = 1, n_max: int = 4, count_cap: int = 64) -> None:
        self.k, self.n_min, self.n_max, self.count_cap = k, n_min, n_max, count_cap
        self.means: dict[tuple[int, ...], dict[int, float]] = {}
        self.counts: dict[tuple[int, ...], int] = {}

    def update(self, tail: Sequence[int], ids: Sequence[int], probs: Sequence[float]) -> None:
        """P <- c/(c+1) P + 1/(c+1) P_new with c at most count_cap; the k largest stay."""
        new = dict(zip(ids[: self.k], probs[: self.k], strict=True))
        for n in range(self.n_min, min(self.n_max, len(tail)) + 1):
            context = tuple(tail[-n:])
            count = self.counts.get(context, 0)
            weight = 1 / (min(count, self.count_cap) + 1)
            mean = {i: (1 - weight) * p for i, p in self.means.get(context, {}).items()}
            for i, p in new.items():
                mean[i] = mean.get(i, 0.0) + weight * p
            best = sorted(mean, key=lambda i: -mean[i])[: self.k]  # stable: older ones first
            self.means[context] = {i: mean[i] for i in best}
            self.counts[context] = count + 1

    def observe_tokens(self, tokens: Sequence[int], start: int = 1) -> None:
        """`update` with probability 1 for each token that came."""
        for i in range(start, len(tokens)):
            self.update(tokens[max(0, i - self.n_max) : i], [tokens[i]], [1.0])

    def lookup(self, tail: Sequence[int]) -> dict[int, float]:
        """What the longest known context says; {} if none is known."""
        for n in range(min(self.n_max, len(tail)), self.n_min - 1, -1):
            if tuple(tail[-n:]) in self.means:
                return self.means[tuple(tail[-n:])]
        return {}

    def q(self, tail: Sequence[int], inv_temp: float = 1.0) -> dict[int, float]:
        """The distribution that a node's children are drawn from: P^inv_temp, normalised."""
        weights = {i: p**inv_temp for i, p in self.lookup(tail).items()}
        return {i: weight / sum(weights.values()) for i, weight in weights.items()}


# ---- targets


def target_probabilities(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """softmax(logits / temperature), cut by top_k, then top_p, then min_p, normalised: (..., V)."""
    logits = logits.double()
    if temperature == 0:
        best = (logits == logits.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)  # lowest id
        return torch.nn.functional.one_hot(best, logits.shape[-1]).double()
    scores = logits / temperature
    if 0 < top_k < scores.shape[-1]:
        bound = scores.topk(top_k).values[..., -1:]
        scores = scores.masked_fill(scores < bound, -torch.inf)  # ties at the k-th stay
    p = scores.softmax(-1)
    if top_p < 1:
        ordered, order = p.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        kept = (before < top_p).scatter(-1, order, before < top_p)
        p = p * kept
    if min_p > 0:
        p = p * (p >= min_p * p.amax(-1, keepdim=True))
    return p / p.sum(-1, keepdim=True)


def row_stats(
    logits: Tensor,
    k: int = 10,
    *,
    exclude: Tensor | None = None,
    temperature: float = 1.0,
    seed: Tensor | None = None,
    offset: Tensor | int = 0,
    **cuts: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `thrifty.row_stats`; one temperature and cut for all rows."""
    p = target_probabilities(logits, temperature, **cuts)  # type: ignore[arg-type]
    scores = (logits.double() / (temperature or 1.0)).masked_fill(p == 0, -torch.inf)
    probs, ids = p.sort(dim=-1, descending=True, stable=True)
    probs, ids = probs[:, :k], ids[:, :k].masked_fill(probs[:, :k] == 0, -1)
    pad = (0, k - probs.shape[1])
    ids, probs = torch.nn.functional.pad(ids, pad, value=-1), torch.nn.functional.pad(probs, pad)
    draws = torch.full((len(p),), -1, dtype=torch.int32, device=p.device)
    if seed is not None:
        offsets = torch.as_tensor(offset).expand(len(p)).tolist()
        for row, (key, position) in enumerate(zip(seed.tolist(), offsets, strict=True)):
            left = scores[row].clone()
            if exclude is not None:
                left[exclude[row][exclude[row] >= 0].long()] = -torch.inf
            if left.max() > -torch.inf:
                draws[row] = draw(left, key, position)
    return scores.logsumexp(-1), ids.to(torch.int32), probs, draws, torch.zeros_like(draws)


# ---- verification

Verified = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _walk(
    rows: Tensor,
    follow: Callable[[int, int], int],
    width: int,
    greedy: bool,
    key: tuple[int, int],
    k: int,
    temperature: float,
) -> list[Tensor]:
    """One sequence: from node 0 the drawn (or best) tokens, as long as they are children."""
    tokens, path = (torch.full((width,), -1, dtype=torch.int32) for _ in range(2))
    ids = torch.full((width, k), -1, dtype=torch.int32)
    probs = torch.zeros(width, k, dtype=torch.float64)
    node = depth = 0
    while node >= 0:
        row = rows[node][None]
        seed, offset = torch.tensor([key[0]]), torch.tensor([key[1] + depth])
        found = row_stats(row, k, temperature=temperature, seed=seed, offset=offset)
        path[depth], ids[depth], probs[depth] = node, found[1][0], found[2][0]
        tokens[depth] = row.argmax() if greedy else found[3][0]
        node, depth = follow(node, int(tokens[depth])), depth + 1
    return [tokens, torch.tensor(depth, dtype=torch.int32), path, ids, probs]


def _verified(sequences: list[list[Tensor]], device: torch.device) -> Verified:
    parts = [torch.stack(part).to(device) for part in zip(*sequences, strict=True)]
    return (*parts, torch.zeros_like(parts[1]))  # type: ignore[return-value]


def verify_tree(
    logits: Tensor,
    draft: Draft,
    *,
    rule: str = "target",
    temperature: float = 1.0,
    seed: Tensor | None = None,
    offset: Tensor | None = None,
    k: int = 10,
) -> Verified:
    """See `thrifty.verify_tree`: the rules "target" and "greedy", whose tokens are `row_stats`'
    draws. Of "recursive", where coins decide, `drafting_laws` has the exact law.
    """
    sequences = []
    for b, rows in enumerate(logits.cpu()):

        def follow(node: int, token: int, b: int = b) -> int:
            child = int(draft.first_child[b, node])
            while child >= 0 and int(draft.tokens[b, child]) != token:
                child = int(draft.next_sibling[b, child])
            return child

        key = (0, 0) if seed is None or offset is None else (int(seed[b]), int(offset[b]))
        greedy = rule == "greedy"
        sequences.append(_walk(rows, follow, draft.max_depth + 1, greedy, key, k, temperature))
    return _verified(sequences, logits.device)


def verify_chain(
    logits: Tensor,
    tokens: Tensor,
    lens: Tensor | None = None,
    *,
    temperature: float = 1.0,
    seed: Tensor | None = None,
    offset: Tensor | None = None,
    k: int = 10,
) -> Verified:
    """See `thrifty.verify_chain`, without q."""
    sequences = []
    for b, rows in enumerate(logits.cpu()):
        chain = tokens[b].tolist() if lens is None else tokens[b, : int(lens[b])].tolist()

        def follow(node: int, token: int, chain: list[int] = chain) -> int:
            return node + 1 if node < len(chain) and chain[node] == token else -1

        key = (0, 0) if seed is None or offset is None else (int(seed[b]), int(offset[b]))
        sequences.append(_walk(rows, follow, logits.shape[1], False, key, k, temperature))
    return _verified(sequences, logits.device)


# ---- drafts


def tree_of(draft: Draft, row: int = 0) -> Node:
    """One sequence's drafted tree as `drafting_laws` walks it."""

    def node(i: int) -> Node:
        pairs = zip(draft.q_ids[row, i].tolist(), draft.q[row, i].tolist(), strict=True)
        found = Node(int(draft.tokens[row, i]), {x: q for x, q in pairs if x >= 0})
        child = int(draft.first_child[row, i])
        while child >= 0:
            found.children.append(node(child))
            child = int(draft.next_sibling[row, child])
        return found

    return node(0)


def merged_paths(a: Node, b: Node) -> set[tuple[int, ...]]:
    """The token paths below node 0 that a merged tree without a budget has."""

    def paths(node: Node, prefix: tuple[int, ...] = ()) -> set[tuple[int, ...]]:
        below = (paths(child, (*prefix, child.token)) for child in node.children)
        return {prefix}.union(*below)

    return paths(a) | paths(b)


# ---- what surrounds them


def kv_compact(tensor: Tensor, columns: Sequence[Sequence[int]], start: Sequence[int]) -> Tensor:
    """A copy of (B, H, L, D) with column start[b] + i taken from column columns[b][i]."""
    out = tensor.clone()
    for b, row in enumerate(columns):
        for i, column in enumerate(row):
            out[b, :, start[b] + i] = tensor[b, :, column]
    return out


def trimmed_head(
    hidden: Tensor, weight: Tensor, index: Tensor, k: int = 10, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The k largest logits of the rows `index`, their ids in the whole vocabulary, and softmax."""
    logits = torch.full((*hidden.shape[:-1], weight.shape[0]), -torch.inf, dtype=torch.float64)
    logits[..., index] = hidden.double() @ weight[index].double().T
    top = logits.topk(k)
    return top.indices, (top.values / temperature).softmax(-1)
