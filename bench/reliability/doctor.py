"""The preflight: is this model ready to be measured, and what to do where it is not.

Every check of checks.py and probes.py on a few images, and clean accuracy against a claim. Under a
minute on a CPU for a small network. B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from bench.attacks.problem import Model
from bench.datasets import as_float
from bench.judge import Judge, Watched, guarded
from bench.protocols import COLUMNS
from bench.reliability import equivalents
from bench.reliability.checks import (
    IMAGES,
    Finding,
    Normalisation,
    answer_findings,
    at_chance,
    left_as_found,
    model_findings,
)
from bench.reliability.flags import FLAGS
from bench.reliability.probes import probe_findings
from bench.schema import InvalidInput, MeasurementFailed, ModelCard, Scalar, ThreatModel
from bench.stats.intervals import wilson
from bench.streams import Streams

State = Literal["ok", "warn", "fail"]
METAMORPHIC_IMAGES = 16
METAMORPHIC_COLUMNS = ("pgd20", "cw", "autoattack-lite")


@dataclass(frozen=True)
class Check:
    """One line of the preflight."""

    name: str
    state: State
    figure: str  # what was seen, with its numbers
    remedy: str = ""  # what to do; empty where nothing is wrong
    values: dict[str, Scalar] = field(default_factory=dict)


def examine(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel | str,
    card: ModelCard | None = None,
    claimed: float | None = None,
    source: Model | None = None,
    seed: int = 0,
    metamorphic_tests: bool = False,
) -> tuple[Check, ...]:
    """All checks of a model on images x (N, C, H, W), uint8 or float in [0, 1], labels y (N,).

    `claimed` is a clean accuracy in [0, 1] that the model is said to have, `source` another model for
    the transfer probe. A model that does not answer has the one check that says so. Nothing is
    written and the model is left as it was. Raises InvalidInput on a wrong call.
    """
    threat = ThreatModel.parse(threat)
    _check_call(x, y, claimed)
    x = as_float(x)
    try:
        with left_as_found(model):
            return tuple(
                _checks(model, x, y, threat, card, claimed, source, seed, metamorphic_tests)
            )
    except MeasurementFailed as error:
        remedy = "The model must take images (B, C, H, W) in [0, 1] and return logits (B, K)."
        return (Check("logits", "fail", str(error), remedy),)


def _checks(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    card: ModelCard | None,
    claimed: float | None,
    source: Model | None,
    seed: int,
    metamorphic_tests: bool,
) -> list[Check]:
    watched = Watched(model)
    with torch.no_grad():
        classes = watched(x[:2]).shape[1]
    checks = [Check("logits", "ok", f"({min(2, len(x))}, {classes}), floating point")]
    checks.append(_class_count(classes, y, card))
    if checks[-1].state == "fail":
        return checks
    predictions = _clean_predictions(model, x, y)
    answers = answer_findings(y.cpu().numpy(), predictions.cpu().numpy())
    checks.append(_clean_accuracy(int((predictions == y).sum()), len(y), claimed, classes, answers))
    checks += [as_check(found) for found in answers if found.name != "chance-level"]
    x, y = x[:IMAGES], y[:IMAGES]
    found = model_findings(watched, x, y, normalisations=_of(card))
    streams = Streams.for_images(x, seed, "doctor")
    probes = probe_findings(watched, x, y, threat, streams=streams, source=source)
    checks += [as_check(finding) for finding in (*found, *probes)]
    if not probes:
        checks.append(_no_probes(threat))
    if metamorphic_tests:
        checks += _metamorphic(model, x, y, threat, classes, seed)
    return checks


def _check_call(x: Tensor, y: Tensor, claimed: float | None) -> None:
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or not len(y):
        raise InvalidInput(
            f"expected images (N, C, H, W) and labels (N,), got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if x.is_floating_point() and not (float(x.min()) >= 0 and float(x.max()) <= 1):
        raise InvalidInput(f"images must lie in [0, 1], got {x.min():g} to {x.max():g}")
    if claimed is not None and not 0 <= claimed <= 1:
        raise InvalidInput(f"the claimed accuracy is a share such as 0.84, got {claimed:g}")


def as_check(found: Finding) -> Check:
    """A finding as a line: fail where its flag keeps a row out of the ranking, else warn."""
    flag = FLAGS[found.name]
    figure = ", ".join(f"{k} {v}" for k, v in found.values.items())
    if not found.raised:
        return Check(found.name, "ok", figure, values=found.values)
    state: State = "fail" if flag.unrankable else "warn"
    return Check(found.name, state, f"{flag.meaning} ({figure})", flag.remedy, found.values)


def _of(card: ModelCard | None) -> Sequence[Normalisation]:
    """The normalisation that a card states, to be tried once more and once less."""
    if card is None or (card.mean is None and card.std is None):
        return ()
    size = len(card.mean or card.std or ())
    return [("the card's", card.mean or (0.0,) * size, card.std or (1.0,) * size)]


def _class_count(classes: int, y: Tensor, card: ModelCard | None) -> Check:
    largest = int(y.max())
    if int(y.min()) < 0 or largest >= classes:
        return Check(
            "class count", "fail", f"labels go up to {largest}, the model has {classes} classes",
            "Choose the data set that the model was trained on, or rebuild its last layer.",
        )  # fmt: skip
    if card is not None and card.class_count != classes:
        return Check(
            "class count", "fail", f"{classes} logits, the card says {card.class_count}",
            "Correct num_classes of the card.",
        )  # fmt: skip
    return Check("class count", "ok", f"{classes}, labels up to {largest}")


def _clean_predictions(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """(N,) classes, as a measurement judges them: one that is tied with another is not the label."""
    return guarded(lambda: Judge(model)(x, y).predictions)


def _clean_accuracy(
    right: int, n: int, claimed: float | None, classes: int, answers: Sequence[Finding]
) -> Check:
    seen = wilson(right, n, confidence=0.99)
    values: dict[str, Scalar] = {"right": right, "n": n}
    figure = f"{seen.estimate:.1%} of {n} images (99 %: {seen.low:.1%} to {seen.high:.1%})"
    by_majority = [found for found in answers if found.name == "chance-level" and found.raised]
    if at_chance(right, n, classes) or by_majority:
        flag = FLAGS["chance-level"]
        if by_majority:
            figure += f", a constant answer has {by_majority[0].values['majority']}"
        return Check("clean accuracy", "fail", f"{figure}: {flag.meaning}", flag.remedy, values)
    if claimed is None:
        return Check("clean accuracy", "ok", figure, values=values)
    figure += f", claimed {claimed:.1%}"
    if claimed > seen.high:
        remedy = (
            "Check normalisation, class order, data split and that these are the weights meant."
        )
        return Check("clean accuracy", "fail", figure, remedy, values)
    if claimed < seen.low:
        remedy = "Higher than claimed: is the model measured on images it was trained on?"
        return Check("clean accuracy", "warn", figure, remedy, values)
    return Check("clean accuracy", "ok", figure, values=values)


def _no_probes(threat: ThreatModel) -> Check:
    if threat.norm == "l1":
        return Check(
            "probes", "warn", "PGD has no l1 form here", "Examine it under linf or l2 too."
        )
    return Check("probes", "warn", "no image is right, so nothing was attacked", "See above.")


def _metamorphic(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, classes: int, seed: int
) -> list[Check]:
    if not isinstance(model, nn.Module):
        return [
            Check("metamorphic", "warn", "a plain function has no layers to change",
                  "Wrap it in an nn.Module.")
        ]  # fmt: skip
    names = [c for c in METAMORPHIC_COLUMNS if threat.norm != "l1" or c.startswith("autoattack")]
    columns = [COLUMNS[name](threat.norm, classes) for name in names]
    few = slice(0, METAMORPHIC_IMAGES)
    found = equivalents.compare(model, x[few], y[few], threat=threat, columns=columns, seed=seed)
    checks = [as_check(finding) for finding in equivalents.findings(found)]
    problems = equivalents.unstable(found)
    tried = ", ".join(v.variant for v in found.variants)
    if problems:
        remedy = "Trust the lowest number; logits of extreme size are the usual reason."
        checks.append(Check("equivalent networks", "warn", "; ".join(problems), remedy))
    else:
        checks.append(Check("equivalent networks", "ok", f"equal verdicts within chance: {tried}"))
    return checks


def failed(checks: Sequence[Check]) -> bool:
    """Whether anything failed."""
    return any(check.state == "fail" for check in checks)
