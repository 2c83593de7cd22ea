"""Studies: what is trained, measured and compared to answer one question, as data.

`python -m awp_train study NAME` does it; carry_out.py says how, contrasts.py what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from awp_train.flags import configured
from awp_train.presets import METHODS, find
from bench.catalogue import dataset_info, unknown_name
from bench.schema import TrainConfig
from bench.stats.study_files import Kept

KEPT: tuple[Kept, ...] = ("best", "last")  # epoch: chosen on validation images; the last


@dataclass(frozen=True)
class Arm:
    """One configuration that a study trains on every seed: a preset, with fields changed."""

    preset: str
    changed: tuple[tuple[str, str], ...] = ()  # as flags

    def config(self, seed: int) -> TrainConfig:
        texts = dict(self.changed) | {"seed": str(seed)}
        return configured(find(self.preset).config, texts)

    def __str__(self) -> str:
        return " ".join([self.preset, *(f"{key}={value}" for key, value in self.changed)])


@dataclass(frozen=True)
class Contrast:
    """Two arms compared on the same seeds and images: treated minus control."""

    treated: Arm
    control: Arm

    def __str__(self) -> str:
        """`a-awp awp.warm_up=10 minus a, both n_train=2000`: what they share is said once."""
        shared = [pair for pair in self.treated.changed if pair in self.control.changed]
        own = (
            Arm(arm.preset, tuple(pair for pair in arm.changed if pair not in shared))
            for arm in (self.treated, self.control)
        )
        both = " ".join(f"{key}={value}" for key, value in shared)
        return " minus ".join(map(str, own)) + (f", both {both}" if both else "")


@dataclass(frozen=True)
class Study:
    """A question, the arms that answer it, and how they are measured."""

    question: str
    contrasts: tuple[Contrast, ...]
    seeds: int
    protocol: str
    n: int = 1000  # test images, at most
    # Contrast and kept epoch, best or last, declared before anything is measured: a family of their
    # own, whose verdicts hold wherever they are shown. The other contrasts then only describe.
    primary: tuple[tuple[Contrast, str], ...] = ()

    def __post_init__(self) -> None:
        for contrast, kept in self.primary:
            if contrast not in self.contrasts or kept not in KEPT:
                raise ValueError(f"no contrast of this study to be primary: {contrast}, {kept}")
        if len(set(self.primary)) < len(self.primary):
            raise ValueError("a contrast was declared as primary twice")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Each once, in the order of the contrasts."""
        both = (arm for c in self.contrasts for arm in (c.control, c.treated))
        return tuple(dict.fromkeys(both))


def _against(preset: str, *others: str, changed: dict[str, str] | None = None) -> list[Contrast]:
    """Each of the others minus the preset, all with the same fields changed."""
    same = tuple((changed or {}).items())
    return [Contrast(Arm(other, same), Arm(preset, same)) for other in others]


def _of_size(n_train: int, epochs: int) -> Contrast:
    """AT-AWP minus AT on so many images; the warm-up is a sixth of training, as chosen at 500.

    From 10,000 images on batch and validation are those of the full preset. Above 500 the images are
    crafted on the folded copy, which is faster and moves results by rounding only.
    """
    if n_train == 500:
        subset = "fashion_mnist-subset-at"
        return Contrast(Arm(f"{subset}-awp"), Arm(subset))
    preset = "fashion_mnist-subset-at" if n_train < 10_000 else "fashion_mnist-at"
    size = (("n_train", str(n_train)), ("epochs", str(epochs)), ("craft_folded", "true"))
    warm_up = ("awp.warm_up", str(round(epochs / 6)))
    return Contrast(Arm(f"{preset}-awp", (*size, warm_up)), Arm(preset, size))


def _in_bf16(preset: str) -> Contrast:
    return Contrast(Arm(preset, (("precision", "bf16"),)), Arm(preset))


def _controls(vanilla: str) -> tuple[Contrast, ...]:
    """AWP minus its twin, and minus each of the stronger controls."""
    awp, others = Arm(f"{vanilla}-awp"), ("", "-equal-compute", "-best-vanilla")
    return tuple(Contrast(awp, Arm(vanilla + other)) for other in others)


_LABELLED = {"n_train": "1000"}
_STRONGER = "Is AT-AWP better than AT with its compute, or with as many tried settings?"

STUDIES: dict[str, Study] = {
    "digits-methods": Study(
        "Does AWP help each training method on digits, and does its direction matter?",
        tuple(
            contrast
            for method in METHODS
            for contrast in _against(
                f"digits-{method}", f"digits-{method}-awp", f"digits-{method}-rwp"
            )
        ),
        seeds=6,
        protocol="gradient",  # AutoAttack on 180 networks would take a day
    ),
    "fashion-size": Study(
        "What does AWP gain as the training set grows? gamma was chosen at 500 images only.",
        tuple(_of_size(n, e) for n, e in ((500, 80), (2000, 60), (10_000, 30), (59_000, 15))),
        seeds=3,
        protocol="gradient",
    ),
    "fashion-rst": Study(
        "Does AWP help RST: 1,000 labelled images and 20,000 labelled by a network that saw those?",
        tuple(_against("fashion_mnist-subset-rst", "fashion_mnist-subset-rst-awp", changed=_LABELLED)),
        seeds=3,
        protocol="gradient",
    ),
    "fashion-pretrain": Study(
        "Does AWP help fine-tuning on classes 5 to 9 after adversarial training on 0 to 4?",
        tuple(_against("fashion_mnist-subset-pretrain", "fashion_mnist-subset-pretrain-awp")),
        seeds=3,
        protocol="gradient",
    ),
    "digits-controls": Study(_STRONGER, _controls("digits-at"), seeds=6, protocol="gradient"),
    "fashion-controls": Study(
        _STRONGER, _controls("fashion_mnist-subset-at"), seeds=6, protocol="gradient"
    ),
    "bf16-parity": Study(
        "Does training with passes in bf16 reach what float32 reaches?",
        (_in_bf16("digits-at-awp"), _in_bf16("fashion_mnist-subset-at-awp")),
        seeds=6,
        protocol="gradient",
    ),
}  # fmt: skip


def study_of(name: str) -> Study:
    """The study of a name; InvalidInput suggests the nearest."""
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return STUDIES[name]


def split_of(dataset: str, n: int) -> str:
    """Which test images a study measures on: `test[1000:2000]`.

    Not the first 1,000 of Fashion-MNIST: settings were sought on them before there were presets.
    """
    size = dataset_info(dataset).n_test
    first = 1000 if dataset.startswith("fashion_mnist") else 0
    return f"test[{first}:{min(first + n, size)}]"
