"""bench doctor, verify, gap, contamination: what is to be known of a checkpoint besides its number."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel

from bench import contamination, verify
from bench.cli.arguments import SMALL, answer, confirm, failed
from bench.cli.evaluate import named
from bench.contamination import Contamination
from bench.gap import NAME, GapPart, RobustGap
from bench.measure import sweep
from bench.measure.contamination import check_checkpoint
from bench.measure.gap import gap_of_checkpoint
from bench.notation import percent, percent_interval, points_interval
from bench.records import challenges
from bench.records.store import pretty_json, write_atomic
from bench.reliability import doctor
from bench.schema import BenchError, InvalidInput, ModelCard, ThreatModel
from bench.sources import checkpoint, opening, zoo
from bench.verify import Verification, claimed, reattack
from bench.verify.claimed import Proved

IMAGES = 256  # of the doctor's clean accuracy where --n is not given; the probes use fewer


def examine(a: argparse.Namespace) -> int:
    """Prints one line a check; status 1 where something failed."""
    if a.claimed is not None and not 0 <= a.claimed <= 1:
        raise InvalidInput(f"--claimed is a share such as 0.84, got {a.claimed:g}")
    found = named(a, [a.checkpoint] if a.checkpoint else [], a.dataset)
    if not found:
        raise InvalidInput("give CHECKPOINT, robustbench:<model id> or --model FILE.py:FUNCTION")
    job = sweep.make_job(
        found[0], dataset=a.dataset, dataset_name=a.dataset_name, split=a.split, n=a.n,
        threat=a.threat, seed=a.seed, device=a.device, protocol="autoattack",
    )  # fmt: skip
    model, card = opening.open_model(job.source, job.device)
    if card.n_parameters < SMALL:
        torch.set_num_threads(1)
    data = sweep.examples(job)
    if a.n is None and len(data) > IMAGES:
        data = data.first(IMAGES)
    other = a.transfer_from
    source = None if other is None else opening.open_model(zoo.source(other, a.zoo), job.device)[0]
    checks = doctor.examine(
        model, data.x.to(job.device), data.labels.to(job.device), threat=job.threat, card=card,
        claimed=a.claimed, source=source, seed=a.seed, metamorphic_tests=a.metamorphic,
    )  # fmt: skip
    width = max(len(check.name) for check in checks)
    lines = [f"{card.name}, {data.name} {data.split}, {job.threat}"]
    lines += [
        f"{c.state:4}  {c.name:{width}}  {c.figure}{c.remedy and f' {c.remedy}'}" for c in checks
    ]
    answer([dataclasses.asdict(c) for c in checks], "\n".join(lines), as_json=a.json)
    return 1 if doctor.failed(checks) else 0


def prove(a: argparse.Namespace) -> int:
    """Proves one record or all of a folder; status 1 where one is not proven."""
    paths = [a.record]
    if a.record.is_dir():
        paths = sorted(p for p in a.record.glob("*.json") if len(p.stem) == 16)
        if not paths:
            raise InvalidInput(f"no record in {a.record}")
        paths += sorted(a.record.glob(f"*{challenges.SUFFIX}"))
    found = [_proven(path, a) for path in paths if not challenges.is_challenge(path)]
    handed_in = [_claimed(path, a) for path in paths if challenges.is_challenge(path)]
    lines = [*map(verify.summary, found), *map(claimed.summary, handed_in)]
    said = [*map(verify.as_json, found), *map(claimed.as_json, handed_in)]
    answer(said, "\n".join(lines), as_json=a.json)
    proven = all(each.proven for each in found) and not any(each.problems for each in handed_in)
    return 0 if proven else 1


def _claimed(path: Path, a: argparse.Namespace) -> Proved:
    if a.evidence is not None:
        raise InvalidInput("--evidence belongs to a record; that of a challenge lies beside it")
    device = sweep.pick_device(a.device)
    found = claimed.gather(path, weights=a.weights, dataset=a.dataset, device=device)
    try:
        claimed.keep_proof(found, path)
    except (InvalidInput, OSError) as error:  # what was proven is told all the same
        print(f"{path}: the list of proven records is as it was: {error}", file=sys.stderr)
    return found


def _proven(path: Path, a: argparse.Namespace) -> Verification:
    device = sweep.pick_device(a.device)
    held = verify.gather(
        path, weights=a.weights, proof=a.evidence, dataset=a.dataset, zoo_root=a.zoo, device=device
    )
    if device == "cpu" and held.record.card.n_parameters < SMALL:
        torch.set_num_threads(1)
    images = reattack.IMAGES if a.reattack is None else a.reattack
    plan = None
    if images:
        seed = reattack.SEED if a.seed is None else a.seed
        plan = reattack.plan(held.record, images=images, seed=seed, attack=a.attack)
        seconds = reattack.estimate_seconds(plan, held.model, held.data)
        confirm(seconds, f"second attack on {len(plan.index)} standing images", yes=a.yes)
    found = verify.check(held.record, held.model, held.data, held.proofs, again=plan, device=device)
    try:
        verify.keep_proof(found, path, held.sha256)
    except (InvalidInput, OSError) as error:  # what was proven is told all the same
        print(f"{path}: the list of proven records is as it was: {error}", file=sys.stderr)
    return found


# ---------------------------------------------------------------- bench gap


def gap(a: argparse.Namespace) -> int:
    """Measures each checkpoint; one that fails is said and the others are measured."""

    def measure(folder: Path, device: str) -> tuple[RobustGap, ModelCard]:
        return gap_of_checkpoint(folder, n=a.n, split=a.split, source=a.dataset, device=device)

    found, status = _each(a, measure, NAME)
    text = "\n".join(lines(*each) for each in found)
    answer([_json(*each) for each in found], text, as_json=a.json)
    return status


Found = TypeVar("Found", bound=BaseModel)


def _each(
    a: argparse.Namespace, measure: Callable[[Path, str], tuple[Found, ModelCard]], file: str
) -> tuple[list[tuple[str, Found]], int]:
    """(name, what was measured) of each checkpoint that did not fail, kept where asked; the status."""
    device = sweep.pick_device(a.device)
    found, status = [], 0
    for folder in a.checkpoint:
        try:
            if device == "cpu" and checkpoint.read_card(folder).n_parameters < SMALL:
                torch.set_num_threads(1)
            measured, card = measure(folder, device)
        except BenchError as error:
            status = max(status, failed(error, "" if str(folder) in str(error) else folder))
            continue
        print(f"{card.name}: measured", file=sys.stderr)
        found.append((card.name, measured))
        if a.save:
            write_atomic(folder / file, pretty_json(measured))
    return found, status


def lines(name: str, gap: RobustGap) -> str:
    """Three lines that can be pasted: what was measured, both parts, the gap."""
    epoch = "" if gap.epoch is None else f", epoch {gap.epoch}"
    parts = "; ".join(
        f"{part} {percent(p.robust_rate.estimate, p.n)} % "
        f"({percent_interval(p.robust_rate, p.n)}; n = {p.n:,}; loss {p.robust_loss:.2f})"
        for part, p in (("train", gap.training), ("test", gap.test))
    )
    return (
        f"{name}{epoch}, {gap.dataset} {gap.threat}, {gap.attack}\n"
        f"  robust: {parts}\n"
        f"  gap: {points_interval(gap.gap)}; loss {gap.loss_gap:+.2f} (test minus train)"
    )


def _json(name: str, gap: RobustGap) -> dict[str, Any]:
    def part(p: GapPart) -> dict[str, Any]:
        return {
            "split": p.split, "n": p.n, "clean_correct": p.clean_correct,
            "robust_correct": p.robust_correct, "robust": p.robust_rate.estimate,
            "robust_loss": p.robust_loss,
        }  # fmt: skip

    return {
        "name": name, "dataset": gap.dataset, "threat": str(gap.threat), "epoch": gap.epoch,
        "attack": str(gap.attack), "train": part(gap.training), "test": part(gap.test),
        "gap": gap.gap.estimate, "interval": [gap.gap.low, gap.gap.high],
    }  # fmt: skip


# ---------------------------------------------------------------- bench contamination


def contaminated(a: argparse.Namespace) -> int:
    """Checks each checkpoint; status 1 where one shows a sign."""
    threat = None if a.threat is None else ThreatModel.asked(a.threat)

    def measure(folder: Path, device: str) -> tuple[Contamination, ModelCard]:
        return check_checkpoint(
            folder, n=a.n, split=a.split, second=a.second, trained_on=a.trained_on,
            source=a.dataset, threat=threat, device=device,
        )  # fmt: skip

    found, status = _each(a, measure, contamination.NAME)
    text = "\n".join(contamination_lines(*each) for each in found)
    answer([_contamination_json(*each) for each in found], text, as_json=a.json)
    return max(status, int(any(each.verdict == "sign" for _, each in found)))


def contamination_lines(name: str, found: Contamination) -> str:
    """What can be pasted: the verdict, then a line a loss with the accuracy of every part."""
    text = [f"{name}, {found.dataset} {found.test.split}", f"  {contamination.sentence(found)}."]
    for loss in found.compared:
        parts = ((found.training, "training"), (found.test, "test"), (found.second, "second"))
        rates = ", ".join(
            f"{part} {percent(rate.estimate, p.n)} % (n = {p.n:,})"
            for p, part in parts
            if p is not None and (rate := p.rate(loss)) is not None
        )
        label = "clean" if loss == "clean" else f"FGSM, {found.threat}"
        excess = found.excess(loss)
        assert excess is not None  # there is a count of every loss
        text.append(f"  {label}: {rates}; test minus second {points_interval(excess)}")
    return "\n".join(text)


def _contamination_json(name: str, found: Contamination) -> dict[str, Any]:
    return {
        "name": name, "verdict": found.verdict, "p_value": found.p_value,
        "share": found.share, "detectable": found.detectable, **found.model_dump(mode="json"),
    }  # fmt: skip
