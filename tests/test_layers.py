"""The house: packages depend one way, pages never load torch, and no two files import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "awp_train", "models")
TORCH = {"torch", "torchvision", "safetensors", "pyautoattack", "robustbench"}
# awp_train -> bench -> models
MAY_USE = {
    "app": {"bench"},
    "awp_train": {"awp_train", "bench", "models"},
    "bench": {"bench", "models"},
    "models": {"models"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path
    for path in (ROOT / "app.py", *(p for d in PACKAGES for p in (ROOT / d).rglob("*.py")))
}
PAGES = [name for name in SOURCES if name == "app" or name.startswith("bench.board.")]


def imports(module: str, *, lazy: bool) -> set[str]:
    """Modules that a file imports, each as the file that is read; lazy: inside functions too."""
    tree = ast.parse(SOURCES[module].read_text())
    nodes = ast.walk(tree) if lazy else (n for part in tree.body for n in _at_import(part))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = whole & SOURCES.keys()
            found |= inside
            if whole - inside or not node.module.startswith(PACKAGES):
                found.add(node.module)
    return found - {module}


def _at_import(node: ast.stmt) -> list[ast.AST]:
    """What runs when a file is imported: nothing inside functions, nor for type checkers alone."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return []
    inner = [n for child in ast.iter_child_nodes(node) for n in _at_import(child)]  # type: ignore[arg-type]
    return [node, *inner]


@pytest.mark.parametrize("module", SOURCES)
def test_packages_depend_one_way(module):
    package = module.split(".")[0]
    used = {name.split(".")[0] for name in imports(module, lazy=True)} & {*MAY_USE, "tests"}
    assert used <= MAY_USE[package]


def test_no_two_files_import_each_other():
    graph = {m: imports(m, lazy=False) & SOURCES.keys() for m in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_pages_never_load_torch():
    """Nothing that a page imports, at any depth, imports torch on the way."""
    seen, waiting = set(), list(PAGES)
    while waiting:
        module = waiting.pop()
        if module in seen or module not in SOURCES:
            continue
        seen.add(module)
        used = imports(module, lazy=module in PAGES)
        assert not {name.split(".")[0] for name in used} & TORCH, module
        waiting += used
        waiting += [module.rpartition(".")[0]]  # a package is imported before what is in it
    named = ", ".join(sorted(seen - set(PAGES) - {""}))
    code = f"import sys, {named}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
