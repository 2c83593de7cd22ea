"""Arms of a comparison, and the spaces that their settings are drawn from, as data.

An arm is `<images>-<method>-<kind>`: of digits-at-tuned weight decay is drawn, of digits-at-awp-tuned
gamma too. Every arm of a comparison has as many draws, weight decay among them from one range.
`python -m awp_train choose digits-at-tuned` tries them on validation images, with seeds of their own
(choice.py).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from awp_train.flags import configured
from awp_train.grids import Setting
from awp_train.presets import find
from bench.schema import TrainConfig

Changed = tuple[tuple[str, str], ...]  # fields and their texts, as flags
EDGE = 0.1  # of a range, on the scale it is drawn on: a choice that near an end may want to go on


@dataclass(frozen=True)
class Range:
    """Values between two positive ends, log-uniform."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value a share of the way from low to high, in the three digits that files hold."""
        return float(f"{self.low * (self.high / self.low) ** share:.3g}")

    def share(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class Round:
    """Draws from one space: field -> range."""

    ranges: Mapping[str, Range]
    draws: int


@dataclass(frozen=True)
class Drawn:
    """An arm: a preset, fields that are changed in every draw, and the rounds of draws."""

    name: str
    base: str  # the preset whose other settings it has
    fixed: Changed
    rounds: tuple[Round, ...]  # the first, then those that widened its space
    seeds: tuple[int, ...]  # none of a result
    n_validation: int | None = None  # images that choose; None: those of the preset

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields that are drawn."""
        return tuple(self.rounds[0].ranges)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every draw, in order; the arm's name, the round and the field are its seed.

        So a further round leaves those that were tried as they are.
        """
        return tuple(
            setting
            for place, space in enumerate(self.rounds)
            for setting in zip(*(self._drawn(place, field) for field in self.columns), strict=True)
        )

    def _drawn(self, place: int, field: str) -> list[float]:
        """The values of a field in a round: one from each of as many equal parts of its range.

        Of 4 independent draws 3 sets in 8 would leave the first or the last third of the range empty:
        one arm would be tuned worse than another by luck. Only random() is the same in every Python.
        """
        space, stream = self.rounds[place], random.Random(f"{self.name} {place} {field}")
        order = sorted(range(space.draws), key=lambda _: stream.random())
        return [space.ranges[field].at((part + stream.random()) / space.draws) for part in order]

    def texts(self, setting: Setting) -> Changed:
        """What a setting changes of the preset."""
        return (*self.fixed, *zip(self.columns, map(str, setting), strict=True))

    def tried(self) -> Iterator[tuple[Setting, TrainConfig]]:
        for setting in self.settings:
            for seed in self.seeds:
                yield setting, self._looked_at_once(setting, seed)

    def _looked_at_once(self, setting: Setting, seed: int) -> TrainConfig:
        """The run of a setting, measured at its end on all images that choose."""
        config = configured(find(self.base).config, dict(self.texts(setting)))
        n = config.n_validation if self.n_validation is None else self.n_validation
        looks = {"n_validation": n, "log_images": n, "log_every": config.epochs}
        return config.model_copy(update=looks | {"seed": seed})

    def choose(self, rates: Mapping[Setting, float]) -> Setting:
        """The best."""
        return max(rates, key=rates.__getitem__)

    def edges(self, setting: Setting) -> tuple[str, ...]:
        """`weight_decay at the high edge`: where a setting lies at an end of the space."""
        found = []
        for field, value in zip(self.columns, setting, strict=True):
            ranges = [space.ranges[field] for space in self.rounds]
            whole = Range(min(r.low for r in ranges), max(r.high for r in ranges))
            share = whole.share(value)
            if share <= EDGE or share >= 1 - EDGE:
                found.append(f"{field} at the {'low' if share <= EDGE else 'high'} edge")
        return tuple(found)


# ---------------------------------------------------------------- what is drawn

_DECAY = {"weight_decay": Range(5e-4, 5e-2)}  # in every arm
_GAMMA = {"awp.gamma": Range(0.002, 0.05)}
_HORIZON = {"averaging_horizon": Range(2, 10)}  # epochs


@dataclass(frozen=True)
class _Kind:
    """What an arm adds to a method: its preset's suffix, what is fixed, what is drawn."""

    suffix: str
    ranges: Mapping[str, Range]
    fixed: Changed = ()


KINDS: dict[str, _Kind] = {
    "tuned": _Kind("", _DECAY),
    "awp-tuned": _Kind("-awp", _DECAY | _GAMMA),
    # A random direction has to be longer to do anything (arXiv 2004.05884).
    "rwp-tuned": _Kind(
        "-awp", _DECAY | {"awp.gamma": Range(0.01, 0.5)}, (("awp.direction", "random"),)
    ),
    # Robust weight perturbation, arXiv 2205.14826. Its threshold of 1.7 was for CIFAR-10, whose
    # training losses are higher; 2.3 is that of a constant answer.
    "robust-wp-tuned": _Kind(
        "-awp",
        _DECAY | _GAMMA | {"awp.threshold": Range(0.1, 3)},
        (("awp.norm", "global"), ("awp.steps", "10")),
    ),
    "ema-tuned": _Kind("", _DECAY | _HORIZON, (("averaging", "ema"),)),
    "ema-awp-tuned": _Kind("-awp", _DECAY | _GAMMA | _HORIZON, (("averaging", "ema"),)),
}

# Arm -> further rounds, each so many draws from a space in which these ranges are others: where a
# choice lies at an edge, the strip beyond it; {} draws more from the same. What was tried stays.
# "digits-at-tuned": ((4, {"weight_decay": Range(5e-2, 0.2)}),)
WIDENED: dict[str, tuple[tuple[int, Mapping[str, Range]], ...]] = {}


# ---------------------------------------------------------------- the arms


def of_size(n_train: int, epochs: int) -> tuple[str, Changed, Changed]:
    """The preset of AT on so many images of Fashion-MNIST, its fields, and the warm-up of its AWP.

    From 10,000 images on batch and validation are those of the full preset. Above 500 the images are
    crafted on the folded copy, which is faster and moves results by rounding only. The warm-up is a
    sixth of training, as chosen at 500.
    """
    preset = "fashion_mnist-subset-at" if n_train < 10_000 else "fashion_mnist-at"
    size = (("n_train", str(n_train)), ("epochs", str(epochs)), ("craft_folded", "true"))
    return preset, size, (("awp.warm_up", str(round(epochs / 6))),)


def _arm(
    images: str, preset: str, kind: str, draws: int, seeds: tuple[int, ...],
    *, n_validation: int | None = None, fixed: Changed = (), awp: Changed = (),
) -> Drawn:  # fmt: skip
    """The arm of a kind on a vanilla preset; fixed in every draw, awp where weights are perturbed."""
    what = KINDS[kind]
    method = preset.rpartition("-")[2]
    name = f"{images}-{method}-{kind}"
    first = Round(what.ranges, draws)
    wider = (Round({**what.ranges, **new}, more) for more, new in WIDENED.get(name, ()))
    changed = (*fixed, *(awp if what.suffix else ()), *what.fixed)
    return Drawn(name, preset + what.suffix, changed, (first, *wider), seeds, n_validation)


_FOLDED: Changed = (("craft_folded", "true"),)  # as above 500 images: faster
# Family, images and seeds that choose, what is fixed. A further seed is tried of every draw.
_FAMILIES: tuple[tuple[str, int, tuple[int, ...], Changed], ...] = (
    ("digits", 597, (100, 101), ()),
    ("fashion_mnist-subset", 1000, (100,), _FOLDED),
)
# Settings chosen at one size are not those of another: images, epochs, seeds that choose.
_SIZES = ((2000, 60, (100, 101)), (10_000, 30, (100,)), (59_000, 15, (100,)))


def _every() -> Iterable[Drawn]:
    for family, n, seeds, fixed in _FAMILIES:
        for method in ("at", "trades"):
            for kind in KINDS:
                yield _arm(
                    family, f"{family}-{method}", kind, 8, seeds, n_validation=n, fixed=fixed
                )
    for n_train, epochs, seeds in _SIZES:
        preset, size, awp = of_size(n_train, epochs)
        for kind in ("tuned", "awp-tuned"):
            yield _arm(
                f"fashion_mnist-{n_train}", preset, kind, 4, seeds,
                n_validation=1000, fixed=size, awp=awp,
            )  # fmt: skip
    for kind in ("tuned", "awp-tuned", "rwp-tuned"):
        yield _arm("cifar10-first5085", "cifar10-first5085-at", kind, 6, (100,))


ARMS: dict[str, Drawn] = {arm.name: arm for arm in _every()}
