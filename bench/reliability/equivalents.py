"""Metamorphic tests: attacks on equivalent networks must give equal verdicts.

Scaling the logits, adding a constant to them, permuting the classes or rescaling the layers of a ReLU
network changes no prediction, so whatever an attack then does differently comes from the attack. Margin
attacks (cw) and AutoAttack hardly change; cross-entropy in float32 may. After Croce & Hein 2020, arXiv
2003.01690, section 4. B images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks import ATTACKS, Problem
from bench.attacks.geometry import admissible
from bench.attacks.losses import fooled
from bench.judge import Judge, Watched, exact_float32
from bench.reliability.checks import Finding, left_as_found
from bench.schema import Column, Protocol, Scalar, ThreatModel
from bench.streams import Streams

SCALES = (1e4, 1e-4)
SHIFT = 100.0  # added to all logits; float32 keeps five digits after it
LAYER_SCALE = 100.0


@dataclass(frozen=True)
class Variant:
    """An equivalent network, and the labels as it numbers the classes."""

    name: str
    model: nn.Module
    labels: Callable[[Tensor], Tensor]


class Transformed(nn.Module):
    """A network followed by a function of its logits (B, K)."""

    def __init__(self, net: nn.Module, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.transform = net, transform
        self.train(net.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(self.net(x))


def variants(model: nn.Module, x: Tensor) -> list[Variant]:
    """Every variant of a model that predicts as it does on the images x (B, C, H, W).

    Layers are rescaled only where a Linear, convolution or BatchNorm is followed by ReLU and another
    Linear or convolution inside one nn.Sequential.
    """
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    order = torch.arange(classes - 1, -1, -1, device=x.device)  # reversed is its own inverse
    same: Callable[[Tensor], Tensor] = lambda y: y  # noqa: E731
    found = [
        Variant(f"logits x {scale:g}", Transformed(model, _times(scale)), same) for scale in SCALES
    ]
    found.append(Variant(f"logits + {SHIFT:g}", Transformed(model, lambda z: z + SHIFT), same))
    reverse = Transformed(model, lambda z: z[:, order])
    found.append(Variant("classes permuted", reverse, lambda y: order[y]))
    rescaled = rescale_layers(model, LAYER_SCALE)
    if rescaled is not None and _agree(model, rescaled, x):
        found.append(Variant(f"layers x {LAYER_SCALE:g}", rescaled, same))
    return found


def _times(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits * scale


def _agree(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    """Whether two networks give the same logits but for rounding: a layer may be used elsewhere."""
    with torch.no_grad(), exact_float32():
        first, second = a(x), b(x)
    scale = first.abs().max()
    return bool((first - second).abs().max() <= 1e-3 * scale)


# What may stand between two layers: all let a positive factor through.
_HOMOGENEOUS = (
    nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity,
)  # fmt: skip
_LAYERS = (nn.Linear, nn.Conv2d)


def rescale_layers(model: nn.Module, factor: float) -> nn.Module | None:
    """A copy whose layers are alternately scaled up and down by a factor; None where none can be.

    A layer, or the BatchNorm behind it, is multiplied and the weight of the next layer divided: ReLU
    is positively homogeneous, so the function stays the same.
    """
    model = copy.deepcopy(model)
    changed = 0
    for block in model.modules():
        if not isinstance(block, nn.Sequential):
            continue
        last: nn.Module | None = None  # what would be multiplied
        for layer in block:
            if isinstance(layer, _LAYERS):
                if last is not None:
                    by = factor if changed % 2 == 0 else 1 / factor
                    _scale(last, by)
                    with torch.no_grad():
                        layer.weight.div_(by)
                    changed += 1
                last = layer
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine:
                last = layer
            elif not isinstance(layer, _HOMOGENEOUS):
                last = None
    return model if changed else None


def _scale(layer: nn.Module, by: float) -> None:
    """Multiplies a layer's output."""
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.mul_(by)


# ---------------------------------------------------------------- attacking all of them


@dataclass(frozen=True)
class Comparison:
    """Verdicts of one variant beside those of the model itself; B images."""

    variant: str
    changed: dict[str, int]  # column -> images with another verdict than on the model
    standing: dict[str, int]  # column -> images standing
    worst_case: int  # images standing under all columns


@dataclass(frozen=True)
class Metamorphosis:
    """What all variants gave; the model under further seeds says how much is chance."""

    images: int
    original: Comparison
    seeds: tuple[Comparison, ...]  # the model itself under other seeds
    variants: tuple[Comparison, ...]

    def seed_spread(self, column: str) -> int:
        """Most images whose verdict another seed changes."""
        return max((c.changed[column] for c in self.seeds), default=0)

    def broken_more(self, column: str) -> tuple[int, int]:
        """Most images by which a variant, and by which another seed, breaks more than the model."""
        standing = self.original.standing[column]
        variant, seed = (
            max((standing - c.standing[column] for c in group), default=0)
            for group in (self.variants, self.seeds)
        )
        return max(variant, 0), max(seed, 0)

    @property
    def worst_case_spread(self) -> int:
        """Most images by which another seed moves the worst case."""
        moved = (abs(c.worst_case - self.original.worst_case) for c in self.seeds)
        return max(moved, default=0)

    @property
    def slack(self) -> int:
        """Images allowed beyond the spread of a few seeds, which underestimates chance."""
        return max(1, round(0.05 * self.images))


def compare(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    columns: Sequence[Column],
    seed: int = 0,
    seeds: int = 2,
) -> Metamorphosis:
    """Runs every column on the model, under further seeds, and on all variants, on a few images.

    x (B, C, H, W) in [0, 1], y (B,). Every column starts from all clean-correct images. Raises
    MeasurementFailed where the model raises.
    """
    run = _Run(x, y, threat, columns)
    with left_as_found(model):
        original = run.verdicts(model, y, seed)
        again = [run.verdicts(model, y, seed + 1 + i) for i in range(seeds)]
        found = [(v.name, run.verdicts(v.model, v.labels(y), seed)) for v in variants(model, x)]
    return Metamorphosis(
        len(y),
        _comparison("as it is", original, original),
        tuple(_comparison(f"seed {seed + 1 + i}", v, original) for i, v in enumerate(again)),
        tuple(_comparison(name, v, original) for name, v in found),
    )


def _comparison(name: str, verdicts: dict[str, Tensor], original: dict[str, Tensor]) -> Comparison:
    changed = {c: int((s != original[c]).sum()) for c, s in verdicts.items()}
    standing = {c: int(s.sum()) for c, s in verdicts.items()}
    return Comparison(name, changed, standing, int(torch.stack([*verdicts.values()]).all(0).sum()))


@dataclass(frozen=True)
class _Run:
    x: Tensor
    y: Tensor
    threat: ThreatModel
    columns: Sequence[Column]

    def verdicts(self, model: nn.Module, y: Tensor, seed: int) -> dict[str, Tensor]:
        """Column -> (B,) bool standing, as the untouched float32 network judges."""
        return {column.name: self._standing(model, y, column, seed) for column in self.columns}

    def _standing(self, model: nn.Module, y: Tensor, column: Column, seed: int) -> Tensor:
        protocol = Protocol(name=column.name, version=1, columns=(column,))
        watched, judge = Watched(model), Judge(model)
        with torch.no_grad():
            standing = ~(fooled(watched(self.x), y) | judge(self.x, y).broken)
        for spec in column.attacks:
            rest = torch.nonzero(standing)[:, 0]
            if not len(rest):
                break
            x, labels = self.x[rest], y[rest]
            # The column's id would be the same under another label; the image decides the draw.
            streams = Streams.for_images(x, seed, column.column_id).at(spec.name)
            problem = Problem(watched, x, labels, self.threat, streams)
            with exact_float32():
                x_adv = ATTACKS[spec.name].function(problem, **spec.params)
            inside = admissible(x, x_adv, self.threat, protocol)
            standing[rest] = ~(judge(x_adv, labels).broken & inside)
        return standing


def findings(found: Metamorphosis) -> list[Finding]:
    """The flags that the comparison may raise: see the catalogue.

    Only what a variant breaks beyond the network itself speaks against the network's number. Where it
    breaks less, the attack is blinded by the variant's scale and not by that of the network.
    """
    sensitive = False
    values: dict[str, Scalar] = {}
    for column in (c for c in found.original.standing if c.startswith("pgd")):
        more, by_seed = found.broken_more(column)
        sensitive |= more > by_seed + found.slack
        values |= {f"{column}_more": more, f"{column}_more_by_seed": by_seed}
    lowest = min((v.worst_case for v in found.variants), default=found.original.worst_case)
    fall = found.original.worst_case - lowest
    return [
        Finding("scale-sensitive", sensitive, {**values, "of": found.images}),
        Finding(
            "equivalent-breaks-more",
            fall > found.worst_case_spread + found.slack,
            {
                "standing": found.original.worst_case,
                "standing_equivalent": lowest,
                "of": found.images,
            },
        ),
    ]


def unstable(found: Metamorphosis) -> list[str]:
    """Sentences for what must not happen and cannot be the network's doing: see protocols.

    A margin attack or AutoAttack that changes beyond the seed spread; a worst case that a variant
    raises.
    """
    said = []
    for variant in found.variants:
        for column, changed in variant.changed.items():
            if not column.startswith("pgd") and changed > found.seed_spread(column) + found.slack:
                said.append(f"{variant.variant}: {column} changes {changed} of {found.images}")
        rise = variant.worst_case - found.original.worst_case
        if rise > found.worst_case_spread + found.slack:
            said.append(f"{variant.variant}: the worst case rises by {rise} of {found.images}")
    return said
