"""Builds records as a measurement would leave them, from made-up hardness of images; no torch.

An image falls when a model's strength on it is below what an attack needs, so that a stronger model
stands on more of the same images and paired comparisons behave like real ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import protocols, table
from bench.gap import GapPart, RobustGap
from bench.measure.request import Request
from bench.records import proven
from bench.records.proven import How, Proof
from bench.records.store import pretty_json, record_path, write
from bench.schema import (
    AttackOutcome,
    AttackSpec,
    AuditOutcome,
    AwpConfig,
    Column,
    ColumnOutcome,
    EvaluationRecord,
    Flag,
    ModelCard,
    Protocol,
    ThreatModel,
    TrainConfig,
)
from bench.schema.frozen import content_hash
from bench.schema.packing import pack_bits, pack_ints, unpack_bits
from bench.schema.record import sample
from bench.stats.study_files import Finding, Kept, StudyFile

VERSION = "0.1.0"
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> [x](javascript:alert(3)) \u202e$a$ =1+1"
    + "A" * 1500
)
# How much of a model's strength each attack overcomes; 0 is a clean image.
_REACH = {
    "fgsm": 0.80,
    "pgd20": 0.93,
    "pgd20-last": 0.92,
    "pgd100": 0.935,
    "cw": 0.97,
    "apgd-ce": 0.96,
    "apgd-t": 0.995,
    "fab-t": 0.998,
    "square": 1.0,
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_card(
    name: str = "digits-at-seed0-last", *, n_train: int = 200, **fields: Any
) -> ModelCard:
    """A card of an AT model on digits; any field can be given."""
    awp = fields.get("awp")
    train = TrainConfig(
        dataset=fields.get("dataset", "digits"),
        n_train=n_train,
        n_validation=200,
        awp=awp,
        threat=fields.get("threat", ThreatModel.parse("linf:0.15")),
        seed=fields.get("seed", 0) or 0,
        batch=50,
    )
    given: dict[str, Any] = {
        "name": name,
        "arch": "small_cnn",
        "arch_args": {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 16},
        "mean": (0.3,),
        "std": (0.37,),
        "dataset": "digits",
        "class_count": 10,
        "weights_sha256": sha(name),
        "n_parameters": 47_610,
        "objective": "at",
        "threat": ThreatModel.parse("linf:0.15"),
        "epochs": 100,
        "epoch_kept": 100,
        "selected_on": "last",
        "seed": 0,
        "train": train,
        "authors": "the fixture",
        "licence": "MIT",
    }
    return ModelCard(**(given | fields))


def make_record(
    card: ModelCard | None = None,
    *,
    robust: float = 0.6,
    clean: float = 0.95,
    threat: str = "linf:0.15",
    protocol: str = "standard",
    n: int = 200,
    split: str | None = None,
    seed: int = 0,
    noise: float = 0.05,
    hits: int = 0,
    **fields: Any,
) -> EvaluationRecord:
    """A valid record: `clean` of n images are right, about `robust` of them stand at the end.

    hits is how many an audit broke of those that it drew, where the protocol has one.
    """
    card = card or make_card()
    split = split or f"test[0:{n}]"
    ball = ThreatModel.parse(threat)
    measured = protocols.protocol(protocol, norm=ball.norm, classes=card.class_count)
    images = np.random.default_rng(int(sha(f"{card.dataset} {split}")[:8], 16))
    labels = images.integers(0, card.class_count, n)
    hardness = images.permutation((np.arange(n) + 0.5) / n) + 0.02 * (labels - 4.5)
    own = np.random.default_rng(int(card.weights_sha256[:8], 16) + seed)
    felt = hardness + noise * own.standard_normal(n)
    order = np.argsort(np.argsort(felt))  # 0 is the easiest image for this model
    right = order < round(clean * n)
    wrong_class = (labels + own.integers(1, card.class_count, n)) % card.class_count
    columns = {
        column.name: _outcome(column, order, right, wrong_class, clean, robust)
        for column in measured.columns
    }
    asked = (card.weights_sha256, sha(f"{card.dataset} {split}"))
    columns |= {
        column.name: _audited(column, columns[column.name], n, wrong_class, hits, *asked)
        for column in measured.columns
        if column.audit is not None and fields.get("audit") != "none"
    }
    given: dict[str, Any] = {
        "card": card,
        "dataset": card.dataset,
        "split": split,
        "n": n,
        "examples_sha256": sha(f"{card.dataset} {split}"),
        "threat": ball,
        "protocol": measured,
        "seed": seed,
        "engine": "ours",
        "engine_version": VERSION,
        "labels": pack_ints(labels),
        "clean_predictions": pack_ints(np.where(right, labels, wrong_class)),
        "columns": columns,
        "environment": {"python": "3.11.2", "torch": "2.15.0", "device": "cpu"},
        "created": "2026-11-20T12:00:00Z",
        "seconds": 41.5,
    }
    return with_id(given | fields)


def with_id(fields: dict[str, Any]) -> EvaluationRecord:
    """The record of these fields under the id that its content gives."""
    names = ("examples_sha256", "threat", "protocol", "seed", "engine", "engine_version")
    question = {name: fields[name] for name in names}
    how = {name: fields[name] for name in ("precision", "audit") if name in fields}
    weights = fields["card"].weights_sha256
    identity = Request(weights_sha256=weights, **how, **question).id
    return EvaluationRecord(**{**fields, "id": identity})


def _outcome(
    column: Column,
    order: np.ndarray,
    right: np.ndarray,
    wrong_class: np.ndarray,
    clean: float,
    robust: float,
) -> ColumnOutcome:
    outcomes, before = [], right
    for spec in column.attacks:
        key = "cw" if spec.params.get("loss") == "margin" else spec.name
        if spec.name == "pgd" and key == "pgd":
            key = f"pgd{spec.params['steps']}"
        share = clean - _REACH.get(key, 1.0) * (clean - robust)
        after = before & (order < round(share * len(order)))
        outcomes.append(_of_attack(spec, before, after, wrong_class))
        before = after
    return ColumnOutcome(column_id=column.column_id, outcomes=tuple(outcomes))


def _of_attack(
    spec: AttackSpec, before: np.ndarray, after: np.ndarray, wrong_class: np.ndarray
) -> AttackOutcome:
    broken = before & ~after
    return AttackOutcome(
        spec=spec,
        engine="ours 0.1.0",
        attacked=int(before.sum()),
        broken=int(broken.sum()),
        standing=pack_bits(after),
        adversarial_predictions=pack_ints(wrong_class[broken]),
        largest_perturbation=0.15,
        forward_passes=int(before.sum()) * 20,
        backward_passes=int(before.sum()) * 20,
        seconds=1.5,
    )


def _audited(
    column: Column, found: ColumnOutcome, n: int, wrong_class: np.ndarray, hits: int, *asked: str
) -> ColumnOutcome:
    """A column's outcome with its audit, whose last attack broke so many."""
    assert column.audit is not None
    standing = unpack_bits(found.outcomes[-1].standing, n)
    sampled = sample(standing, column.audit, "sample", *asked, column.column_id)
    left = sampled.copy()
    left[np.flatnonzero(sampled)[:hits]] = False
    *first, last = column.audit.attacks
    outcomes = [_of_attack(spec, sampled, sampled, wrong_class) for spec in first]
    outcomes.append(_of_attack(last, sampled, left, wrong_class))
    audit = AuditOutcome(sampled=pack_bits(sampled), outcomes=tuple(outcomes))
    return found.model_copy(update={"audit": audit})


def matched_pair(
    seed: int,
    kept: str = "last",
    *,
    dataset: str = "digits",
    threat: str = "linf:0.15",
    vanilla: float = 0.52,
    gain: float = 0.03,
    n_train: int = 200,
    **fields: Any,
) -> list[EvaluationRecord]:
    """Records of an AT model and of its AT-AWP twin."""
    common: dict[str, Any] = {
        "n_train": n_train,
        "dataset": dataset,
        "seed": seed,
        "threat": ThreatModel.parse(threat),
        "selected_on": "validation" if kept == "best" else "last",
        "epoch_kept": 83 if kept == "best" else 100,
    }
    size = "" if n_train == 200 else f"-{n_train}"
    twin = f"{dataset}-at{size}-seed{seed}-{kept}"
    awp = AwpConfig(gamma=0.02, warm_up=17)
    cards = (
        (make_card(twin, **common), vanilla),
        (
            make_card(f"{dataset}-at-awp{size}-seed{seed}-{kept}", awp=awp, pair=twin, **common),
            gain + vanilla,
        ),
    )
    return [make_record(card, robust=robust, threat=threat, **fields) for card, robust in cards]


def write_all(root: Path, records: list[EvaluationRecord]) -> list[Path]:
    return [write(record, root) for record in records]


def write_example(root: Path) -> None:
    """A results folder such as the project will have: two data sets, pairs, a flag, a failure."""
    rng = np.random.default_rng(7)
    for dataset, threat, n, seeds in (
        ("digits", "linf:0.15", 1000, 6),
        ("fashion_mnist", "linf:0.1", 1000, 3),
    ):
        ball = ThreatModel.parse(threat)
        for seed in range(seeds):
            shared: dict[str, Any] = {"dataset": dataset, "threat": threat, "n": n}
            base = 0.50 + 0.02 * rng.standard_normal()
            last = 0.028 + 0.008 * rng.standard_normal()
            write_all(root, matched_pair(seed, "last", vanilla=base, gain=last, **shared))
            best = 0.004 + 0.012 * rng.standard_normal()
            paths = write_all(
                root, matched_pair(seed, "best", vanilla=base + 0.02, gain=best, **shared)
            )
            for path in paths:
                write_curve(path.parent, seed)
        natural = make_card(
            f"{dataset}-natural-seed0-last", dataset=dataset, objective="natural", threat=None
        )
        flag = Flag(name="restarts-matter", message="Starts differ.", values={"more": 9, "of": 64})
        write(
            make_record(natural, robust=0.001, clean=0.97, threat=threat, n=n, flags=(flag,)), root
        )
        broken = make_card(f"{dataset}-broken", dataset=dataset, threat=ball, pair=None)
        write(make_record(broken, threat=threat, n=n, failure="the logits are NaN"), root)
    for seed, base, gain in ((0, 0.5, 0.035), (1, 0.53, 0.02), (2, 0.515, 0.03)):
        part: dict[str, Any] = {"vanilla": base, "gain": gain}
        write_all(root, matched_pair(seed, "last", n=200, **part))
        write_all(root, matched_pair(seed, "last", n=1000, protocol="gradient", **part))


def write_curve(folder: Path, seed: int = 0) -> None:
    """A training curve beside the records of a model; one field missing, one line broken."""
    rng = np.random.default_rng(seed)
    lines = []
    for epoch in range(5, 101, 5):
        rise = 1 - np.exp(-epoch / 25)
        entry = {
            "epoch": epoch,
            "train_robust_correct": int(200 * min(1, 0.3 + 0.7 * rise)),
            "train_n": 200,
            "validation_robust_correct": int(200 * (0.25 + 0.4 * rise) + rng.normal(0, 3)),
            "validation_n": 200,
            "loss": float(2.3 * np.exp(-epoch / 40)),
        }
        if epoch == 15:
            del entry["train_n"]
        lines.append(json.dumps(entry))
    lines.insert(3, "{not json")
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def a_gap(card: ModelCard, *, train: int = 198, test: int = 640) -> RobustGap:
    """A gap of so many of 200 training and of 1,000 test images that stand."""

    def part(name: str, right: int, n: int, loss: float) -> GapPart:
        return GapPart(
            split=f"{name}[0:{n}]", examples_sha256=sha(f"{name} {card.seed}"), n=n, clean_correct=n,
            robust_correct=right, robust_loss=loss,
        )  # fmt: skip

    return RobustGap(
        weights_sha256=card.weights_sha256, dataset=card.dataset, epoch=card.epoch_kept,
        threat=ThreatModel.parse("linf:0.15"), attack=AttackSpec(name="pgd"), seed=0,
        training=part("train", train, 200, 0.1), test=part("test", test, 1000, 1.9),
    )  # fmt: skip


def rewrite(path: Path, **fields: Any) -> None:
    """Changes fields of a record file as another program or a hand would."""
    value = json.loads(path.read_text())
    value.update(fields)
    if value.pop("checksum", None):
        value["checksum"] = content_hash(value)
    path.write_text(pretty_json(value))


def prove(root: Path, *records: EvaluationRecord, how: How = "proven") -> None:
    """Puts records that lie in a results folder in its list of known ones, unlooked at."""
    for record in records:
        path = record_path(record, root)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        below = path.relative_to(root).as_posix()
        proven.add(root, Proof(record=below, sha256=sha256, date="2026-11-20", engine="2", how=how))


Ranker = Callable[..., table.Leaderboard]


def ranker(folder: Path) -> Ranker:
    """Writes records to a folder and ranks them, by default as proven ones."""

    def write_and_rank(*records: EvaluationRecord, proven: bool = True) -> table.Leaderboard:
        write_all(folder, list(records))
        if proven:
            prove(folder, *records)
        return table.build(folder)

    return write_and_rank


def named(name: str, robust: float, **fields: Any) -> EvaluationRecord:
    return make_record(make_card(name), robust=robust, **fields)


def other_version(record: EvaluationRecord, **fields: Any) -> EvaluationRecord:
    """The same model measured in another way."""
    values = {name: getattr(record, name) for name in type(record).model_fields}
    return with_id(values | fields)


def asked_by(record: EvaluationRecord, protocol: Protocol) -> EvaluationRecord:
    """The record as one of a protocol with columns of one attack, called as some of its own are."""
    columns = {}
    for column in protocol.columns:
        (spec,) = column.attacks
        outcome = record.columns[column.name].outcomes[0].model_copy(update={"spec": spec})
        columns[column.name] = ColumnOutcome(column_id=column.column_id, outcomes=(outcome,))
    return other_version(record, protocol=protocol, columns=columns)


def with_differences(*gains: float, n: int = 1000) -> list[EvaluationRecord]:
    found = [matched_pair(seed, vanilla=0.5, gain=gain, n=n) for seed, gain in enumerate(gains)]
    return [record for pair in found for record in pair]


def with_controls(
    seed: int, recipes: tuple[str, ...] = ("equal-compute",), kept: str = "last", **fields: Any
) -> list[EvaluationRecord]:
    """A pair, and a control of each recipe for its AWP model."""
    vanilla, perturbed = matched_pair(seed, kept, **fields)
    assert vanilla.card.train is not None
    found = [vanilla, perturbed]
    for recipe in recipes:
        name = f"{vanilla.card.name}-{recipe}"
        train = vanilla.card.train.model_copy(update={"recipe": recipe, "epochs": 220})
        update = {"name": name, "weights_sha256": sha(name), "control_of": perturbed.card.name}
        card = vanilla.card.model_copy(update={**update, "train": train})
        found.append(make_record(card, robust=0.53))
    return found


_HEADINGS = (
    "model_id,title,authors_short,venue,year,architecture,eps,additional_data,clean_acc,"
    "reported_acc,autoattack_acc,external_acc,best_known_robust_acc,unreliable,link"
)


def publish(root: Path, *models: str, dataset: str = "cifar10", eps: str = "8/255") -> None:
    """A table of published numbers: each model one point below the one before."""
    lines = [
        f"{name},A title,Someone et al.,ICML 2024,2024,WideResNet-{k},{eps},{k % 2 == 0},"
        f"90.{k:02d},{60 - k}.00,{60 - k}.00,,{60 - k}.00,False,https://example.org/{k}"
        for k, name in enumerate(models)
    ]
    folder = root / "published"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([_HEADINGS, *lines]) + "\n"
    (folder / f"robustbench_{dataset}_linf.csv").write_text(text, encoding="utf-8")


# What six seeds gained, and what they gained with seeds and images both drawn again.
BETTER = ((0.03, 0.02, 0.025, 0.03, 0.022, 0.021), (0.01, 0.04))


def finding(
    kept: Kept = "best",
    each: tuple[float, ...] = BETTER[0],
    crossed: tuple[float, float] = BETTER[1],
    contrast: str = "a-awp minus a",
) -> Finding:
    """What a study found of one contrast, on records that no table shows."""
    return Finding(
        contrast=contrast, kept=kept, n=1000, seeds=tuple(range(len(each))), crossed=crossed,
        records=tuple((f"t{kept}{seed}", f"c{kept}{seed}") for seed in range(len(each))),
        differences={"worst case": each, "clean": each, "gap": each},
    )  # fmt: skip


def study_file(*findings: Finding, contrast: str = "a-awp minus a") -> StudyFile:
    findings = findings or (finding(contrast=contrast),)
    return StudyFile(name="one", question="Does it?", primary=0, networks=(), findings=findings)
