"""The text of `python -m awp_train list`: presets by family, with cost.

Footnotes say from where a setting is and which study compared it.
"""

from __future__ import annotations

import textwrap
from itertools import groupby
from pathlib import Path

from awp_train.evidence import NOT_SHOWN, shown
from awp_train.presets import LIST, PRESETS, Preset
from bench.catalogue import DATASETS, unknown_name

WIDTH = 110  # characters of the longest line


def listing(dataset: str | None = None, results: Path = Path("results")) -> str:
    """Every preset, or those of one data set or family, and what the studies in `results` compared.

    InvalidInput suggests the nearest name.
    """
    compared = shown(results)
    chosen = {
        name: preset
        for name, preset in PRESETS.items()
        if dataset in (None, preset.config.dataset, preset.family)
    }
    if not chosen:
        known = {*DATASETS} | {preset.family for preset in PRESETS.values()}
        raise unknown_name("data set or family of presets", str(dataset), known, listed=LIST)
    notes_of = {name: [*_parts(p), compared.get(name, NOT_SHOWN)] for name, p in chosen.items()}
    parts = [part for notes in notes_of.values() for part in notes]
    numbers = {part: place for place, part in enumerate(dict.fromkeys(parts), start=1)}
    width = max(map(len, chosen))
    cost = max(len(preset.cost) for preset in chosen.values())
    lines = []
    for _, members in groupby(chosen.items(), key=lambda item: item[1].family):
        group = list(members)
        lines += ["", _heading(group[0][1])]
        for name, preset in group:
            notes = ",".join(str(numbers[part]) for part in notes_of[name])
            lines += _row(f"  {name:{width}}  {preset.cost:{cost}}  ", preset.description, notes)
    lines += ["", *(f"[{place}] {part}" for part, place in numbers.items())]
    if any("GPU h" in preset.cost for preset in chosen.values()):
        lines += ["", *textwrap.wrap(_GPU, WIDTH)]
    return "\n".join(lines).lstrip("\n")


_GPU = (
    "GPU h: passes through the network, at an assumed 40 to 80 TFLOP/s of one H100 or H200 in bf16 "
    "with channels last; float32, the default, takes several times as long. CPU s: one thread. What "
    "a run needs first, a teacher or a network to start from, is not in its cost."
)


def _heading(preset: Preset) -> str:
    """The family, and what all of it shares."""
    base = PRESETS[f"{preset.family}-at"].config
    images = "all images" if base.n_train is None else f"{base.n_train} images"
    return (
        f"{preset.family}: {images} of {base.dataset}, {base.threat}, {base.arch}, "
        f"{base.epochs} epochs"
    )


def _row(first: str, text: str, notes: str) -> list[str]:
    """The text beside the name and cost, on as many lines as it takes."""
    return textwrap.wrap(
        f"{text} [{notes}]".strip(),
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _parts(preset: Preset) -> list[str]:
    return preset.source.split("; ")
