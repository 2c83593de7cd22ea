"""Two protocols on one network: what is said of the images that only one of them breaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.notation import aligned, p_value_text, percent
from bench.records.entry import passes_a_standing_image, passes_of
from bench.reliability.flags import unranking
from bench.schema import EvaluationRecord
from bench.stats.intervals import mcnemar_exact
from bench.stats.paired import broken_by_each, remarks

MOST = 40  # images that the text names; JSON names all


def document(a: EvaluationRecord, b: EvaluationRecord, level: float) -> dict[str, Any]:
    """What two records of one network show; images are counted from 0 in the part of the data set.

    Raises InvalidInput as broken_by_each.
    """
    first, second = broken_by_each(a, b)
    only = [np.flatnonzero(alone) for alone in (first & ~second, second & ~first)]
    p_value = mcnemar_exact(len(only[0]), len(only[1]))
    separated = p_value <= level
    part, start = _part(a)
    doubts = [(r.protocol.name, ", ".join(unranking(r))) for r in (a, b)]
    said = [*remarks(a, b), *(f"{name} is not ranked: {why}" for name, why in doubts if why)]
    if differing := int((a.clean_correct != b.clean_correct).sum()):
        said.append(f"{differing} images are right unattacked in one record alone: left out")
    return {
        "name": a.card.name, "records": [a.id, b.id], "dataset": a.dataset, "split": a.split,
        "threat": str(a.threat), "n": a.n, "level": level, "images_of": part,
        "protocols": [
            {
                "name": r.protocol.name, "standing": r.worst_case_count, "passes": passes_of(r),
                "passes_a_standing_image": passes_a_standing_image(
                    passes_of(r), r.worst_case_count
                ),
                "seconds": r.seconds,
                "only_it_breaks": [start + int(place) for place in places],
            }
            for r, places in zip((a, b), only, strict=True)
        ],
        "both_break": int((first & second).sum()),
        "p_value": p_value,
        "breaks_more": _more(a, b, only) if separated else None,
        "remarks": said,
    }  # fmt: skip


def _more(a: EvaluationRecord, b: EvaluationRecord, only: Sequence[np.ndarray]) -> str:
    return (a if len(only[0]) > len(only[1]) else b).protocol.name


def _part(record: EvaluationRecord) -> tuple[str, int]:
    """Of which images indices are, and that of the first: `test[1000:1200]` begins at 1000 of test."""
    found = re.fullmatch(r"(\w+)\[(\d{1,9}):\d{1,9}\]", record.split)
    return (found[1], int(found[2])) if found else (record.split, 0)


def text(d: dict[str, Any]) -> str:
    """The document for people: passes before seconds, both ways, the images by their indices."""
    protocols = d["protocols"]
    lines = [["", "standing, %", "passes an image", "a standing image", "seconds", "record"]]
    for p, record in zip(protocols, d["records"], strict=True):
        each = p["passes_a_standing_image"]
        lines.append(
            [
                p["name"], percent(p["standing"] / d["n"], d["n"]), f"{p['passes'] / d['n']:,.0f}",
                "none stands" if each is None else f"{each:,.0f}", f"{p['seconds']:,.0f}", record,
            ]
        )  # fmt: skip
    more = d["breaks_more"]
    verdict = f"{more} breaks more" if more else "not separated"
    return "\n".join(
        [
            f"{d['name']}, {d['dataset']} {d['threat']}, n = {d['n']:,}, {d['split']}",
            *aligned(lines, numbers=(1, 2, 3, 4)),
            f"both break {d['both_break']:,}",
            *(f"only {p['name']} breaks {_named(p['only_it_breaks'])}" for p in protocols),
            f"p {p_value_text(d['p_value'])}, exact McNemar: {verdict}",
            f"Images are counted from 0 in {d['images_of']} of {d['dataset']}.",
            *(f"note: {remark}" for remark in d["remarks"]),
        ]
    )


def _named(images: Sequence[int]) -> str:
    """`3: 5, 17, 203`."""
    more = f" and {len(images) - MOST:,} more (--json names all)" if len(images) > MOST else ""
    shown = ", ".join(map(str, images[:MOST]))
    return f"{len(images):,}{shown and f': {shown}{more}'}"
