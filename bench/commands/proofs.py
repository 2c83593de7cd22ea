"""bench verify: what can be proven of a record."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.schema import InvalidInput


def add(commands: Any) -> None:
    """Adds `verify` to the command line."""
    proof = commands.add_parser("verify", help="re-prove a record's broken bits from its evidence")
    proof.add_argument("record", type=Path, help="a record, or a model's folder of records")
    proof.add_argument(
        "--weights", type=Path, help="checkpoint folder, where not beside the record"
    )
    proof.add_argument("--evidence", type=Path, help="evidence file, where not beside the record")
    proof.add_argument("--dataset", metavar="D", help="for records of parquet: and arrays: folders")
    proof.add_argument("--json", action="store_true")
    proof.set_defaults(run=_verify)


def _verify(a: argparse.Namespace) -> int:
    from bench import verify

    paths = [a.record]
    if a.record.is_dir():
        paths = sorted(p for p in a.record.glob("*.json") if len(p.stem) == 16)
        if not paths:
            raise InvalidInput(f"no record in {a.record}")
    found = [
        verify.verify(path, weights=a.weights, proof=a.evidence, dataset=a.dataset)
        for path in paths
    ]
    if a.json:
        print(json.dumps([verify.as_json(each) for each in found], indent=1))
    else:
        print("\n".join(map(verify.summary, found)))
    return 0 if all(each.proven for each in found) else 1
