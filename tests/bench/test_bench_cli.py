"""The command line end to end: exit codes, the JSON on disk, and what must not be in it."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import toy

from bench import FAMILIES, run
from bench import __main__ as cli
from bench.bars import Bar
from bench.harness import Unavailable

ROOT = Path(__file__).resolve().parents[2]


def run_toy(*argv, case=None, bars=()):
    """The exit code of a run over one toy case, in this process."""
    options = cli.parser().parse_args([str(word) for word in argv])
    selected = [run.Selected("toy", [case or toy.case()], list(bars))]
    return run.run(options, selected, [], None)


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory):
    """One roof, measured for this file, away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_exit_code_0_when_all_agree():
    assert run_toy("--quick") == 0


def test_exit_code_1_on_a_wrong_row():
    wrong = toy.case(impls={"thrifty": toy.wrong_total, "eager": toy.total})
    assert run_toy("--quick", case=wrong) == 1


def test_exit_code_1_when_thrifty_cannot_run():
    def missing(state):
        raise Unavailable("not built")

    assert run_toy("--quick", case=toy.case(impls={"thrifty": missing, "eager": toy.total})) == 1
    assert run_toy("--quick", case=toy.case(impls={"peer": missing, "eager": toy.total})) == 0


def test_exit_code_of_bars_and_their_place_in_the_json(tmp_path):
    file = tmp_path / "run.json"
    case = toy.case(impls={"thrifty": toy.sleeping(0.001), "eager": toy.sleeping(0.005)})
    met = Bar("faster than eager", case.name, "eager", "thrifty", at_least=2.0)
    missed = Bar("far faster", case.name, "eager", "thrifty", at_least=50.0)
    assert run_toy("--bars", "--json", file, case=case, bars=[met]) == 0
    assert json.loads(file.read_text())["bars"][0]["passed"] is True
    assert run_toy("--bars", "--json", file, case=case, bars=[met, missed]) == 1
    entries = json.loads(file.read_text())["bars"]
    assert [entry["passed"] for entry in entries] == [True, False]
    assert 2.0 < entries[0]["measured"] < 50.0


def test_compare_exit_codes(tmp_path, capsys):
    file = tmp_path / "base.json"
    slow = toy.case(impls={"thrifty": toy.sleeping(0.01), "eager": toy.total})
    fast = toy.case(impls={"thrifty": toy.sleeping(0.002), "eager": toy.total})
    assert run_toy("--quick", "--json", file, case=fast) == 0
    assert run_toy("--quick", "--compare", file, case=slow) == 1
    assert run_toy("--quick", "--compare", file, "--threshold", 9.0, case=slow) == 0

    other = json.loads(file.read_text())
    other["machine"]["id"] = "another"
    file.write_text(json.dumps(other))
    assert cli.main(["ensemble", "--filter", "tabm_infer/B=1/fp32", f"--compare={file}"]) == 2
    assert "machine id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nonsense"], f"family: expected one of {', '.join(FAMILIES)}, got nonsense"),
        (["--filter", "("], "--filter"),
        (["--filter", "no such case"], "no case matches"),
        (["--quick", "--full"], "not allowed with"),
    ],
)
def test_exit_code_2_for_a_command_that_makes_no_sense(argv, message, capsys):
    try:
        code = cli.main(argv)
    except SystemExit as error:  # how argparse ends
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_list_names_cases_without_running_them(capsys):
    assert cli.main(["ensemble", "--list", "--filter", "tabm_infer/B=1/"]) == 0
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert names == ["tabm_infer/B=1/fp32", "tabm_infer/B=1/bf16"]


def test_a_run_describes_its_machine_but_not_its_user(tmp_path):
    pytest.importorskip("thrifty")
    file = tmp_path / "out" / "run.json"
    argv = ["ensemble", "--quick", "--filter", "tabm_infer/B=1/fp32", "--threads", "1"]
    command = [sys.executable, "-m", "bench", *argv, f"--json={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = file.read_text()
    found = json.loads(text)
    for key in ("schema", "date", "device", "argv", "machine", "versions", "source", "roof"):
        assert found[key]
    assert found["argv"][-1] == "--json=run.json"
    assert found["machine"]["cpu"]["threads"] == 1
    assert {"torch", "numpy", "python", "compiler", "thrifty"} <= found["versions"].keys()
    (case,) = found["cases"]
    rows = {row["impl"]: row for row in case["rows"]}
    assert rows["thrifty"]["status"] == "ok"
    assert rows["thrifty"]["error"] < 1e-5
    for private in (str(tmp_path), str(ROOT), str(Path.home()), platform.node()):
        assert len(private) < 4 or private not in text  # a home of "/" or a host "a" proves nothing
    if platform.libc_ver()[0] == "glibc":
        assert set(found["machine"]["cpu"]["malloc"]) >= set(cli.TUNED_MALLOC)


def test_stock_malloc_goes_on_in_the_same_process():
    code = "from bench import __main__ as m; m.use_tuned_malloc(['--stock-malloc']); print('on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "on\n", done.stderr


def test_paths_lose_their_folders():
    argv = ["--json", "/home/someone/a.json", "--plot=/tmp/p", "--filter", "a/b"]
    assert cli.without_folders(argv) == ["--json", "a.json", "--plot=p", "--filter", "a/b"]
