"""The settings of AutoAttack under their published names, and the attacks that they stand for.

Names and defaults of `fra31/auto-attack` (Croce & Hein 2020, arXiv 2003.01690). K classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from bench.attacks.reference import PUBLISHED_NAMES
from bench.catalogue import unknown_name
from bench.schema import AttackSpec, InvalidInput, Scalar

RAND_PASSES = 20  # how often a randomised model is asked: gradients averaged, verdict by majority
_WANTED = {bool: "True or False", int: "an int of at least 1", float: "a number in (0, 1]"}


@dataclass
class Settings:
    """Settings of one attack; a name that is not known, or a value that cannot be, is refused."""

    def __setattr__(self, name: str, value: Scalar) -> None:
        known = {f.name: type(f.default) for f in dataclasses.fields(self)}
        owner = type(self).__name__
        if name not in known:
            raise unknown_name(f"setting of {owner}", name, known)
        fits = {
            bool: isinstance(value, bool),
            int: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
            float: isinstance(value, int | float) and 0 < value <= 1,
        }
        if not fits[known[name]]:
            raise InvalidInput(f"{owner}: {name} must be {_WANTED[known[name]]}, got {value!r}")
        object.__setattr__(self, name, value)


@dataclass
class Apgd(Settings):
    """Untargeted APGD, for apgd-ce and apgd-dlr."""

    n_restarts: int = 5
    n_iter: int = 100
    eot_iter: int = 1  # gradients averaged a step, for randomised models
    use_largereps: bool = False  # start in larger balls; L1 only


@dataclass
class ApgdTargeted(Settings):
    """APGD on the targeted DLR loss, for apgd-t."""

    n_restarts: int = 1
    n_iter: int = 100
    n_target_classes: int = 9
    use_largereps: bool = False


@dataclass
class Fab(Settings):
    """FAB, for fab and fab-t; as published, fab-t has one restart whatever n_restarts says."""

    n_restarts: int = 5
    n_iter: int = 100
    n_target_classes: int = 9


@dataclass
class Square(Settings):
    """Square Attack."""

    n_restarts: int = 1
    n_queries: int = 5000
    p_init: float = 0.8


@dataclass
class Suite:
    """Which attacks run, and how."""

    attacks: list[str] = field(default_factory=list)
    apgd: Apgd = field(default_factory=Apgd)
    apgd_targeted: ApgdTargeted = field(default_factory=ApgdTargeted)
    fab: Fab = field(default_factory=Fab)
    square: Square = field(default_factory=Square)


def set_version(suite: Suite, version: str, norm: str) -> None:
    """Sets what a published version sets, and leaves the rest; custom leaves everything."""
    if version in ("standard", "plus"):
        suite.apgd_targeted.n_restarts = 1
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = 9
        suite.square.n_queries = 5000
    if version == "standard":
        l1 = norm == "l1"
        suite.attacks = ["apgd-ce", "apgd-t", "fab-t", "square"]
        suite.apgd.n_restarts = 5 if l1 else 1
        suite.apgd.use_largereps = suite.apgd_targeted.use_largereps = l1
        suite.apgd_targeted.n_target_classes = 5 if l1 else 9
        suite.fab.n_restarts = 1
    elif version == "plus":
        suite.attacks = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
        suite.apgd.n_restarts = suite.fab.n_restarts = 5
    elif version == "rand":
        suite.attacks = ["apgd-ce", "apgd-dlr"]
        suite.apgd.n_restarts, suite.apgd.eot_iter = 1, RAND_PASSES


# attack -> the group of its settings
_GROUPS = {
    "apgd-ce": "apgd", "apgd-dlr": "apgd", "fab": "fab", "square": "square",
    "apgd-t": "apgd_targeted", "fab-t": "fab",
}  # fmt: skip
_LEAST_CLASSES = {"apgd-t": 4, "apgd-dlr": 3}  # below, the DLR losses are not defined


def specs(suite: Suite, norm: str, classes: int) -> list[AttackSpec]:
    """The attacks of a suite in order; below the classes that a DLR loss needs, the margin's APGD.

    Raises InvalidInput on an unknown or repeated attack, none, or large steps outside L1.
    """
    if not suite.attacks:
        raise InvalidInput(
            "no attack to run: set attacks_to_run, for example ['apgd-ce', 'apgd-t']"
        )
    if len(set(suite.attacks)) < len(suite.attacks):
        raise InvalidInput(f"an attack is named twice: {', '.join(suite.attacks)}")
    if norm != "l1" and (suite.apgd.use_largereps or suite.apgd_targeted.use_largereps):
        raise InvalidInput(f"use_largereps belongs to L1; the norm is {norm}")
    found: dict[str, AttackSpec] = {}
    for attack in suite.attacks:
        if attack not in _GROUPS:
            raise unknown_name("attack", attack, _GROUPS)
        group = vars(getattr(suite, _GROUPS[attack]))
        params = {ours: group[name] for ours, name in PUBLISHED_NAMES.items() if name in group}
        for ours, usual in (("large_steps", False), ("samples", 1)):
            if params.get(ours) == usual:
                del params[ours]
        if attack == "fab-t":
            params["restarts"] = 1
        if attack == "fab" or classes < _LEAST_CLASSES.get(attack, 2):
            params.pop("targets", None)
        if "targets" in params:
            params["targets"] = min(params["targets"], classes - 1)
        name = attack if classes >= _LEAST_CLASSES.get(attack, 2) else "apgd-margin"
        # With two classes both DLR losses become the margin: the second would repeat the first.
        found.setdefault(name, AttackSpec(name=name, params=params))
    return list(found.values())
