"""Files of NgramTable: the same table again, and everything else refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from thrifty import DraftTree, NgramTable


@pytest.fixture
def table() -> NgramTable:
    made = NgramTable(1 << 10, n_max=3, seed=4, vocab_size=100, vocab="tokens of a test")
    made.observe_tokens(np.random.default_rng(0).integers(0, 100, 300))
    return made


@pytest.fixture
def path(tmp_path: Path, table: NgramTable) -> Path:
    table.save(tmp_path / "table")
    return tmp_path / "table"


def drafts(table: NgramTable) -> tuple:
    tails = np.random.default_rng(1).integers(0, 100, (50, 3))
    draft = table.draft(tails, tree=DraftTree.default(20), seed=3)
    return draft.tokens.tolist(), draft.q.tolist()


def test_comes_back(path: Path, table: NgramTable) -> None:
    loaded = NgramTable.load(path, vocab_size=100, vocab="tokens of a test")
    assert drafts(loaded) == drafts(table)
    assert (loaded.k, loaded.n_min, loaded.n_max, loaded.vocab) == (10, 1, 3, "tokens of a test")
    assert loaded.stats()["used"] == table.stats()["used"]
    assert NgramTable.load(path).vocab_size == 100
    assert [p.name for p in path.parent.iterdir()] == ["table"]  # no temporary is left


def test_what_is_learned_after_loading_stays_out_of_the_file(path: Path) -> None:
    before = path.read_bytes()
    loaded = NgramTable.load(path)
    loaded.observe_tokens([1, 2, 3, 4])
    loaded.save(path.with_name("other"))
    assert path.read_bytes() == before
    again = NgramTable.load(path.with_name("other"))
    assert drafts(again) == drafts(loaded)


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        table = NgramTable(256)
        table.observe_tokens(np.arange(50) % 7)
        table.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_vocabulary(path: Path) -> None:
    with pytest.raises(ValueError, match=r"^load: vocab_size: expected 101, got 100 in "):
        NgramTable.load(path, vocab_size=101)
    with pytest.raises(
        ValueError, match=r"^load: vocab: expected others, got tokens of a test in "
    ):
        NgramTable.load(path, vocab="others")


@pytest.mark.parametrize("keep", [0, 100, 4095, 4096, 5000, -8, -1])
def test_truncated(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"^load: .*: expected .+, got .+"):
        NgramTable.load(path)


def test_every_kind_of_byte_is_checked(path: Path) -> None:
    good = path.read_bytes()
    # The header has 8 + 8 + 16 + 64 + 256 + 48 bytes; behind them the page is not used.
    places = [*range(0, 400, 7), 4096, *range(4100, len(good), 997), len(good) - 1]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"^load: .*: expected .+, got .+"):
            NgramTable.load(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(ValueError, match=r"truncated|bytes"):
        NgramTable.load(path)
    path.write_bytes(good)
    NgramTable.load(path)


def test_another_version_and_other_files(path: Path) -> None:
    bad = bytearray(path.read_bytes())
    bad[8] += 1
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"expected format version 2, got 3"):
        NgramTable.load(path)
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(ValueError, match=r"expected a file of NgramTable"):
        NgramTable.load(path)


def test_files_that_cannot_be_opened(tmp_path: Path, table: NgramTable) -> None:
    with pytest.raises(OSError, match=r"load"):
        NgramTable.load(tmp_path / "missing")
    with pytest.raises(OSError, match=r"save"):
        table.save(tmp_path / "missing" / "table")
    with pytest.raises(OSError, match=r"save"):
        table.save(tmp_path)  # a folder cannot be replaced by a file
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys, numpy as np
from thrifty.numpy import NgramTable
table = NgramTable(1 << 15)
for turn in range(10**6):
    table.observe_tokens(np.full(10, turn % 1000))
    table.save(sys.argv[1])
    print(turn, flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "table"
    for turn in range(5):
        run = [sys.executable, "-c", WRITER, str(path)]
        process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # the first file is there
        time.sleep(0.013 * turn)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert NgramTable.load(path).stats()["used"] > 0
