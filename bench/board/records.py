"""The records behind the pages: one cached reading of the results folder."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import streamlit as st

from bench import table, training_log
from bench.published import Published, files
from bench.records import proven, store
from bench.records.index import CACHE
from bench.stats import contrasts, study_files
from bench.stats.contrasts import Answer, Pair
from bench.stats.study_files import StudyFile
from bench.stats.verdicts import Verdict
from bench.table import Group, Leaderboard, Row
from bench.training_log import Line

Made = TypeVar("Made")
Study = tuple[StudyFile, tuple[Verdict, ...]]  # and a verdict a finding

# Arrow's own allocator keeps memory for every thread, and every visitor has one: fifty took 560 MB at
# the highest, 280 MB with the system's.
pa.set_memory_pool(pa.system_memory_pool())

# A new record shows within 10 seconds: LOOKS_LAST until a look at the folder is made again, LOOK_AGAIN
# until an open page asks, and a second to read and to draw.
LOOKS_LAST = 2
LOOK_AGAIN = 6
_SHOWN = "state of the folder"  # in the session: what the page is being made from


def results_root() -> Path:
    """The folder named after `streamlit run app.py -- --results DIR`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--results", type=Path, nargs="?")
    return parser.parse_known_args(sys.argv[1:])[0].results or Path("results")


# ---------------------------------------------------------------- the state of the folder


def folder_state(root: Path) -> str:
    """Changes when a file of the results folder appears, goes or changes; reads no file."""
    digest = hashlib.sha256()
    for name, stamp in store.stamps(root, suffixes=(".json", ".jsonl")).items():
        digest.update(f"{name}\0{stamp}\n".encode(errors="surrogateescape"))
    ours = (*study_files.paths(root), root / proven.NAME)
    for path in (*files.files(root / files.FOLDER), *ours):
        digest.update(f"{path}\0{_stamp(path)}\n".encode())
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """Changes with a file, be it that it goes; a stat is all it costs."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return 0, 0


@st.cache_resource(ttl=LOOKS_LAST, show_spinner=False)
def last_look(root: str) -> str:
    """The state of the folder: one look for all visitors, for thousands of files take 0.1 s."""
    return folder_state(Path(root))


def begin() -> None:
    """Starts a run of a page: all that it shows is made from one state of the folder."""
    st.session_state.pop(_SHOWN, None)


def _now() -> tuple[str, str]:
    """The folder, and its state that the page is made from: what every cache is keyed on."""
    root = str(results_root())
    if _SHOWN not in st.session_state:
        st.session_state[_SHOWN] = last_look(root)
    return root, st.session_state[_SHOWN]


def rerun_when_changed() -> None:
    """Shows a new record on an open page without a reload; a page without records asks nothing."""
    shown = st.session_state.pop(_SHOWN, None)
    if shown is not None:
        _look_again(str(results_root()), shown)


@st.fragment(run_every=LOOK_AGAIN)
def _look_again(root: str, shown: str) -> None:
    if last_look(root) != shown:
        st.rerun()


# ---------------------------------------------------------------- made once for a state


def leaderboard() -> Leaderboard:
    """What the results folder holds, as this visitor's page shows it."""
    return _read(*_now())


@st.cache_resource(max_entries=2, show_spinner="Reading the records …")
def _read(root: str, state: str) -> Leaderboard:
    return table.build(Path(root), cache=CACHE)


def once(what: str, make: Callable[[], Made], key: tuple[str, ...] = ()) -> Made:
    """What pages make from the folder, or from a group of it: for all visitors, until it changes."""
    return cast(Made, _once(*_now(), what, key, make))


@st.cache_resource(max_entries=100, show_spinner=False)
def _once(root: str, state: str, what: str, key: tuple[str, ...], _make: Callable[[], Any]) -> Any:
    return _make()


def published() -> Published:
    """The published numbers under the results folder; a line that cannot be read has a note."""
    return once("published", lambda: files.load(results_root() / files.FOLDER))


def pairs_of(group: Group) -> tuple[Pair, ...]:
    """The pairs of a group of the leaderboard."""
    return once("pairs", lambda: contrasts.pairs(group), group.key)


def answers(group: Group) -> tuple[Answer, ...]:
    """Methods and stronger controls with their verdicts; a bootstrap each."""
    return once("answers", lambda: contrasts.answers(group, pairs_of(group)), group.key)


def studies() -> tuple[Study, ...]:
    """Every study whose file can be read, with a verdict a finding."""

    def make() -> tuple[Study, ...]:
        found, _ = study_files.read_all(results_root())  # the notes name what cannot be read
        tables = contrasts.of_studies(leaderboard().groups, found, answers)
        return tuple((study, study_files.verdicts(study, tables)) for study in found)

    return once("studies", make)


def log_of(row: Row) -> list[Line]:
    """The lines of the training log that lies beside a record; none where there is none."""
    path = row.path.parent / training_log.NAME
    return _log(str(path), _stamp(path))


@st.cache_resource(max_entries=1000, show_spinner=False)
def _log(path: str, stamp: tuple[int, int]) -> list[Line]:
    return training_log.read_log(Path(path))
