"""Adversarial images that somebody hands in: judged as an attack's own, kept where they break more.

What they break lowers best known, and moves no rank. N examples, some of them with an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from bench import evidence, table, verify
from bench.as_found import undisturbed
from bench.attacks import ENGINE_VERSION
from bench.attacks.geometry import admissible
from bench.attacks.problem import Model
from bench.datasets import Examples
from bench.evidence import Perturbations
from bench.judge import Judge, guarded
from bench.measure.parts import judged
from bench.measure.request import Request
from bench.notation import plain, web_address
from bench.readers import adversarial
from bench.readers.adversarial import Adversarial
from bench.records import challenges, index, store
from bench.records.lock import locked
from bench.records.one_read import sha256_of_bytes
from bench.records.selection import attacked_key
from bench.schema import EvaluationRecord, InvalidInput
from bench.schema.challenge import Challenge, counted
from bench.schema.packing import pack_bits, pack_ints
from bench.verify import claimed
from bench.verify.claimed import BATCH, JUDGED


@dataclass(frozen=True)
class Target:
    """A network on the board, and the images that it was measured on."""

    record: EvaluationRecord
    path: Path  # of the record
    root: Path  # the results folder
    model: Model
    data: Examples


@dataclass(frozen=True)
class Judged:
    """What became of every image handed in, each counted once; the places are those of the examples."""

    handed: np.ndarray  # (N,) bool
    outside_box: int
    outside_ball: int
    clean_wrong: int
    right: int
    broken: np.ndarray  # (N,) bool
    predictions: np.ndarray  # (N,) int64, -1 where not broken
    proof: Perturbations  # of what is broken
    uint8_survivors: int
    largest: float  # distance of those broken


@dataclass(frozen=True)
class Outcome:
    """What a file changed: the challenge that is kept, or none where it breaks nothing new."""

    target: Target
    found: Judged
    new: np.ndarray  # (N,) bool
    known_before: int  # images standing under all that was known
    path: Path | None

    @property
    def known_now(self) -> int:
        """Images standing under all that is known now."""
        return self.known_before - int(self.new.sum())

    @property
    def counts(self) -> dict[str, int]:
        """What became of the images, in words: all add up to those handed in."""
        found, new = self.found, int(self.new.sum())
        before = int(found.broken.sum()) - new
        return counted(
            new, before, found.right, found.clean_wrong, found.outside_ball, found.outside_box
        )


def hand_in(
    place: Path, file: Path, *, by: str, link: str = "", weights: Path | None = None,
    dataset: str | None = None, device: str = "cpu",
) -> Outcome:  # fmt: skip
    """Judges a file of adversarial images for a network of the board, and keeps what it breaks anew.

    place is a model's folder of records or one of its records; `weights` and `dataset` as `verify`
    takes them. The same file again, or one that breaks nothing new, changes nothing. Raises
    InvalidInput, and MeasurementFailed where the model raises.
    """
    by, link = credited(by, link)
    against = target(place, weights=weights, dataset=dataset, device=device)
    given = adversarial.read(file, n=len(against.data), shape=tuple(against.data.x.shape[1:]))
    with undisturbed(against.model):
        found = judge(given, against.model, against.data, against.record, device=device)
    with locked(against.path.parent / ".challenge.lock", f"challenges of {place}", wait=60):
        standing = known(against)
        new = found.broken & standing
        path = _kept(against, given, found, new, by, link, device) if new.any() else None
    return Outcome(against, found, new, int(standing.sum()), path)


def credited(by: str, link: str) -> tuple[str, str]:
    """Who is credited, and an address of theirs, as they are kept. Raises InvalidInput."""
    name = plain(by, 200)
    if not 1 <= len(name) <= 100:
        raise InvalidInput(f"--by must be a name of 1 to 100 characters, got {len(name)}")
    if link and web_address(link) is None:
        raise InvalidInput(f"--link must be an address of the web, https://…, got {plain(link)!r}")
    return name, web_address(link) or ""


# ---------------------------------------------------------------- whom, and with what


def target(
    place: Path,
    *,
    weights: Path | None = None,
    dataset: str | None = None,
    device: str = "cpu",
) -> Target:
    """The network and images that a place of the board names. Raises InvalidInput."""
    path = place.absolute() if place.suffix == ".json" else _record_in(place.absolute())
    record = store.read(path)
    if record.failure is not None:
        raise InvalidInput(f"{path} is a failed measurement; there is nothing to challenge")
    if record.protocol.passes > 1:
        raise InvalidInput(
            f"{record.card.name} answers at random: whether one image breaks it cannot be proven again"
        )
    if len(path.parts) < 5 or store.record_path(record, path.parents[3]) != path:
        raise InvalidInput(
            f"{path} is not where a record of its content belongs in a results folder"
        )
    model, data = verify.opened(record, path, weights=weights, dataset=dataset, device=device)
    return Target(record, path, path.parents[3], model, data)


def _record_in(folder: Path) -> Path:
    """A record of the folder, where all of them are of one network on the same images."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.glob("*.json")):
        if len(path.stem) == 16 and not store.is_withdrawn(path):
            record = store.read(path)
            asked = (record.card.weights_sha256, record.examples_sha256)
            found.setdefault(asked, []).append(path)
    if not found:
        raise InvalidInput(f"no record in {folder}")
    if len(found) > 1:
        each = ", ".join(paths[0].name for paths in found.values())
        raise InvalidInput(
            f"{folder} has records of several sets of images or weights: name one of its records, such "
            f"as {each}"
        )
    return next(iter(found.values()))[0]


def known(of: Target) -> np.ndarray:
    """(N,) bool: standing under all that is known of the network, the images and the ball."""
    key = (of.record.card.weights_sha256, of.record.examples_sha256, str(of.record.threat))
    board = table.build(of.root, cache=index.CACHE)
    held = [m for g in board.groups for m in g.members if attacked_key(m.record) == key]
    believed = [m for m in held if m.proven] or [m for m in held if m.record.id == of.record.id]
    return np.logical_and.reduce([of.record.never_broken, *(m.best_known for m in believed)])


# ---------------------------------------------------------------- judging


def judge(
    given: Adversarial,
    model: Model,
    data: Examples,
    record: EvaluationRecord,
    *,
    device: str = "cpu",
) -> Judged:
    """What the untouched model says of every image, by the rules of an attack's own.

    Raises MeasurementFailed where the model raises.
    """
    request = Request(
        record.card.weights_sha256, data.sha256, record.threat, JUDGED, 0, "ours", ENGINE_VERSION
    )
    judging = Judge(model, batch=BATCH)
    numbers = {"largest": 0.0, "rejected": 0.0, "uint8": 0.0}
    box = ball = mistaken = right = 0
    handed, broken = np.zeros(len(data), dtype=bool), np.zeros(len(data), dtype=bool)
    handed[given.indices.numpy()] = True
    predictions = np.full(len(data), -1, dtype=np.int64)
    proofs = [Perturbations.none(tuple(given.images.shape[1:]))]
    for places, x, y, x_adv in _batches(given, data, device):
        inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)  # also refuses NaN
        near = inside & admissible(x, x_adv, request.threat, JUDGED)
        wrong = guarded(partial(judging, x, y)).broken
        tried = near & ~wrong
        index_of = places[tried.cpu().numpy()]
        proof, classes, _ = judged(
            judging, request, x[tried], y[tried], x_adv[tried], index_of, numbers
        )
        proofs.append(proof)
        predictions[index_of] = classes
        broken[index_of[classes >= 0]] = True
        box += int((~inside).sum())
        ball += int((inside & ~near).sum())
        mistaken += int((near & wrong).sum())
        right += int((classes < 0).sum())
    return Judged(
        handed, box, ball, mistaken, right, broken, predictions, evidence.merge(proofs),
        int(numbers["uint8"]), numbers["largest"],
    )  # fmt: skip


def _batches(
    given: Adversarial, data: Examples, device: str
) -> Iterator[tuple[np.ndarray, Tensor, Tensor, Tensor]]:
    """Places, clean images, labels and images handed in, so many at a time, on the device."""
    for places, x_adv in zip(given.indices.split(BATCH), given.images.split(BATCH), strict=True):
        part = data[places]
        yield places.numpy(), part.x.to(device), part.labels.to(device), x_adv.to(device)


# ---------------------------------------------------------------- keeping


def _kept(
    of: Target,
    given: Adversarial,
    found: Judged,
    new: np.ndarray,
    by: str,
    link: str,
    device: str,
) -> Path:
    """Writes the evidence, then the challenge, then proves both and lists it as proven."""
    record, raw = of.record, evidence.to_bytes({challenges.COLUMN: found.proof})
    asked = (record.card.weights_sha256, record.examples_sha256)
    made = Challenge(
        id=Challenge.id_of(*asked, record.threat, given.sha256), name=record.card.name,
        weights_sha256=asked[0], dataset=record.dataset, split=record.split, n=record.n,
        examples_sha256=asked[1], threat=record.threat, by=by, link=link, file_sha256=given.sha256,
        handed=pack_bits(found.handed), outside_box=found.outside_box,
        outside_ball=found.outside_ball, clean_wrong=found.clean_wrong, right=found.right,
        broken=pack_bits(found.broken), new=pack_bits(new),
        adversarial_predictions=pack_ints(found.predictions[found.broken]),
        uint8_survivors=found.uint8_survivors, largest_perturbation=found.largest,
        evidence_sha256=sha256_of_bytes(raw), engine_version=ENGINE_VERSION, created=store.now(),
    )  # fmt: skip
    path = challenges.place_of(made, of.root)
    if store.is_withdrawn(path.with_name(f"{made.id}.json")):
        raise InvalidInput(f"{path} was withdrawn: the same file changes nothing any more")
    if not path.exists():  # else a killed call left it, before it was proven
        store.write_atomic(challenges.evidence_path(path), raw)
        store.write_atomic(path, challenges.text_of(made))
    proved = claimed.prove(path, of.model, of.data, device=device)
    if proved.problems:
        raise InvalidInput(f"{path} does not count: {proved.problems[0]}")
    claimed.keep_proof(proved, path)
    return path
