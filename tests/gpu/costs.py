"""What a measurement and a training step cost on the device: memory, images a second, ratios."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks import pgd
from bench.judge import Judge
from bench.measure.evaluate import measure
from bench.measure.question import default_rows
from bench.protocols import COLUMNS, protocol
from bench.schema import MeasurementFailed, Protocol, ThreatModel
from tests.attacks.problems import problem
from tests.gpu.answers import measured_with, shortened, subject, threat_of
from tests.gpu.place import DIGITS, Place, gigabytes, images
from tests.gpu.running import Check, Seen
from tests.speed.sides import PEER_ATTACKS, library
from tests.speed.timing import Unavailable
from tests.speed.training import configuration, our_side

SPARE = 2**20  # bytes that may be held more after another measurement


@dataclass(frozen=True)
class Given:
    """A network on the device with its images (N, C, H, W) and labels (N,), both on the CPU."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel

    def measured(self, asked: Protocol) -> Any:
        """Its record. Raises MeasurementFailed where it is a failure."""
        record = measure(self.model, self.x, self.y, threat=self.threat, protocol=asked).record
        if record.failure is not None:
            raise MeasurementFailed(record.failure)
        return record


def resnet(place: Place, n: int, threat: ThreatModel | None = None) -> Given:
    """PreActResNet-18 with random weights on random images that it gets right, by their labels.

    Without a threat, at a radius at which PGD breaks about half of them: some images cost little, some
    everything, as those of a trained network do.
    """
    model, shape = place.resnet()
    x = images(n, shape, seed=1000)
    there = x.to(place.device)
    with torch.no_grad():
        y = model(there).argmax(1)
    return Given(model, x, y.cpu(), threat or _middle(model, there, y))


def _middle(model: nn.Module, x: Tensor, y: Tensor) -> ThreatModel:
    low, high = 1e-6, 0.25
    for _ in range(8):
        eps = (low * high) ** 0.5
        x_adv = pgd(problem(model, x, y, f"linf:{eps:.8f}"), steps=5)
        broken = int(Judge(model)(x_adv, y).broken.sum())
        low, high = (low, eps) if 2 * broken > len(y) else (eps, high)
    return ThreatModel.parse(f"linf:{low:.8f}")


# ---------------------------------------------------------------- memory


def memory(place: Place) -> Seen:
    """Peak at default rows while every image stands, and what is still held after each measurement."""
    n = place.size(512, 8)
    given = resnet(place, n, ThreatModel.parse("linf:0.000001"))
    asked = shortened(measured_with(place), steps=2, queries=5)
    held, peaks = [], []
    for _ in range(place.size(3, 2)):
        place.forget_peak()
        given.measured(asked)
        peaks.append(place.peak())
        held.append(place.held())
    total, grown = place.memory(), held[-1] - held[0]
    tensors, reserved = (max(sizes) for sizes in zip(*peaks, strict=True))
    of = f" of {gigabytes(total)}" if total else ""
    parameters = sum(p.numel() for p in given.model.parameters())
    rows = default_rows(given.x, parameters, "ours", torch.device(place.device).type)
    text = (
        f"{n} images, {rows} rows: peak {gigabytes(tensors)} in tensors, {gigabytes(reserved)} "
        f"reserved{of}; {grown:+,} bytes held after {len(held)} measurements"
    )
    facts = {"held": held, "peak": tensors, "reserved": reserved, "total": total, "rows": rows}
    return Seen(text, grown <= SPARE, facts)


# ---------------------------------------------------------------- images a second


def _told(rates: dict[str, float], first: str) -> str:
    """Images a second of each side, and how many times the first side's."""
    shown = [f"{first} {rates[first]:.4g}/s"]
    others = {side: rate for side, rate in rates.items() if side != first}
    shown += [f"{s} {rate:.4g}/s ({rate / rates[first]:.2f}x)" for s, rate in others.items()]
    return ", ".join(shown)


def digits_beside_cpu(place: Place) -> Seen:
    """The columns fgsm, pgd20 and cw of a committed digits network, on the device and on the CPU."""
    asked = shortened(protocol("gradient"), steps=place.size(100, 3), queries=1)
    rates = {}
    for side, device, n in (
        ("CPU", "cpu", place.size(200, 8)), ("device", place.device, place.size(1000, 8)),
    ):  # fmt: skip
        model, data = subject(DIGITS, n, device)
        given = Given(model, data.x, data.labels, threat_of(DIGITS))
        rates[side] = n / place.fastest(partial(given.measured, asked), 1)
    return Seen(_told(rates, "CPU"), rates=rates, facts={"threads": torch.get_num_threads()})


def autoattack(which: str, place: Place) -> Seen:
    """Whole measurements by our AutoAttack and by the cascade, beside the published AutoAttack."""
    n = place.size(*((64, 4) if which == "resnet" else (200, 4)))
    if which == "resnet":
        given = resnet(place, n)
    else:
        model, data = subject(DIGITS, n, place.device)
        given = Given(model, data.x, data.labels, threat_of(DIGITS))
    rates, standing, notes = {}, {}, []
    for column in ("autoattack", "cascade"):
        asked = Protocol(name=column, version=1, columns=(COLUMNS[column]("linf", 10),))
        if place.quick:
            asked = shortened(asked, steps=2, queries=5)
        given.measured(shortened(asked, steps=2, queries=5))  # to warm up
        seconds, record = place.timed(partial(given.measured, asked))
        rates[column], standing[column] = n / seconds, int(record.standing(column).sum())
    try:
        library("pyautoattack")
        if place.quick:
            notes.append("pyautoattack is not asked at reduced sizes")
        else:
            side = f"pyautoattack {importlib.metadata.version('pyautoattack')}"
            rates[side], standing[side] = _published(given, place)
    except Unavailable as reason:
        notes.append(f"left out: {reason}")
    stand = ", ".join(f"{side} {count}" for side, count in standing.items())
    text = "; ".join([_told(rates, "autoattack"), f"of {n} stand: {stand}", *notes])
    return Seen(text, rates=rates, facts={"standing": standing, "threat": str(given.threat)})


def _published(given: Given, place: Place) -> tuple[float, int]:
    """Images a second of the published AutoAttack, and how many stand as our judge sees them.

    Not warmed up: a run of two images takes nearly as long as one of all. Ours ran the network before.
    """
    x, y = given.x.to(place.device), given.y.to(place.device)
    attack = PEER_ATTACKS["pyautoattack", "autoattack"]
    seconds, x_adv = place.timed(partial(attack, given.model, x, y, given.threat))
    return len(y) / seconds, int((~Judge(given.model)(x_adv.detach(), y).broken).sum())


def training(place: Place) -> Seen:
    """A step of AT and of AT-AWP on PreActResNet-18, PGD-10, in float32 and in bfloat16."""
    n, times = place.size(128, 8), place.size(5, 1)
    model, shape = place.resnet()
    x = images(n, shape).to(place.device)
    y = torch.randint(10, (n,), generator=torch.Generator().manual_seed(0)).to(place.device)
    rates = {}
    for half in (False, True):
        for awp in (False, True):
            config = configuration(awp=awp, half=half)
            if place.quick:
                config = config.model_copy(update={"attack_steps": 1})
            step: Callable[[], object] = our_side(config, copy.deepcopy(model), x, y)
            side = f"{'AT-AWP' if awp else 'AT'}{' bf16' if half else ''}"
            rates[side] = n / place.fastest(step, times)
    return Seen(_told(rates, "AT"), rates=rates, facts={"batch": n})


_TIMED = "measured, not judged"
CHECKS = {
    "memory": Check(
        "memory of a measurement, PreActResNet-18",
        f"no more than {SPARE:,} bytes more held after more measurements", memory,
    ),
    "training step": Check("a training step, PreActResNet-18", _TIMED, training),
    "speed digits": Check("digits under gradient beside the CPU", _TIMED, digits_beside_cpu),
    "speed autoattack digits": Check(
        "AutoAttack on a digits network", _TIMED, partial(autoattack, "digits")
    ),
    "speed autoattack resnet": Check(
        "AutoAttack on PreActResNet-18", _TIMED, partial(autoattack, "resnet")
    ),
}  # fmt: skip
