"""What reaches a terminal: never a character that it would obey instead of showing it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from bench.schema.errors import visible


class _Plain:
    """A text stream that writes control characters as `\\x1b`; names and notes of files hold some."""

    def __init__(self, stream: TextIO, kept: str = "") -> None:
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        begin = text[: len(text) - len(text.lstrip(self._kept))] if self._kept else ""
        self._stream.write(begin + visible(text[len(begin) :]))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_streams() -> Iterator[None]:
    """Inside, stdout and stderr show control characters; a bar of progress may begin its line again."""
    out: Any = _Plain(sys.stdout)
    err: Any = _Plain(sys.stderr, kept="\r")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
