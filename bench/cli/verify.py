"""bench verify: what can be proven of a record."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.evaluate import confirm
from bench.schema import InvalidInput

if TYPE_CHECKING:
    from bench.verify import Verification


def add(commands: Any) -> None:
    """Adds `verify` to the command line."""
    proof = commands.add_parser(
        "verify", help="re-prove a record's broken bits, attack some standing images again",
        description="Exit status: 0 all that can be proven is proven (standing images that the second "
        "attack breaks are a warning: the record claims no more than it saw), 1 something is not "
        "proven or its evidence is not here, 2 a file is missing or is not the one the record names.",
    )  # fmt: skip
    proof.add_argument("record", type=Path, help="a record, or a model's folder of records")
    proof.add_argument(
        "--weights", type=Path, help="checkpoint folder, where not beside the record"
    )
    proof.add_argument("--evidence", type=Path, help="evidence file, where not beside the record")
    proof.add_argument("--dataset", metavar="D", help="for records of parquet: and arrays: folders")
    again = proof.add_mutually_exclusive_group()
    again.add_argument(
        "--reattack", type=int, metavar="M", help="standing images to attack again; default 60"
    )
    again.add_argument("--no-reattack", dest="reattack", action="store_const", const=0)
    proof.add_argument(
        "--attack", metavar="COLUMN",
        help="what attacks again; default: the gradient attacks of the record's strongest column",
    )  # fmt: skip
    proof.add_argument("--seed", type=int, help="of the second attack; default: a public one")
    proof.add_argument("--device", default="auto")
    proof.add_argument("--yes", action="store_true", help="do not ask before a long second attack")
    proof.add_argument("--json", action="store_true")
    proof.set_defaults(run=_verify)


def _verify(a: argparse.Namespace) -> int:
    from bench import verify

    paths = [a.record]
    if a.record.is_dir():
        paths = sorted(p for p in a.record.glob("*.json") if len(p.stem) == 16)
        if not paths:
            raise InvalidInput(f"no record in {a.record}")
    found = [_one(path, a) for path in paths]
    if a.json:
        print(json.dumps([verify.as_json(each) for each in found], indent=1))
    else:
        print("\n".join(map(verify.summary, found)))
    return 0 if all(each.proven for each in found) else 1


def _one(path: Path, a: argparse.Namespace) -> Verification:
    import torch

    from bench import verify
    from bench.measure import sweep
    from bench.verify import reattack

    device = sweep.pick_device(a.device)
    held = verify.gather(
        path, weights=a.weights, proof=a.evidence, dataset=a.dataset, device=device
    )
    if device == "cpu" and held.record.card.n_parameters < 1_000_000:
        torch.set_num_threads(1)  # small networks: threads cost more than they give
    images = reattack.IMAGES if a.reattack is None else a.reattack
    plan = None
    if images:
        seed = reattack.SEED if a.seed is None else a.seed
        plan = reattack.plan(held.record, images=images, seed=seed, attack=a.attack)
        seconds = reattack.estimate_seconds(plan, held.model, held.data)
        confirm(seconds, f"second attack on {len(plan.index)} standing images", yes=a.yes)
    return verify.check(held.record, held.model, held.data, held.proofs, again=plan, device=device)
