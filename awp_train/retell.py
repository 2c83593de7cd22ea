"""The files under `results/studies`, written again from the records that their counts name.

Of each study the counts (`.csv`), what follows of them (`.json`) and a summary (`.md`); of those with
tuned arms an answer; of all of them one table, README.md. Neither weights nor data sets are needed.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from awp_train.answer import answered
from awp_train.findings import Measured, counts, found, judge_all, measured_of, overview, summary
from awp_train.studies import STUDIES, Arm, Study, study_of
from bench.records import proven, store
from bench.records.one_read import is_file, read_whole
from bench.schema import InvalidInput
from bench.stats.study_files import FOLDER, read_all

COMMAND = "python -m awp_train retell"
_LARGEST = 2**20  # bytes of a study's counts
PAGE = "README.md"

Network = tuple[Arm, int, str, Path]  # arm, seed, best or last, and the file of its record


def write(name: str, measured: Sequence[Measured], out: Path) -> str:
    """Writes the counts and the file of one study, and the summaries of all; returns its own."""
    _written(_data(name, measured, out))
    _written(_summaries(out))
    return (out / FOLDER / f"{name}.md").read_text(encoding="utf-8")


def retell(out: Path) -> list[Path]:
    """Writes the files of all studies again; returns those that changed."""
    return _written(_of_records(out)) + _written(_summaries(out))


def stale(out: Path) -> list[Path]:
    """Every file of a study that is not what the records, or the files made of them, give."""
    return _changed(_of_records(out)) + _changed(_summaries(out))


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


def _summaries(out: Path) -> dict[Path, str]:
    """Path -> text of what is told of the files of studies and of the tables, as they are."""
    studies, notes = read_all(out)
    for note in notes:
        print(note, file=sys.stderr)
    judged = judge_all(studies, out)
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
    old = stale(call.out)
    for path in old:
        print(f"stale: {path}; write it again with: {COMMAND}", file=sys.stderr)
    return 1 if old else 0
