"""The checks that take a few short attacks, at most BUDGET passes an image; and all checks of a model.

After Carlini et al. 2019, arXiv 1902.06705. An image that stays robust under the protocol standard
takes about 12,000 passes. B images.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cached_property

import torch
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor

from bench.as_found import exact_float32, left_as_found
from bench.attacks import Problem, attack_cost, fgsm, pgd, square
from bench.attacks.geometry import Ball
from bench.attacks.losses import fooled
from bench.attacks.problem import Model
from bench.judge import Watched, guarded
from bench.measure.parts import kept
from bench.measure.shards import Shards
from bench.reliability.checks import IMAGES, model_findings, tried
from bench.reliability.flags import Finding, finding, probe_slack
from bench.schema import MeasurementFailed, Scalar, ThreatModel
from bench.streams import Streams

BUDGET = 640  # forward passes an image at most, a backward pass counted as two; on IMAGES images
STEPS, FEW_STEPS, NOISES, RESTARTS, QUERIES = 20, 5, 10, 3, 100
WHOLE_BOX = ThreatModel(norm="linf", eps="0.99")  # nearly every image is allowed
BOTH = ("cross_entropy", "margin")

_KEPT = TypeAdapter(list[Finding], config=ConfigDict(ser_json_inf_nan="constants"))


def doubts_of(shards: Shards) -> list[Finding]:
    """What all checks of the model say, looked at once and kept beside the parts of a measurement.

    Raises MeasurementFailed where the model raises, and OutOfTime after the deadline.
    """

    # The probes cost about 2 % of the measurement, and take at least 8 images.
    cost = sum(attack_cost(spec) for _, _, spec in shards.steps())
    few = min(IMAGES, max(8, round(0.02 * len(shards.y) * cost / BUDGET)))

    def look() -> list[Finding]:
        shards.tick()
        x, y = (each[:IMAGES].to(shards.device) for each in (shards.x, shards.y))
        model, threat = shards.model, shards.request.threat
        streams = Streams.for_images(x[:few], shards.request.seed, "probes")
        return [
            *guarded(lambda: model_findings(model, x, y)),
            *guarded(lambda: probe_findings(model, x[:few], y[:few], threat, streams=streams)),
        ]

    def read(raw: bytes) -> list[Finding]:
        return _KEPT.validate_json(raw, strict=True)

    return kept(shards.folder / f"doubts-{few}.json", read, look, _KEPT.dump_json)


def probe_findings(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    streams: Streams,
    source: Model | None = None,
) -> list[Finding]:
    """Every probe on the first IMAGES of x (B, C, H, W) that are right; streams has B entries.

    `source` is another model of the same task, for the transfer probe. PGD has no l1 form here, so
    there are no probes under l1; nor where no image is right. The model is left as it was found.
    Raises MeasurementFailed where it raises.
    """
    if threat.norm == "l1":
        return []
    watched = model if isinstance(model, Watched) else Watched(model)
    n = min(len(x), IMAGES)
    x, y, streams = x[:n], y[:n], streams[:n].at("probes")
    with left_as_found(watched.call), exact_float32(), torch.no_grad():
        logits = watched(x)
        right = ~fooled(logits, y)
        if not bool(right.any()):
            return []
        probe = _Probe(watched, x[right], y[right], threat, streams[right])
        looks: dict[str, Callable[[], list[Finding]]] = {
            "steps": probe.steps,
            "radii": lambda: probe.radii(n, logits.shape[1]),
            "noise": lambda: [probe.noise()],
            "restarts": lambda: [probe.restarts()],
            "square": lambda: [probe.black_box()],
        }
        if source is not None:
            looks["transfer"] = lambda: [probe.transfer(source)]
        return [found for name, look in looks.items() for found in tried(name, look)]


class _Probe:
    """One model on the images it gets right, with what the white-box attack left standing."""

    def __init__(
        self, model: Watched, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams
    ) -> None:
        self.model, self.x, self.y, self.threat, self.streams = model, x, y, threat, streams

    @cached_property
    def by_cross_entropy(self) -> Tensor:
        return self._attack(self.threat, STEPS, ("cross_entropy",))

    @cached_property
    def broken(self) -> Tensor:
        broken = self.by_cross_entropy.clone()
        self._attack_rest(broken, self.threat, STEPS, "margin")
        return broken

    def _attack(self, threat: ThreatModel, steps: int, losses: tuple[str, ...] = BOTH) -> Tensor:
        """(B,) bool: broken by PGD on one of the losses."""
        broken = torch.zeros(len(self.y), dtype=torch.bool, device=self.y.device)
        for loss in losses:
            self._attack_rest(broken, threat, steps, loss)
        return broken

    def _attack_rest(
        self, broken: Tensor, threat: ThreatModel, steps: int, loss: str, start: int = 0
    ) -> None:
        """Marks in `broken` what PGD breaks of the images still standing."""
        rest = torch.nonzero(~broken)[:, 0]
        if len(rest):
            x, y = self.x[rest], self.y[rest]
            streams = self.streams[rest].at(str(threat), steps, loss, start)
            x_adv = pgd(Problem(self.model, x, y, threat, streams), steps=steps, loss=loss)
            broken[rest] = fooled(self.model(x_adv), y)

    def _compare(
        self, name: str, weak: str, weaker: Tensor, strong: str, stronger: Tensor
    ) -> Finding:
        """Raised where the attack that should be weaker is clearly ahead."""
        a, b = int(weaker.sum()), int(stronger.sum())
        return finding(name, {weak: a, strong: b, "of": len(self.y)})

    def steps(self) -> list[Finding]:
        """Does taking more steps break more?"""
        x_adv = fgsm(Problem(self.model, self.x, self.y, self.threat, self.streams))
        one = fooled(self.model(x_adv), self.y)
        few = self._attack(self.threat, FEW_STEPS, ("cross_entropy",))
        many, label = self.by_cross_entropy, f"steps_{STEPS}"
        return [
            self._compare("one-step-stronger", "one_step", one, label, many),
            self._compare("more-steps-weaker", f"steps_{FEW_STEPS}", few, label, many),
        ]

    def radii(self, n: int, classes: int) -> list[Finding]:
        """Does a larger ball break more, and the whole box all but chance? n images in all."""
        half = self._attack(_times(self.threat, Fraction(1, 2)), STEPS // 2)
        double = self._attack(_times(self.threat, Fraction(2)), STEPS // 2)
        sizes = {"half_eps": half, "eps": self.broken, "double_eps": double}
        counts = {name: int(broken.sum()) for name, broken in sizes.items()}
        standing = int((~self._attack(WHOLE_BOX, STEPS)).sum())
        # By chance 1 of K stands, and a few short attacks may leave some.
        clear = standing > n / classes + probe_slack(len(self.y))
        said: dict[str, Scalar] = {"standing": standing, "of": n, "eps": str(WHOLE_BOX)}
        return [
            finding("not-monotone", {**counts, "of": len(self.y)}),
            Finding("unbounded-fails", clear, {**said, "classes": classes}),
        ]

    def noise(self) -> Finding:
        """Random points at distance eps: corners of the cube (Linf) or points of the sphere (L2)."""
        ball, shape = Ball.around(self.x, self.threat), tuple(self.x.shape[1:])
        broken = torch.zeros_like(self.broken)
        for draw in range(NOISES):
            direction = ball.ascent(self.streams.at("noise", draw).normal(shape).to(self.x))
            broken |= fooled(self.model(ball.project(ball.x + ball.eps * direction)), self.y)
        return self._compare("noise-stronger", "noise", broken, "attack", self.broken)

    def restarts(self) -> Finding:
        """Further starts on the images that the first left standing."""
        broken = self.by_cross_entropy.clone()
        for start in range(1, 1 + RESTARTS):
            self._attack_rest(broken, self.threat, STEPS // 2, "cross_entropy", start)
        more = int((broken & ~self.by_cross_entropy).sum())
        values = {"one_start": int(self.by_cross_entropy.sum()), "more": more, "of": len(self.y)}
        return finding("restarts-matter", {**values, "starts": 1 + RESTARTS})

    def black_box(self) -> Finding:
        """A short Square on what the gradients left: on everything where the model has none."""
        try:
            broken = guarded(lambda: self.broken)
        except MeasurementFailed:
            broken = torch.zeros_like(self.y, dtype=torch.bool)
        rest, count = ~broken, 0
        if bool(rest.any()):
            streams = self.streams[rest].at("square")
            problem = Problem(self.model, self.x[rest], self.y[rest], self.threat, streams)
            x_adv = square(problem, queries=QUERIES)
            count = int(fooled(self.model(x_adv), self.y[rest]).sum())
        values = {"white_box": int(broken.sum()), "square": count, "of": len(self.y)}
        return finding("square-breaks-more", {**values, "queries": QUERIES})

    def transfer(self, source: Model) -> Finding:
        """PGD on another model, judged on this one."""
        streams = self.streams.at("transfer")
        problem = Problem(Watched(source), self.x, self.y, self.threat, streams)
        x_adv = pgd(problem, iterate="last")
        broken = fooled(self.model(x_adv), self.y)
        return self._compare("transfer-stronger", "transfer", broken, "attack", self.broken)


def _times(threat: ThreatModel, factor: Fraction) -> ThreatModel:
    """The same norm at a multiple of the radius, never beyond the whole box."""
    eps = threat.fraction * factor
    largest = WHOLE_BOX.fraction if threat.norm == "linf" else Fraction(20)
    return ThreatModel(norm=threat.norm, eps=str(min(eps, largest)))
