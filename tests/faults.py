"""Planted faults: mistakes a tired engineer could commit, each of which some test must catch.

Run `python -m tests.faults`: each fault of faults.txt is planted alone in a copy of the tree, and the
tests that its hint names must fail there. So the strength of the tests can be held while code and tests
move: a snippet is looked for in every source file, a test file by its name wherever it lies.

In faults.txt a fault is a line `name: tests that see it`, then a diff: the lines behind `-` occur just
once in the source, those behind `+` take their place. Where the source is written anew, a second diff
goes below the first; the first that fits is planted.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]
FAULTS = Path(__file__).with_suffix(".txt")
SOURCE = ("bench", "awp_train", "models")
# What tests import for seconds, here once and not once a fault.
IMPORTED = (
    "torch",
    "torch._dynamo",
    "hypothesis",
    "scipy.stats",
    "statsmodels.stats.proportion",
    "pydantic",
)


@dataclass(frozen=True)
class Fault:
    """One mistake: what it is called, which tests should see it, and how it is written."""

    name: str
    hint: tuple[str, ...]  # test_file.py or test_file.py::test
    diffs: tuple[tuple[str, str], ...]  # (snippet, replacement)


def read(text: str) -> list[Fault]:
    """The faults of a text such as faults.txt."""
    found = []
    for stanza in re.split(r"\n{2,}", text.strip()):
        if stanza.startswith("#"):
            continue
        first, *lines = stanza.splitlines()
        name, _, hint = first.partition(": ")
        runs = [
            "\n".join(line[2:] for line in run)
            for _, run in itertools.groupby(lines, key=lambda line: line[0])
        ]
        found.append(
            Fault(name, tuple(hint.split()), tuple(zip(runs[::2], runs[1::2], strict=True)))
        )
    return found


def sources(tree: Path) -> dict[Path, str]:
    """Every source file of a tree with its text."""
    return {
        path: path.read_text() for part in SOURCE for path in sorted((tree / part).rglob("*.py"))
    }


def planted(texts: dict[Path, str], fault: Fault) -> tuple[Path, str] | str:
    """The file that a fault changes and its new text; in words why there is none."""
    why = "no diff"
    for snippet, replacement in fault.diffs:
        counts = {path: text.count(snippet) for path, text in texts.items() if snippet in text}
        if sum(counts.values()) == 1:
            (path,) = counts
            return path, texts[path].replace(snippet, replacement)
        why = f"snippet found {sum(counts.values())} times" if counts else "snippet not found"
    return why


def copied(tree: Path, into: Path) -> Path:
    """A copy of the tree's files in a folder, beside a link to what lies beside the tree."""
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree, capture_output=True, text=True, check=True,
    )  # fmt: skip
    copy = into / "tree"
    for name in filter(None, told.stdout.split("\0")):
        if (tree / name).is_file():  # else removed, and not yet committed
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            # No links, not even for results/: a planted fault may write where it should not.
            shutil.copyfile(tree / name, copy / name)
    if (shared := tree.parent / "shared").exists():
        (into / "shared").symlink_to(shared)
    # By content: a file changed and changed back within a second keeps its time, and perhaps its size.
    compileall.compile_dir(copy, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return copy


def hinted(copy: Path, fault: Fault) -> list[str]:
    """The tests of a hint as pytest takes them; the whole file where a test has another name by now."""
    found = []
    for hint in fault.hint:
        name, _, test = hint.partition("::")
        for path in sorted((copy / "tests").rglob(name)):
            here = test and f"def {test.partition('[')[0]}(" in path.read_text()
            found.append(str(path.relative_to(copy)) + (f"::{test}" if here else ""))
    return found


def tested(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit status on some tests, and the first test that fails."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()  # what it would import for seconds is there already
        if not child:
            _ask_pytest(copy, tests, said.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        told = said.read()
    lines = [line.partition(" - ")[0].partition(" ") for line in told.splitlines()]
    failed = [test for word, _, test in lines if word in ("FAILED", "ERROR")]
    return status, failed[0] if failed else told.strip()[-300:]


def _ask_pytest(copy: Path, tests: Sequence[str], said: int) -> NoReturn:
    """The life of the child: as if `python -m pytest` had been called in the copy."""
    status = 3  # pytest's own, for an error inside
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(copy)
        for name in [n for n in sys.modules if n.partition(".")[0] in ("tests", *SOURCE)]:
            del sys.modules[name]
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        status = pytest.main([
            "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "--hypothesis-seed=0", "--timeout=120",
            "-W", "ignore::pytest.PytestAssertRewriteWarning",  # of plugins imported before
            "-m", "not slow and not browser and not hostile and not drill", *tests,
        ])  # fmt: skip
        sys.stdout.flush()
    finally:
        os._exit(status)


def caught(copy: Path, fault: Fault, tests: Sequence[str], *, whole: bool) -> tuple[bool, str]:
    """Whether a fault is caught when it is planted in the copy, and by which test.

    whole: where the tests do not see it, the whole fast suite is asked.
    """
    where = planted(sources(copy), fault)
    if isinstance(where, str):
        return False, where
    path, text = where
    sound = path.read_text()
    path.write_text(text)
    try:
        status, first = tested(copy, tests) if tests else (0, "")
        if status:
            said = f"caught by {first}"
        elif not whole:
            said = (
                "NOT CAUGHT by its hint" if tests else "NOT CAUGHT: the tests of its hint are gone"
            )
        else:
            status, first = tested(copy, ["tests"])
            said = f"not caught by its hint, but by {first}" if status else "NOT CAUGHT"
    finally:
        path.write_text(sound)
    if status not in (0, 1):  # it did not get as far as the tests, which proves nothing
        return False, f"no answer, pytest said {status}: {first}"
    return status == 1, said


def main() -> int:
    """Plants every fault asked for; 1 where one is not caught or cannot be planted."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=main.__doc__)
    parser.add_argument("--only", metavar="WORD", default="", help="faults with this in their name")
    parser.add_argument("--list", action="store_true", help="name the faults and their files alone")
    parser.add_argument("--tests", default="", help="given to pytest instead of the hints")
    parser.add_argument(
        "--whole", action="store_true", help="ask the whole fast suite where a hint fails"
    )
    asked = parser.parse_args()
    chosen = [fault for fault in read(FAULTS.read_text()) if asked.only in fault.name]
    if not chosen:
        parser.error(f"no fault has {asked.only!r} in its name; --list names them")
    if asked.list:
        places = {fault.name: planted(sources(ROOT), fault) for fault in chosen}
        for name, where in places.items():
            print(f"{name}: {where if isinstance(where, str) else where[0].relative_to(ROOT)}")
        return int(any(isinstance(where, str) for where in places.values()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for module in IMPORTED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(ROOT, Path(folder))
        tests = {fault.name: shlex.split(asked.tests) or hinted(copy, fault) for fault in chosen}
        # A test that fails anyway would seem to catch every fault.
        status, first = tested(copy, list(dict.fromkeys(itertools.chain(*tests.values()))))
        if status:
            print(f"without any fault pytest said {status}: {first}")
            return 1
        count = 0
        for fault in chosen:
            found, said = caught(copy, fault, tests[fault.name], whole=asked.whole)
            count += found
            print(f"{fault.name}: {said}", flush=True)
    print(f"{count} of {len(chosen)} faults caught")
    return int(count < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
