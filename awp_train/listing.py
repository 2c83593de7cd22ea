"""The text of `python -m awp_train list`: presets by family, with cost.

Footnotes say from where a setting is and which study compared it. Presets that neither a publication
nor a choice nor a study stands behind are named only.
"""

from __future__ import annotations

import contextlib
import csv
import io
import textwrap
from collections import defaultdict
from itertools import groupby
from pathlib import Path

from awp_train import passes, recipes
from awp_train.presets import FAMILIES, LIST, OFFICIAL, Preset, every, find, without_presets
from bench.catalogue import DATASETS, OBJECTIVES, training_images, unknown_name
from bench.records.one_read import read_whole
from bench.schema import InvalidInput, TrainConfig

_LARGEST = 2**20  # bytes of a study's counts
WIDTH = 110  # characters of the longest line
NOT_SHOWN = "implemented, not shown: no study here has compared it"
_GPU = (
    "GPU h: passes through the network, at an assumed 40 to 80 TFLOP/s of one H100 or H200 in bf16 "
    "with channels last; float32, the default, takes several times as long. CPU s: one thread. What "
    "a run needs first, a teacher or a network to start from, is not in its cost."
)
# Seconds of one thread on a 2-core machine.
_MEASURED = {
    "digits-natural": 4,
    "digits-at": 12,
    "digits-at-awp": 14,
    "fashion_mnist-subset-natural": 26,
    "fashion_mnist-subset-at": 91,
    "fashion_mnist-subset-at-awp": 106,
}
# Family -> seconds of one pass of one image, from runs of AT or, of CIFAR-10, from its steps.
_FASHION = _MEASURED["fashion_mnist-subset-at"] / passes.of_a_run(recipes.FASHION_SUBSET)
_A_PASS = {
    "digits": _MEASURED["digits-at"] / passes.of_a_run(recipes.DIGITS),
    "fashion_mnist-subset": _FASHION,
    "fashion_mnist": _FASHION,
    "cifar10-first5085": 2e-4,
    "cifar10-first5085-prn18w16": 1.35e-3,
}


def listing(dataset: str | None = None, results: Path = Path("results")) -> str:
    """The presets, or those of one data set or family, and what the studies in `results` compared.

    InvalidInput suggests the nearest name.
    """
    compared = shown(results)
    presets = every()
    chosen = {
        name: preset
        for name, preset in presets.items()
        if dataset in (None, preset.config.dataset, preset.family)
    }
    if not chosen and dataset and (dataset in DATASETS or ":" in dataset):
        raise InvalidInput(without_presets(dataset))
    if not chosen:
        known = {*DATASETS, *FAMILIES}
        raise unknown_name("data set or family of presets", str(dataset), known, listed=LIST)
    backed = with_a_source(presets, compared)
    rows = {name: preset for name, preset in chosen.items() if name in backed}
    notes_of = {n: [*p.source.split("; "), compared.get(n, NOT_SHOWN)] for n, p in rows.items()}
    notes = (note for each in notes_of.values() for note in each)
    numbers = {note: place for place, note in enumerate(dict.fromkeys(notes), start=1)}
    costs = {name: cost(name, preset.config) for name, preset in rows.items()}
    name_width, cost_width = (max(map(len, each), default=0) for each in (costs, costs.values()))
    lines = []
    for family, members in groupby(chosen.items(), key=lambda item: item[1].family):
        lines += ["", _heading(family)]
        others = []
        for name, preset in members:
            if name in rows:
                first = f"  {name:{name_width}}  {costs[name]:{cost_width}}  "
                said = ",".join(str(numbers[note]) for note in notes_of[name])
                lines += _wrapped(first, f"{described(preset)} [{said}]".strip())
            else:
                others.append(name.removeprefix(family))
        if others:
            lines += _wrapped("    without a source or a study: ", " ".join(others))
    lines += ["", *(f"[{place}] {note}" for note, place in numbers.items())]
    if any("GPU h" in each for each in costs.values()):
        lines += ["", *textwrap.wrap(_GPU, WIDTH)]
    return "\n".join(lines).lstrip("\n")


def with_a_source(presets: dict[str, Preset], compared: dict[str, str]) -> set[str]:
    """The presets that a publication, a choice or a study stands behind, and what those need."""
    official = set(OFFICIAL.values())
    own = {
        name
        for name, preset in presets.items()
        if name in compared
        or "results/choices" in preset.source
        or preset.config.recipe == "paper"
        or official & {name, preset.control_of}
    }
    needs = ((p.pair, p.teacher, p.start_from) for p in map(presets.__getitem__, own))
    return own | {need for each in needs for need in each if need}


def shown(results: Path) -> dict[str, str]:
    """Preset -> the studies that measured it and over how many seeds, from `studies/*.csv`.

    A file that is no study's table says nothing.
    """
    seeds: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in sorted((results / "studies").glob("*.csv")):
        with contextlib.suppress(InvalidInput, csv.Error):
            text = read_whole(path, largest=_LARGEST).decode("utf-8", errors="replace")
            for row in csv.DictReader(io.StringIO(text, newline="")):
                if row.get("run") and row.get("seed"):
                    seeds[row["run"].split()[0]][path.stem].add(row["seed"])
    return {
        preset: "compared in "
        + ", ".join(f"{name} ({len(s)} seed{'s' * (len(s) != 1)})" for name, s in by.items())
        for preset, by in seeds.items()
    }


def cost(name: str, config: TrainConfig) -> str:
    """Of one run, and whether measured or estimated: `14 CPU s (measured)`."""
    if name in _MEASURED:
        return f"{_MEASURED[name]} CPU s (measured)"
    of = find(name).family
    if of not in _A_PASS:
        fewest, most = passes.gpu_hours(config)
        return f"{fewest:.2g} to {most:.2g} GPU h (estimated)"
    seconds = _A_PASS[of] * passes.of_a_run(config)
    text = f"{seconds:.0f} CPU s" if seconds < 600 else f"{seconds / 3600:.1f} CPU h"
    return f"{text} (estimated)"


def described(preset: Preset) -> str:
    """`beta 6, crafts in eval mode`: what is not as in the family, or not as in the pair."""
    config = preset.config
    if awp := config.awp:
        start = f"after {awp.warm_up} epochs" if awp.warm_up else "from the start"
        random = ", random direction" if awp.direction == "random" else ""
        return f"gamma {awp.gamma:g} {start}{random}, else as {preset.pair}"
    parts = []
    if OBJECTIVES[config.objective].weighs:
        parts.append(f"beta {config.beta:g}")
    if OBJECTIVES[config.objective].craft:
        parts.append(f"crafts in {config.craft_mode} mode")
    said = ("objective", "beta", "awp", "craft_mode", "recipe", "arch_args")
    new = recipes.changes(config, find(f"{preset.family}-at").config)
    parts += [f"{key} {_short(getattr(config, key))}" for key in new if key not in said]
    for text, need in (
        ("extra images labelled by", preset.teacher),
        ("starts from", preset.start_from),
        ("needs", preset.supplied),
    ):
        if need:
            parts.append(f"{text} {need}")
    return ", ".join(parts)


def _short(value: object) -> str:
    """A field's value in few characters: `0.226`, `0.617/0.742/0.825`, `none`."""
    if isinstance(value, tuple):
        return "/".join(map(_short, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).lower()


def _heading(family: str) -> str:
    """The family, and what all of it shares."""
    base = find(f"{family}-at").config
    images = "all images" if base.n_train is None else f"{base.n_train} images"
    if base.train_indices is not None and base.n_train is None:
        images = f"{training_images(base):,} images"
    return f"{family}: {images} of {base.dataset}, {base.threat}, {base.arch}, {base.epochs} epochs"


def _wrapped(first: str, text: str) -> list[str]:
    """The text beside what it is about, on as many lines as it takes."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
