"""Threads on one table: readers see slots whole, updates are not lost, results do not depend on the
number of threads."""

import threading

import numpy as np
import pytest

import thrifty.numpy
from thrifty import DraftTree, NgramTable


@pytest.fixture
def two_threads():
    before = thrifty.numpy.get_num_threads()
    yield
    thrifty.numpy.set_num_threads(before)


def stream(rows: int = 20_000) -> dict:
    rng = np.random.default_rng(0)
    tails = rng.integers(0, 30, (rows, 4))
    ids = np.argsort(rng.random((rows, 40)), 1)[:, :10]
    probs = -np.sort(-rng.dirichlet(np.ones(10), rows), 1) * 0.99
    return {"tails": tails, "ids": ids, "probs": probs}


@pytest.mark.parametrize("capacity", [64, 1 << 10, 1 << 17])  # with and without evictions
def test_thread_count_changes_nothing(two_threads, tmp_path, capacity: int) -> None:
    data, files = stream(), []
    for threads in (1, 2, 5):
        thrifty.numpy.set_num_threads(threads)
        table = NgramTable(capacity)
        table.update(**data)
        draft = table.draft(data["tails"][:100], tree=DraftTree.default(40), seed=1)
        table.clear()
        table.update(**data)
        table.save(tmp_path / str(threads))
        files.append(((tmp_path / str(threads)).read_bytes()[4096:], draft.tokens.tolist()))
    assert files[0] == files[1] == files[2]


def run_together(*bodies) -> None:
    """Each in a thread until the last writer is done; the first exception is raised."""
    errors: list[BaseException] = []

    def guarded(body):
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_readers_see_whole_slots() -> None:
    """Each write gives a slot ten ids of one residue mod 50 and equal probabilities: a mixture of
    two writes would show. count_cap and fresh keys make every write replace the slot."""
    table = NgramTable(64, n_max=1, k=10)
    stop = threading.Event()
    seen = [0, 0]

    def write() -> None:
        rng = np.random.default_rng(0)
        for _ in range(400):
            contexts = rng.integers(0, 10_000, (500, 1))  # 64 slots: nearly each one evicts
            ids = contexts % 50 + 50 * np.arange(10)
            table.update(contexts, ids=ids, probs=np.full((500, 10), 0.1))
        stop.set()

    def read(index: int) -> None:
        tree = DraftTree.chain(1)
        while not stop.is_set():
            tails = np.arange(10_000, dtype=np.int32)[index::7, None]
            draft = table.draft(tails, tree=tree, seed=1)
            known = draft.sizes == 2
            seen[index] += int(known.sum())
            ids, context = draft.q_ids[known, 0], tails[known]
            assert ((ids - context) % 50 == 0).all()
            assert (np.sort(ids // 50, 1) == np.arange(10)).all()
            np.testing.assert_allclose(draft.q[known, 0], 0.1, rtol=1e-5)

    run_together(write, lambda: read(0), lambda: read(1))
    assert min(seen) > 0


def test_updates_of_several_threads_all_count() -> None:
    table = NgramTable(1 << 10, n_max=1)

    def write() -> None:
        for _ in range(200):
            table.update([[1], [2], [3]] * 5, ids=[[7]] * 15, probs=[[0.5]] * 15)

    run_together(write, write, write)
    _, counts = table.probabilities([[1], [2], [3]], [[7]] * 3)
    assert counts[:, 0].tolist() == [3000] * 3
    assert table.stats()["updates"] == 9000


def test_saving_merging_and_clearing_beside_writers(tmp_path) -> None:
    table, other = NgramTable(1 << 10), NgramTable(1 << 10)
    stop = threading.Event()

    def write() -> None:
        for turn in range(150):
            table.observe_tokens(np.arange(turn, turn + 40) % 50)
            other.observe_tokens(np.arange(turn, turn + 40) % 50)
        stop.set()

    def disturb() -> None:
        while not stop.is_set():
            table.save(tmp_path / "table")
            NgramTable.load(tmp_path / "table")
            table.merge(other)
            other.merge(table)
            other.clear()

    run_together(write, disturb)
