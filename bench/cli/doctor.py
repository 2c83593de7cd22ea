"""bench doctor: is a checkpoint ready to be measured?"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from bench.schema import InvalidInput

N = 256  # images of clean accuracy where --n is not given; the probes use fewer


def add(commands: Any) -> None:
    """Adds `doctor` to the command line."""
    doctor = commands.add_parser(
        "doctor", help="preflight: is a checkpoint ready to be measured?",
        description="One line a check: ok, warn or fail. Exit status 1 where something failed.",
    )  # fmt: skip
    doctor.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint folder")
    doctor.add_argument(
        "--dataset", metavar="D",
        help="a name, parquet:FOLDER or arrays:FOLDER; default: what it was trained on",
    )  # fmt: skip
    doctor.add_argument("--dataset-name", metavar="N", help="how records call a folder's data")
    doctor.add_argument("--split", default="test", help='such as "test[1000:2000]"')
    doctor.add_argument("--threat", metavar="linf:8/255", help="default: the data set's")
    doctor.add_argument("--n", type=int, help=f"the first n images; default {N}")
    doctor.add_argument(
        "--claimed", type=float, metavar="0.84", help="clean accuracy it should have"
    )
    doctor.add_argument(
        "--transfer-from", type=Path, metavar="CHECKPOINT", help="another model, to attack from"
    )
    doctor.add_argument(
        "--metamorphic", action="store_true", help="also attack equivalent networks (minutes)"
    )
    doctor.add_argument("--device", default="auto")
    doctor.add_argument("--seed", type=int, default=0)
    doctor.add_argument("--json", action="store_true", help="one JSON document on stdout")
    doctor.set_defaults(run=_doctor)


def _doctor(a: argparse.Namespace) -> int:
    import torch

    from bench.measure import sweep
    from bench.reliability import doctor
    from bench.sources import checkpoint

    if a.claimed is not None and not 0 <= a.claimed <= 1:
        raise InvalidInput(f"--claimed is a share such as 0.84, got {a.claimed:g}")
    job = sweep.make_job(
        a.checkpoint, dataset=a.dataset, dataset_name=a.dataset_name, split=a.split, n=a.n,
        threat=a.threat, seed=a.seed, device=a.device, protocol="autoattack",
    )  # fmt: skip
    model, card = checkpoint.load(a.checkpoint, device=job.device)
    if card.n_parameters < 1_000_000:
        torch.set_num_threads(1)  # small networks: threads cost more than they give
    data = sweep.examples(job)
    if a.n is None and len(data) > N:
        data = data.first(N)
    source = None
    if a.transfer_from is not None:
        source = checkpoint.load_model(a.transfer_from, device=job.device)
    checks = doctor.examine(
        model, data.x.to(job.device), data.labels.to(job.device), threat=job.threat, card=card,
        claimed=a.claimed, source=source, seed=a.seed, metamorphic_tests=a.metamorphic,
    )  # fmt: skip
    if a.json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=1))
    else:
        print(f"{card.name}, {data.name} {data.split}, {job.threat}")
        width = max(len(check.name) for check in checks)
        for c in checks:
            remedy = f" {c.remedy}" if c.remedy else ""
            print(f"{c.state:4}  {c.name:{width}}  {c.figure}{remedy}")
    return 1 if doctor.failed(checks) else 0
