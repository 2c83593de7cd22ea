"""bench import and bench submit: foreign state dicts become checkpoint folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.catalogue import ARCHITECTURES, DATASETS
from bench.cli import declared
from bench.cli.arguments import floats, pairs
from bench.cli.evaluate import CHECKPOINTS, job_of, measure, measuring
from bench.schema import InvalidInput

if TYPE_CHECKING:
    from bench.datasets import Examples
    from models import Normalized


def add(commands: Any) -> None:
    """Adds `import` and `submit` to the command line."""
    bring = commands.add_parser("import", help="foreign state dict -> checkpoint folder")
    _foreign(bring)
    bring.set_defaults(run=lambda a: print(_import(a)))

    submit = commands.add_parser("submit", help="import, check, evaluate and record in one go")
    _foreign(submit)
    measuring(submit, "--data")
    submit.set_defaults(run=_submit)


def _foreign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=".pt, .pth or .safetensors")
    parser.add_argument(
        "--weights", metavar="KEY",
        help="which of several sets of weights in the file: its key, or ema for the averaged one",
    )  # fmt: skip
    parser.add_argument("--arch", required=True, metavar="A", help=", ".join(ARCHITECTURES))
    parser.add_argument("--arch-arg", action="append", default=[], metavar="k=v")
    parser.add_argument("--dataset", required=True, metavar="D", help=", ".join(DATASETS))
    parser.add_argument("--name", required=True, metavar="N")
    parser.add_argument("--mean", metavar="a,b,c", help="input normalisation, a value a channel")
    parser.add_argument("--std", metavar="a,b,c")
    declared.add(parser)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="DIR")


def _import(a: argparse.Namespace) -> Path:
    from bench.sources import checkpoint

    return checkpoint.import_checkpoint(
        a.file, arch=a.arch, dataset=a.dataset, name=a.name, arch_args=pairs(a.arch_arg),
        mean=floats(a.mean, "--mean"), std=floats(a.std, "--std"), details=declared.facts(a),
        weights=a.weights, out=a.checkpoints,
    )  # fmt: skip


def _submit(a: argparse.Namespace) -> int:
    from bench.measure import sweep
    from bench.sources import checkpoint

    folder = _import(a)
    job = job_of(folder, a)
    model, card = checkpoint.load(folder, device=job.device)
    _check_answers(a.name, sweep.examples(job), model, card.class_count)
    declared.warn(job, card)
    return measure([job], a)


def _check_answers(name: str, data: Examples, model: Normalized, classes: int) -> None:
    """Refuses what is no classifier before hours are spent on it; see bench.reliability.flags."""
    from bench.measure import sweep
    from bench.reliability.flags import answer_findings

    labels, predictions = data.labels.numpy(), sweep.clean_predictions(model, data)
    right, n = int((labels == predictions).sum()), len(labels)
    advice = "Is the normalisation right (--mean, --std)? Does the network expect other classes?"
    for found in answer_findings(labels, predictions):
        if found.raised and found.name == "constant-answer":
            raise InvalidInput(
                f"{name}: {found.values['given']} of {n} clean images get class "
                f"{found.values['class']}: a constant answer is no classifier. {advice}"
            )
        if found.raised and found.name == "chance-level":
            raise InvalidInput(
                f"{name}: {right} of {n} clean images are right, not above chance "
                f"({found.values['majority']} of them carry the commonest label). {advice}"
            )
    if right <= n / classes:
        raise InvalidInput(
            f"{name}: {right} of {n} clean images are right, not above chance "
            f"(1 in {classes}). {advice}"
        )
