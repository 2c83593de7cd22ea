"""python -m tests.cascade.pooled: what the cascade leaves, against stored bits of AutoAttack.

Every committed record with an AutoAttack column whose weights lie beside it gives pairs of network and
image; the cascade attacks the same images. Networks with weights and no such record are attacked by
AutoAttack here, with --autoattack. Written down a network, with the bits of both; what is finished is
not done again. n images of a network.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench import datasets
from bench.measure.evaluate import measure
from bench.protocols import protocol
from bench.records import store
from bench.records.store import pretty_json, write_atomic
from bench.schema import EvaluationRecord, ThreatModel
from bench.schema.frozen import Frozen, Sha256, Text
from bench.schema.packing import pack_bits, unpack_bits
from bench.sources import checkpoint

OUT = Path("results/cascade/pooled")
OURS = Path("results/cascade/autoattack")  # records of what had none
SHARES = {"fashion_mnist": "test[1000:1400]", "fashion_mnist-5to9": "test[1000:1400]"}
LEVEL = 95  # percent, of intervals


class Pooled(Frozen):
    """One network: what stands under either column, an image."""

    name: Text
    dataset: Text
    family: Text  # objective and weight perturbation
    n: int
    threat: Text
    weights_sha256: Sha256
    examples_sha256: Sha256
    column_id: Text  # of the cascade
    autoattack: Text  # id of the record whose bits are taken
    engine: Text  # that ran its AutoAttack
    seeds: tuple[int, int]  # of AutoAttack, of the cascade
    standing_cascade: str  # bits (n,)
    standing_autoattack: str
    passes: int  # of the cascade
    seconds: float

    @property
    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) bool: standing under the cascade, under AutoAttack."""
        return unpack_bits(self.standing_cascade, self.n), unpack_bits(
            self.standing_autoattack, self.n
        )


def networks(results: Path = Path("results")) -> Iterator[tuple[Path, EvaluationRecord]]:
    """Records with AutoAttack and weights, one a network and its images: ours before the published."""
    found: dict[tuple[str, str, str], tuple[Path, EvaluationRecord]] = {}
    for path in sorted(results.glob("*/*/*/*.json")):
        weights = path.parent / checkpoint.WEIGHTS
        if len(path.stem) != 16 or not weights.exists():
            continue
        if store.is_withdrawn(path):
            print(f"{path} was withdrawn and is left out", file=sys.stderr)
            continue
        record = store.read(path)
        if (
            record.failure
            or "autoattack" not in record.columns
            or record.card.objective == "natural"
        ):
            continue
        key = (record.card.weights_sha256, record.examples_sha256, str(record.threat))
        if key not in found or (record.engine == "ours" and found[key][1].engine != "ours"):
            found[key] = path, record
    for path in sorted(OURS.glob("*.json")):
        record = store.read(path)
        folder = record_folder(record)
        yield folder / checkpoint.WEIGHTS, record
    yield from found.values()


def record_folder(record: EvaluationRecord) -> Path:
    """Where the network of a record lies."""
    return Path("results") / record.dataset / record.threat.folder / record.card.name


def without_autoattack() -> list[Path]:
    """Folders of adversarially trained networks with weights that AutoAttack has not been run on."""
    known = {record.card.weights_sha256 for _, record in networks()}
    folders = [path.parent for path in sorted(Path("results").glob("*/*/*/weights.safetensors"))]
    cards = [(folder, checkpoint.read_card(folder)) for folder in folders]
    return [f for f, c in cards if c.objective != "natural" and c.weights_sha256 not in known]


def attacked(folder: Path, work: Path) -> EvaluationRecord:
    """AutoAttack on a network: all test images of digits, SHARES of others."""
    model, card = checkpoint.load(folder)
    split = SHARES.get(card.dataset, "test")
    data = datasets.load(card.dataset, split)
    threat = card.threat or ThreatModel.parse(folder.parent.name.replace("-", ":", 1))
    return measure(
        model, data.images, data.labels, threat=threat, protocol="autoattack", card=card,
        dataset=card.dataset, split=split, work=work,
    ).record  # fmt: skip


def family(record: EvaluationRecord) -> str:
    """`trades awp`: what was trained, and how its weights were perturbed."""
    awp = record.card.awp
    return f"{record.card.objective} {awp.direction if awp else 'vanilla'}"


def compared(path: Path, record: EvaluationRecord, seed: int, work: Path) -> Pooled:
    """The cascade on the images of a record with AutoAttack."""
    started = time.monotonic()
    model, card = checkpoint.load(path.parent)
    data = datasets.load(record.dataset, record.split)
    assert data.sha256 == record.examples_sha256
    found = measure(
        model, data.images, data.labels, threat=record.threat, protocol="cascade", seed=seed,
        card=card, dataset=record.dataset, split=record.split, audit="none", work=work,
    ).record  # fmt: skip
    (column,) = found.columns.values()
    return Pooled(
        name=card.name, dataset=record.dataset, family=family(record), n=record.n,
        threat=str(record.threat), weights_sha256=card.weights_sha256,
        examples_sha256=record.examples_sha256, column_id=column.column_id, autoattack=record.id,
        engine=record.engine, seeds=(record.seed, seed),
        standing_cascade=pack_bits(found.standing("cascade")),
        standing_autoattack=pack_bits(record.standing("autoattack")),
        passes=sum(o.forward_passes + o.backward_passes for o in column.outcomes),
        seconds=round(time.monotonic() - started, 1),
    )  # fmt: skip


# ---------------------------------------------------------------- what they say together


def read(folder: Path) -> list[Pooled]:
    """Every network that was compared under the plan of today."""
    found = [Pooled.model_validate_json(p.read_text()) for p in sorted(folder.glob("*.json"))]
    plans = {protocol("cascade", classes=k).columns[0].column_id for k in range(2, 11)}
    return [each for each in found if each.column_id in plans]


def summary(found: list[Pooled], chosen: np.ndarray | None = None) -> str:
    """Pairs that stand, hits, images that only the cascade breaks; with intervals by clusters.

    Networks, and images within a data set, are drawn again together: a hard image is hard for many.
    """
    left = [cascade for cascade, _ in (each.both for each in found)]
    auto = [autoattack for _, autoattack in (each.both for each in found)]
    hits = sum(int((c & ~a).sum()) for c, a in zip(left, auto, strict=True))
    only = sum(int((a & ~c).sum()) for c, a in zip(left, auto, strict=True))
    standing = sum(int(c.sum()) for c in left)
    passes = sum(each.passes for each in found) / max(standing, 1)
    low, high = _interval(found, left, auto)
    return (
        f"{len(found)} networks: {standing:,} pairs stand under the cascade, {passes:,.0f} passes "
        f"each; AutoAttack breaks {hits} of them [{low:.1f} – {high:.1f}], the cascade {only} that "
        "AutoAttack leaves"
    )


def _interval(
    found: list[Pooled], left: list[np.ndarray], auto: list[np.ndarray]
) -> tuple[float, float]:
    """Percentiles of the hits over networks and images drawn again."""
    rng = np.random.default_rng(0)
    sets = sorted({(each.dataset, each.n) for each in found})
    totals = np.zeros(1000)
    for key in sets:
        rows = [k for k, each in enumerate(found) if (each.dataset, each.n) == key]
        table = np.stack([left[k] & ~auto[k] for k in rows]).astype(np.int32)
        for draw in range(len(totals)):
            networks_ = rng.integers(0, len(rows), len(rows))
            images = rng.integers(0, key[1], key[1])
            totals[draw] += table[networks_][:, images].sum()
    edge = (100 - LEVEL) / 2
    return float(np.percentile(totals, edge)), float(np.percentile(totals, 100 - edge))


def main() -> int:
    """Compares what is missing, one network after another, then prints the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", type=Path, default=Path("var/work"))
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    parser.add_argument("--autoattack", action="store_true", help="AutoAttack where it is missing")
    a = parser.parse_args()
    torch.set_num_threads(1)
    for folder in without_autoattack() if a.autoattack else []:
        if a.only in folder.name:
            record = attacked(folder, a.work)
            store.put(OURS / f"{record.id}.json", record)
            print(f"{record.card.name}: {record.seconds:.0f} s", file=sys.stderr, flush=True)
    jobs = [(p, r) for p, r in networks() if a.only in r.card.name] if not a.summary else []
    known = {(each.weights_sha256, each.examples_sha256, each.seeds[1]) for each in read(a.out)}
    for number, (path, record) in enumerate(jobs):
        if (record.card.weights_sha256, record.examples_sha256, a.seed) in known:
            continue
        found = compared(path, record, a.seed, a.work)
        name = f"{record.dataset}-{record.card.name}-{record.n}-{a.seed}.json"
        write_atomic(a.out / name, pretty_json(found))
        c, b = found.both
        print(
            f"{number + 1}/{len(jobs)} {record.card.name}: {int(c.sum())} stand, AutoAttack "
            f"{int(b.sum())}, hits {int((c & ~b).sum())}, only the cascade {int((b & ~c).sum())}, "
            f"{found.passes / max(int(c.sum()), 1):,.0f} passes each, {found.seconds:.0f} s",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    print(summary(read(a.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
