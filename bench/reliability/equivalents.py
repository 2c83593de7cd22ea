"""Metamorphic tests: attacks on networks with scaled logits must give equal verdicts.

Scaling the logits changes no prediction, so whatever an attack then does differently comes from the
attack. Margin attacks (cw) and AutoAttack hardly change; cross-entropy in float32 may. After Croce &
Hein 2020, arXiv 2003.01690, section 4. B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.attacks import ATTACKS, Problem
from bench.attacks.geometry import admissible
from bench.attacks.losses import fooled
from bench.judge import Judge, Watched, exact_float32
from bench.reliability.checks import left_as_found
from bench.reliability.flags import Finding
from bench.schema import Column, Protocol, Scalar, ThreatModel
from bench.streams import Streams

SCALES = (1e4, 1e-4)
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
    seeds: int = 2,
) -> list[Finding]:
    """Attacks the model, the same under further seeds, and its scaled forms, and compares.

    x (B, C, H, W) in [0, 1], y (B,), a few images; every column starts from all clean-correct ones.
    Raises MeasurementFailed where the model raises.
    """
    networks = [(model, seed + more) for more in range(1 + seeds)]
    networks += [(Scaled(model, factor), seed) for factor in SCALES]
    with left_as_found(model):
        found = [_standing(net, x, y, threat, columns, s) for net, s in networks]
    return compared(found[0], found[1 : 1 + seeds], found[1 + seeds :], len(y))


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
