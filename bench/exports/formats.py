"""Every format that the leaderboard is written in, by name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.schema import InvalidInput

if TYPE_CHECKING:
    from bench.exports.view import View

# A text, a binary file, or files by their path in a folder.
Content = str | bytes | Mapping[str, str]


@dataclass(frozen=True)
class Format:
    """One way to write a leaderboard."""

    meaning: str
    content: Callable[[View], Content]
    index: str = ""  # the file's name where a folder is asked for


def _by(function: str, *parts: str) -> Callable[[View], Content]:
    """A function of bench.exports, loaded when it is called; it takes a view, or parts of one."""

    def content(view: View) -> Content:
        taken = [getattr(view, part) for part in parts] or [view]
        found: Content = pkgutil.resolve_name(f"bench.exports.{function}")(*taken)
        return found

    return content


_ROWS = ("groups", "published")
FORMATS: dict[str, Format] = {
    "text": Format("for the terminal", _by("render:terminal_table", "board", "published")),
    "md": Format("Markdown", _by("render:markdown", "board", "published")),
    "csv": Format("one line a row", _by("data:csv_text", *_ROWS)),
    "parquet": Format("the same, typed", _by("data:parquet_bytes", *_ROWS)),
    "json": Format("groups and rows", _by("data:json_text", *_ROWS)),
    "latex": Format("tables with booktabs", _by("papers:latex")),
    "bibtex": Format("what to cite", _by("papers:bibtex")),
    "html": Format("one page for any web server", _by("page:page"), index="index.html"),
    "badge": Format("a folder of SVG, one a model", _by("badge:badge_files")),
    "robustbench": Format("a folder of model_info JSON", _by("boards:robustbench_files")),
    "hugging-face": Format("a folder of model-index YAML", _by("boards:hugging_face_files")),
}


def write(name: str, view: View, out: Path) -> list[Path]:
    """Writes one format to a file, or to files under a folder; returns their paths.

    Each file is written atomically. Raises InvalidInput where a folder and a file are mixed up.
    """
    from bench.records.store import write_atomic

    chosen = FORMATS[name]
    content = chosen.content(view)
    if isinstance(content, str | bytes):
        if out.is_dir():
            if not chosen.index:
                raise InvalidInput(f"--out {out} is a folder; {name} is one file: name it")
            out = out / chosen.index
        write_atomic(out, content)
        return [out]
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"--out {out} is a file; {name} is a folder of files: name one")
    for path, text in content.items():
        write_atomic(out / path, text)
    return [out / path for path in content]


def text_of(name: str, view: View) -> str:
    """One format as text for the terminal; InvalidInput where it needs a file or a folder."""
    content = FORMATS[name].content(view)
    if isinstance(content, bytes):
        raise InvalidInput(f"{name} is not text: say where it goes with --out FILE")
    if not isinstance(content, str):
        raise InvalidInput(f"{name} is a folder of files: say where they go with --out DIR")
    return content
