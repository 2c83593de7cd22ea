"""The records behind the pages: one cached reading of the results folder."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import streamlit as st

from bench import gap, table, training_log
from bench.board import choosing
from bench.board.choosing import Place
from bench.board.cost import Cost, cost_of
from bench.gap import RobustGap
from bench.published import Published, files
from bench.records import store
from bench.records.index import CACHE
from bench.schema import EvaluationRecord
from bench.stats import study_files
from bench.stats.contrasts import Answer, Pair, of_studies, pairs
from bench.stats.contrasts import answers as answered
from bench.stats.study_files import StudyFile, read_all, verdicts
from bench.stats.verdicts import Verdict
from bench.table import Group, Leaderboard, Row
from bench.training_log import Line

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
    parser.add_argument("--results", type=Path, nargs="?", const=None, default=None)
    return parser.parse_known_args(sys.argv[1:])[0].results or Path("results")


def folder_state(root: Path) -> str:
    """Changes when a file of the results folder appears, goes or changes; reads no file."""
    digest = hashlib.sha256()
    for name, stamp in store.stamps(root, suffixes=(".json", ".jsonl")).items():
        digest.update(f"{name}\0{stamp}\n".encode(errors="surrogateescape"))
    for path in (*files.files(root / files.FOLDER), *study_files.paths(root)):
        with contextlib.suppress(OSError):  # gone meanwhile
            status = path.stat()
            digest.update(f"{path}\0{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


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


def leaderboard() -> Leaderboard:
    """What the results folder holds, as this visitor's page shows it."""
    return _read(*_now())


@st.cache_resource(max_entries=2, show_spinner="Reading the records …")
def _read(root: str, state: str) -> Leaderboard:
    return table.build(Path(root), cache=CACHE)


def pairs_of(group: Group) -> tuple[Pair, ...]:
    """The pairs of a group of the leaderboard; computed once for a state of the folder."""
    return _pairs(*_now(), group.key, group)


@st.cache_resource(max_entries=50, show_spinner=False)
def _pairs(root: str, state: str, key: tuple[str, ...], _group: Group) -> tuple[Pair, ...]:
    return pairs(_group)


def answers(group: Group) -> tuple[Answer, ...]:
    """Methods and stronger controls with their verdicts; a bootstrap each, so once a state."""
    return _answers(*_now(), group.key, group)


@st.cache_resource(max_entries=50, show_spinner=False)
def _answers(root: str, state: str, key: tuple[str, ...], _group: Group) -> tuple[Answer, ...]:
    return answered(_group, pairs_of(_group))


def studies() -> tuple[Study, ...]:
    """Every study whose file can be read, with a verdict a finding."""
    return _studies(*_now())


@st.cache_resource(max_entries=2, show_spinner=False)
def _studies(root: str, state: str) -> tuple[Study, ...]:
    found, _ = read_all(Path(root))  # what cannot be read is among the notes of the leaderboard
    tables = of_studies(leaderboard().groups, found, answers)
    return tuple((study, verdicts(study, tables)) for study in found)


def comparable(group: Group) -> bool:
    """Whether a table holds a model beside its twin or its control; ranks nothing."""
    return _comparable(*_now(), group.key, group)


@st.cache_resource(max_entries=500, show_spinner=False)
def _comparable(root: str, state: str, key: tuple[str, ...], _group: Group) -> bool:
    names = {member.record.name for member in _group.members}
    cards = (member.record.card for member in _group.members)
    return any(card.pair in names or card.control_of in names for card in cards)


def published() -> Published:
    """The published numbers under the results folder; a line that cannot be read has a note."""
    return _published(*_now())


@st.cache_resource(max_entries=2, show_spinner=False)
def _published(root: str, state: str) -> Published:
    return files.load(Path(root) / files.FOLDER)


def places() -> list[Place]:
    """Every data set and threat of which there is something, in the order of the landing page."""
    return _places(*_now())


@st.cache_resource(max_entries=2, show_spinner=False)
def _places(root: str, state: str) -> list[Place]:
    return choosing.places(leaderboard().groups, published())


def shown_alone(group: Group) -> Leaderboard:
    """The leaderboard of one group, as the exports take it."""
    return replace(leaderboard(), groups=(group,))


def whole(row: Row) -> EvaluationRecord:
    """All of the record that speaks for a row. Raises InvalidInput where its file is gone."""
    return row.record.whole


def costs(group: Group) -> dict[str, Cost]:
    """Record id -> what measuring it took, of every row of a group."""
    return _costs(*_now(), group.key, group)


@st.cache_resource(max_entries=50, show_spinner=False)
def _costs(root: str, state: str, key: tuple[str, ...], _group: Group) -> dict[str, Cost]:
    return {row.record.id: cost_of(row.record) for row in _group.rows}


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
    """Shows a new record on an open page without a reload; a page without records asks nothing."""
    shown = st.session_state.pop(_SHOWN, None)
    if shown is not None:
        _look_again(str(results_root()), shown)


@st.fragment(run_every=LOOK_AGAIN)
def _look_again(root: str, shown: str) -> None:
    if last_look(root) != shown:
        st.rerun()
