"""Studies: what is trained, measured and compared to answer one question, as data.

`python -m awp_train study NAME` does it: run_study.py says how, findings.py what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from awp_train import choice
from awp_train.choice import is_whole, read, settled
from awp_train.flags import configured
from awp_train.presets import METHODS, family, find
from awp_train.spaces import ARMS, KINDS, Changed, of_size
from bench.catalogue import dataset_info, unknown_name
from bench.schema import TrainConfig
from bench.stats.study_files import Kept

KEPT: tuple[Kept, ...] = ("best", "last")  # epoch: chosen on validation images; the last


@dataclass(frozen=True)
class Arm:
    """One configuration that a study trains on every seed: a preset, with fields changed."""

    preset: str
    changed: Changed = ()
    drawn: str = ""  # the arm of spaces.py whose chosen settings are changed instead

    def config(self, seed: int) -> TrainConfig:
        """Raises InvalidInput where settings are drawn and not chosen yet."""
        changed = settled(self.drawn, choice.FOLDER) if self.drawn else self.changed
        return configured(find(self.preset).config, dict(changed) | {"seed": str(seed)})

    def __str__(self) -> str:
        return self.drawn or " ".join([self.preset, *_said(self.changed)])


def tuned(name: str) -> Arm:
    """The arm of a name in spaces.py, with what its tries chose."""
    return Arm(ARMS[name].base, drawn=name)


def is_settled(arm: Arm) -> bool:
    """Whether its settings are known: those of an arm that is drawn follow from all its tries."""
    return not arm.drawn or is_whole(arm.drawn, read(choice.FOLDER / f"{arm.drawn}.csv"))


@dataclass(frozen=True)
class Contrast:
    """Two arms compared on the same seeds and images: treated minus control."""

    treated: Arm
    control: Arm

    def __str__(self) -> str:
        """`a-awp awp.warm_up=10 minus a, both n_train=2000`: what they share is said once."""
        both = [pair for pair in self.treated.changed if pair in self.control.changed]
        arms = (
            str(replace(arm, changed=tuple(pair for pair in arm.changed if pair not in both)))
            for arm in (self.treated, self.control)
        )
        return " minus ".join(arms) + (f", both {' '.join(_said(both))}" if both else "")


def _said(changed: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{key}={value}" for key, value in changed]


@dataclass(frozen=True)
class Study:
    """A question, the arms that answer it, and how they are measured."""

    question: str
    contrasts: tuple[Contrast, ...]
    seeds: int
    protocol: str = "gradient"
    n: int = 1000  # test images, at most
    # Contrast and kept epoch, best or last, declared before anything is measured: a family of their
    # own, whose verdicts hold wherever they are shown. The other contrasts then only describe.
    primary: tuple[tuple[Contrast, str], ...] = ()
    # Robust on training minus on validation images: where the control has less, nothing overfits, and
    # a primary contrast has no verdict. None: not asked.
    least_gap: float | None = None

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


def _helped(vanilla: str, changed: Changed = ()) -> Contrast:
    """AWP minus its twin, both with the same fields changed."""
    return Contrast(Arm(f"{vanilla}-awp", changed), Arm(vanilla, changed))


def _of_size(n_train: int, epochs: int) -> Contrast:
    """AT-AWP minus AT on so many images of Fashion-MNIST."""
    preset, size, warm_up = of_size(n_train, epochs)
    return Contrast(Arm(f"{preset}-awp", (*size, *warm_up)), Arm(preset, size))


def _controls(vanilla: str) -> Study:
    """AWP minus its twin, and minus each of the stronger controls."""
    awp, others = Arm(f"{vanilla}-awp"), ("", "-equal-compute", "-best-vanilla")
    return Study(
        "Is AT-AWP better than AT with its compute, or with as many tried settings?",
        tuple(Contrast(awp, Arm(vanilla + other)) for other in others),
        seeds=6,
    )


def _tuned(images: str, *methods: str, published: bool = False) -> Iterator[Contrast]:
    """AWP tuned minus tuned first, then what else was tuned; beside them the presets, untuned."""
    for method in methods:
        preset = f"{images}-{method}"
        plain, *others = (name for kind in KINDS if (name := f"{preset}-{kind}") in ARMS)
        for name in others:
            of_average = name.endswith("-ema-awp-tuned")  # what does AWP add to the average?
            yield Contrast(tuned(name), tuned(f"{preset}-ema-tuned" if of_average else plain))
        # Not the presets with each other: that contrast has its verdict in the table that shows it,
        # which a study with primary contrasts would turn into a description.
        if published:
            yield Contrast(tuned(plain), Arm(preset))
            yield Contrast(tuned(f"{preset}-awp-tuned"), Arm(f"{preset}-awp"))


def _answers(*images_and_method: str) -> tuple[tuple[Contrast, str], ...]:
    """AWP tuned minus tuned at the last epoch, which is what settings were chosen for."""
    return tuple(
        (Contrast(tuned(f"{name}-awp-tuned"), tuned(f"{name}-tuned")), "last")
        for name in images_and_method
    )


_SMALL = tuple(
    f"{images}-{m}" for images in ("digits", "fashion_mnist-subset") for m in ("at", "trades")
)
_OVERFITS = 0.05  # of the gap, from which on a control overfits

# Under the gradient protocol: AutoAttack on the 180 networks of digits-methods would take a day.
STUDIES: dict[str, Study] = {
    "digits-methods": Study(
        "Does AWP help each training method on digits, and does its direction matter?",
        tuple(
            Contrast(Arm(f"digits-{method}-{kind}"), Arm(f"digits-{method}"))
            for method in METHODS
            if f"digits-{method}-awp" in family("digits")
            for kind in ("awp", "rwp")
        ),
        seeds=6,
    ),
    "fashion-size": Study(
        "What does AWP gain as the training set grows? gamma was chosen at 500 images only.",
        (
            _helped("fashion_mnist-subset-at"),
            *(_of_size(n, epochs) for n, epochs in ((2000, 60), (10_000, 30), (59_000, 15))),
        ),
        seeds=3,
    ),
    "fashion-rst": Study(
        "Does AWP help RST: 1,000 labelled images and 20,000 labelled by a network that saw those?",
        (_helped("fashion_mnist-subset-rst", (("n_train", "1000"),)),),
        seeds=3,
    ),
    "fashion-pretrain": Study(
        "Does AWP help fine-tuning on classes 5 to 9 after adversarial training on 0 to 4?",
        (_helped("fashion_mnist-subset-pretrain"),),
        seeds=3,
    ),
    "digits-controls": _controls("digits-at"),
    "fashion-controls": _controls("fashion_mnist-subset-at"),
    "tuned": Study(
        "Does AWP help over a baseline that was tuned as hard, where few images make networks overfit?",
        (
            *_tuned("digits", "at", "trades", published=True),
            *_tuned("fashion_mnist-subset", "at", "trades", published=True),
            *_tuned("fashion_mnist-2000", "at"),
        ),
        seeds=6,
        primary=_answers(*_SMALL),
        least_gap=_OVERFITS,
    ),
    "fashion-size-tuned": Study(
        "What does AWP gain with many images, gamma and weight decay chosen at each size?",
        (*_tuned("fashion_mnist-10000", "at"), *_tuned("fashion_mnist-59000", "at")),
        seeds=3,
        primary=_answers("fashion_mnist-10000-at", "fashion_mnist-59000-at"),
        least_gap=_OVERFITS,
    ),
    "cifar10-tuned": Study(
        "Does AWP help over a baseline that was tuned as hard, on 4,500 images of CIFAR-10?",
        tuple(_tuned("cifar10-first5085", "at")),
        seeds=6,
        protocol="fast",
        n=1017,
        primary=_answers("cifar10-first5085-at"),
        least_gap=_OVERFITS,
    ),
    "bf16-parity": Study(
        "Does training with passes in bf16 reach what float32 reaches?",
        tuple(
            Contrast(Arm(preset, (("precision", "bf16"),)), Arm(preset))
            for preset in ("digits-at-awp", "fashion_mnist-subset-at-awp")
        ),
        seeds=6,
    ),
}


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
