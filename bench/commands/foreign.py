"""bench import and bench submit: foreign state dicts become checkpoint folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.catalogue import ARCHITECTURES, DATASETS
from bench.commands import declared
from bench.commands.evaluate import CHECKPOINTS, job_of, measure, measuring
from bench.commands.words import floats, pairs
from bench.schema import InvalidInput


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
    parser.add_argument("--arch", required=True, metavar="A", help=", ".join(ARCHITECTURES))
    parser.add_argument("--arch-arg", action="append", default=[], metavar="k=v")
    parser.add_argument("--dataset", required=True, metavar="D", help=", ".join(DATASETS))
    parser.add_argument("--name", required=True, metavar="N")
    parser.add_argument("--mean", metavar="a,b,c", help="input normalisation, a value a channel")
    parser.add_argument("--std", metavar="a,b,c")
    declared.add(parser)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="DIR")


def _import(a: argparse.Namespace) -> Path:
    from bench import checkpoint

    return checkpoint.import_checkpoint(
        a.file, arch=a.arch, dataset=a.dataset, name=a.name, arch_args=pairs(a.arch_arg),
        mean=floats(a.mean, "--mean"), std=floats(a.std, "--std"), details=declared.facts(a),
        out=a.checkpoints,
    )  # fmt: skip


def _submit(a: argparse.Namespace) -> int:
    from bench import checkpoint, sweep

    folder = _import(a)
    job = job_of(folder, a)
    model, card = checkpoint.load(folder, device=job.device)
    right, n = sweep.clean_correct(model, sweep.examples(job))
    if right <= n / card.class_count:
        raise InvalidInput(
            f"{a.name}: {right} of {n} clean images are right, not above chance "
            f"(1 in {card.class_count}). Is the normalisation right (--mean, --std)? "
            "Does the network expect other classes?"
        )
    declared.warn(job, card)
    return measure([job], a)
