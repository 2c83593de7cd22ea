"""bench published: numbers of other people's models, which may stand beside ours."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.published import AUTOATTACK, beside, files
from bench.published.files import FOLDER, NORMS, load


def add(commands: Any) -> None:
    """Adds `published list` and `published add` to the command line."""
    published = commands.add_parser("published", help="published numbers, never measured here")
    verbs = published.add_subparsers(required=True, metavar="list | add")
    listing = verbs.add_parser("list", help="what there is, by data set and threat")
    adding = verbs.add_parser("add", help="files in the format of RobustBench's model_info")
    for parser in (listing, adding):
        parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    adding.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    adding.add_argument(
        "--norm", choices=tuple(NORMS), help="default: the name of the folder of the file"
    )
    listing.set_defaults(run=_list)
    adding.set_defaults(run=_add)


def _list(a: argparse.Namespace) -> int:
    published = load(a.results / FOLDER)
    for note in published.notes:
        print(note, file=sys.stderr)
    for (dataset, threat), rows in beside(published.rows).items():
        under = sum(row.attack == AUTOATTACK for row in rows)
        print(f"{dataset:10} {str(threat):12} {len(rows):4} rows, {under} under {AUTOATTACK}")
    return 0


def _add(a: argparse.Namespace) -> int:
    for file in a.files:
        print(files.add(file, a.results / FOLDER, norm=a.norm))
    return 0
