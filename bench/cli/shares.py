"""bench evaluate --shard, and bench merge: one measurement by many workers."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import torch

from bench.cli.arguments import answer, failed
from bench.cli.evaluate import job_of, measure, named, workers_of
from bench.measure import merging, sweep
from bench.measure.share import Share
from bench.measure.sweep import Job
from bench.schema import BenchError, InvalidInput
from bench.sources import opening


def make_shares(jobs: list[Job], a: argparse.Namespace) -> int:
    """Makes one share of every job's measurement, and says what makes the record."""
    share, status, said = Share.parse(a.shard), 0, []
    torch.set_num_threads(1)  # other shares may run beside this one
    make = functools.partial(merging.make_share, share=share)
    label = f"share {share}"
    for job, made in sweep.over(make, jobs, workers=workers_of(a), label=label, quiet=a.json):
        name = opening.read_card(job.source).name
        if isinstance(made, BenchError):
            status = max(status, failed(made, name))
        elif made is None:
            said.append({"name": name, "share": str(share), "recorded": True})
        else:
            said.append(
                {"name": name, "share": str(share), "recorded": False, "parts": made.parts,
                 "new": made.new, "folder": str(made.folder)}
            )  # fmt: skip
    said.sort(key=lambda each: str(each["name"]))
    answer(said, "\n".join(map(_share_line, said)), as_json=a.json)
    return status


def _share_line(said: dict[str, Any]) -> str:
    if said["recorded"]:
        return f"{said['name']}: the record is there; nothing was made"
    return (
        f"{said['name']}, share {said['share']}: {said['parts']} parts, {said['new']} of them new\n"
        f"  once all shares are made: python -m bench merge {said['folder']}"
    )


def merge(a: argparse.Namespace) -> int:
    """Makes the records of which every part is there: of folders of parts, or of what is named."""
    folders = [Path(place) for place in a.checkpoint if merging.is_parts(place)]
    others = [place for place in a.checkpoint if not merging.is_parts(place)]
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        groups.setdefault(folder.resolve().name, []).append(folder)
    if others or a.model:
        jobs = [job_of(source, a) for source in named(a, others, a.data)]
        if folders and len(jobs) != 1:
            raise InvalidInput("folders of parts go with one model; merge the others by themselves")
        asked = [(job, folders) for job in jobs]
    elif folders:
        fixed = {"device": a.device, "max_seconds": a.max_seconds, "out": a.out, "work": a.parts}
        asked = [(merging.job_of(g[0], a.zoo, **fixed), g) for g in groups.values()]
    else:
        raise InvalidInput("give folders of parts, or the arguments that evaluate was given")
    for job, given in asked:
        merging.gather(job, given)
    return measure([job for job, _ in asked], a)
