"""AutoAttack's own interface (Croce & Hein 2020, arXiv 2003.01690), on this project's measurement.

The call forms are those of the published code, `fra31/auto-attack`, and of its package `pyautoattack`;
attacks, judge and record are ours. N images (N, C, H, W), K classes.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import evidence
from bench.as_found import undisturbed
from bench.attacks import ATTACKS
from bench.attacks.problem import Model
from bench.attacks.reference import PUBLISHED_NAMES
from bench.catalogue import unknown_name
from bench.judge import Judge
from bench.measure.audits import audited_columns
from bench.measure.evaluate import measure
from bench.measure.given import Given, check_classes, check_layers, given, misfit, whole
from bench.protocols import protocol as named_protocol
from bench.schema import (
    AttackSpec,
    Column,
    EvaluationRecord,
    InvalidInput,
    MeasurementFailed,
    Protocol,
    Scalar,
    ThreatModel,
)
from bench.schema.threat import PUBLISHED_NORMS
from bench.sources.unregistered import device_of, first_logits, on_device, suited

# version -> the protocol that it runs while no setting is changed
_PROTOCOLS = {
    "standard": "autoattack",
    "plus": "autoattack-plus",
    "rand": "autoattack-rand",
    "cascade": "cascade",
}
_LEFT_OUT = {"large_steps": False, "samples": 1}  # what a specification does not say
VERSIONS = (*_PROTOCOLS, "custom")
NORMS = {published: norm for norm, published in PUBLISHED_NORMS.items()}
BATCH = 250  # images at once, the published default


RAND_PASSES = 20  # how often a randomised model is asked: gradients averaged, verdict by majority
_WANTED: dict[type, tuple[str, Callable[[Scalar], bool]]] = {
    bool: ("True or False", lambda v: isinstance(v, bool)),
    int: ("an int of at least 1", lambda v: type(v) is int and v >= 1),
    float: ("a number in (0, 1]", lambda v: isinstance(v, int | float) and 0 < v <= 1),
}


@dataclass
class Settings:
    """Settings of one attack; a name that is not known, or a value that cannot be, is refused."""

    def __setattr__(self, name: str, value: Scalar) -> None:
        known = {f.name: type(f.default) for f in dataclasses.fields(self)}
        owner = type(self).__name__
        if name not in known:
            raise unknown_name(f"setting of {owner}", name, known)
        wanted, fits = _WANTED[known[name]]
        if not fits(value):
            raise InvalidInput(f"{owner}: {name} must be {wanted}, got {value!r}")
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


_USUAL: dict[str, Scalar] = {
    "apgd_targeted.n_restarts": 1, "apgd_targeted.n_target_classes": 9,
    "fab.n_target_classes": 9, "square.n_queries": 5000,
}  # fmt: skip
_STANDARD: dict[str, Scalar] = {
    **_USUAL, "apgd.n_restarts": 1, "apgd.use_largereps": False,
    "apgd_targeted.use_largereps": False, "fab.n_restarts": 1,
}  # fmt: skip
# version -> what it sets of the settings, as published
_SETS: dict[str, dict[str, Scalar]] = {
    "standard": _STANDARD,
    "standard l1": {
        **_STANDARD, "apgd.n_restarts": 5, "apgd.use_largereps": True,
        "apgd_targeted.use_largereps": True, "apgd_targeted.n_target_classes": 5,
    },
    "plus": {**_USUAL, "apgd.n_restarts": 5, "fab.n_restarts": 5},
    "rand": {"apgd.n_restarts": 1, "apgd.eot_iter": RAND_PASSES},
    "custom": {},
}  # fmt: skip


class AutoAttack:
    """Measures a model by AutoAttack, called as the published code is.

    model is any Module or callable from images (B, C, H, W) in [0, 1] to logits (B, K), K >= 2; norm
    is "Linf", "L2" or "L1"; eps is in units of the pixel range, 8/255 or "8/255". `attacks_to_run`,
    or `attacks` as pyautoattack calls it, needs version="custom". Settings are changed as published:
    `adversary.apgd.n_iter = 20`, and so on for apgd_targeted, fab and square.

    Unlike the published code, seed=None means seed 0: a run is reproducible unless told otherwise.
    device=None is where the model's parameters are; a callable without any gets its images where x
    is. After a run `record` holds the EvaluationRecord and `evidence` the adversarial images (bytes
    of a .npz). Raises InvalidInput on a wrong call.
    """

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float | str | Fraction = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = None,
        log_path: str | Path | None = None,
        *,
        attacks: Sequence[str] | None = None,
    ) -> None:
        if is_tf_model:
            raise InvalidInput(
                "is_tf_model=True: TensorFlow models are not measured here, only torch. Convert the "
                "network, or measure it with the published AutoAttack"
            )
        if not callable(model):
            raise InvalidInput(
                f"model must be a torch Module or a callable, got {type(model).__name__}"
            )
        if attacks is not None and attacks_to_run:
            raise InvalidInput("attacks_to_run and attacks are the same: give one")
        chosen = _names(attacks_to_run if attacks is None else attacks)
        if version != "custom" and (chosen or attacks is not None):
            raise InvalidInput(
                f"version={version!r} has its own attacks: to name them use version='custom'"
            )
        self.model = model
        self.norm, self.epsilon = norm, eps
        self.seed, self.verbose, self.device = seed, verbose, device
        self.log_path = None if log_path is None else Path(log_path)
        if self.log_path and not self.log_path.parent.is_dir():
            raise InvalidInput(f"log_path: there is no folder {self.log_path.parent}")
        self.record: EvaluationRecord | None = None
        self.evidence: bytes | None = None
        self.attacks_to_run = chosen  # names, in order
        self.apgd, self.apgd_targeted = Apgd(), ApgdTargeted()
        self.fab, self.square = Fab(), Square()
        self._pairs = attacks is not None  # pyautoattack's form
        self._threat()
        self.set_version(version)

    @property
    def version(self) -> str:
        """standard, plus, rand, cascade or custom; setting it is set_version."""
        return self._version

    @version.setter
    def version(self, version: str) -> None:
        self.set_version(version)

    def set_version(self, version: str = "standard") -> None:
        """Sets the attacks of a version and what it sets of them; custom leaves all as they are."""
        if not isinstance(version, str) or version not in VERSIONS:
            raise unknown_name("version", version, VERSIONS)
        if version != "custom":
            (column,) = named_protocol(_PROTOCOLS[version]).columns
            self.attacks_to_run = [spec.name for spec in column.attacks]
        chosen = "standard l1" if (version, self.norm) == ("standard", "L1") else version
        for setting, value in _SETS.get(chosen, {}).items():
            group, _, name = setting.partition(".")
            setattr(getattr(self, group), name, value)
        self._version, self._as_set = version, self._settings()

    def _settings(self) -> list[Any]:
        """All that a version may set, as values."""
        groups = (self.apgd, self.apgd_targeted, self.fab, self.square)
        return [list(self.attacks_to_run), *(dataclasses.asdict(group) for group in groups)]

    def run_standard_evaluation(
        self,
        x_orig: Any,
        y_orig: Any = None,
        bs: int | None = None,
        return_labels: bool | None = None,
        state_path: str | Path | None = None,
        *,
        batch_size: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The attacks one after another, each on the images still standing: (N, C, H, W) float32.

        x_orig (N, C, H, W) is float in [0, 1] (or uint8), y_orig (N,), or whatever `evaluate` takes
        for them. The result holds, on the device of x_orig, the verified adversarial image where one
        was found and the clean image elsewhere. bs images are attacked at once, 250 where not said.

        Returns x_adv, as fra31/auto-attack does. Where the call is pyautoattack's (`batch_size=` here
        or `attacks=` in the constructor) it returns its pair (x_adv, y_adv), y_adv (N,) being what
        the model says of x_adv. return_labels=True or False decides in either case.

        state_path is a folder for finished parts: an interrupted run that is called again with the
        same images and settings continues to the identical answer. It is empty after the last part.
        Raises InvalidInput on a wrong call, MeasurementFailed where the model fails.
        """
        batch = _batch(bs, batch_size)
        record, handed = self._run(x_orig, y_orig, batch, state_path, self._sequence)
        (column,) = record.columns
        x_adv, y_adv = self._adversarial(record, column, handed)
        self._say_outcomes(record, x_adv)
        return (x_adv, y_adv) if self._wants_pair(return_labels, batch_size) else x_adv

    def run_standard_evaluation_individual(
        self,
        x_orig: Any,
        y_orig: Any = None,
        bs: int | None = None,
        return_labels: bool | None = None,
        state_path: str | Path | None = None,
        *,
        batch_size: int | None = None,
    ) -> dict[str, Tensor] | dict[str, tuple[Tensor, Tensor]]:
        """Every attack on all images that are classified correctly: {attack: x_adv}.

        The values are pairs (x_adv, y_adv) where run_standard_evaluation would return one; the
        arguments are the same.
        """
        batch = _batch(bs, batch_size)
        record, handed = self._run(x_orig, y_orig, batch, state_path, self._each)
        for name, column in record.columns.items():
            share, seconds = record.robust_accuracy[name], column.outcomes[0].seconds
            self._say(
                f"robust accuracy by {name.upper()} {share:.2%} (time attack: {seconds:.1f} s)"
            )
        found = {name: self._adversarial(record, name, handed) for name in record.columns}
        if self._wants_pair(return_labels, batch_size):
            return found
        return {name: x_adv for name, (x_adv, _) in found.items()}

    def clean_accuracy(
        self,
        x_orig: Any,
        y_orig: Any = None,
        bs: int | None = None,
        *,
        batch_size: int | None = None,
    ) -> float:
        """The share of x_orig (N, C, H, W) that the model classifies as y_orig (N,)."""
        batch = _batch(bs, batch_size)
        with undisturbed(self.model):
            handed, model, _ = self._taken(x_orig, y_orig, batch)
            x, y, device = handed.x, handed.y, device_of(model)
            broken = Judge(model, batch=batch)(x.to(device), y.to(device)).broken
        share = 1 - broken.double().mean().item()
        self._say(f"clean accuracy: {share:.2%} of {len(y)} images")
        return share

    # ------------------------------------------------------------ what is asked

    def _threat(self) -> ThreatModel:
        if not isinstance(self.norm, str) or self.norm not in NORMS:
            raise unknown_name("norm", self.norm, NORMS)
        return ThreatModel.of(NORMS[self.norm], self.epsilon)

    def _sequence(self, classes: int) -> Protocol:
        """The named protocol of an unchanged version, else one column of the attacks as set."""
        unchanged = self._settings() == self._as_set
        if self.version == "cascade" and not unchanged:
            raise InvalidInput(
                "the plan of version='cascade' is fixed: no setting and no attack of it is changed. "
                "Other attacks are set with version='custom'"
            )
        if self.version in _PROTOCOLS and unchanged:
            return named_protocol(_PROTOCOLS[self.version], norm=NORMS[self.norm], classes=classes)
        # With two classes both DLR losses become the margin: the second would repeat the first.
        attacks: dict[str, AttackSpec] = {}
        for spec in self._specs(classes).values():
            attacks.setdefault(spec.name, spec)
        column = Column(
            name="custom", label="AutoAttack, other settings", attacks=tuple(attacks.values())
        )
        return Protocol(name="autoattack-custom", version=1, columns=(column,))

    def _each(self, classes: int) -> Protocol:
        """A column for each attack, under the name it was asked by."""
        columns = tuple(
            Column(name=name, label=name, attacks=(spec,))
            for name, spec in self._specs(classes).items()
        )
        return Protocol(name="autoattack-individual", version=1, columns=columns)

    def _specs(self, classes: int) -> dict[str, AttackSpec]:
        """The attacks in order; below the classes that a DLR loss needs, the margin's APGD.

        Raises InvalidInput on an unknown or repeated attack, none, or large steps outside L1.
        """
        if self.version == "cascade":
            (column,) = self._sequence(classes).columns
            return {spec.name: spec for spec in column.attacks}
        names = _names(self.attacks_to_run)
        if not names:
            raise InvalidInput(
                "no attack to run: set attacks_to_run, for example ['apgd-ce', 'apgd-t']"
            )
        if len(set(map(str, names))) < len(names):
            raise InvalidInput(f"an attack is named twice: {', '.join(names)}")
        if self.norm != "L1" and (self.apgd.use_largereps or self.apgd_targeted.use_largereps):
            raise InvalidInput(f"use_largereps belongs to L1; the norm is {NORMS[self.norm]}")
        return {name: self._spec(name, classes) for name in names}

    def _spec(self, asked: str, classes: int) -> AttackSpec:
        known = {name for name, attack in ATTACKS.items() if attack.settings}
        if not isinstance(asked, str) or asked not in known:
            raise unknown_name("attack", asked, known)
        group = vars(getattr(self, ATTACKS[asked].settings))
        name = asked if classes >= ATTACKS[asked].least_classes else "apgd-margin"
        taken = inspect.signature(ATTACKS[name].function).parameters
        params = {
            ours: group[published]
            for ours, published in PUBLISHED_NAMES.items()
            if published in group and ours in taken and group[published] != _LEFT_OUT.get(ours)
        }
        if "targets" in params:
            params["targets"] = min(params["targets"], classes - 1)
            if group is vars(self.fab):
                params["restarts"] = 1
        return AttackSpec(name=name, params=params)

    def _wants_pair(self, return_labels: bool | None, batch_size: int | None) -> bool:
        if return_labels is not None:
            return return_labels
        return self._pairs or batch_size is not None

    # ------------------------------------------------------------ what is run and said

    def _run(
        self,
        x_orig: Any,
        y_orig: Any,
        batch: int,
        state_path: str | Path | None,
        protocol_of: Callable[[int], Protocol],
    ) -> tuple[EvaluationRecord, Given]:
        """The record of one measurement, and its images."""
        threat, seed = self._threat(), 0 if self.seed is None else self.seed
        work = None if state_path is None else Path(state_path)
        if work and work.exists() and not work.is_dir():
            raise InvalidInput(
                f"state_path is a folder here, {work} is a file; a state written by the published "
                "code cannot be continued"
            )
        with undisturbed(self.model):
            handed, model, classes = self._taken(x_orig, y_orig, batch)
        x = handed.x
        passes = RAND_PASSES if self.version == "rand" else 1
        chosen = protocol_of(classes)
        chosen = chosen.model_copy(update={"passes": passes})
        said = "" if self.seed is not None else " (none was given)"
        self._say(
            f"using {self.version} version including {', '.join(self.attacks_to_run)}; "
            f"{threat}, {len(x)} images, seed {seed}{said}"
        )
        found = measure(
            model, handed, threat=threat, protocol=chosen, seed=seed,
            engine="ours", batch=batch, work=work,
            audit="none" if audited_columns(chosen) else "sample",
            report=lambda share, text: self._say(f"{share:4.0%} {text}"),
        )  # fmt: skip
        self.record, self.evidence = found.record, found.evidence
        if found.record.failure is not None:
            raise MeasurementFailed(found.record.failure)
        self._say(f"initial accuracy: {found.record.clean_accuracy:.2%} of {len(x)} images")
        for flag in found.record.flags:
            self._say(f"warning, {flag.name}: {flag.message}")
        return found.record, handed

    def _taken(self, x_orig: Any, y_orig: Any, batch: int) -> tuple[Given, Model, int]:
        """The images and labels, the model where it gets them, and how many classes it has."""
        handed = given(x_orig, y_orig)
        if handed.note:
            self._say(f"images: {handed.note}")
        placed = on_device(self.model, self.device, torch.empty(0, device=handed.device))
        model = suited(placed, handed.x, batch)
        classes = _classes(model, handed.x)
        check_classes(handed.y, classes)
        return handed, model, classes

    def _adversarial(
        self, record: EvaluationRecord, column: str, handed: Given
    ) -> tuple[Tensor, Tensor]:
        """x_adv (N, C, H, W) and the model's classes (N,), on the device of x_orig."""
        assert self.evidence is not None
        proof = evidence.from_bytes(self.evidence)[column]
        x_adv = handed.x.clone()
        x_adv[torch.from_numpy(proof.index).long()] = proof.decode(handed.x)
        hit = record.adversarial_predictions(column)
        y_adv = torch.from_numpy(np.where(hit >= 0, hit, record.clean_prediction_array))
        return x_adv.to(handed.device), y_adv.to(handed.device)

    def _say_outcomes(self, record: EvaluationRecord, x_adv: Tensor) -> None:
        (column,) = record.columns.values()
        seconds, largest = 0.0, 0.0
        for outcome in column.outcomes:
            seconds += outcome.seconds
            largest = max(largest, outcome.largest_perturbation)
            share = (outcome.attacked - outcome.broken) / record.n
            self._say(
                f"robust accuracy after {outcome.spec.name.upper()}: {share:.2%} "
                f"(total time {seconds:.1f} s)"
            )
        self._say(
            f"max {self.norm} perturbation: {largest:.5f}, nan in tensor: "
            f"{int(x_adv.isnan().sum())}, max: {x_adv.max():.5f}, min: {x_adv.min():.5f}"
        )
        self._say(f"robust accuracy: {record.worst_case:.2%}")

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)
        if self.log_path:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def _batch(bs: int | None, batch_size: int | None) -> int:
    if bs is not None and batch_size is not None:
        raise InvalidInput("bs and batch_size are the same: give one")
    said = bs if batch_size is None else batch_size
    return BATCH if said is None else whole(said, "images at once")


def _classes(model: Model, x: Tensor) -> int:
    """How many classes a model has; InvalidInput where it takes images of another shape."""
    try:
        return first_logits(model, x).shape[1]
    except MeasurementFailed as error:
        check_layers(model, x)
        fits = misfit(model, x[:2].to(device_of(model)))
        if fits:
            raise InvalidInput(f"images of {tuple(x.shape[1:])}: {error}{fits}") from None
        raise


def _names(attacks: Any) -> list[Any]:
    """Names of attacks as a list, as yet unchecked; None is as published, none of one's own."""
    if isinstance(attacks, str) or not isinstance(attacks, Iterable | NoneType):
        raise InvalidInput(
            f"attacks are a list of names, for example ['apgd-ce', 'apgd-t'], got {attacks!r:.60}"
        )
    return [] if attacks is None else list(attacks)
