"""The command that measures a record again."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.catalogue import DATASETS
from bench.notation import plain
from bench.schema import EvaluationRecord


def reproduce(record: EvaluationRecord, path: Path) -> str:
    """The command that answers the same question again."""
    card = record.card
    if (path.parent / "weights.safetensors").exists():
        checkpoint = str(path.parent)
    elif card.link.startswith("robustbench:"):
        checkpoint = plain(card.link)
    else:
        checkpoint = f"var/checkpoints/{card.name}"
    words = ["python", "-m", "bench", "evaluate", checkpoint]
    if record.dataset in DATASETS:
        words += ["--dataset", record.dataset]
    else:
        words += ["--dataset", "arrays:FOLDER", "--dataset-name", record.dataset]
    if not record.split.startswith("test[0:"):
        words += ["--split", plain(record.split)]
    words += ["--threat", str(record.threat), "--protocol", record.protocol.name]
    words += ["--n", str(record.n), "--seed", str(record.seed)]
    if record.engine != "ours":
        words += ["--engine", record.engine]
    if record.precision != "float32":
        words += ["--precision", record.precision]
    if record.environment.get("batch", "").isdecimal():
        words += ["--batch", record.environment["batch"]]
    return shlex.join([*words, "--again"])
