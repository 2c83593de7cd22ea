"""bench compare --until-sure: two models attacked on ever more images, until they are separated."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch

from bench import datasets
from bench.cli.arguments import answer, confirm
from bench.cli.compare import better, ends
from bench.datasets import Examples
from bench.measure import estimate, processes, sweep
from bench.measure.sweep import Job
from bench.notation import points_interval
from bench.protocols import protocol as named_protocol
from bench.schema import InvalidInput
from bench.sources import opening, zoo
from bench.stats.paired import Look
from bench.until_sure import Comparison, compare_until_sure

WORK = Path("var/compare")


def run(a: argparse.Namespace) -> None:
    """Attacks both and prints what is known of A minus B."""
    sources = [zoo.source(named, a.zoo) for named in (a.a, a.b)]
    jobs = [
        sweep.make_job(
            source, dataset=a.dataset, dataset_name=a.dataset_name, split=a.split, seed=a.seed,
            threat=a.threat, protocol=a.protocol or "standard", device=a.device, batch=a.batch,
        )
        for source in sources
    ]  # fmt: skip
    for what in ("dataset", "threat"):
        values = [getattr(job, what) for job in jobs]
        if values[0] != values[1]:
            raise InvalidInput(
                f"A's default {what} is {values[0]}, B's {values[1]}: say which with --{what}"
            )
    job = jobs[0]
    data = datasets.load(job.dataset, job.split, name=job.dataset_name)
    models = [opening.open_model(source, job.device) for source in sources]
    gpu = job.device.startswith("cuda")
    max_n = a.max_n
    if max_n is None:
        max_n = len(data) if gpu else min(1000, len(data))
    workers = processes.cores() if a.workers is None else a.workers
    if workers < 1:
        raise InvalidInput(f"--workers must be at least 1, got {workers}")
    workers = 1 if gpu else workers
    if workers > 1:
        torch.set_num_threads(1)  # one thread a process: more get into one another's way
    measured = named_protocol(job.protocol, norm=job.threat.norm, classes=models[0][1].class_count)
    seconds = sum(estimate.estimate_seconds(m, data.x, measured, max_n) for m, _ in models)
    confirm(seconds / min(workers, 2), f"two models on up to {max_n:,} images", yes=a.yes)
    found = compare_until_sure(
        models[0], models[1], data.images, data.labels, threat=job.threat, protocol=measured,
        level=a.level, max_n=max_n, stop=not a.go_on, seed=a.seed, batch=a.batch, workers=workers,
        max_seconds=a.max_seconds, work=WORK, told=None if a.json else _tell,
    )  # fmt: skip
    document = _document(found, models[0][1].name, models[1][1].name, data, job)
    answer(document, _text(document, found.look), as_json=a.json)


def _tell(share: float, look: Look) -> None:
    print(
        f"{look.images:,} images: A alone {look.only_a}, B alone {look.only_b}, "
        f"e-value {_e_text(look)}, {share:.0%} of the budget",
        file=sys.stderr,
    )


def _e_text(look: Look) -> str:
    return f"{math.exp(look.log_e):.3g}" if look.log_e < 700 else f"exp({look.log_e:.0f})"


def _document(found: Comparison, a: str, b: str, data: Examples, job: Job) -> dict[str, Any]:
    look = found.look
    return {
        "a": a, "b": b, "dataset": data.name, "split": data.split, "threat": str(job.threat),
        "protocol": job.protocol, "seed": job.seed, "level": look.level,
        "n": found.n, "images": look.images, "only_a": look.only_a, "only_b": look.only_b,
        "log_e_value": look.log_e, "separated": better(look.only_a, look.only_b, look.separated),
        "difference": ends(look.difference),
        "measured": found.measured, "measured_before": found.prior, "passes": found.passes,
        "passes_saved": found.passes_saved, "ranked": False,
    }  # fmt: skip


def _text(d: dict[str, Any], look: Look) -> str:
    sure = f"{100 * (1 - d['level']):g} %"
    after = f"separated after {d['images']:,} images"
    verdict = (
        f"{after}: {str(d['separated']).upper()} is better" if d["separated"] else f"not {after}"
    )
    return "\n".join(
        [
            f"A = {d['a']}, B = {d['b']}",
            f"{d['dataset']} {d['threat']} {d['protocol']}, images of {d['split']} in "
            f"the order of seed {d['seed']}",
            f"{verdict} (e-value {_e_text(look)}; {1 / d['level']:g} separates)",
            f"standing under all columns: A alone {d['only_a']}, B alone {d['only_b']}",
            f"A minus B: {points_interval(look.difference)}, {sure} at every look at once",
            f"{d['measured']:,} of {d['n']:,} images attacked ({d['measured_before']:,} of them "
            f"before); {d['passes']:,} passes, about {d['passes_saved']:,} saved against all images",
            "This is no record: it is not ranked and was not checked for flags (python -m bench "
            "doctor). A larger --max-n, or --go-on, goes on from what is finished.",
        ]
    )
