"""What a measurement says on the device, beside what it says on the CPU, image by image."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import evidence, verify
from bench.attacks.losses import margin
from bench.datasets import Examples, load
from bench.measure.evaluate import Measurement, measure
from bench.models import Normalized
from bench.protocols import protocol
from bench.schema import AttackSpec, InvalidInput, MeasurementFailed, Protocol, ThreatModel
from bench.sources import checkpoint
from tests.gpu.place import DIGITS, FASHION, ROOT, Place, other_sums, present
from tests.gpu.running import Absent, Check, Seen

# Of n images in a column: float32 sums differ between devices, so that some walks part and end on the
# other side of the boundary. A CPU that sums in another order moved none of 100.
ALLOWED = "at most 2, or 2 % of the images, in a column"


def allowed(n: int) -> int:
    """How many images of n may differ."""
    return max(2, n // 50)


def measured_with(place: Place) -> Protocol:
    """The columns of the protocols standard and fast, each once: no column depends on another."""
    columns = {c.name: c for name in ("standard", "fast") for c in protocol(name).columns}
    both = Protocol(name="standard-and-fast", version=1, columns=tuple(columns.values()))
    return shortened(both, steps=3, queries=20) if place.quick else both


def shortened(whole: Protocol, *, steps: int, queries: int) -> Protocol:
    """The same attacks with no more steps and queries than that, and one restart."""

    def short(spec: AttackSpec) -> AttackSpec:
        most: dict[str, Any] = {"steps": steps, "queries": queries, "opening": 2, "restarts": 1}
        fewer = {k: min(spec.params[k], most[k]) for k in most.keys() & spec.params.keys()}
        return spec.model_copy(update={"params": {**spec.params, **fewer}})

    columns = tuple(
        column.model_copy(update={"attacks": tuple(map(short, column.attacks))})
        for column in whole.columns
    )
    return whole.model_copy(update={"name": f"{whole.name}-short", "columns": columns})


def subject(folder: Path, n: int, device: str) -> tuple[Normalized, Examples]:
    """A committed network on a device, and the first n test images. Absent where they are not here."""
    model, card = checkpoint.load(present(folder), device=device)
    try:
        return model, load(card.dataset, "test", n=n, download=False)
    except InvalidInput as error:
        raise Absent(f"{card.dataset}: {error}".partition("\n")[0]) from None


def threat_of(folder: Path) -> ThreatModel:
    """That of the folder of results in which a network lies, such as linf-0.15."""
    return ThreatModel.parse(folder.parent.name.replace("-", ":", 1))


def answer(
    folder: Path, n: int, device: str, asked: Protocol
) -> tuple[Measurement, Normalized, Examples]:
    """A measurement of a committed network. Raises MeasurementFailed where its record is a failure."""
    model, data = subject(folder, n, device)
    found = measure(
        model, data.x, data.labels, threat=threat_of(folder), protocol=asked, dataset="unnamed"
    )
    if found.record.failure is not None:
        raise MeasurementFailed(found.record.failure)
    return found, model, data


# ---------------------------------------------------------------- the checks


def verdicts(folder: Path, full: int, quick: int, place: Place) -> Seen:
    """The bits of every column, and either side's evidence before the other's judge."""
    asked = measured_with(place)
    n = place.size(full, quick)
    here, cpu_model, data = answer(folder, n, "cpu", asked)
    with other_sums(place):
        there, device_model, _ = answer(folder, n, place.device, asked)
        there_judges = _unproven(here, device_model, data, place.device)
    here_judges = _unproven(there, cpu_model, data, "cpu")
    clean = int((here.record.clean_correct != there.record.clean_correct).sum())
    facts: dict[str, Any] = {"n": n, "clean answers differ": clean, "columns": {}}
    for column in asked.columns:
        facts["columns"][column.name] = _differing(column.name, here, there, cpu_model, data)
    columns = facts["columns"]
    facts["not proven on the device"], facts["not proven on the CPU"] = there_judges, here_judges
    most = max(len(c["differ"]) for c in columns.values())
    fine = most <= allowed(n) and clean == 0 and not (there_judges or here_judges)
    text = ", ".join(
        f"{name} {c['standing on the CPU']}/{c['standing on the device']} ({len(c['differ'])})"
        for name, c in columns.items()
    )
    lone = [f"{name} {d}" for name, c in columns.items() for d in c["differ"]]
    parts = [f"of {n} stand on CPU/device (differ): {text}", *lone[:6], *there_judges, *here_judges]
    return Seen("; ".join(parts), fine, facts)


def _unproven(
    found: Measurement, model: Normalized, data: Examples, device: str
) -> tuple[str, ...]:
    """What of a record another judge does not confirm."""
    proofs = evidence.from_bytes(found.evidence)
    return verify.check(found.record, model, data, proofs, device=device).problems


def _differing(
    column: str, here: Measurement, there: Measurement, cpu_model: Normalized, data: Examples
) -> dict[str, Any]:
    """How many stand on either side, and each image that differs, with the margin where it broke."""
    a, b = (found.record.standing(column) for found in (here, there))
    exact = copy.deepcopy(cpu_model).double()
    said = []
    for place in np.flatnonzero(a != b):
        side, found = ("the CPU", here) if b[place] else ("the device", there)
        proof = evidence.from_bytes(found.evidence)[column]
        (row,) = np.flatnonzero(proof.index == place)
        x_adv = proof.decode(data.x)[int(row)][None].double()
        with torch.no_grad():
            past = float(margin(exact(x_adv), data.labels[int(place)][None])[0])
        said.append(f"image {place} broken on {side} alone, margin {past:.2g}")
    return {
        "standing on the CPU": int(a.sum()),
        "standing on the device": int(b.sum()),
        "differ": said,
    }


def repeated(place: Place) -> Seen:
    """The same measurement twice on the device: a record that is asked again should be the same."""
    asked = measured_with(place)
    kept = ("pgd20", "cascade")
    asked = asked.model_copy(
        update={"columns": tuple(c for c in asked.columns if c.name in kept), "name": "repeated"}
    )
    n = place.size(200, 8)
    a, b = (answer(DIGITS, n, place.device, asked)[0] for _ in range(2))
    differ = {c: int((a.record.standing(c) != b.record.standing(c)).sum()) for c in kept}
    same = a.evidence == b.evidence
    text = ", ".join(f"{c} {count}" for c, count in differ.items())
    text += f" of {n} differ; evidence {'the same bytes' if same else 'in other bytes'}"
    return Seen(text, max(differ.values()) <= allowed(n), {"differ": differ, "same bytes": same})


def proven(folder: Path, place: Place) -> Seen:
    """The committed records of a network, each broken bit proven again by the judge on the device."""
    parts, facts, fine = [], {}, True
    subject(folder, 1, "cpu")  # its images may not be here; whatever else is wrong is a failure
    for path in sorted(folder.glob("*.evidence.npz")):
        record = path.with_name(path.name.replace(".evidence.npz", ".json"))
        held = verify.gather(record, device=place.device)
        found = verify.check(held.record, held.model, held.data, held.proofs, device=place.device)
        bits = [(c.proven, c.broken) for c in found.columns.values()]
        good, broken = (sum(numbers) for numbers in zip(*bits, strict=True))
        fine &= found.proven and good == broken and found.clean_agrees == found.record.n
        facts[record.stem] = {
            "proven": good, "broken": broken, "clean agrees": found.clean_agrees,
            "close calls": found.close_calls, "problems": found.problems,
        }  # fmt: skip
        parts.append(f"{held.record.protocol.name} {good:,} of {broken:,}")
        parts += found.problems
        if place.quick:
            break
    if not facts:
        raise Absent(f"no evidence beside {folder.relative_to(ROOT)}")
    return Seen("; ".join(parts), fine, facts)


_AGREE = f"{ALLOWED} differ; clean answers equal; each side's evidence proven by the other"
CHECKS = {
    "proven digits": Check(
        "committed digits records judged again", "every bit proven", partial(proven, DIGITS)
    ),
    "proven fashion_mnist": Check(
        "committed Fashion-MNIST records judged again", "every bit proven", partial(proven, FASHION)
    ),
    "repeated": Check("the same measurement twice", f"{ALLOWED}", repeated),
    "verdicts digits": Check(
        "digits under standard and fast beside the CPU", _AGREE, partial(verdicts, DIGITS, 100, 8)
    ),
    "verdicts fashion_mnist": Check(
        "Fashion-MNIST under standard and fast beside the CPU", _AGREE,
        partial(verdicts, FASHION, 32, 4),
    ),
}  # fmt: skip
