"""bench table, withdraw, list and published: what is recorded, published, and what can be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.catalogue import ARCHITECTURES, DATASETS
from bench.exports import formats, render
from bench.exports.details import challenged
from bench.exports.view import select
from bench.protocols import ONLY, PROTOCOL_NAMES, protocol_meaning
from bench.published import AUTOATTACK, beside, files
from bench.published.files import FOLDER, load
from bench.records import challenges, index, proven, store
from bench.records.index import CACHE
from bench.records.selection import INSTEAD, superseded
from bench.reliability.flags import FLAGS
from bench.schema import InvalidInput
from bench.table import build


def table(a: argparse.Namespace) -> int:
    """Writes the leaderboard and prints it, or writes one format elsewhere."""
    if a.check:
        stale = render.stale(a.results)
        for problem in stale:
            print(f"stale: {problem}; write it again with: python -m bench table", file=sys.stderr)
        return 1 if stale else 0
    board = build(a.results, cache=CACHE)
    published = load(a.results / FOLDER) if a.published else None
    view = select(
        board, published=published, dataset=a.dataset, threat=a.threat, protocol=a.protocol, n=a.n
    )
    if a.out is not None:
        for path in formats.write(a.format, view, a.out):
            print(path)
        return 0
    text = formats.text_of(a.format, view)  # before anything is written: it may be refused
    render.write_leaderboard(a.results)
    if not a.quiet:
        print(text)
    return 0


def withdraw(a: argparse.Namespace) -> None:
    """Takes a record out of the table, with a reason, or those that ours made needless."""
    if a.superseded and (a.record or a.reason is not None):
        raise InvalidInput(
            "--superseded finds the records and gives each its reason: expected neither RECORD nor "
            "--reason beside it"
        )
    if a.superseded:
        _withdraw_superseded(a.results, dry_run=a.dry_run)
        return
    if a.record is None or a.dry_run:
        raise InvalidInput("expected RECORD --reason '...', or --superseded [--dry-run]")
    take_out = challenges.withdraw if challenges.is_challenge(a.record) else store.withdraw
    print(take_out(a.record, a.reason or ""))


def _withdraw_superseded(root: Path, *, dry_run: bool) -> None:
    collection = index.collect(root)
    for problem in collection.problems:
        print(problem, file=sys.stderr)
    known, notes = proven.read(root)
    for note in notes:
        print(note, file=sys.stderr)
    found, kept = superseded(collection, known), 0
    for theirs, ours in found:
        here, there = ours.worst_case_standing, theirs.worst_case_standing
        only = int((here & ~there).sum())
        kept += only > 0
        print(
            f"{theirs.path}: ours is {ours.path.name}; of {theirs.n:,} images {here.sum():,} stand "
            f"under ours, {there.sum():,} under this one, which alone breaks {only:,}"
            + "; it stays"
            * (only > 0)
        )
        if not dry_run and not only:
            store.withdraw(
                theirs.place,
                "our engine has answered the same question (weights, images, threat, protocol, seed)"
                f"{INSTEAD}{ours.id}",
            )
    needless = len(found) - kept
    count = f"{needless:,} record{'s' * (needless != 1)} of the published engine"
    if kept:
        print(
            f"{kept:,} stay, which alone break images: without them those images would "
            "no longer be known to break"
        )
    if dry_run:
        print(f"{count} would be withdrawn; nothing was")
    else:
        print(
            f"{count} withdrawn, which stay and can be verified; write the tables again: make table"
        )


def published(a: argparse.Namespace) -> None:
    """Prints what there is, by data set and threat."""
    found = load(a.results / FOLDER)
    for note in found.notes:
        print(note, file=sys.stderr)
    for (dataset, threat), rows in beside(found.rows).items():
        under = sum(row.attack == AUTOATTACK for row in rows)
        print(f"{dataset:10} {str(threat):12} {len(rows):4} rows, {under} under {AUTOATTACK}")


def add(a: argparse.Namespace) -> None:
    """Copies files of numbers to where tables find them."""
    for file in a.files:
        added = files.add(file, a.results / FOLDER, norm=a.norm, awp=a.awp, awp_source=a.awp_source)
        print(added)


def catalogue(a: argparse.Namespace) -> None:
    """Prints what can be named, or the models of the zoo, or what others handed in."""
    if a.challenges and a.zoo:
        raise InvalidInput("give --zoo or --challenges, not both")
    print(_challenges(a.results) if a.challenges else _zoo(a.zoo) if a.zoo else _listing())


def _listing() -> str:
    lines = ["data sets"]
    for name, d in DATASETS.items():
        shape = f"{d.channels} x {d.image_size} x {d.image_size}, {d.class_count} classes"
        lines.append(f"  {name:18} {shape}; default threat {d.default_threat}")
    lines.append("architectures")
    for name, arch in ARCHITECTURES.items():
        lines.append(f"  {name:18} {', '.join(arch.arguments)}")
    lines.append("protocols")
    for name in PROTOCOL_NAMES:
        lines.append(f"  {name:18} {protocol_meaning(name)}")
    lines.append(f"  {ONLY + 'ATTACK':18} One attack alone, as it is when nothing is said.")
    lines.append("flags (reasons to doubt a number)")
    for name, flag in FLAGS.items():
        keeps = " A row for which it is raised is not ranked." if flag.unrankable else ""
        lines.append(f"  {name:22} {flag.meaning}{keeps} {flag.remedy}")
    return "\n".join(lines)


def _challenges(root: Path) -> str:
    """A line a challenge, oldest first: what it broke, and whether it counts."""
    found, notes = challenges.filed(index.collect(root), proven.read(root)[0])
    for note in notes:
        print(note, file=sys.stderr)
    lines = []
    for each in found:
        said = each.challenge
        lines.append(f"{said.name}  {said.dataset} {said.threat}  {challenged(said)}; {each.state}")
    return "\n".join(lines) or f"no challenges in {root}"


def _zoo(root: Path) -> str:
    from bench.sources import zoo

    lines = []
    for entry in zoo.entries(root):
        state = "weights not on disk"
        if entry.refusal:
            state = f"not measured here: {entry.refusal}"
        elif entry.path.is_file():
            state = f"weights in {entry.path}"
        lines.append(f"{entry.dataset:9} {entry.threat:11} {entry.id:46} {state}")
    return "\n".join([*lines, "", "Measure one: python -m bench evaluate robustbench:<model id>"])
