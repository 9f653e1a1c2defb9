"""The documentation is true: its Python runs, its excerpts stand in the source, its links and file
names lead somewhere.

A block ```python runs; the blocks of one page run in order and share their names, like a session.
With prompts (>>>) its output is compared, too. A block that names a file after the language, such
as ```cpp csrc/core/error.h, is an excerpt: its lines occur in that file, in this order, where a
line of dots stands for others. Line breaks and indentation do not count.
"""

import doctest
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from bench.__main__ import parser as bench_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="no documentation here")

FENCE = re.compile(r"^( *)```(?P<info>.*)\n(?P<body>(?:.*\n)*?)\1``` *$", re.M)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    file: str  # of an excerpt, else empty
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in FENCE.finditer(text):
        language, _, file = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, language, file.strip(), match["body"])


def prose(page: Path) -> str:
    """The page without its blocks."""
    return FENCE.sub("", page.read_text())


SNIPPETS = [p for p in PAGES if any(b.language == "python" and not b.file for b in blocks(p))]
EXCERPTS = [block for page in PAGES for block in blocks(page) if block.file]


# ---- snippets


@pytest.mark.parametrize("page", SNIPPETS, ids=name)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")  # pages load the model that is there
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language != "python" or block.file:
            continue
        if ">>>" in block.text:
            run_session(block, names)
        else:
            # Padded, so that a traceback shows the line of the page.
            source = "\n" * block.line + block.text
            exec(compile(source, str(page), "exec"), names)


def run_session(block: Block, names: dict) -> None:
    case = doctest.DocTestParser().get_doctest(block.text, names, str(block), None, block.line)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(case, out=report.append, clear_globs=False)
    assert not report, "".join(report)
    names.update(case.globs)


# ---- excerpts


def squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize("block", EXCERPTS, ids=str)
def test_excerpt_stands_in_its_file(block: Block) -> None:
    path = ROOT / block.file
    assert path.is_file(), f"{block}: {block.file} does not exist"
    source, at = squeeze(path.read_text()), 0
    for part in re.split(r"^\s*(?://|#)?\s*\.\.\.\s*$", block.text, flags=re.M):
        wanted = squeeze(part)
        found = source.find(wanted, at)
        assert found >= 0, f"{block}: not in {block.file}, or out of order:\n{part}"
        at = found + len(wanted)


# ---- links


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            wrong.append(target)
    assert not wrong


# ---- file names in backticks

BASES = ("", "csrc", "python", "python/thrifty", "tests", "docs")  # that a name may start from
SUFFIXES = ["py", "pyi", "typed", "cpp", "h", "cu", "cuh", "md", "toml", "txt", "cmake", "json"]
FOREIGN = re.compile(
    r"(torch/(csrc|headeronly)|cute|cutlass|pybind11)\b|(cuda_\w+\.h|\w+Config\.cmake)$"
)
MADE = re.compile(r"\.?/?(\.venv|build|dist|out)\b|FILE\.json$")  # by the build, or a placeholder


def tracked() -> list[str]:
    """Files of the project: those git knows or would add; without git, those that are there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode == 0:
        return [file for file in run.stdout.splitlines() if (ROOT / file).exists()]
    return [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]


FILES = tracked()
FOLDERS = {str(parent) for file in FILES for parent in Path(file).parents}
TOPS = {Path(file).parts[0] for file in FILES} | {
    child.name for base in BASES[1:] for child in (ROOT / base).iterdir()
}


def braces(text: str) -> list[str]:
    """a{b,c}d -> abd, acd"""
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    return ["".join(choice) for choice in product(*parts)]


def is_file_name(span: str) -> bool:
    if not re.fullmatch(r"[\w.\-/*<>{},]+", span) or FOREIGN.match(span) or MADE.match(span):
        return False
    if Path(span.rstrip("}")).suffix.lstrip(".") in SUFFIXES or re.fullmatch(r"\.(cu|cuh|h)", span):
        return True
    return "/" in span and span.split("/")[0] in TOPS


def exists(span: str) -> bool:
    """Whether a file or folder has this name; <x> stands for any, and need not be there yet."""
    folder, _, last = span.rstrip("/").rpartition("/")
    if "<" in last:
        return not folder or exists(folder)
    pattern = re.sub(r"<\w+>", "*", span.rstrip("/"))
    if "/" not in pattern and pattern not in TOPS:  # a bare name, or the end of one: _isa.cpp
        wild = f"*{pattern}" if pattern[0] in "._" else pattern
        return any(Path(file).match(wild) for file in FILES)
    found = (ROOT / base / "x" for base in BASES)
    candidates = [str((path.parent).relative_to(ROOT) / pattern) for path in found]
    return any(matches(candidate, name) for candidate in candidates for name in (*FILES, *FOLDERS))


def matches(pattern: str, path: str) -> bool:
    """As a shell would: * does not cross folders."""
    wanted = "[^/]*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(wanted, path) is not None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_in_backticks_exist(page: Path) -> None:
    spans = set(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page)))
    names = {one for span in spans if is_file_name(span) for one in braces(span)}
    assert not sorted(one for one in names if not exists(one))


# ---- commands


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for page in PAGES:
        code = re.findall(r"`([^`\n]+)`", prose(page)) + [b.text for b in blocks(page)]
        used = set(re.findall(r"(?:^|&& |`)make ([a-z][a-z-]*)", "\n".join(code), re.M))
        assert used <= targets, f"{name(page)}: {sorted(used - targets)}"


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """python runs, excerpts stand in their files, shell lines are read below; nothing else."""
    others = [str(b) for p in PAGES for b in blocks(p) if not b.file]
    tested = [str(b) for p in PAGES for b in blocks(p) if b.language in ("python", "sh")]
    assert sorted(set(others) - set(tested)) == []


def shell_lines() -> Iterator[tuple[Block, list[str]]]:
    for block in (b for page in PAGES for b in blocks(page) if b.language == "sh"):
        for text in block.text.splitlines():
            words = shlex.split(text, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):  # variables of the environment
                words.pop(0)
            if words:
                yield block, words


def test_shell_lines_are_understood() -> None:
    """Benchmarks parse their arguments, files are there, make knows its variables."""
    makefile = (ROOT / "Makefile").read_text()
    seen = set()
    for block, words in shell_lines():
        seen.add(words[0])
        if words[0] == "make":
            given = dict(word.split("=", 1) for word in words if "=" in word)
            unknown = [name for name in given if not re.search(rf"^{name} *[?:]?=", makefile, re.M)]
            assert not unknown, f"{block}: {unknown}"
            if "BENCH" in given:
                bench_parser().parse_args(shlex.split(given["BENCH"]))
        elif words[1:3] == ["-m", "bench"]:
            bench_parser().parse_args(words[3:])
        elif words[0] not in ("for", "done"):
            files = [word for word in words if word.startswith(("tests/", ".ci/"))]
            assert all((ROOT / file).exists() for file in files), block
    assert {"make", "pip"} <= seen


# ---- figures

FIGURE = re.compile(r"\d ?(ns|us|ms|s|GB/s|TB/s|GFLOP/s|TFLOP/s)\b|\d(\.\d+)?x\b")


def test_figures_are_those_of_the_runs() -> None:
    """Every table is what its generator makes of the files under bench/results."""
    command = [sys.executable, "-m", "bench.tables", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=name)
def test_no_measured_time_outside_of_the_tables(page: Path) -> None:
    text = re.sub(r"<!-- table: .*?<!-- end of table -->", "", prose(page), flags=re.S)
    assert [line for line in text.splitlines() if FIGURE.search(line)] == []
