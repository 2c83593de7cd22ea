"""bench challenge: adversarial images that somebody found, against a network on the board."""

from __future__ import annotations

import argparse

import torch

from bench import challenge
from bench.challenge import Outcome
from bench.cli.arguments import answer
from bench.measure import sweep
from bench.notation import percent
from bench.records.challenges import evidence_path
from bench.schema import InvalidInput


def run(a: argparse.Namespace) -> None:
    """Judges the file, keeps what it breaks anew, and says what became of every image."""
    if not a.results.is_dir():
        raise InvalidInput(f"no results folder at {a.results}")
    torch.set_num_threads(1)
    found = challenge.hand_in(
        a.record, a.file, by=a.by, link=a.link or "", weights=a.weights, dataset=a.dataset,
        device=sweep.pick_device(a.device),
    )  # fmt: skip
    answer(_json(found), told(found), as_json=a.json)


def told(found: Outcome) -> str:
    """What became of the images, what changed, and what to call next, in lines that can be pasted."""
    record, counts = found.target.record, found.counts
    head = f"{record.card.name}, {record.dataset} {record.threat}: {sum(counts.values())} images"
    lines = [f"{name}: {count}" for name, count in counts.items()]
    broken = counts["newly broken"] + counts["broken before"]
    if broken:
        lines.append(f"of {broken} broken, {found.found.uint8_survivors} survive 8 bits a value")
    before, now = (percent(k / record.n, record.n) for k in (found.known_before, found.known_now))
    if found.path is None:
        lines.append(f"nothing new is broken: best known stays {before} %, and nothing is kept")
    else:
        lines.append(f"best known: {before} % -> {now} %; no rank changes")
        lines += [f"challenge: {found.path}", f"evidence: {evidence_path(found.path)}"]
        lines.append(f"check it: python -m bench verify {found.path}")
    return "\n  ".join([head, *lines])


def _json(found: Outcome) -> dict[str, object]:
    return {
        "name": found.target.record.card.name, **found.counts,
        "uint8_survivors": found.found.uint8_survivors, "n": found.target.record.n,
        "best_known_before": found.known_before, "best_known": found.known_now,
        "challenge": None if found.path is None else str(found.path),
    }  # fmt: skip
