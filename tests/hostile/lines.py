"""Which lines of some modules ran: a tracer that forgets a function once all its lines were seen."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class Lines:
    """The lines inside functions of some files, and those that ran."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.wanted = {str(path): _lines(path) for path in files}
        self.seen: dict[str, set[int]] = {file: set() for file in self.wanted}
        self._done: set[types.CodeType] = set()

    def __enter__(self) -> Lines:
        sys.settrace(self._called)
        return self

    def __exit__(self, *how: object) -> None:
        sys.settrace(None)

    def _called(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code.co_filename not in self.seen or code in self._done:
            return None
        seen = self.seen[code.co_filename]
        if _of(code) <= seen:
            self._done.add(code)
            return None

        def ran(frame: types.FrameType, event: str, arg: Any) -> Any:
            if event == "line":
                seen.add(frame.f_lineno)
            return ran

        return ran

    def share(self, file: str) -> tuple[int, int]:
        """(lines that ran, lines there are) of a file."""
        return len(self.seen[file] & self.wanted[file]), len(self.wanted[file])


def _lines(path: Path) -> set[int]:
    """The lines of every function of a file; what an import runs is no part of them."""
    whole = compile(path.read_text(), str(path), "exec")
    return {line for code in _functions(whole) for line in _of(code)}


def _functions(code: types.CodeType) -> Iterator[types.CodeType]:
    for held in code.co_consts:
        if isinstance(held, types.CodeType):
            if held.co_flags & 2:  # CO_NEWLOCALS: a function, not the body of a class
                yield held
            yield from _functions(held)


def _of(code: types.CodeType) -> set[int]:
    found = {line for _, _, line in code.co_lines() if line is not None}
    return found - {code.co_firstlineno}
