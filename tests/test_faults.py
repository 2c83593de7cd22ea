"""The planted faults: each can be planted in this tree, and what their script says can be believed."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import faults

RIGHT, WRONG = "return a + b", "return a - b"
TREE = {
    "bench/__init__.py": "",
    "bench/total.py": f"def total(a, b):\n    {RIGHT}\n",
    "bench/twice.py": "ONE = 1\nAGAIN = 1\n",
    "tests/__init__.py": "",
    "tests/deep/test_total.py": (
        "from bench.total import total\n\n\ndef test_sum():\n    assert total(1, 2) == 3\n\n\n"
        "def test_nothing():\n    assert total(1, 0) == 1\n"
    ),
}
SIGN = f"sign: test_total.py::test_sum\n- {RIGHT}\n+ {WRONG}\n"
UNSEEN = f"unseen: test_total.py::test_nothing\n- {RIGHT}\n+ {WRONG}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of two files with the script and a test, which lies a folder deeper than it did."""
    root = tmp_path / "project"
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copy(faults.__file__, root / "tests/faults.py")
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


def called(tree: Path, text: str, *words: str) -> tuple[int, list[str]]:
    """Exit status and lines of the script in a tree; without importing torch."""
    (tree / "tests/faults.txt").write_text(text)
    call = (
        "import sys; from tests import faults; "
        "faults.IMPORTED = ('hypothesis',); sys.exit(faults.main())"
    )
    told = subprocess.run(
        [sys.executable, "-c", call, *words], cwd=tree, capture_output=True, text=True
    )
    return told.returncode, (told.stdout + told.stderr).splitlines()


def test_every_fault_can_be_planted_here():
    known = faults.read(faults.FAULTS.read_text())
    texts = faults.sources(faults.ROOT)
    assert len(known) >= 60 and len({fault.name for fault in known}) == len(known)
    problems = {}
    for fault in known:
        where = faults.planted(texts, fault)
        if isinstance(where, str):
            problems[fault.name] = f"{where}: give it a diff of today's source"
        elif where[1] == texts[where[0]]:
            problems[fault.name] = "changes nothing"
        elif not faults.hinted(faults.ROOT, fault):
            problems[fault.name] = "no test file of its hint is here"
        else:
            ast.parse(where[1], where[0])  # a SyntaxError would prove nothing
    assert not problems


def test_a_fault_is_caught_only_where_a_test_fails(tree):
    moved = SIGN.replace("sign", "moved").replace("test_total", "test_gone")
    said = {
        SIGN: "sign: caught by tests/deep/test_total.py::test_sum",
        UNSEEN: "unseen: NOT CAUGHT by its hint",
        "gone: test_total.py\n- return a * b\n+ return a\n": "gone: snippet not found",
        "twice: test_total.py\n- = 1\n+ = 2\n": "twice: snippet found 2 times",
        f"broken: test_total.py\n- {RIGHT}\n+ return a +\n": "broken: no answer, pytest said 2",
        moved: "moved: NOT CAUGHT: the tests of its hint are gone",
    }
    status, lines = called(tree, "\n".join(said))
    assert status == 1
    for line, wanted in zip(lines, [*said.values(), "1 of 6 faults caught"], strict=True):
        assert line.startswith(wanted)
    assert {name: (tree / name).read_text() for name in TREE} == TREE


@pytest.mark.slow
def test_the_whole_suite_is_asked_where_a_hint_fails(tree):
    said = "unseen: not caught by its hint, but by tests/deep/test_total.py::test_sum"
    assert called(tree, UNSEEN, "--whole") == (0, [said, "1 of 1 faults caught"])


def test_tests_that_fail_anyway_catch_nothing(tree):
    (tree / "bench/total.py").write_text(TREE["bench/total.py"].replace(RIGHT, "return 0"))
    failed = "tests/deep/test_total.py::test_sum"
    assert called(tree, SIGN) == (1, [f"without any fault pytest said 1: {failed}"])


def test_the_diff_that_fits_is_planted(tree):
    older = SIGN.replace(RIGHT, "return b + a") + f"- {RIGHT}\n+ return a * b\n"
    (fault,) = faults.read(older)
    path, text = faults.planted(faults.sources(tree), fault)
    assert path == tree / "bench/total.py" and "return a * b" in text


def test_a_hint_follows_its_file_and_outlives_the_name_of_its_test(tree):
    (fault,) = faults.read(SIGN.replace("test_sum", "test_former_name"))
    assert faults.hinted(tree, fault) == ["tests/deep/test_total.py"]


def test_a_word_that_names_no_fault_is_a_wrong_call(tree):
    status, lines = called(tree, SIGN, "--only", "sing")
    assert status == 2 and "no fault has 'sing' in its name" in lines[-1]
