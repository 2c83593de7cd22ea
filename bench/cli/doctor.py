"""bench doctor: is a checkpoint ready to be measured?"""

from __future__ import annotations

import argparse
import dataclasses

import torch

from bench.cli.arguments import SMALL, answer
from bench.measure import sweep
from bench.reliability import doctor
from bench.schema import InvalidInput
from bench.sources import checkpoint

IMAGES = 256  # of clean accuracy where --n is not given; the probes use fewer


def run(a: argparse.Namespace) -> int:
    """Prints one line a check; status 1 where something failed."""
    if a.claimed is not None and not 0 <= a.claimed <= 1:
        raise InvalidInput(f"--claimed is a share such as 0.84, got {a.claimed:g}")
    job = sweep.make_job(
        a.checkpoint, dataset=a.dataset, dataset_name=a.dataset_name, split=a.split, n=a.n,
        threat=a.threat, seed=a.seed, device=a.device, protocol="autoattack",
    )  # fmt: skip
    model, card = checkpoint.load(a.checkpoint, device=job.device)
    if card.n_parameters < SMALL:
        torch.set_num_threads(1)
    data = sweep.examples(job)
    if a.n is None and len(data) > IMAGES:
        data = data.first(IMAGES)
    other = a.transfer_from
    source = None if other is None else checkpoint.load_model(other, device=job.device)
    checks = doctor.examine(
        model, data.x.to(job.device), data.labels.to(job.device), threat=job.threat, card=card,
        claimed=a.claimed, source=source, seed=a.seed, metamorphic_tests=a.metamorphic,
    )  # fmt: skip
    width = max(len(check.name) for check in checks)
    lines = [f"{card.name}, {data.name} {data.split}, {job.threat}"]
    lines += [
        f"{c.state:4}  {c.name:{width}}  {c.figure}{c.remedy and f' {c.remedy}'}" for c in checks
    ]
    answer([dataclasses.asdict(c) for c in checks], "\n".join(lines), as_json=a.json)
    return 1 if doctor.failed(checks) else 0
