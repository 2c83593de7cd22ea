"""Which presets a committed study has compared: the others are implemented, and not shown to help."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

NOT_SHOWN = "implemented, not shown: no study here has compared it"


def shown(results: Path) -> dict[str, str]:
    """Preset -> the studies that measured it and over how many seeds, from `studies/*.csv`.

    A file that is no study's table says nothing.
    """
    seeds: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in sorted((results / "studies").glob("*.csv")):
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                if row.get("run") and row.get("seed"):
                    seeds[row["run"].split()[0]][path.stem].add(row["seed"])
    return {
        preset: "compared in " + ", ".join(f"{name} ({_seeds(len(s))})" for name, s in by.items())
        for preset, by in seeds.items()
    }


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"
