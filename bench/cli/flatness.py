"""bench flatness: how much higher the loss is beside the weights, on average and at worst."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from typing import Any

import torch

from bench.attacks import attack_cost
from bench.cli.arguments import SMALL, answer, confirm, failed
from bench.cli.landscape import seconds_of, subject_of
from bench.landscape import flatness, rises
from bench.landscape.record import Part
from bench.landscape.rises import PUBLISHED, Flatness, Measure, Settings
from bench.landscape.subject import Opened, Subject, opened
from bench.measure import keeping, processes
from bench.measure.processes import Report
from bench.notation import aligned
from bench.schema import AttackSpec, BenchError, InvalidInput
from bench.sources import checkpoint
from bench.stats.intervals import Interval


def run(a: argparse.Namespace) -> int:
    """Takes the measures that are missing of every checkpoint and prints them."""
    status, found = 0, []
    for folder in a.checkpoint:
        try:
            answers, failure = _measured(subject_of(folder, a), a)
        except BenchError as error:
            status = max(status, failed(error, "" if str(folder) in str(error) else folder))
            continue
        status = max(status, failure)
        found.append(answers)
    text = "\n\n".join(map(summary, found))
    answer([as_json(each) for answers in found for each in answers], text, as_json=a.json)
    return status


@dataclass(frozen=True)
class _Task:
    """One measure on one part, in this process or another; a question is a Flatness without rises."""

    subject: Subject
    question: str  # its JSON: what is sent to a process is plain


def _settings(name: Measure, a: argparse.Namespace) -> Settings:
    """The published ones, with what the command line asks to be less of."""
    asked = {"draws": a.draws, "restarts": a.restarts, "attack_steps": a.attack_steps}
    changed = {k: v for k, v in asked.items() if v is not None}
    if name.endswith("sharpness"):  # it begins at w, once
        changed.pop("draws", None)
    return PUBLISHED[name].model_copy(update=changed | {"seed": a.seed})


def _measured(subject: Subject, a: argparse.Namespace) -> tuple[list[Flatness], int]:
    if subject.device == "cpu" and checkpoint.read_card(subject.folder).n_parameters < SMALL:
        torch.set_num_threads(1)
    held = opened(subject)
    flatness.every(held.model)
    questions = [
        _question(held, part, name, _settings(name, a))
        for part in held.parts
        for name in rises.names(a.measures)
    ]
    answers = {q.id: known for q in questions if (known := rises.known(q, a.out)) is not None}
    missing = [q for q in questions if q.id not in answers]
    if missing:
        keeping.refuse_unwritable(rises.path_of(missing[0], a.out).parent)
    workers = 1 if subject.device.startswith("cuda") else a.workers or processes.cores()
    if missing:
        seconds = sum(_seconds(held, q) for q in missing) / min(workers, len(missing))
        confirm(seconds, f"{held.card.name}: {len(missing)} measures", yes=a.yes)
    tasks, status = [_Task(subject, q.model_dump_json()) for q in missing], 0
    for _, found in processes.run(_run, tasks, workers=workers, label="flatness", quiet=a.json):
        if isinstance(found, BenchError):
            status = max(status, failed(found))
        else:
            answers[found.id] = found
            print(rises.keep(found, a.out), file=sys.stderr)
    return [answers[q.id] for q in questions if q.id in answers], status


def _question(held: Opened, part: Part, name: Measure, settings: Settings) -> Flatness:
    return Flatness(
        name=held.card.name, weights_sha256=held.card.weights_sha256,
        dataset=held.parts[part].name, part=part, images=held.images()[part], threat=held.threat,
        measure=name, settings=settings, version=flatness.VERSION,
    )  # fmt: skip


def _run(task: _Task, report: Report) -> Flatness:
    question = Flatness.model_validate_json(task.question)
    held = opened(task.subject)
    if held.card.weights_sha256 != question.weights_sha256:
        raise InvalidInput(f"{task.subject.folder} was replaced meanwhile; start again")
    x, y = held.tensors(task.subject.device)[question.part]
    where = f"{question.name}, {question.measure}, {question.part}"
    found = flatness.measure(
        held.model, x, y, question.measure, threat=question.threat, settings=question.settings,
        tick=lambda share: report(share, where),
    )  # fmt: skip
    return question.model_copy(update={"rises": tuple(found)})


def _seconds(held: Opened, question: Flatness) -> float:
    """At most, by passes: an attack at w and at every place, and three passes a step of an ascent."""
    s = question.settings
    attack = AttackSpec(name="pgd", params={"steps": s.attack_steps, "restarts": s.restarts})
    attacks = {"average": 1 + s.draws, "worst": 1, "sharpness": 0, "adversarial-sharpness": 2}
    passes = attacks[question.measure] * attack_cost(attack)
    passes += 0 if question.measure == "average" else 3 * s.steps * s.draws
    one = seconds_of(held.model, held.parts, attack, question.images.n)
    return one * passes / attack_cost(attack)


# ---------------------------------------------------------------- the answer


def summary(found: list[Flatness]) -> str:
    """A table that can be pasted: a line a measure and part, and where it is cheaper than published."""
    if not found:
        return ""
    first = found[0]
    head = ("measure", "part", "n", "radius", *flatness.TOLD)
    rows = [
        (
            f.measure,
            f.part,
            f"{f.images.n:,}",
            f"{f.settings.radius:g}",
            *(_shown(f.rise(name)) for name in flatness.TOLD),
        )
        for f in found
    ]
    cheaper = dict.fromkeys(
        f"  {f.measure}: cheaper than published: {f.cheaper}" for f in found if f.cheaper
    )
    return "\n".join(
        [
            f"{first.name}, {first.dataset} {first.threat}: rise of the mean loss beside the weights",
            *(f"  {line}" for line in aligned([head, *rows])),
            *cheaper,
        ]
    )


def _shown(value: Interval) -> str:
    """`+0.35 [+0.30, +0.40]`."""
    if math.isinf(value.low):
        return f"{value.estimate:+.4f}"
    return f"{value.estimate:+.4f} [{value.low:+.4f}, {value.high:+.4f}]"


def as_json(found: Flatness) -> dict[str, Any]:
    """For programs: the question, and each rise with its interval; null ends where there is none."""
    values = {}
    for name in flatness.TOLD:
        each = found.rise(name)
        ends = [end if math.isfinite(end) else None for end in (each.low, each.high)]
        values[name] = {"rise": each.estimate, "interval": ends}
    about = found.model_dump(mode="json", exclude={"rises"})
    return about | {"id": found.id, "rises": values, "cheaper": found.cheaper}
