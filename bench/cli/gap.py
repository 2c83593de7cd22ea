"""bench gap: how much more robust a checkpoint is on its training images than on test images."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from bench.cli.arguments import SMALL, answer, failed
from bench.gap import NAME, GapPart, RobustGap
from bench.measure import sweep
from bench.measure.gap import gap_of_checkpoint
from bench.notation import percent, percent_interval, points_interval
from bench.records.store import pretty_json, write_atomic
from bench.schema import BenchError, InvalidInput
from bench.sources import checkpoint


def run(a: argparse.Namespace) -> int:
    """Measures each checkpoint; one that fails is said and the others are measured."""
    if a.n is not None and a.n < 1:
        raise InvalidInput(f"--n must be at least 1, got {a.n}")
    device = sweep.pick_device(a.device)
    found, status = [], 0
    for folder in a.checkpoint:
        try:
            if device == "cpu" and checkpoint.read_card(folder).n_parameters < SMALL:
                torch.set_num_threads(1)
            gap, card = gap_of_checkpoint(folder, n=a.n, split=a.split, device=device)
        except BenchError as error:
            status = max(status, failed(error, folder))
            continue
        print(f"{card.name}: measured", file=sys.stderr)
        found.append((card.name, gap))
        if a.save:
            write_atomic(folder / NAME, pretty_json(gap))
    text = "\n".join(lines(name, gap) for name, gap in found)
    answer([_json(name, gap) for name, gap in found], text, as_json=a.json)
    return status


def lines(name: str, gap: RobustGap) -> str:
    """Three lines that can be pasted: what was measured, both parts, the gap."""
    epoch = "" if gap.epoch is None else f", epoch {gap.epoch}"
    parts = "; ".join(
        f"{part} {percent(p.robust_rate.estimate, p.n)} % "
        f"({percent_interval(p.robust_rate, p.n)}; n = {p.n:,}; loss {p.robust_loss:.2f})"
        for part, p in (("train", gap.training), ("test", gap.test))
    )
    return (
        f"{name}{epoch}, {gap.dataset} {gap.threat}, {gap.attack}\n"
        f"  robust: {parts}\n"
        f"  gap: {points_interval(gap.gap)}; loss {gap.loss_gap:+.2f} (test minus train)"
    )


def _json(name: str, gap: RobustGap) -> dict[str, Any]:
    def part(p: GapPart) -> dict[str, Any]:
        return {
            "split": p.split, "n": p.n, "clean_correct": p.clean_correct,
            "robust_correct": p.robust_correct, "robust": p.robust_rate.estimate,
            "robust_loss": p.robust_loss,
        }  # fmt: skip

    return {
        "name": name, "dataset": gap.dataset, "threat": str(gap.threat), "epoch": gap.epoch,
        "attack": str(gap.attack), "train": part(gap.training), "test": part(gap.test),
        "gap": gap.gap.estimate, "interval": [gap.gap.low, gap.gap.high],
    }  # fmt: skip
