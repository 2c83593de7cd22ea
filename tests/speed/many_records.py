"""Generated records, as many as the board must bear.

Every image has a hardness that all models of a group feel, each in its own way, so that rows are
correlated as rows over the same images are, twins most of all.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import catalogue, protocols
from bench.measure.request import Request
from bench.records.store import pretty_json, record_path
from bench.schema import (
    AttackOutcome,
    AwpConfig,
    Column,
    ColumnOutcome,
    EvaluationRecord,
    Flag,
    InvalidInput,
    ModelCard,
    Protocol,
    ThreatModel,
    TrainConfig,
)
from bench.schema.packing import pack_bits, pack_ints

GROUPS, ROWS, IMAGES = 25, 200, 1000
_DATASETS = ("cifar10", "cifar100", "svhn", "fashion_mnist", "digits")
_MEASUREMENTS = (
    ("linf:8/255", "standard"),
    ("linf:8/255", "gradient"),
    ("l2:0.5", "standard"),
    ("l2:0.5", "gradient"),
    ("linf:4/255", "standard"),
)
_FAMILIES: dict[tuple[str | None, str | None], float] = {  # how robust, in standard deviations
    ("at", "preact_resnet18"): 0.00,
    ("trades", "preact_resnet18"): 0.05,
    ("mart", "preact_resnet18"): 0.08,
    ("at", "wide_resnet"): 0.20,
    ("rst", "wide_resnet"): 0.40,
}
_SEEDS = 10  # of every family, with and without AWP, best and last
_CLEAN = -1.0  # an image below this robustness is wrong without an attack
# How robust an image must be to withstand an attack; others need what their place in a column says.
_REACH = {"fgsm": -0.25, "pgd": 0.0}
_SPREAD = {"image": 0.8, "seed": 0.3, "twin": 0.4, "attack": 0.04}


def write_many(
    root: Path, *, groups: int = GROUPS, rows: int = ROWS, n: int = IMAGES, seed: int = 0
) -> list[Path]:
    """Writes groups * rows records of n images each, the same for the same seed; returns their paths.

    Raises InvalidInput above 25 groups or 200 rows a group, or where the folder holds something.
    """
    if not (1 <= groups <= GROUPS and 1 <= rows <= ROWS and n >= 1):
        raise InvalidInput(
            f"expected 1 to {GROUPS} groups, 1 to {ROWS} rows and n >= 1, "
            f"got {groups} groups, {rows} rows, n = {n}"
        )
    if root.exists() and any(root.iterdir()):
        raise InvalidInput(f"{root} is not empty; name a new folder")
    paths = []
    for record in generated(groups, rows, n, seed):
        path = record_path(record, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pretty_json(record))  # not results.write: 5,000 flushes take a minute
        paths.append(path)
    return paths


def generated(groups: int, rows: int, n: int, seed: int) -> Iterator[EvaluationRecord]:
    """The records of write_many, group after group."""
    # Measurement before data set, so that few groups already are of several data sets.
    places = itertools.islice(itertools.product(_MEASUREMENTS, _DATASETS), groups)
    for (threat, protocol), dataset in places:
        ball = ThreatModel.parse(threat)
        classes = catalogue.DATASETS[dataset].class_count
        measured = protocols.protocol(protocol, norm=ball.norm, classes=classes)
        cards = itertools.islice(_cards(dataset, ball, classes), rows)
        yield from _group(list(cards), ball, measured, n, seed)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _draws(*key: object) -> np.random.Generator:
    return np.random.default_rng(int(_sha(repr(key))[:16], 16))


def _cards(dataset: str, threat: ThreatModel, classes: int) -> Iterator[ModelCard]:
    """Cards in an order that keeps twins and the seeds of a method together."""
    for (objective, arch), kept, seed, perturbed in itertools.product(
        _FAMILIES, ("best", "last"), range(_SEEDS), (False, True)
    ):
        twin = f"{dataset}-{threat.folder}-{arch}-{objective}-s{seed}-{kept}".replace("_", "-")
        awp = AwpConfig(gamma=0.005, warm_up=10) if perturbed else None
        name = twin.replace(f"-s{seed}-", f"-awp-s{seed}-") if perturbed else twin
        epoch = 100 + _draws(name).integers(50) if kept == "best" else 200
        common: dict[str, Any] = {
            "dataset": dataset,
            "arch": arch,
            "arch_args": {"num_classes": classes},
            "objective": objective,
            "awp": awp,
            "threat": threat,
            "epochs": 200,
            "seed": seed,
        }
        yield ModelCard(
            **common,
            name=name,
            class_count=classes,
            weights_sha256=_sha(name),
            n_parameters=11_172_170 if arch == "preact_resnet18" else 36_479_194,
            epoch_kept=int(epoch),
            selected_on="validation" if kept == "best" else "last",
            extra_data="500k pseudo-labelled images" if objective == "rst" else "",
            train=TrainConfig(**common),
            commit=_sha("commit")[:40],
            authors="generated",
            licence="MIT",
            pair=twin if perturbed else None,
        )


def _group(
    cards: list[ModelCard], threat: ThreatModel, protocol: Protocol, n: int, seed: int
) -> Iterator[EvaluationRecord]:
    """One record a card, all over the same n images."""
    dataset = cards[0].dataset
    draws = _draws(seed, dataset)  # the same images and labels under every threat
    labels = draws.integers(0, cards[0].class_count, n)
    hardness = _SPREAD["image"] * draws.standard_normal(n)
    for card in cards:
        common = _draws(seed, str(threat), card.pair or card.name).standard_normal(n)
        own = _draws(seed, str(threat), card.name)
        overfitted = 0.15 if card.selected_on == "last" else 0.0
        strength = _FAMILIES[card.objective, card.arch] - overfitted + (0.12 if card.awp else 0.0)
        robustness = 0.1 - hardness + strength + _SPREAD["seed"] * common
        robustness += _SPREAD["twin"] * own.standard_normal(n) + 0.03 * own.standard_normal()
        wrong = (labels + own.integers(1, card.class_count, n)) % card.class_count
        right = robustness > _CLEAN
        question: dict[str, Any] = {
            "examples_sha256": _sha(f"{dataset} {n} {seed}"),
            "threat": threat,
            "protocol": protocol,
            "seed": 0,
            "engine": "ours",
            "engine_version": "2",
            "precision": "float32",
        }
        yield EvaluationRecord(
            id=Request(weights_sha256=card.weights_sha256, **question).id,
            card=card,
            dataset=dataset,
            split=f"test[0:{n}]",
            n=n,
            **question,
            labels=pack_ints(labels),
            clean_predictions=pack_ints(np.where(right, labels, wrong)),
            columns={
                column.name: _outcome(column, robustness, right, wrong, own)
                for column in protocol.columns
            },
            flags=_flags(own),
            environment={"python": "3.11.7", "torch": "2.15.0", "device": "cpu", "batch": "256"},
            created=f"2026-{own.integers(1, 13):02}-{own.integers(1, 29):02}T12:00:00Z",
            seconds=round(own.uniform(200, 4000), 1),
        )


def _flags(draws: np.random.Generator) -> tuple[Flag, ...]:
    drawn = draws.uniform()
    if drawn < 0.01:
        return (Flag(name="zero-gradients", message="Zero gradients.", values={"share": 0.25}),)
    if drawn < 0.05:
        return (Flag(name="restarts-matter", message="Starts differ.", values={"more": 9}),)
    return ()


def _outcome(
    column: Column,
    robustness: np.ndarray,
    right: np.ndarray,
    wrong: np.ndarray,
    draws: np.random.Generator,
) -> ColumnOutcome:
    """What the attacks of a column left standing, each a little less than the one before."""
    outcomes, before = [], right
    felt = robustness + _SPREAD["attack"] * draws.standard_normal(len(robustness))
    for place, spec in enumerate(column.attacks):
        after = before & (felt > _REACH.get(spec.name, 0.02 + 0.03 * place))
        broken = before & ~after
        attacked = int(before.sum())
        outcomes.append(
            AttackOutcome(
                spec=spec,
                engine="ours 2",
                attacked=attacked,
                broken=int(broken.sum()),
                standing=pack_bits(after),
                adversarial_predictions=pack_ints(wrong[broken]),
                largest_perturbation=0.03,
                forward_passes=attacked * 100,
                backward_passes=attacked * 100,
                seconds=round(draws.uniform(1, 500), 1),
            )
        )
        before = after
    return ColumnOutcome(column_id=column.column_id, outcomes=tuple(outcomes))
