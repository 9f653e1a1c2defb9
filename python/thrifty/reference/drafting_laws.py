"""Drafting and verification as programs whose exact law can be enumerated.

Each rule is written once, over a `Choices` that answers two questions: `flip(p)` and
`pick(weights)`. `law(program)` runs the program down every branch and adds up the probability of
each outcome in float64; with `Sampled(seed)` the same program draws one outcome. A rule is lossless
when the law of what it emits is the target's own.

A target is a function from a prefix (a tuple of token ids) to probabilities over the vocabulary, a
drafter one from a prefix to the probabilities q of a few ids, {} where it knows nothing. The rules
are those of Leviathan et al. (arXiv 2211.17192), Sequoia (arXiv 2402.12374, recursive rejection)
and block verification (Sun et al., arXiv 2403.10444, algorithm 2).
"""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

Prefix = tuple[int, ...]
Target = Callable[[Prefix], Sequence[float]]
Drafter = Callable[[Prefix], Mapping[int, float]]
Outcome = TypeVar("Outcome", bound=Hashable)


# ---- choices


class Choices(Protocol):
    def pick(self, weights: Sequence[float]) -> int:
        """An index, in proportion to the weights."""

    def flip(self, p: float) -> bool:
        """True with probability p."""


class Sampled:
    """Draws from a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, weights: Sequence[float]) -> int:
        return self._random.choices(range(len(weights)), weights)[0]

    def flip(self, p: float) -> bool:
        return self._random.random() < p


class _Branch:
    """Follows a script of indices, then the first possible ones; notes what else there was."""

    def __init__(self, script: list[int]) -> None:
        self.taken: list[int] = []
        self.probabilities: list[list[float]] = []
        self._script = script

    def pick(self, weights: Sequence[float]) -> int:
        total = float(sum(weights))
        depth = len(self.taken)
        possible = [i for i, w in enumerate(weights) if w > 0]
        index = self._script[depth] if depth < len(self._script) else possible[0]
        self.taken.append(index)
        self.probabilities.append([w / total for w in weights])
        return index

    def flip(self, p: float) -> bool:
        p = min(max(p, 0.0), 1.0)
        return self.pick([1 - p, p]) == 1

    def probability(self) -> float:
        result = 1.0
        for index, p in zip(self.taken, self.probabilities, strict=True):
            result *= p[index]
        return result

    def next_script(self) -> list[int] | None:
        """The script of the next branch in depth-first order, None after the last."""
        for depth in reversed(range(len(self.taken))):
            weights = self.probabilities[depth]
            for index in range(self.taken[depth] + 1, len(weights)):
                if weights[index] > 0:
                    return [*self.taken[:depth], index]
        return None


def law(program: Callable[[Choices], Outcome]) -> dict[Outcome, float]:
    """The exact probability of each outcome of a program, over all of its choices."""
    found: dict[Outcome, float] = defaultdict(float)
    script: list[int] | None = []
    while script is not None:
        branch = _Branch(script)
        outcome = program(branch)
        found[outcome] += branch.probability()
        script = branch.next_script()
    return dict(found)


# ---- drafts


@dataclass
class Node:
    """A drafted token, the q its children were drawn from, and those in the order of drawing."""

    token: int
    q: Mapping[int, float] = field(default_factory=dict)
    children: list["Node"] = field(default_factory=list)


Template = tuple["Template", ...]  # of a node: the templates of its child slots


def chain_template(length: int) -> Template:
    return (chain_template(length - 1),) if length else ()


def without_replacement(choices: Choices, q: Mapping[int, float], count: int) -> Iterator[int]:
    """Up to `count` distinct ids; the law of the order of log q + Gumbel noise (P1)."""
    left = dict(q)
    for _ in range(min(count, len(left))):
        ids = list(left)
        chosen = ids[choices.pick([left[i] for i in ids])]
        del left[chosen]
        yield chosen


def grow(
    choices: Choices,
    template: Template,
    drafter: Drafter,
    prefix: Prefix,
    sample: bool = True,
    token: int = -1,
) -> Node:
    """A tree below the last token of the prefix (P4): children sampled, or the most probable."""
    q = drafter(prefix) if template else {}
    if sample:
        tokens = list(without_replacement(choices, q, len(template)))
    else:
        tokens = sorted(q, key=lambda i: -q[i])[: len(template)]
    node = Node(token, q)
    for child, slot in zip(tokens, template, strict=False):
        node.children.append(grow(choices, slot, drafter, (*prefix, child), sample, child))
    return node


# ---- verification at one node: the accepted child or None, and the emitted token

Step = tuple[Node | None, int]
Rule = Callable[[Choices, Sequence[float], Node], Step]


def accepts(coin: float, p: float, q: float) -> bool:
    """The ratio test for a coin in [0, 1): strict, so that p = 0 is never accepted."""
    return coin * q < p


def recursive_rejection(choices: Choices, p: Sequence[float], node: Node) -> Step:
    """Each child in turn against what is left of p; for children drawn by `without_replacement`.

    After a rejection p <- norm(max(p - q, 0)) and q <- norm(q without the rejected child).
    """
    p, q = list(p), dict(node.q)
    for child in node.children:
        x = child.token
        if choices.flip(min(1.0, p[x] / q[x])):
            return child, x
        p = [max(weight - q.get(i, 0.0), 0.0) for i, weight in enumerate(p)]
        total = sum(p)
        p = [weight / total for weight in p]
        q[x] = 0.0
        rest = sum(q.values())
        if rest <= 0:
            break
        q = {i: weight / rest for i, weight in q.items()}
    return None, choices.pick(p)


def sparse_recursive_rejection(choices: Choices, p: Sequence[float], node: Node) -> Step:
    """The same from one pass over p: its values on the support of q, and one draw outside (P6)."""
    q = dict(node.q)
    outside = [0.0 if i in q else weight for i, weight in enumerate(p)]
    inside = {i: p[i] for i in q}
    p_out = sum(outside)
    x_out = choices.pick(outside) if p_out > 0 else -1
    for child in node.children:
        x = child.token
        if choices.flip(min(1.0, inside[x] / q[x])):
            return child, x
        inside = {i: max(weight - q[i], 0.0) for i, weight in inside.items()}
        total = p_out + sum(inside.values())
        inside = {i: weight / total for i, weight in inside.items()}
        p_out /= total
        q[x] = 0.0
        rest = sum(q.values())
        if rest <= 0:
            break
        q = {i: weight / rest for i, weight in q.items()}
    ids = [*inside, x_out]
    return None, ids[choices.pick([*inside.values(), p_out])]


def target_only(choices: Choices, p: Sequence[float], node: Node) -> Step:
    """One draw from p; the child that has it, if any. For children chosen in whatever manner."""
    x = choices.pick(p)
    return next((child for child in node.children if child.token == x), None), x


def greedy(choices: Choices, p: Sequence[float], node: Node) -> Step:
    """`target_only` at temperature 0: the smallest of the most probable ids."""
    x = max(range(len(p)), key=lambda i: (p[i], -i))
    return next((child for child in node.children if child.token == x), None), x


RULES: dict[str, Rule] = {
    "recursive_rejection": recursive_rejection,
    "sparse_recursive_rejection": sparse_recursive_rejection,
    "target_only": target_only,
    "greedy": greedy,
}


# ---- walks


def walk(choices: Choices, target: Target, prefix: Prefix, root: Node, rule: Rule) -> Prefix:
    """The ids that one verified tree emits: those accepted and one more (P6, P7)."""
    emitted: Prefix = ()
    node: Node | None = root
    while node is not None:
        node, token = rule(choices, target(prefix + emitted), node)
        emitted += (token,)
    return emitted


def block_walk(choices: Choices, target: Target, prefix: Prefix, root: Node) -> Prefix:
    """Block verification of a chain (arXiv 2403.10444, algorithm 2): the longest accepted block.

    Its expected length is at least that of testing token by token. h of the last token is its
    weight; before it the weight of what would be emitted instead decides.
    """
    chain = [root]
    while chain[-1].children:
        chain.append(chain[-1].children[0])
    tokens = tuple(node.token for node in chain[1:])
    weight, taken, residual = 1.0, 0, _excess(target(prefix), root.q, 1.0)
    for i in range(1, len(chain)):
        parent, x = chain[i - 1], tokens[i - 1]
        p = target(prefix + tokens[: i - 1])
        weight = min(1.0, weight * p[x] / parent.q[x])
        here = target(prefix + tokens[:i])
        last = i == len(chain) - 1
        excess = list(here) if last else _excess(here, chain[i].q, weight)
        total = sum(excess)
        h = weight if last else total / (total + 1 - weight) if total + 1 - weight > 0 else 1.0
        if choices.flip(h):
            taken, residual = i, excess
    if not tokens:
        residual = list(target(prefix))
    return (*tokens[:taken], choices.pick(residual))


def _excess(p: Sequence[float], q: Mapping[int, float], weight: float) -> list[float]:
    return [max(weight * value - q.get(i, 0.0), 0.0) for i, value in enumerate(p)]


def generate(
    choices: Choices,
    target: Target,
    drafter: Drafter,
    template: Template,
    count: int,
    rule: Rule | None,
    sample: bool = True,
    prefix: Prefix = (),
) -> Prefix:
    """The first `count` ids of repeated drafting and verification; rule None is `block_walk`."""
    emitted: Prefix = ()
    while len(emitted) < count:
        root = grow(choices, template, drafter, prefix + emitted, sample)
        if rule is None:
            emitted += block_walk(choices, target, prefix + emitted, root)
        else:
            emitted += walk(choices, target, prefix + emitted, root, rule)
    return emitted[:count]
