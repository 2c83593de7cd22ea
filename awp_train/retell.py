"""Writes the files of studies again from the records that their counts name.

Neither weights nor data sets are needed. A record is believed, as by a study that goes on from it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from awp_train.contrasts import Measured, counts, found
from awp_train.findings import pages
from awp_train.studies import STUDIES, Arm, Study, study_of
from bench import training_log
from bench.records import store
from bench.records.store import pretty_json, write_atomic
from bench.schema import InvalidInput
from bench.stats.study_files import FOLDER

COMMAND = "python -m awp_train retell"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("results"), help="records and summaries")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where a file is not up to date"
    )


def run(call: argparse.Namespace) -> int:
    """Writes every study's files again, or says which are not what the records give."""
    if call.check:
        old = stale(call.out)
        for path in old:
            print(f"stale: {path}; write it again with: {COMMAND}", file=sys.stderr)
        return 1 if old else 0
    for path in retell(call.out):
        print(path)
    return 0


def write(name: str, measured: Sequence[Measured], out: Path) -> str:
    """Writes the counts and the file of one study, and the summaries of all; returns its own."""
    _written(_data(name, measured, out))
    _written(_pages(out))
    return (out / FOLDER / f"{name}.md").read_text(encoding="utf-8")


def retell(out: Path) -> list[Path]:
    """Writes the files of all studies again; returns those that changed."""
    return _written(_of_records(out)) + _written(_pages(out))


def stale(out: Path) -> list[Path]:
    """Every file of a study that is not what the records, or the files made of them, give."""
    return [*_changed(_of_records(out)), *_changed(_pages(out))]


def _of_records(out: Path) -> dict[Path, str]:
    """Path -> text of the counts and the file of every study that has counts."""
    where: dict[tuple[str, str], Path] = {}
    for path in out.glob("*/*/*/*.json"):
        if store.of_a_record(str(path)):
            where[path.stem, path.parent.name.rpartition("-")[2]] = path
    texts: dict[Path, str] = {}
    for name in STUDIES:
        path = out / FOLDER / f"{name}.csv"
        if path.exists():
            texts |= _data(name, _measured_before(study_of(name), path, where), out)
    return texts


def _data(name: str, measured: Sequence[Measured], out: Path) -> dict[Path, str]:
    folder = out / FOLDER
    return {
        folder / f"{name}.csv": counts(measured),
        folder / f"{name}.json": pretty_json(found(name, measured)),
    }


def _pages(out: Path) -> dict[Path, str]:
    """Path -> text of what is told of the files of studies and of the tables, as they are."""
    texts, notes = pages(out)
    for note in notes:
        print(note, file=sys.stderr)
    return {out / FOLDER / name: text for name, text in texts.items()}


def _written(texts: Mapping[Path, str]) -> list[Path]:
    changed = _changed(texts)
    for path in changed:
        write_atomic(path, texts[path])
    return changed


def _changed(texts: Mapping[Path, str]) -> list[Path]:
    return [path for path, text in texts.items() if _current(path) != text]


def _current(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


# ---------------------------------------------------------------- from records


def _measured_before(
    study: Study, path: Path, where: Mapping[tuple[str, str], Path]
) -> list[Measured]:
    """The networks that a study's counts name; those withdrawn or gone are told and left out."""
    arms = {str(arm): arm for arm in study.arms}
    measured = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                arm, seed, kept, record = (
                    arms[row["run"]],
                    int(row["seed"]),
                    row["kept"],
                    row["record"],
                )
            except (KeyError, TypeError, ValueError):
                raise InvalidInput(
                    f"{path} names a run that its study has not ({row.get('run')}); it is left in place"
                ) from None
            # A run whose best epoch is its last has two records of one id.
            found_at = where.get((record, kept))
            if found_at is None or store.is_withdrawn(found_at):
                what = "was withdrawn" if found_at else "is gone"
                print(f"{path}: record {record} {what} and is left out", file=sys.stderr)
                continue
            measured.append(measured_of(arm, seed, kept, found_at))
    return measured


def measured_of(arm: Arm, seed: int, kept: str, path: Path) -> Measured:
    """A record, with the counts of training and validation images at the epoch that was kept."""
    record = store.read(path)
    lines = training_log.read_log(path.parent / training_log.NAME)
    line = next((line for line in lines if line.get("epoch") == record.card.epoch_kept), {})
    fields = (f"{p}_{what}" for p in ("train", "validation") for what in ("n", "robust_correct"))
    return Measured(arm, seed, kept, record, *(line.get(field, 0) for field in fields))
