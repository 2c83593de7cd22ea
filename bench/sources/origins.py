"""Whose code something is, the user's or a library's, and what compiled code reads by name.

Python's own modules, installed packages and this package are libraries; all else is the user's.
"""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
from pathlib import Path
from typing import NamedTuple

import bench

_PYTHON = tuple({Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")})
_INSTALLED = {"site-packages", "dist-packages"}
_OURS = Path(bench.__file__).resolve().parent


@functools.lru_cache(maxsize=10_000)
def is_library_file(name: str) -> bool:
    """Whether code of this file is a library's; what was typed or made by exec is the user's."""
    if name.startswith("<frozen"):
        return True
    if name.startswith("<"):
        return False
    path = Path(name).resolve()
    return is_pythons_file(name) or bool(_INSTALLED & set(path.parts)) or path.is_relative_to(_OURS)


@functools.lru_cache(maxsize=10_000)
def is_pythons_file(name: str) -> bool:
    """Whether a file came with Python."""
    path = Path(name).resolve()
    inside = any(path.is_relative_to(folder) for folder in _PYTHON)
    return inside and not _INSTALLED & set(path.parts)


def is_library(kind: type) -> bool:
    """Whether a class is a library's."""
    return is_library_module(str(kind.__module__))


def is_library_module(name: str) -> bool:
    """Whether a module, by its name, is a library's."""
    file = _file_of(name)
    return _is_in_the_interpreter(name) if file is None else is_library_file(file)


def is_pythons(kind: type) -> bool:
    """Whether a class came with Python."""
    name = str(kind.__module__)
    file = _file_of(name)
    return _is_in_the_interpreter(name) if file is None else is_pythons_file(file)


def _file_of(name: str) -> str | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return file if isinstance(file, str) else None


def _is_in_the_interpreter(name: str) -> bool:
    return name != "__main__" and name.split(".")[0] in sys.stdlib_module_names


class Read(NamedTuple):
    """What code, and the code inside it, reads by name."""

    names: tuple[str, ...]  # global ones
    attributes: tuple[str, ...]
    imports: tuple[tuple[str, int], ...]  # (module, level) of statements inside functions


@functools.lru_cache(maxsize=10_000)
def reads(code: types.CodeType) -> Read:
    """The names in sorted order."""
    names: set[str] = set()
    attributes: set[str] = set()
    imports: set[tuple[str, int]] = set()
    before: list[object] = [
        0,
        0,
    ]  # arguments of the last two steps: (level, what is imported from it)
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            attributes.add(step.argval)
        elif step.opname == "IMPORT_NAME":
            imports.add((step.argval, before[0] if isinstance(before[0], int) else 0))
        elif isinstance(step.argval, types.CodeType):
            inner = reads(step.argval)
            names.update(inner.names)
            attributes.update(inner.attributes)
            imports.update(inner.imports)
        before = [before[1], step.argval]
    return Read(*(tuple(sorted(found)) for found in (names, attributes, imports)))  # type: ignore[arg-type]
