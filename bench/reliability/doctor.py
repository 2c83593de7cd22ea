"""The preflight: is this model ready to be measured, and what to do where it is not.

Every check of checks.py and probes.py on a few images, clean accuracy against a claim, and on request
attacks on the network with scaled logits. Under a minute on a CPU for a small network without these.
B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.as_found import exact_float32, left_as_found, undisturbed
from bench.attacks import ATTACKS, Problem
from bench.attacks.geometry import admissible
from bench.attacks.losses import fooled
from bench.attacks.problem import Model
from bench.judge import Judge, Watched, guarded
from bench.measure.given import given
from bench.protocols import COLUMNS
from bench.reliability.checks import IMAGES, Normalisation, model_findings
from bench.reliability.flags import FLAGS, Finding, answer_findings, at_chance
from bench.reliability.probes import probe_findings
from bench.schema import (
    Column,
    InvalidInput,
    MeasurementFailed,
    ModelCard,
    Protocol,
    Scalar,
    ThreatModel,
)
from bench.sources.unregistered import suited
from bench.stats.intervals import wilson
from bench.streams import Streams

WORSE_THAN_CLAIMED = (
    "Check normalisation, class order, data split and that these are the weights meant."
)
BETTER_THAN_CLAIMED = "Higher than claimed: is the model measured on images it was trained on?"
METAMORPHIC_IMAGES = 16
METAMORPHIC_COLUMNS = ("pgd20", "cw", "autoattack-lite")

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Line:
    """One line of the preflight."""

    name: str
    state: State
    figure: str  # what was seen, with its numbers
    remedy: str = ""  # what to do; empty where nothing is wrong
    values: dict[str, Scalar] = field(default_factory=dict)


def examine(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    threat: ThreatModel | str,
    card: ModelCard | None = None,
    claimed: float | None = None,
    source: Model | None = None,
    seed: int = 0,
    batch: int | None = None,
    metamorphic_tests: bool = False,
) -> tuple[Line, ...]:
    """All checks of a model on images x (N, C, H, W), uint8 or float in [0, 1], labels y (N,).

    `claimed` is a clean accuracy in [0, 1] that the model is said to have, `source` another model for
    the transfer probe, `batch` how many images go through the model at once, at most. A model that does
    not answer has the one line that says so. Nothing is written and the model is left as it was. Raises
    InvalidInput on a wrong call.
    """
    threat = ThreatModel.asked(threat)
    handed = given(x, y)
    x, y = handed.x.to(handed.device), handed.y.to(handed.device)
    if claimed is not None and not 0 <= claimed <= 1:
        raise InvalidInput(f"the claimed accuracy is a share such as 0.84, got {claimed:g}")
    try:
        with undisturbed(model):
            model = suited(model, x, batch)
            with torch.no_grad():
                classes = Watched(model)(x[:2]).shape[1]
            answered = Line("logits", "ok", f"({min(2, len(x))}, {classes}), floating point")
            lines = [answered, _class_count(classes, y, card)]
            if failed(lines):
                return tuple(lines)
            lines += _accuracy(model, x, y, claimed, classes)
            x, y = x[:IMAGES], y[:IMAGES]
            lines += _probed(model, x, y, threat, card, source, seed)
            if metamorphic_tests:
                lines += _metamorphic(model, x, y, threat, classes, seed)
            return tuple(lines)
    except MeasurementFailed as error:
        remedy = "The model must take images (B, C, H, W) in [0, 1] and return logits (B, K)."
        return (Line("logits", "fail", str(error), remedy),)


def failed(lines: Sequence[Line]) -> bool:
    """Whether anything failed."""
    return any(line.state == "fail" for line in lines)


def _line(found: Finding) -> Line:
    """A finding as a line: fail where its flag keeps a row out of the ranking, else warn."""
    check = FLAGS[found.name]
    figure = ", ".join(f"{k} {v}" for k, v in found.values.items())
    if not found.raised:
        return Line(found.name, "ok", figure, values=found.values)
    return Line(
        found.name, "fail" if check.unrankable else "warn", f"{check.meaning} ({figure})",
        check.remedy, found.values,
    )  # fmt: skip


def _class_count(classes: int, y: Tensor, card: ModelCard | None) -> Line:
    largest, name = int(y.max()), "class count"
    if int(y.min()) < 0 or largest >= classes:
        remedy = "Choose the data set that the model was trained on, or rebuild its last layer."
        return Line(
            name, "fail", f"labels go up to {largest}, the model has {classes} classes.", remedy
        )
    if card is not None and card.class_count != classes:
        figure = f"{classes} logits, the card says {card.class_count}"
        return Line(name, "fail", figure, "Correct num_classes of the card.")
    return Line(name, "ok", f"{classes}, labels up to {largest}")


def _accuracy(
    model: Model, x: Tensor, y: Tensor, claimed: float | None, classes: int
) -> list[Line]:
    """Clean accuracy, as a measurement judges: a class that is tied with another is not the label."""
    predictions = guarded(lambda: Judge(model)(x, y).predictions)
    answers = answer_findings(y.cpu().numpy(), predictions.cpu().numpy())
    others = [_line(found) for found in answers if found.name != "chance-level"]
    by_majority = [found for found in answers if found.name == "chance-level" and found.raised]
    right, n = int((predictions == y).sum()), len(y)
    seen = wilson(right, n, confidence=0.99)
    figure = f"{seen.estimate:.1%} of {n} images (99 %: {seen.low:.1%} to {seen.high:.1%})"
    state: State = "ok"
    remedy = ""
    if at_chance(right, n, classes) or by_majority:
        if by_majority:
            figure += f", a constant answer has {by_majority[0].values['majority']}"
        figure += f": {FLAGS['chance-level'].meaning}"
        state, remedy = "fail", FLAGS["chance-level"].remedy
    elif claimed is not None:
        figure += f", claimed {claimed:.1%}"
        if claimed > seen.high:
            state, remedy = "fail", WORSE_THAN_CLAIMED
        elif claimed < seen.low:
            state, remedy = "warn", BETTER_THAN_CLAIMED
    return [Line("clean accuracy", state, figure, remedy, {"right": right, "n": n}), *others]


def _probed(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    card: ModelCard | None,
    source: Model | None,
    seed: int,
) -> list[Line]:
    watched = Watched(model)
    own: list[Normalisation] = []  # the card's, to be tried once more and once less
    if card is not None and (card.mean or card.std):
        size = len(card.mean or card.std or ())
        own = [("the card's", card.mean or (0.0,) * size, card.std or (1.0,) * size)]
    found = model_findings(watched, x, y, normalisations=own)
    streams = Streams.for_images(x, seed, "doctor")
    probes = probe_findings(watched, x, y, threat, streams=streams, source=source)
    lines = [_line(finding) for finding in (*found, *probes)]
    if threat.norm == "l1":
        why = ("PGD has no l1 form here", "Examine it under linf or l2 too.")
        lines.append(Line("probes", "warn", *why))
    elif not probes:
        why = ("no image is right, so nothing was attacked", "See above.")
        lines.append(Line("probes", "warn", *why))
    return lines


def _metamorphic(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, classes: int, seed: int
) -> list[Line]:
    if not isinstance(model, nn.Module):
        remedy = "Wrap it in an nn.Module."
        return [Line("metamorphic", "warn", "a plain function has no layers to change", remedy)]
    names = [c for c in METAMORPHIC_COLUMNS if threat.norm != "l1" or c.startswith("autoattack")]
    columns = [COLUMNS[name](threat.norm, classes) for name in names]
    x, y = x[:METAMORPHIC_IMAGES], y[:METAMORPHIC_IMAGES]
    found = equivalent_findings(model, x, y, threat=threat, columns=columns, seed=seed)
    return [_line(finding) for finding in found]


# ---------------------------------------------------------------- metamorphic tests

# Scaling the logits changes no prediction, so whatever an attack then does differently comes from the
# attack. Margin attacks (cw) and AutoAttack hardly change; cross-entropy in float32 may. After Croce &
# Hein 2020, arXiv 2003.01690, section 4.

SCALES = (1e4, 1e-4)
SEEDS = 2  # further ones: what they change is chance
WORST_CASE = "worst case"

Standing = dict[str, int]  # column, or the worst case of all -> images standing


class Scaled(nn.Module):
    """A network whose logits (B, K) are multiplied by a factor."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor
        self.train(net.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x) * self.factor
        return logits


def equivalent_findings(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    columns: Sequence[Column],
    seed: int = 0,
) -> list[Finding]:
    """Attacks the model, the same under further seeds, and its scaled forms, and compares.

    x (B, C, H, W) in [0, 1], y (B,), a few images; every column starts from all clean-correct ones.
    Raises MeasurementFailed where the model raises.
    """
    networks = [(model, seed + more) for more in range(1 + SEEDS)]
    networks += [(Scaled(model, factor), seed) for factor in SCALES]
    with left_as_found(model):
        found = [_standing(net, x, y, threat, columns, s) for net, s in networks]
    return compared(found[0], found[1 : 1 + SEEDS], found[1 + SEEDS :], len(y))


def compared(
    original: Standing, reseeded: Sequence[Standing], scaled: Sequence[Standing], images: int
) -> list[Finding]:
    """The flags that a comparison may raise; the model under further seeds says how much is chance.

    Only what a variant breaks beyond the network itself speaks against the network's number. Where it
    breaks less, the attack is blinded by the variant's scale and not by that of the network.
    """
    slack = max(1, round(0.05 * images))  # the spread of a few seeds underestimates chance
    sensitive = False
    values: dict[str, Scalar] = {}
    for column in (name for name in original if name.startswith("pgd")):
        more, by_seed = (
            max([0, *(original[column] - other[column] for other in group)])
            for group in (scaled, reseeded)
        )
        sensitive |= more > by_seed + slack
        values |= {f"{column}_more": more, f"{column}_more_by_seed": by_seed}
    stands = original[WORST_CASE]
    spread = max((abs(other[WORST_CASE] - stands) for other in reseeded), default=0)
    lowest = min(other[WORST_CASE] for other in scaled)
    worst = {"standing": stands, "standing_equivalent": lowest, "of": images}
    return [
        Finding("scale-sensitive", sensitive, {**values, "of": images}),
        Finding("equivalent-breaks-more", stands - lowest > spread + slack, {**worst}),
    ]


def _standing(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    columns: Sequence[Column],
    seed: int,
) -> Standing:
    """What stands, as the untouched float32 network judges."""
    watched, judge = Watched(model), Judge(model)
    with torch.no_grad():
        right = ~(fooled(watched(x), y) | judge(x, y).broken)
    bits = {}
    for column in columns:
        protocol = Protocol(name=column.name, version=1, columns=(column,))
        standing = right.clone()
        for spec in column.attacks:
            rest = torch.nonzero(standing)[:, 0]
            if not len(rest):
                break
            streams = Streams.for_images(x[rest], seed, column.column_id).at(spec.name)
            with exact_float32():
                problem = Problem(watched, x[rest], y[rest], threat, streams)
                x_adv = ATTACKS[spec.name].function(problem, **spec.params)
            inside = admissible(x[rest], x_adv, threat, protocol)
            standing[rest] = ~(judge(x_adv, y[rest]).broken & inside)
        bits[column.name] = standing
    bits[WORST_CASE] = torch.stack(list(bits.values())).all(0)
    return {name: int(standing.sum()) for name, standing in bits.items()}
