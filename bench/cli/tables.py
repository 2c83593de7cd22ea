"""bench table, withdraw and list: what is recorded, and what can be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.catalogue import ARCHITECTURES, DATASETS
from bench.cli.evaluate import ZOO
from bench.exports import formats
from bench.exports.formats import FORMATS
from bench.protocols import PROTOCOL_NAMES, protocol_meaning
from bench.records.index import CACHE
from bench.reliability.flags import FLAGS


def add(commands: Any) -> None:
    """Adds `table`, `withdraw` and `list` to the command line."""
    table = commands.add_parser("table", help="records -> leaderboard; writes it and prints it")
    table.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    table.add_argument(
        "--format", choices=tuple(FORMATS), default="text",
        help="; ".join(f"{name}: {chosen.meaning}" for name, chosen in FORMATS.items()),
    )  # fmt: skip
    table.add_argument(
        "--out", type=Path, metavar="FILE",
        help="write the format there, and nothing else; a folder where it is many files",
    )  # fmt: skip
    table.add_argument(
        "--published", action="store_true",
        help="with published numbers, marked as not measured here",
    )  # fmt: skip
    table.add_argument("--dataset", metavar="D", help="only rows on this data set")
    table.add_argument("--threat", metavar="linf:8/255", help="only rows under this threat model")
    table.add_argument("--protocol", metavar="P", help="only rows measured by this protocol")
    table.add_argument("--n", type=int, help="only rows measured on so many images")
    table.add_argument("--check", action="store_true", help="write nothing; exit 1 where stale")
    table.set_defaults(run=_table)
    withdraw = commands.add_parser("withdraw", help="take a record out of the table")
    withdraw.add_argument("record", type=Path)
    withdraw.add_argument("--reason", required=True)
    withdraw.set_defaults(run=_withdraw)

    listing = commands.add_parser("list", help="data sets, architectures, protocols and flags")
    listing.add_argument(
        "--zoo", nargs="?", type=Path, const=ZOO, metavar="DIR",
        help="the models of RobustBench's zoo instead, and which weights are on disk",
    )  # fmt: skip
    listing.set_defaults(run=lambda a: print(_zoo(a.zoo) if a.zoo else _listing()))


def _table(a: argparse.Namespace) -> int:
    from bench import table
    from bench.exports import render
    from bench.exports.view import select
    from bench.published.files import FOLDER, load

    if a.check:
        stale = render.stale(a.results)
        for problem in stale:
            print(f"stale: {problem}; write it again with: python -m bench table", file=sys.stderr)
        return 1 if stale else 0
    board = table.build(a.results, cache=CACHE)
    view = select(
        board,
        published=load(a.results / FOLDER) if a.published else None,
        dataset=a.dataset,
        threat=a.threat,
        protocol=a.protocol,
        n=a.n,
    )
    if a.out is not None:
        for path in formats.write(a.format, view, a.out):
            print(path)
        return 0
    text = formats.text_of(a.format, view)  # before anything is written: it may be refused
    render.write_leaderboard(a.results)
    print(text)
    return 0


def _withdraw(a: argparse.Namespace) -> int:
    from bench.records import store

    print(store.withdraw(a.record, a.reason))
    return 0


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
    lines.append("flags (reasons to doubt a number)")
    for name, flag in FLAGS.items():
        keeps = " A row for which it is raised is not ranked." if flag.unrankable else ""
        lines.append(f"  {name:22} {flag.meaning}{keeps} {flag.remedy}")
    return "\n".join(lines)


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
