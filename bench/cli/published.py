"""bench published: numbers of other people's models, which may stand beside ours."""

from __future__ import annotations

import argparse
import sys

from bench.published import AUTOATTACK, beside, files
from bench.published.files import FOLDER, load


def show(a: argparse.Namespace) -> None:
    """Prints what there is, by data set and threat."""
    published = load(a.results / FOLDER)
    for note in published.notes:
        print(note, file=sys.stderr)
    for (dataset, threat), rows in beside(published.rows).items():
        under = sum(row.attack == AUTOATTACK for row in rows)
        print(f"{dataset:10} {str(threat):12} {len(rows):4} rows, {under} under {AUTOATTACK}")


def add(a: argparse.Namespace) -> None:
    """Copies files of numbers to where tables find them."""
    for file in a.files:
        print(files.add(file, a.results / FOLDER, norm=a.norm))
