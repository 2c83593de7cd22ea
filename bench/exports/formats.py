"""Every format that the leaderboard is written in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.exports import render
from bench.exports.boards import hugging_face_files, robustbench_files
from bench.exports.data import csv_text, json_text, parquet_bytes
from bench.exports.page import page
from bench.exports.papers import bibtex, latex
from bench.exports.view import View
from bench.records.store import write_atomic
from bench.schema import InvalidInput

Content = (
    str | bytes | Mapping[str, str]
)  # a text, a binary file, or files by their path in a folder


@dataclass(frozen=True)
class Format:
    """One way to write a leaderboard."""

    meaning: str
    content: Callable[[View], Content]
    index: str = ""  # the file's name where a folder is asked for


FORMATS: dict[str, Format] = {
    "text": Format("for the terminal", lambda v: render.terminal_table(v.board, v.published)),
    "md": Format("Markdown", lambda v: render.markdown(v.board, v.published)),
    "csv": Format("one line a row", lambda v: csv_text(v.groups, v.published)),
    "parquet": Format("the same, typed", lambda v: parquet_bytes(v.groups, v.published)),
    "json": Format("groups and rows", lambda v: json_text(v.groups, v.published)),
    "latex": Format("tables with booktabs", latex),
    "bibtex": Format("what to cite", bibtex),
    "html": Format("one page for any web server", page, index="index.html"),
    "robustbench": Format("a folder of model_info JSON", robustbench_files),
    "hugging-face": Format("a folder of model-index YAML", hugging_face_files),
}


def write(name: str, view: View, out: Path) -> list[Path]:
    """Writes one format to a file, or to files under a folder; returns their paths.

    Each file is written atomically. Raises InvalidInput where a folder and a file are mixed up.
    """
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
