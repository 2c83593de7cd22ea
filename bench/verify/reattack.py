"""Attack a sample of a record's standing images again with fresh seeds, and say what that could see.

A standing bit cannot be proven. What can be said is how likely this would have noticed a share of
breakable images, and how many of them are left possible. "Breakable" always means: by this attack,
under these seeds, since a stronger attack may break more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bench import evidence
from bench.attacks.geometry import distance
from bench.attacks.problem import Model
from bench.catalogue import unknown_name
from bench.datasets import Examples
from bench.measure import estimate, evaluate
from bench.protocols import COLUMNS
from bench.schema import Column, EvaluationRecord, InvalidInput, MeasurementFailed, Protocol
from bench.schema.frozen import content_hash
from bench.stats.intervals import chance_of_seeing, most_breakable
from bench.streams import Streams

IMAGES = 60  # 1 - 0.95 ** 60 = 0.954: enough to notice 5 % of a large set
SHARE = 0.05  # of the standing images: what the stated power is about
SEED = 271828  # public, and no record's; who doubts a record's author gives another one
# The attacks that climb a loss from a random start: cheap, and another seed is another attempt.
ASCENT = ("pgd", "apgd-ce", "apgd-margin", "apgd-t")


@dataclass(frozen=True)
class Plan:
    """Which standing images are attacked again, and how."""

    protocol: Protocol  # the record's tolerances and passes, with the one column that attacks again
    reason: str  # why that column
    seed: int  # what was asked for; the draw and attack_seed follow from it and the record's id
    attack_seed: int  # never the record's
    population: int  # images standing under every column of the record
    index: np.ndarray  # (m,) those drawn, ascending

    @property
    def column(self) -> Column:
        """The attacks."""
        return self.protocol.columns[0]


@dataclass(frozen=True)
class Reattack:
    """What the second attack found."""

    plan: Plan
    attacked: int
    broken: dict[int, float]  # image -> distance of its adversarial image, float64, threat's norm

    @property
    def power(self) -> float:
        """Chance of breaking at least one, had SHARE of the standing images been breakable."""
        breakable = int(np.ceil(SHARE * self.plan.population))
        return chance_of_seeing(breakable, self.attacked, self.plan.population)

    @property
    def at_most(self) -> int:
        """Upper 95 % limit on how many of the standing images this attack could break."""
        return most_breakable(len(self.broken), self.attacked, self.plan.population)


def plan(
    record: EvaluationRecord, *, images: int = IMAGES, seed: int = SEED, attack: str | None = None
) -> Plan:
    """Draws the images and chooses the attack; `attack` names a column of the record or of COLUMNS.

    Raises InvalidInput where there is no such column, or images is below 1.
    """
    if images < 1:
        raise InvalidInput(f"a re-attack needs at least 1 image, got {images}")
    column, reason = _named(record, attack) if attack else _strongest(record)
    attack_seed = int(content_hash(["reattack", seed, record.id])[:8], 16)
    attack_seed += attack_seed == record.seed
    standing = np.flatnonzero(record.worst_case_standing)
    # One key an image of the record, so that who is drawn does not depend on who else stands.
    keys = Streams.for_batch(record.n, "reattack", seed, record.id).words(1, 0)[:, 0].numpy()
    drawn = standing[np.argsort(keys[standing], kind="stable")[:images]]
    column = column.model_copy(update={"audit": None})
    rules = record.protocol.model_copy(update={"name": "reattack", "columns": (column,)})
    return Plan(rules, reason, seed, attack_seed, len(standing), np.sort(drawn))


def _named(record: EvaluationRecord, name: str) -> tuple[Column, str]:
    if own := [column for column in record.protocol.columns if column.name == name]:
        return own[0], "as asked, a column of the record"
    if name not in COLUMNS:
        raise unknown_name("column", name, {*COLUMNS, *record.columns})
    return COLUMNS[name](record.threat.norm, record.card.class_count), "as asked"


def _strongest(record: EvaluationRecord) -> tuple[Column, str]:
    """The ascent attacks of the column that left the fewest standing; the later one on a tie."""
    columns = reversed(record.protocol.columns)
    strongest = min(columns, key=lambda c: int(record.standing(c.name).sum()))
    attacks = tuple(a for a in strongest.attacks if a.name in ASCENT)
    if attacks:
        return Column(name="reattack", attacks=attacks), f"of {strongest.name}, the strongest"
    lite = COLUMNS["autoattack-lite"](record.threat.norm, record.card.class_count)
    return lite, f"since {strongest.name}, the strongest, has none with a random start"


def estimate_seconds(plan: Plan, model: Model, data: Examples) -> float:
    """At most how long the attack takes, from a few timed passes."""
    return estimate.estimate_seconds(model, data.x, plan.protocol, len(plan.index))


def run(plan: Plan, record: EvaluationRecord, model: Model, data: Examples) -> Reattack:
    """Attacks the planned images by our engine; judged and stored exactly as a measurement is.

    Raises MeasurementFailed where the model or an attack does.
    """
    if not len(plan.index):
        return Reattack(plan, 0, {})
    chosen = torch.from_numpy(plan.index)
    images, labels = data.images[chosen], data.labels[chosen]
    found = evaluate.measure(
        model, images, labels, threat=record.threat, protocol=plan.protocol,
        seed=plan.attack_seed, card=record.card, dataset=record.dataset, engine="ours",
    )  # fmt: skip
    if found.record.failure is not None:
        raise MeasurementFailed(f"the re-attack failed: {found.record.failure}")
    proof = evidence.from_bytes(found.evidence)[plan.column.name]
    x = data[chosen].x
    far = distance(x[torch.from_numpy(proof.index).long()], proof.decode(x), record.threat.norm)
    broken = {int(plan.index[i]): float(d) for i, d in zip(proof.index, far, strict=True)}
    return Reattack(plan, int(found.record.clean_correct.sum()), dict(sorted(broken.items())))


def as_json(found: Reattack) -> dict[str, object]:
    """The same for programs."""
    p = found.plan
    return {
        "attacks": [str(spec) for spec in p.column.attacks],
        "column_id": p.column.column_id,
        "chosen": p.reason,
        "engine": "ours",
        "seed": p.seed,
        "attack_seed": p.attack_seed,
        "standing": p.population,
        "attacked": found.attacked,
        "images": p.index.tolist(),
        "broken": [{"image": i, "distance": d} for i, d in found.broken.items()],
        "share": SHARE,
        "power": found.power,
        "breakable_at_most": found.at_most,
        "confidence": 0.95,
    }


def lines(found: Reattack) -> list[str]:
    """What was tried and what it can say, in words that can be pasted."""
    p, k, m = found.plan, len(found.broken), found.attacked
    if not p.population:
        return ["re-attack: no image stands, there is nothing to attack again"]
    attacks = " + ".join(spec.name for spec in p.column.attacks)
    said = [
        f"re-attack: {m} of {p.population} images that stand under every column, drawn by a "
        f"counter-based stream (--seed {p.seed}), under {attacks} of our engine ({p.reason}; "
        f"attack seed {p.attack_seed}): {k} broken",
        f"had {100 * SHARE:g} % of the {p.population} been breakable by this attack, this would have "
        f"been seen with probability {100 * found.power:.1f} %",
        f"with 95 % confidence this attack breaks at most {found.at_most} of the {p.population} "
        f"({100 * found.at_most / p.population:.1f} %)",
    ]
    if k:
        said.append(
            f"WARNING: {k} of {m} standing images were broken: the record's number is an upper "
            f"bound that is now known to be too high by at least {k} images"
        )
        said += [f"  image {i} at distance {d:.8f}" for i, d in found.broken.items()]
    return said
