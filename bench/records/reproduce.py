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
    named, batch = record.dataset in DATASETS, record.environment.get("batch", "")
    options = {  # what is empty is left out
        "--dataset": record.dataset if named else "arrays:FOLDER",
        "--dataset-name": "" if named else record.dataset,
        "--split": "" if record.split.startswith("test[0:") else plain(record.split),
        "--threat": str(record.threat),
        "--protocol": record.protocol.name,
        "--n": str(record.n),
        "--seed": str(record.seed),
        "--engine": "" if record.engine == "ours" else record.engine,
        "--precision": "" if record.precision == "float32" else record.precision,
        "--audit": "" if record.audit == "sample" else record.audit,
        "--batch": batch if batch.isdecimal() else "",
    }
    words = [word for option in options.items() if option[1] for word in option]
    return shlex.join(["python", "-m", "bench", "evaluate", checkpoint, *words, "--again"])
