"""The records behind the pages: the newest finished view of the results folder."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import streamlit as st

from bench import table, training_log
from bench.board import article, live
from bench.board.live import Live, Once, View
from bench.notation import web_address
from bench.published import Published, files
from bench.records import index, proven, store
from bench.records.index import CACHE, Memory
from bench.stats import comparisons as compared
from bench.stats import contrasts, study_files
from bench.stats.comparisons import Comparison
from bench.stats.contrasts import Answer, Pair
from bench.stats.method_rows import MethodTable, method_table
from bench.stats.study_files import StudyFile
from bench.stats.verdicts import Verdict
from bench.table import Group, Leaderboard, Row
from bench.training_log import Line

Made = TypeVar("Made")
Study = tuple[StudyFile, tuple[Verdict, ...]]  # and a verdict a finding

# Arrow's own allocator keeps memory for every thread, and every visitor has one: fifty took 560 MB at
# the highest, 280 MB with the system's.
pa.set_memory_pool(pa.system_memory_pool())

# A new record shows within 10 seconds where few look: the builder looks every live.LOOK, an open page
# asks every LOOK_AGAIN. Where many look or much arrives, pages are drawn again less often.
LOOK_AGAIN = 6
_SHOWN = "view of the folder"  # in the session: what the page is being made from
TURNS = live.Turns(2)


def results_root() -> Path:
    """The folder named after `streamlit run app.py -- --results DIR`."""
    return _asked().results or Path("results")


def source() -> str | None:
    """Where the records can be had, as its operator says it: `-- --source https://...`."""
    return web_address(_asked().source or "")


def intake() -> Path | None:
    """The file of settings of `-- --intake FILE`; an empty path where none is named, None: off."""
    return _asked().intake


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--intake", type=Path, nargs="?", const=Path())
    parser.add_argument("--results", type=Path, nargs="?")
    parser.add_argument("--source", nargs="?")
    return parser.parse_known_args(sys.argv[1:])[0]


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


# ---------------------------------------------------------------- one builder, many pages


@dataclass(frozen=True, eq=False)
class Folder:
    """What the pages show of one state of the folder."""

    board: Leaderboard
    memory: Memory
    made: Once  # what pages make of it


@st.cache_resource(max_entries=4, show_spinner=False)
def builder(root: str) -> Live[Folder]:
    """The one builder of a folder's views."""
    path = Path(root)
    return Live(partial(folder_state, path), partial(_build, path), _finish)


def start() -> None:
    """Begins to read the records: with the server, before its first visitor."""
    builder(str(results_root())).start()


def _build(root: Path, old: Folder | None) -> Folder:
    """The next view. What the last one has of groups that are the same stays; what it had of others
    is made anew here, so that no visitor waits for it."""
    memory = old.memory if old is not None else Memory()
    collection = index.collect(root, CACHE, memory=memory)
    before = old.board if old is not None else None
    board = table.rank_collection(collection, root, cache=CACHE, before=before)
    if old is None:
        return Folder(board, memory, Once())
    same = {*board.groups} & {*old.board.groups}
    new = Folder(board, memory, old.made.kept(lambda key: len(key) > 1 and key[1] in same))
    asked = {(what, cast(Group, of[0]).key) for what, *of in old.made.known() if of}
    for group in {*board.groups} - same:
        try:
            _ = group.rows
            for what in _OF_A_GROUP:
                if (what, group.key) in asked:
                    _of_group(new, what, group)
        except Exception:  # the page that shows this group will say so, and no other
            traceback.print_exc(file=sys.stderr)
    return new


def _finish(folder: Folder) -> None:
    """What no page waits for: the index for the next start."""
    write, folder.memory.write = folder.memory.write, None
    if write is not None:
        write()


def _of_group(folder: Folder, what: str, group: Group) -> Any:
    return folder.made.get((what, group), lambda: _OF_A_GROUP[what](folder, group))


_OF_A_GROUP: dict[str, Callable[[Folder, Group], Any]] = {
    "pairs": lambda folder, group: contrasts.pairs(group),
    "answers": lambda folder, group: contrasts.answers(group, _of_group(folder, "pairs", group)),
    "methods": lambda folder, group: method_table(
        group, _of_group(folder, "answers", group), _of_group(folder, "pairs", group)
    ),
}


@contextlib.contextmanager
def page() -> Iterator[None]:
    """A run of a page: all that it shows is made from one view, the newest that is finished.

    Few run at a time. Afterwards an open page looks for a newer view by itself; one that shows nothing
    of the folder does not.
    """
    st.session_state.pop(_SHOWN, None)
    with TURNS.turn():
        yield
    view = st.session_state.pop(_SHOWN, None)
    if view is not None:
        root = str(results_root())
        failed = builder(root).failed
        if failed:
            when = time.strftime("%H:%M:%S", time.localtime(view.seen))
            article.small(
                f"As of {when}: what changed since then cannot be shown yet. The reason is in the "
                "server's log."
            )
        _look_again(root, view.state, failed)


@st.fragment(run_every=LOOK_AGAIN)
def _look_again(root: str, shown: str, failed: bool) -> None:
    one = builder(root)
    if (one.newest().state != shown or one.failed != failed) and TURNS.again():
        st.rerun()


def _now() -> View[Folder]:
    """The view that this visitor's page is made from."""
    if _SHOWN not in st.session_state:
        one = builder(str(results_root()))
        with contextlib.nullcontext() if one.ready else st.spinner("Reading the records …"):
            st.session_state[_SHOWN] = one.newest()
    return cast("View[Folder]", st.session_state[_SHOWN])


def newest() -> Folder:
    """The newest finished view of the folder, for who is no page."""
    return builder(str(results_root())).newest().made


def leaderboard() -> Leaderboard:
    """What the results folder holds, as this visitor's page shows it."""
    return _now().made.board


def once(what: str, make: Callable[[], Made]) -> Made:
    """What pages make from the folder: for all visitors, until it changes."""
    return _now().made.made.get((what,), make)


def made(what: str) -> bool:
    """Whether something is made already, so that nobody waits for it."""
    return (what,) in _now().made.made.known()


def published() -> Published:
    """The published numbers under the results folder; a line that cannot be read has a note."""
    return once("published", lambda: files.load(results_root() / files.FOLDER))


def once_of(group: Group, what: str, make: Callable[[], Made]) -> Made:
    """What pages make from a group alone: for all visitors, until the group changes."""
    return _now().made.made.get((what, group), make)


def pairs_of(group: Group) -> tuple[Pair, ...]:
    """The pairs of a group of the leaderboard."""
    return cast("tuple[Pair, ...]", _of_group(_now().made, "pairs", group))


def answers(group: Group) -> tuple[Answer, ...]:
    """Methods and stronger controls with their verdicts; a bootstrap each."""
    return cast("tuple[Answer, ...]", _of_group(_now().made, "answers", group))


def comparisons() -> tuple[Comparison, ...]:
    """Every comparison of the tables, in the order that no result changes."""
    groups = leaderboard().groups
    return once("comparisons", lambda: compared.comparisons(groups, answers, pairs_of))


def methods(group: Group) -> MethodTable:
    """The rows of a group, one a method."""
    return cast("MethodTable", _of_group(_now().made, "methods", group))


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
