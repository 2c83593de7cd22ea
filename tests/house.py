"""python -m tests.house: how large the house is, and how far a reader walks through it.

Source is bench/, awp_train/, models/, app.py, the templates, and the comparison with other libraries
wherever it lies.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ("bench/", "awp_train/", "models/", "app.py", "tests/speed/")
TEMPLATES = (".j2", ".css", ".js")
WALK = "docs/how-a-number-is-made.md"


def tracked() -> list[str]:
    """The files that git tracks and that are there."""
    text = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [f for f in text.splitlines() if (ROOT / f).is_file()]


def source() -> list[str]:
    """Python files of the source; tests of the comparison are tests."""
    return [
        f for f in tracked() if f.endswith(".py") and f.startswith(SOURCE) and "/test_" not in f
    ]


def lines(files: list[str]) -> int:
    """Lines of text, blank ones and comments too."""
    return sum(len((ROOT / f).read_text().splitlines()) for f in files)


def statements(files: list[str]) -> int:
    """Nodes of the syntax tree that are statements: packing lines does not count."""
    return sum(
        isinstance(node, ast.stmt)
        for f in files
        for node in ast.walk(ast.parse((ROOT / f).read_text()))
    )


def importers(files: list[str]) -> dict[str, set[str]]:
    """Module -> the files of the source that import it or a name of it."""
    modules = {_module(f): f for f in files}
    found: dict[str, set[str]] = {m: set() for m in modules}
    for f in files:
        for node in ast.walk(ast.parse((ROOT / f).read_text())):
            named: list[str] = []
            if isinstance(node, ast.Import):
                named = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{a.name}" for a in node.names]
                named = [w for w in whole if w in modules] or [node.module]
            for name in named:
                if name in found and modules[name] != f:
                    found[name].add(f)
    return found


def _module(file: str) -> str:
    return re.sub(r"(/__init__)?\.py$", "", file).replace("/", ".")


def naming(word: str, files: list[str]) -> list[str]:
    """The files in which a word stands as a text of its own: where a reader must add another."""
    found = []
    for f in files:
        nodes = ast.walk(ast.parse((ROOT / f).read_text()))
        if any(isinstance(n, ast.Constant) and n.value == word for n in nodes):
            found.append(f)
    return found


def walk() -> list[str]:
    """The files that the page on how a number is made leads through; none where it is not there."""
    page = ROOT / WALK
    if not page.exists():
        return []
    links = re.findall(r"\]\(\.\./([\w/]+\.py)[)#]", page.read_text())
    return list(dict.fromkeys(links))


def measures() -> dict[str, str]:
    """What is measured -> the figure."""
    files, all_files = source(), tracked()
    templates = [f for f in all_files if f.endswith(TEMPLATES) and f.startswith("bench/")]
    by_room: dict[str, int] = defaultdict(int)
    for f in files:
        by_room["/".join(f.split("/")[:-1]) or "."] += 1
    single = [m for m, by in importers(files).items() if len(by) == 1]
    tests = [
        f for f in all_files if f.startswith("tests/") and f.endswith(".py") and f not in files
    ]
    followed = walk()
    return {
        "source files": f"{len(files):,}",
        "source lines (templates too)": f"{lines(files) + lines(templates):,}",
        "statements": f"{statements(files):,}",
        "files flat in bench/": str(by_room["bench"]),
        "modules with one importer": str(len(single)),
        "files / lines to follow one number": f"{len(followed)} / {lines(followed):,}",
        "files that name the objective mart": str(len(naming("mart", files))),
        "files that name the attack fab-t": str(len(naming("fab-t", files))),
        "files that name the architecture vgg16_bn": str(len(naming("vgg16_bn", files))),
        "lines of tests": f"{lines(tests):,}",
    }


if __name__ == "__main__":
    for what, figure in measures().items():
        print(f"{what:45} {figure}")
