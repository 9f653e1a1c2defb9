"""ExpertCache: evictions against brute force, and batches."""

import functools
import random

import numpy as np
import pytest

from thrifty import ExpertCache
from thrifty.numpy import ExpertCache as numpy_cache


def fewest_misses(ids: tuple[int, ...], slots: int) -> int:
    """Over all choices of what to evict."""

    @functools.cache
    def best(at: int, resident: frozenset[int]) -> int:
        if at == len(ids):
            return 0
        if ids[at] in resident:
            return best(at + 1, resident)
        if len(resident) < slots:
            return 1 + best(at + 1, resident | {ids[at]})
        return 1 + min(best(at + 1, resident - {e} | {ids[at]}) for e in resident)

    return best(0, frozenset())


def plain(ids: list[int], slots: int, policy: str) -> list[tuple[int, int, int]]:
    """(at, expert, evicted) of the policies, by their definitions."""
    resident: list[int] = []  # the least recently used first
    loads, uses = [], dict.fromkeys(ids, 0)
    for at, expert in enumerate(ids):
        uses[expert] += 1
        if expert in resident:
            resident.remove(expert)
        else:
            evicted = -1
            if len(resident) == slots:
                future = [*ids[at + 1 :], *range(max(ids) + 1)]  # never again: all the same
                next_use = {e: min(future.index(e), len(ids) - at - 1) for e in resident}
                rank = {"belady": [-next_use[e] for e in resident],
                        "lru": [0 for _ in resident],
                        "lfu": [uses[e] for e in resident]}[policy]  # fmt: skip
                evicted = resident[rank.index(min(rank))]
                resident.remove(evicted)
            loads.append((at, expert, evicted))
        resident.append(expert)
    return loads


def sequences(count: int, length: int, experts: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(experts) for _ in range(length)] for _ in range(count)]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_belady_misses_least(slots: int) -> None:
    for ids in sequences(60, 14, 5, slots):
        cache = ExpertCache(5, slots)
        assert len(cache.plan(ids)) == cache.misses == fewest_misses(tuple(ids), slots)
        assert cache.hits + cache.misses == len(ids)


@pytest.mark.parametrize("policy", ["belady", "lru", "lfu"])
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_policies_by_definition(policy: str, slots: int) -> None:
    for ids in sequences(20, 400, 12, slots):
        cache = ExpertCache(12, slots, policy)
        loads = cache.plan(ids)
        assert [(load.at, load.expert, load.evicted) for load in loads] == plain(ids, slots, policy)


@pytest.mark.parametrize("policy", ["belady", "lru", "lfu"])
def test_slots_hold_what_the_plan_says(policy: str) -> None:
    """A caller that copies as it is told finds each expert where `slot` says."""
    (ids,) = sequences(1, 300, 9, 7)
    cache, memory = ExpertCache(9, 4, policy), [-1] * 4
    for at, expert in enumerate(ids):
        for load in cache.plan(ids, at, at + 1):
            assert (load.at, load.expert, load.evicted) == (at, expert, memory[load.slot])
            memory[load.slot] = load.expert
        assert memory[cache.slot(expert)] == expert
        assert memory == cache.resident.tolist()


@pytest.mark.parametrize("policy", ["belady", "lru", "lfu"])
def test_windows_plan_as_a_whole(policy: str) -> None:
    """With the same future, piecewise or at once."""
    (ids,) = sequences(1, 200, 10, 3)
    whole, pieces = ExpertCache(10, 4, policy), ExpertCache(10, 4, policy)
    found = [load for at in range(0, 200, 25) for load in pieces.plan(ids, at, at + 25)]
    assert found == whole.plan(ids)
    assert (pieces.hits, pieces.misses) == (whole.hits, whole.misses)


def test_knowing_the_future_pays() -> None:
    """Skewed and phased use, as Read-ME reports it: belady over lru and lfu."""
    draw = random.Random(0)
    weights = lambda phase: [1 / (1 + (e - phase) % 16) for e in range(16)]
    ids = [e for phase in range(8) for e in draw.choices(range(16), weights(2 * phase), k=100)]
    misses = {}
    for policy in ("belady", "lru", "lfu"):
        cache = ExpertCache(16, 5, policy)
        cache.plan(ids)
        misses[policy] = cache.misses
    assert misses["belady"] < 0.75 * min(misses["lru"], misses["lfu"]), misses


def test_batches() -> None:
    cache = ExpertCache(4, 2)
    ids = [3, 1, 2, 1, 3, 1, 0]
    assert cache.batch(ids, 8).tolist() == [1, 3, 5]
    assert cache.batch(ids, 2).tolist() == [1, 3]
    assert cache.batch([3, 1, 1, 3], 8).tolist() == [0, 3]  # equals: who came first
    waited = [0, 0, 5, 0, 0, 0, 9]
    assert cache.batch(ids, 8, waited=waited).tolist() == [1, 3, 5]
    assert cache.batch(ids, 8, waited=waited, max_age=5).tolist() == [2]
    assert cache.batch(ids, 8, waited=waited, max_age=6).tolist() == [6]
    assert cache.batch([], 8).tolist() == []


def test_nothing_starves() -> None:
    """One rare request among a stream of others is served within max_age batches."""
    cache, draw = ExpertCache(8, 2), random.Random(1)
    queue = [(7, 0)] + [(draw.randrange(3), 0) for _ in range(30)]
    turn = 0
    while any(expert == 7 for expert, _ in queue):
        ids, waited = zip(*queue, strict=True)
        chosen = set(cache.batch(ids, 4, waited=waited, max_age=6).tolist())
        queue = [(e, w + 1) for i, (e, w) in enumerate(queue) if i not in chosen]
        queue += [(draw.randrange(3), 0) for _ in chosen]
        turn += 1
    assert turn == 7  # passed over six times


def test_wrong_arguments_are_named() -> None:
    assert numpy_cache is ExpertCache
    for arguments, name in [((0, 1), "n_experts"), ((4, 0), "n_slots"), ((4, 2, "fifo"), "policy")]:
        with pytest.raises(ValueError, match=f"^ExpertCache: {name}: expected"):
            ExpertCache(*arguments)
    cache = ExpertCache(4, 2)
    for ids in ([0, 4], [-1], [[0]], [0.5], [2**31]):
        with pytest.raises(ValueError, match=r"^ExpertCache.plan: ids: expected"):
            cache.plan(ids)
        with pytest.raises(ValueError, match=r"^ExpertCache.batch: ids: expected"):
            cache.batch(ids, 1)
    for now, stop, name in [(-1, 1, "now"), (3, 3, "now"), (1, 0, "stop"), (0, 3, "stop")]:
        with pytest.raises(ValueError, match=f"^ExpertCache.plan: {name}: expected"):
            cache.plan([0, 1], now, stop)
    with pytest.raises(ValueError, match="max_batch: expected"):
        cache.batch([0], 0)
    with pytest.raises(ValueError, match="waited: expected"):
        cache.batch([0], 1, waited=[1, 2])
    with pytest.raises(ValueError, match="expert: expected"):
        cache.slot(4)
    assert (cache.hits, cache.misses, cache.resident.tolist()) == (0, 0, [-1, -1])
    assert cache.plan(np.zeros(0, np.int64)) == []
