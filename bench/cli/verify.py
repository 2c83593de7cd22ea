"""bench verify: what can be proven of a record."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench import verify
from bench.cli.arguments import SMALL, answer, confirm
from bench.measure import sweep
from bench.schema import InvalidInput
from bench.verify import Verification, reattack


def run(a: argparse.Namespace) -> int:
    """Proves one record or all of a folder; status 1 where one is not proven."""
    paths = [a.record]
    if a.record.is_dir():
        paths = sorted(p for p in a.record.glob("*.json") if len(p.stem) == 16)
        if not paths:
            raise InvalidInput(f"no record in {a.record}")
    found = [_one(path, a) for path in paths]
    text = "\n".join(map(verify.summary, found))
    answer([verify.as_json(each) for each in found], text, as_json=a.json)
    return 0 if all(each.proven for each in found) else 1


def _one(path: Path, a: argparse.Namespace) -> Verification:
    device = sweep.pick_device(a.device)
    held = verify.gather(
        path, weights=a.weights, proof=a.evidence, dataset=a.dataset, device=device
    )
    if device == "cpu" and held.record.card.n_parameters < SMALL:
        torch.set_num_threads(1)
    images = reattack.IMAGES if a.reattack is None else a.reattack
    plan = None
    if images:
        seed = reattack.SEED if a.seed is None else a.seed
        plan = reattack.plan(held.record, images=images, seed=seed, attack=a.attack)
        seconds = reattack.estimate_seconds(plan, held.model, held.data)
        confirm(seconds, f"second attack on {len(plan.index)} standing images", yes=a.yes)
    return verify.check(held.record, held.model, held.data, held.proofs, again=plan, device=device)
