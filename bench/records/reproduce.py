"""How a record is measured again: the command, and the same in Python."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.catalogue import DATASETS
from bench.notation import plain
from bench.schema import EvaluationRecord, ModelCard

_ZOO = "robustbench:"  # begins the link of a card whose network RobustBench's zoo has
FILE = "FILE"  # in a line: the file of weights that the reader has fetched


def reproduce(record: EvaluationRecord, path: Path) -> str:
    """The command that answers the same question again."""
    card = record.card
    checkpoint = plain(card.link) if _in_zoo(card, path) else str(_folder(card, path))
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


def import_first(record: EvaluationRecord, path: Path) -> str:
    """The command that makes the checkpoint of a file of others; empty where none is needed."""
    card = record.card
    if not _foreign(card, path):
        return ""
    said = [("--arch", str(card.arch)), ("--dataset", card.dataset), ("--name", card.name)]
    said += [("--arch-arg", f"{name}={value}") for name, value in card.arch_args.items()]
    for option, values in (("--mean", card.mean), ("--std", card.std)):
        said += [(option, ",".join(map(repr, values)))] if values is not None else []
    words = [plain(word, 400) for option in said for word in option]
    return shlex.join(["python", "-m", "bench", "import", FILE, *words])


def in_python(record: EvaluationRecord, path: Path) -> str:
    """Python that loads the network and attacks it alike; its last line does both."""
    card, names, more = record.card, ["evaluate"], []
    if _in_zoo(card, path):
        more = ["from bench.sources import zoo"]
        network = f"zoo.load({plain(card.link)!r})[0]"
    elif _foreign(card, path):
        more = ["from bench.sources.checkpoint import foreign"]
        network = f"foreign({_arguments(FILE, _as_read(card))})[0]"
    else:
        names.append("load_model")
        network = f"load_model({str(_folder(card, path))!r})"
    named = record.dataset in DATASETS
    images: dict[str, object] = (
        {"n": record.n} if named else {"name": record.dataset, "n": record.n}
    )
    split = () if record.split.startswith("test[0:") else (plain(record.split),)
    asked = {"threat": str(record.threat), "protocol": record.protocol.name}
    usual = {"seed": 0, "engine": "ours", "precision": "float32", "audit": "sample"}
    asked |= {k: getattr(record, k) for k, v in usual.items() if getattr(record, k) != v}
    where = record.dataset if named else "arrays:FOLDER"
    said = ", ".join(f"{name}={value!r}" for name, value in asked.items())
    return "\n".join(
        [
            f"from bench import {', '.join(names)}",
            "from bench.datasets import load",
            *more,
            "",
            f"evaluate({network}, load({_arguments(where, images, *split)}), {said})",
        ]
    )


def weights_note(record: EvaluationRecord, path: Path) -> str:
    """What to fetch before either runs; empty where the weights lie beside the record."""
    card = record.card
    if (path.parent / "weights.safetensors").exists():
        return ""
    if _in_zoo(card, path):
        return "RobustBench's zoo has the weights; they are fetched on first use."
    if _foreign(card, path):
        return f"{FILE}: from {plain(card.link, 400)}, sha256 {card.file_sha256}."
    return f"The weights are not here: sha256 {card.weights_sha256}."


def _in_zoo(card: ModelCard, path: Path) -> bool:
    return card.link.startswith(_ZOO) and not (path.parent / "weights.safetensors").exists()


def _foreign(card: ModelCard, path: Path) -> bool:
    """Whether the weights are a file of others, not handed on here, that the card says how to read."""
    beside = (path.parent / "weights.safetensors").exists()
    return not beside and card.file_sha256 is not None and card.arch is not None


def _folder(card: ModelCard, path: Path) -> Path:
    """The folder of the weights: beside the record, else where training or an import puts them."""
    beside = (path.parent / "weights.safetensors").exists()
    return path.parent if beside else Path("var/checkpoints") / card.name


def _as_read(card: ModelCard) -> dict[str, object]:
    """What a foreign file is read with, as `bench verify --weights` does."""
    said = {
        "arch": card.arch, "dataset": card.dataset, "name": card.name,
        "arch_args": dict(card.arch_args), "mean": card.mean, "std": card.std,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value is not None}


def _arguments(first: object, named: dict[str, object], *more: object) -> str:
    values = [repr(value) for value in (first, *more)]
    return ", ".join([*values, *(f"{name}={value!r}" for name, value in named.items())])
