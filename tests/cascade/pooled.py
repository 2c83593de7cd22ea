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
from collections.abc import Callable, Iterator
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
from tests.cascade import collect
from tests.cascade.study import CHOOSING

OUT = Path("results/cascade/pooled")
RESULTS = Path("results")
OURS = Path("cascade/autoattack")  # in results: records of what had none
SHARES = {"fashion_mnist": "test[1000:1450]", "fashion_mnist-5to9": "test[1000:1450]"}
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


def networks(results: Path = RESULTS) -> Iterator[tuple[Path, EvaluationRecord]]:
    """Records with AutoAttack and weights, one a network and its images: ours before the published."""
    found: dict[tuple[str, str, str], tuple[Path, EvaluationRecord]] = {}
    withdrawn = []
    for path in sorted(results.glob("*/*/*/*.json")):
        weights = path.parent / checkpoint.WEIGHTS
        if len(path.stem) != 16 or not weights.exists():
            continue
        if store.is_withdrawn(path):
            withdrawn.append(path)
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
    answered = {path.parent for path, _ in found.values()}
    for path in (path for path in withdrawn if path.parent not in answered):
        print(f"{path} was withdrawn and is left out", file=sys.stderr)
    for path in sorted((results / OURS).glob("*.json")):
        record = store.read(path)
        folder = results / record.dataset / record.threat.folder / record.card.name
        yield folder / checkpoint.WEIGHTS, record
    yield from found.values()


def without_autoattack() -> list[Path]:
    """Folders of adversarially trained networks with weights that AutoAttack has not been run on."""
    known = {record.card.weights_sha256 for _, record in networks()}
    folders = [path.parent for path in sorted(RESULTS.glob("*/*/*/weights.safetensors"))]
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


def chose(each: Pooled) -> np.ndarray:
    """(n,) bool: images that had a part in choosing the plan, on a network of a run that had."""
    if each.dataset not in CHOOSING:
        return np.zeros(each.n, dtype=bool)
    runs = {
        path.stem.rpartition("-")[0].rpartition("-")[0] for path in collect.RESULTS.glob("*.npz")
    }
    taken = np.zeros(each.n, dtype=bool)
    taken[collect.chosen_images(each.dataset, each.n)] = True
    return taken & (f"{each.dataset}-{each.name.rpartition('-')[0]}" in runs)


# Heading -> (pooled, which of its images chose) -> which of its images are counted.
CELLS: dict[str, Callable[[Pooled, np.ndarray], np.ndarray]] = {
    "digits, images that chose the plan": lambda p, c: c,
    "digits, the other images of those runs": lambda p, c: ~c & (p.dataset in CHOOSING),
    "Fashion-MNIST, which chose nothing": lambda p, c: ~c & (p.dataset not in CHOOSING),
    "together": lambda p, c: np.ones(p.n, dtype=bool),
}


def page(found: list[Pooled]) -> str:
    """Markdown: pairs that stand, hits, images that only the cascade breaks, by who chose."""
    lines = []
    for heading, counted in CELLS.items():
        masks = [counted(each, chose(each)) for each in found]
        left, auto = (
            [bits[k] & mask for bits, mask in zip((e.both for e in found), masks, strict=True)]
            for k in (0, 1)
        )
        pairs = list(zip(left, auto, strict=True))
        hits = sum(int((c & ~a).sum()) for c, a in pairs)
        only = sum(int((a & ~c).sum()) for c, a in pairs)
        worse = max(int(c.sum()) - int(a.sum()) for c, a in pairs)
        low, high = _interval(found, left, auto)
        lines.append(
            f"| {heading} | {sum(bool(m.any()) for m in masks)} | {sum(c.sum() for c in left):,} | "
            f"{sum(a.sum() for a in auto):,} | {hits} [{low:.0f} – {high:.0f}] | {only} | {worse} |"
        )
    standing = sum(int(each.both[0].sum()) for each in found)
    one, other, again, networks_ = repeated()
    return PAGE.format(
        lines="\n".join(lines), passes=sum(each.passes for each in found) / max(standing, 1),
        standing=one, other=other, again=again, networks=networks_,
    )  # fmt: skip


PAGE = """# What the cascade leaves, against AutoAttack

Written by `python -m tests.cascade.pooled` from the files beside it: the column `cascade`, seed 0, and
the bits of AutoAttack, seed 0, on the same images of every network here. Intervals (95 %): networks and
images drawn again together, for a hard image is hard for many. Worst: by how many images more the
cascade leaves standing, on the network where that is most.

| | networks | cascade leaves | AutoAttack leaves | it alone breaks | the cascade alone | worst |
| --- | --- | --- | --- | --- | --- | --- |
{lines}

The cascade took {passes:,.0f} passes an image that stands.

A yardstick: of {networks} of these networks both our AutoAttack and the published one are recorded,
whose random numbers differ. Of the {standing:,} images that ours leaves the published one breaks
{other}, and ours breaks {again} that the published one leaves.
"""


def repeated(results: Path = RESULTS) -> tuple[int, int, int, int]:
    """Images that our AutoAttack leaves, those of them that the published breaks, and the reverse."""
    ours: dict[tuple[str, str, str], np.ndarray] = {}
    theirs: dict[tuple[str, str, str], np.ndarray] = {}
    for path in sorted(results.glob("*/*/*/*.json")):
        if len(path.stem) != 16:
            continue
        record = store.read(path)  # one that was withdrawn as needless says as much as before
        if record.failure or "autoattack" not in record.columns:
            continue
        key = (record.card.weights_sha256, record.examples_sha256, str(record.threat))
        bits = record.standing("autoattack")
        if record.card.objective != "natural":
            (ours if record.engine == "ours" else theirs).setdefault(key, bits)
    both = [(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]
    return (
        sum(int(a.sum()) for a, _ in both), sum(int((a & ~b).sum()) for a, b in both),
        sum(int((b & ~a).sum()) for a, b in both), len(both),
    )  # fmt: skip


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
            store.put(RESULTS / OURS / f"{record.id}.json", record)
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
    text = page(read(a.out))
    if not a.only:
        write_atomic(a.out.with_suffix(".md"), text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
