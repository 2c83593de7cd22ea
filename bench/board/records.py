"""The records behind the pages: one cached reading of the results folder."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import streamlit as st

from bench import gap, published_files, table, training_log
from bench.board import choosing
from bench.board.choosing import Place
from bench.board.cost import Cost, cost_of
from bench.controls import Control, controls
from bench.gap import RobustGap
from bench.pairs import Method, Pair, methods, pairs
from bench.published import Published
from bench.schema import EvaluationRecord
from bench.table import Group, Leaderboard, Row
from bench.training_log import Line

CACHE = Path("var/ranks")  # rank ranges computed before; may be deleted
SUFFIXES = (".json", ".jsonl", ".csv", ".md")  # records, logs, published numbers, studies
LOOK_AGAIN = 8  # seconds between two looks at the folder while a page is open


def results_root() -> Path:
    """The folder named after `streamlit run app.py -- --results DIR`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--results", type=Path, nargs="?", const=None, default=None)
    return parser.parse_known_args(sys.argv[1:])[0].results or Path("results")


def folder_state(root: Path) -> str:
    """Changes when a file of the results folder appears, goes or changes; reads no file."""
    digest = hashlib.sha256()
    for path, size, modified in sorted(_files(root, depth=5)):
        digest.update(f"{path}\0{size}\0{modified}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path | str, depth: int) -> Iterator[tuple[str, int, int]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # not there, or gone meanwhile
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if depth > 1:
                yield from _files(entry.path, depth - 1)
        elif entry.name.endswith(SUFFIXES):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            yield entry.path, status.st_size, status.st_mtime_ns


def leaderboard() -> Leaderboard:
    """What the results folder holds now."""
    root = results_root()
    return _read(str(root), folder_state(root))


@st.cache_resource(max_entries=2, show_spinner="Reading the records …")
def _read(root: str, state: str) -> Leaderboard:
    return table.build(Path(root), cache=CACHE)


def compared(group: Group) -> tuple[tuple[Pair, ...], tuple[Method, ...]]:
    """The pairs and methods of a group; computed once for a state of the folder."""
    root = results_root()
    return _compared(str(root), folder_state(root), group.key, group)


@st.cache_resource(max_entries=50, show_spinner=False)
def _compared(
    root: str, state: str, key: tuple[str, ...], _group: Group
) -> tuple[tuple[Pair, ...], tuple[Method, ...]]:
    found = pairs(_group)
    return found, methods(_group, found)


def answers(group: Group) -> tuple[tuple[Method, str], ...]:
    """Every method of a group with its sentence; a bootstrap a method, so computed once a state."""
    root = results_root()
    return _answers(str(root), folder_state(root), group.key, group)


@st.cache_resource(max_entries=50, show_spinner=False)
def _answers(
    root: str, state: str, key: tuple[str, ...], _group: Group
) -> tuple[tuple[Method, str], ...]:
    return tuple((method, method.sentence()) for method in compared(_group)[1])


def controls_of(group: Group) -> tuple[Control, ...]:
    """The stronger controls of a group; gathered once for a state of the folder."""
    root = results_root()
    return _controls(str(root), folder_state(root), group.key, group)


@st.cache_resource(max_entries=50, show_spinner=False)
def _controls(root: str, state: str, key: tuple[str, ...], _group: Group) -> tuple[Control, ...]:
    return controls(_group)


def published() -> Published:
    """The published numbers under the results folder; a line that cannot be read has a note."""
    root = results_root()
    return _published(str(root), folder_state(root))


@st.cache_resource(max_entries=2, show_spinner=False)
def _published(root: str, state: str) -> Published:
    return published_files.load(Path(root) / published_files.FOLDER)


def places() -> list[Place]:
    """Every data set and threat of which there is something, in the order of the landing page."""
    root = results_root()
    return _places(str(root), folder_state(root))


@st.cache_resource(max_entries=2, show_spinner=False)
def _places(root: str, state: str) -> list[Place]:
    return choosing.places(leaderboard().groups, published())


def shown_alone(group: Group) -> Leaderboard:
    """The leaderboard of one group, as the exports take it."""
    return replace(leaderboard(), groups=(group,))


def whole(row: Row) -> EvaluationRecord:
    """All of the record that speaks for a row. Raises InvalidInput where its file is gone."""
    return row.record


def costs(group: Group) -> dict[str, Cost]:
    """Record id -> what measuring it took, of every row of a group."""
    root = results_root()
    return _costs(str(root), folder_state(root), group.key, group)


@st.cache_resource(max_entries=50, show_spinner=False)
def _costs(root: str, state: str, key: tuple[str, ...], _group: Group) -> dict[str, Cost]:
    return {row.record.id: cost_of(whole(row)) for row in _group.rows}


def log_of(row: Row) -> list[Line]:
    """The lines of the training log that lies beside a record; none where there is none."""
    return _log(str(row.path.parent / training_log.NAME), *_version(row, training_log.NAME))


def gap_of(row: Row) -> RobustGap | None:
    """The robust generalisation gap beside a record, of its weights; None where there is none.

    Raises InvalidInput where the file cannot be read.
    """
    weights = row.card.weights_sha256
    return _gap(str(row.path.parent), weights, *_version(row, gap.NAME))


def _version(row: Row, name: str) -> tuple[int, int]:
    """Changes with the file; a stat is all it costs."""
    try:
        status = (row.path.parent / name).stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@st.cache_resource(max_entries=1000, show_spinner=False)
def _log(path: str, size: int, modified: int) -> list[Line]:
    return training_log.read_log(Path(path))


@st.cache_resource(max_entries=10_000, show_spinner=False)
def _gap(folder: str, weights: str, size: int, modified: int) -> RobustGap | None:
    return gap.read_gap(Path(folder), weights_sha256=weights)


def rerun_when_changed() -> None:
    """Shows a new record on an open page without a reload."""
    _look_again(folder_state(results_root()))


@st.fragment(run_every=LOOK_AGAIN)
def _look_again(shown: str) -> None:
    if folder_state(results_root()) != shown:
        st.rerun()
