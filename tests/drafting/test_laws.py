"""Verification rules are lossless: the law of what they emit is the target's, by enumeration."""

import random
from functools import cache

import pytest

from thrifty.reference.drafting_laws import (
    RULES,
    Choices,
    Drafter,
    Prefix,
    Target,
    Template,
    block_walk,
    chain_template,
    generate,
    grow,
    law,
    walk,
    without_replacement,
)

TOLERANCE = 1e-12
# Small: the branches of a law are those of the draft times those of the walk.
BUSHY: Template = (((), ()), (), ())
DEEP: Template = ((((),),), ())
TEMPLATES = {"bushy": BUSHY, "deep": DEEP, "chain": chain_template(2), "root alone": ()}


def probabilities(seed: object, size: int, sharpness: float = 2.0) -> list[float]:
    draws = random.Random(str(seed))
    weights = [draws.random() ** sharpness for _ in range(size)]
    return [weight / sum(weights) for weight in weights]


def random_target(seed: int, vocabulary: int, zeros: bool = False) -> Target:
    """A distribution for each prefix; with `zeros` its first id is impossible, as after top-p."""

    @cache
    def target(prefix: Prefix) -> list[float]:
        p = probabilities((seed, prefix), vocabulary)
        if zeros:
            p[0] = 0.0
            p = [weight / sum(p) for weight in p]
        return p

    return target


def random_drafter(seed: int, vocabulary: int, support: int, misses: bool = False) -> Drafter:
    """q on `support` ids for each prefix, unrelated to the target."""

    @cache
    def drafter(prefix: Prefix) -> dict[int, float]:
        draws = random.Random(str((seed, "ids", prefix)))
        if misses and prefix and draws.random() < 0.4:
            return {}
        ids = draws.sample(range(vocabulary), support)
        return dict(zip(ids, probabilities((seed, "q", prefix), support), strict=True))

    return drafter


def joint(target: Target, count: int, vocabulary: int) -> dict[Prefix, float]:
    """The law of the first `count` ids of the target itself."""
    found: dict[Prefix, float] = {(): 1.0}
    for _ in range(count):
        found = {
            (*prefix, i): weight * p
            for prefix, weight in found.items()
            for i, p in enumerate(target(prefix))
        }
    return found


def assert_same_law(got: dict, expected: dict) -> None:
    for outcome in got.keys() | expected.keys():
        assert abs(got.get(outcome, 0) - expected.get(outcome, 0)) <= TOLERANCE, outcome


def emitted_law(
    target: Target, drafter: Drafter, template: Template, rule: str, count: int
) -> dict:
    def program(choices: Choices) -> Prefix:
        chosen = None if rule == "block" else RULES[rule]
        return generate(choices, target, drafter, template, count, chosen)

    return law(program)


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
@pytest.mark.parametrize("rule", [r for r in RULES if r != "greedy"])
@pytest.mark.parametrize("case", ["plain", "zeros", "misses", "whole support"])
def test_first_token(rule: str, template: str, case: str) -> None:
    vocabulary = 4
    target = random_target(1, vocabulary, zeros=case == "zeros")
    support = vocabulary if case == "whole support" else 2 + (template == "bushy")
    drafter = random_drafter(2, vocabulary, support, misses=case == "misses")
    got = emitted_law(target, drafter, TEMPLATES[template], rule, 1)
    assert_same_law(got, joint(target, 1, vocabulary))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", [r for r in RULES if r != "greedy"])
def test_joint_law_of_two_tokens(rule: str, seed: int) -> None:
    """The second may come from the same tree or from the next: coins and drafts must not leak."""
    target, drafter = random_target(seed, 4), random_drafter(seed + 10, 4, 2)
    got = emitted_law(target, drafter, (((),), ()), rule, 2)
    assert_same_law(got, joint(target, 2, 4))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("length, count", [(1, 2), (2, 2), (3, 1)])
def test_block_verification_of_a_chain(length: int, count: int, zeros: bool) -> None:
    target, drafter = random_target(3, 3, zeros), random_drafter(4, 3, 2)
    got = emitted_law(target, drafter, chain_template(length), "block", count)
    assert_same_law(got, joint(target, count, 3))


def expected_length(target: Target, drafter: Drafter, template: Template, rule: str) -> float:
    def program(choices: Choices) -> int:
        root = grow(choices, template, drafter, ())
        if rule == "block":
            return len(block_walk(choices, target, (), root))
        return len(walk(choices, target, (), root, RULES[rule]))

    return sum(length * p for length, p in law(program).items())


def test_block_verification_is_never_shorter() -> None:
    gains = []
    for seed in range(6):
        target, drafter = random_target(seed, 4), random_drafter(seed + 20, 4, 2)
        lengths = [
            expected_length(target, drafter, chain_template(2), rule)
            for rule in ("recursive_rejection", "block")
        ]
        gains.append(lengths[1] - lengths[0])
    assert min(gains) >= -TOLERANCE
    assert max(gains) > 1e-3


def test_greedy_emits_the_targets_own_continuation() -> None:
    target, drafter = random_target(5, 4), random_drafter(6, 4, 2)
    expected: Prefix = ()
    for _ in range(3):
        p = target(expected)
        expected += (p.index(max(p)),)
    assert emitted_law(target, drafter, DEEP, "greedy", 3) == {expected: pytest.approx(1)}


def test_acceptance_of_one_child_is_the_overlap() -> None:
    p, q = probabilities("p", 6), probabilities("q", 6)

    def program(choices: Choices) -> bool:
        root = grow(choices, ((),), lambda prefix: dict(enumerate(q)), ())
        return RULES["recursive_rejection"](choices, p, root)[0] is not None

    assert law(program)[True] == pytest.approx(sum(map(min, p, q)), abs=TOLERANCE)


def test_sampling_with_q_pays_only_with_a_rule_that_uses_it() -> None:
    """Sampled children and target-only accept less than the most probable ones; with q, more."""

    def accepted(rule: str, sample: bool, seed: int) -> float:
        p = probabilities(("p", seed), 6)
        q = {i: weight for i, weight in enumerate(p) if i != seed % 6}
        q = {i: weight / sum(q.values()) for i, weight in q.items()}

        def program(choices: Choices) -> bool:
            root = grow(choices, ((), ()), lambda prefix: q, (), sample)
            return RULES[rule](choices, p, root)[0] is not None

        return law(program).get(True, 0.0)

    for seed in range(6):
        best = accepted("recursive_rejection", True, seed)
        fixed = accepted("target_only", False, seed)
        worst = accepted("target_only", True, seed)
        assert best >= fixed - TOLERANCE
        assert worst < fixed


def test_order_of_drawing_is_that_of_gumbel_keys() -> None:
    """without_replacement against the closed form of the Plackett-Luce law."""
    q = dict(enumerate(probabilities("order", 4)))
    got = law(lambda choices: tuple(without_replacement(choices, q, 3)))
    for order, probability in got.items():
        left, expected = 1.0, 1.0
        for i in order:
            expected *= q[i] / left
            left -= q[i]
        assert probability == pytest.approx(expected, abs=TOLERANCE)
    assert len(got) == 24
