"""The files under `results/studies`, written again from the records that their counts name.

Of each study the counts (`.csv`), what follows of them (`.json`) and a summary (`.md`); of those with
tuned arms an answer; of all of them one table, README.md; and what the README beside the results folder
says of them. Neither weights nor data sets are needed.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from awp_train import readme
from awp_train.answer import answered
from awp_train.findings import (
    Judged,
    Measured,
    counts,
    found,
    judge_all,
    measured_of,
    overview,
    summary,
)
from awp_train.studies import STUDIES, Arm, Study, study_of
from bench import table
from bench.records import proven, store
from bench.records.one_read import is_file, read_whole
from bench.schema import InvalidInput
from bench.stats.study_files import FOLDER, read_all
from bench.table import Group

COMMAND = "python -m awp_train retell"
_LARGEST = 2**20  # bytes of a study's counts
PAGE = "README.md"

Network = tuple[Arm, int, str, Path]  # arm, seed, best or last, and the file of its record


def write(name: str, measured: Sequence[Measured], out: Path) -> str:
    """Writes the counts and the file of one study, and the summaries of all; returns its own."""
    _written(_data(name, measured, out))
    _written(_summaries(out, _judged(out)[0]))
    return (out / FOLDER / f"{name}.md").read_text(encoding="utf-8")


def retell(out: Path) -> Iterator[Path]:
    """Writes the files of all studies again, then the README; yields those that changed.

    Raises InvalidInput, when the others are written, where the README quotes what is not there.
    """
    yield from _written(_of_records(out))
    judged, groups = _judged(out)
    yield from _written(_summaries(out, judged))
    yield from _written(readme.told(out, judged, groups))


def stale(out: Path) -> Iterator[Path]:
    """Every file that is not what the records, or the files made of them, give. Raises as `retell`."""
    yield from _changed(_of_records(out))
    judged, groups = _judged(out)
    yield from _changed(_summaries(out, judged))
    yield from _changed(readme.told(out, judged, groups))


def counted(found: Iterable[Network], out: Path) -> list[Measured]:
    """The networks of these records but those that were withdrawn, which are told.

    Where some of them are known, so are those left out that are neither proven nor measured here.
    """
    found = list(found)
    known = proven.known_among(out, (record for *_, record in found))
    measured = []
    for arm, seed, kept, record in found:
        why = ""
        if store.is_withdrawn(record):
            why = "was withdrawn and is left out"
        elif known and record not in known:
            why = "is neither measured here nor proven and is left out; bench verify proves it"
        if why:
            print(f"{record} {why}", file=sys.stderr)
        else:
            measured.append(measured_of(arm, seed, kept, record))
    return measured


def _of_records(out: Path) -> dict[Path, str]:
    """Path -> text of the counts and the file of every study that has counts."""
    paths = sorted(path for path in out.glob("*/*/*/*.json") if store.of_a_record(str(path)))
    known = proven.known_among(out, paths)
    # Of several files of one id the known one is what the counts mean.
    where = {
        (path.stem, path.parent.name.rpartition("-")[2]): path
        for path in sorted(paths, key=known.__contains__)
    }
    texts: dict[Path, str] = {}
    for name in STUDIES:
        path = out / FOLDER / f"{name}.csv"
        if path.exists():
            named = _named(study_of(name), path, where)
            texts |= _data(name, counted(named, out), out)
    return texts


def _data(name: str, measured: Sequence[Measured], out: Path) -> dict[Path, str]:
    return {
        out / FOLDER / f"{name}.csv": counts(measured),
        out / FOLDER / f"{name}.json": store.pretty_json(found(name, measured)),
    }


def _judged(out: Path) -> tuple[Judged, Sequence[Group]]:
    """The files of studies with their verdicts, and the tables, as they are."""
    studies, notes = read_all(out)
    for note in notes:
        print(note, file=sys.stderr)
    groups = table.build(out).groups
    return judge_all(studies, groups), groups


def _summaries(out: Path, judged: Judged) -> dict[Path, str]:
    """Path -> text of what is told of the studies."""
    texts = {out / FOLDER / f"{study.name}.md": summary(study, each) for study, each in judged}
    for study, each in judged:
        told = answered(study, each, out / "choices")
        texts |= {out / FOLDER / name: text for name, text in told.items()}
    return texts | {out / FOLDER / PAGE: overview(judged)}


def _written(texts: Mapping[Path, str]) -> list[Path]:
    changed = _changed(texts)
    for path in changed:
        store.write_atomic(path, texts[path])
    return changed


def _changed(texts: Mapping[Path, str]) -> list[Path]:
    return [
        path
        for path, text in texts.items()
        if not is_file(path) or read_whole(path, largest=2**24) != text.encode()
    ]


def _named(study: Study, path: Path, where: Mapping[tuple[str, str], Path]) -> Iterator[Network]:
    """The networks that a study's counts name; those gone are told and left out.

    where: id and kept epoch of a record -> its file. A run whose best epoch is its last has two of
    one id.
    """
    arms = {str(arm): arm for arm in study.arms}
    text = read_whole(path, largest=_LARGEST).decode("utf-8", errors="replace")
    with io.StringIO(text, newline="") as file:
        for row in csv.DictReader(file):
            try:
                arm, seed = arms[row["run"]], int(row["seed"])
                kept, record = row["kept"], row["record"]
            except (KeyError, TypeError, ValueError):
                raise InvalidInput(
                    f"{path} names a run that its study has not ({row.get('run')}); it is left in place"
                ) from None
            found_at = where.get((record, kept))
            if found_at is None:
                print(f"{path}: record {record} is gone and is left out", file=sys.stderr)
            else:
                yield arm, seed, kept, found_at


def run(call: argparse.Namespace) -> int:
    """Writes every study's files again, or says which are not what the records give."""
    if not call.check:
        for path in retell(call.out):
            print(path)
        return 0
    status = 0
    for path in stale(call.out):
        print(f"stale: {path}; write it again with: {COMMAND}", file=sys.stderr)
        status = 1
    return status
