"""What backs a record: its evidence, and the weights, card, curve and gap of the checkpoint, beside it.

They are written before the record, each in one step, so that a record that is there is backed, and so
is its line in the list of known records, as measured here. What
was lost since, or was left half-copied by versions that wrote it last, is repaired by the same
command; what other records of the folder name is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import contamination, evidence, gap, training_log
from bench.attacks.problem import Model
from bench.datasets import Examples
from bench.measure.clean_logits import IMAGES, difference, steady_logits
from bench.measure.evaluate import Measurement
from bench.records import proven, store
from bench.records.one_read import LARGEST_EVIDENCE, is_file, read_whole, sha256_of, sha256_of_bytes
from bench.records.store import pretty_json
from bench.schema import EvaluationRecord, InvalidInput, MeasurementFailed, ModelCard
from bench.sources import checkpoint
from bench.sources.opening import Source
from bench.sources.unregistered import device_of
from bench.verify import read_evidence

log = logging.getLogger(__name__)
LARGEST_KEPT = 2**22  # bytes: weights, evidence and curves up to this size lie beside the record


def keep(found: Measurement, source: Source, out: Path) -> Path:
    """Writes what backs a record, then the record; returns its path.

    An answer that is recorded already keeps its record, and its evidence where that is what the
    record names; else the new evidence and its hash take that place. Raises ConflictingRecord as
    `store.settled`, and OSError that names the file which cannot be written.
    """
    path = store.record_path(found.record, out)
    record = store.settled(found.record, path)
    if record.failure is None:
        if evidence_lost(path, record, expected=True):
            beside = path.with_suffix(".evidence.npz")
            sha256 = sha256_of_bytes(found.evidence)
            if len(found.evidence) <= LARGEST_KEPT:
                store.write_atomic(beside, found.evidence)
            else:
                store.write_atomic(store.EVIDENCE / f"{sha256}.npz", found.evidence)
                beside.unlink(missing_ok=True)  # it would be taken for the evidence
            record = record.model_copy(update={"evidence_sha256": sha256})
        copy_checkpoint(path, record, source)
        _list_as_measured(path, record, found.record.card, out)
    store.put(path, record)
    return path


def _list_as_measured(path: Path, record: EvaluationRecord, card: ModelCard, out: Path) -> None:
    """Puts the bytes that the file at `path` is to have into the list of known records.

    Not where a record that lay there keeps another card than the one measured: nobody here said that.
    A list that cannot be written costs no measurement. Both are told.
    """
    try:
        old, sha256 = store.read_hashed(path) if path.exists() else (None, "")
        if old != record:
            sha256 = sha256_of_bytes(store.text_of(record).encode())
        if record.card == card:
            proven.add(out, proven.measured(record, sha256, out))
        elif sha256 not in proven.read(out)[0]:
            log.warning("%s is not in the list of known records: it keeps another card", path)
    except (InvalidInput, OSError) as error:
        log.warning("%s is not in the list of known records: %s", path, error)


def refuse_unwritable(folder: Path) -> None:
    """Raises InvalidInput where no file can be made in a folder; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"a record")
            file.flush()
    except OSError as error:
        raise InvalidInput(
            f"no record can be written to {folder} ({error.strerror}); nothing was measured. Make "
            "room or give leave to write there, or name another folder with --out"
        ) from None


# ---------------------------------------------------------------- evidence


def evidence_lost(path: Path, record: EvaluationRecord, *, expected: bool = False) -> str:
    """What is wrong with the evidence of the record at `path`, in words; empty where nothing is.

    Missing evidence is a loss unless the record may be without it and it is not `expected`.
    """
    where = store.evidence_path(path, record)
    if not os.path.lexists(where):
        return "its evidence is missing" if expected or not may_be_bare(record.card) else ""
    try:
        if sha256_of(where, largest=LARGEST_EVIDENCE) == record.evidence_sha256:
            return ""
    except InvalidInput as error:
        return str(error)
    return f"{where.name} is not the evidence it names (sha256 differs)"


def may_be_bare(card: ModelCard) -> bool:
    """Whether a record may lie without weights and evidence on purpose.

    Of the runs of a study they are kept of seed 0's last epoch alone (decision 0014): the others are
    made again by training again, and only where that is asked for.
    """
    return card.train is not None and (card.seed != 0 or card.selected_on != "last")


def changed_since(record: EvaluationRecord, path: Path, model: Model, data: Examples) -> str:
    """In words, how the model answers otherwise than when it was measured; empty where it does not.

    Compared are the logits of the first images, which lie with the evidence of the record at `path`.
    Where it is not here, is of a version that kept none, or the model is a randomised one, which never
    answers as before, nothing can be said.
    """
    where = store.evidence_path(path, record)
    if not where.exists() or record.protocol.passes > 1:
        return ""
    try:
        raw = read_evidence(where, record)
        before = evidence.logits_in(raw, where=str(where))
    except InvalidInput as error:
        log.warning("%s; whether the model is still the one measured is not known", error)
        return ""
    if before is None:
        return ""
    try:
        now = steady_logits(model, data[:IMAGES].x, device_of(model))
        return "" if now is None else difference(before, now)
    except MeasurementFailed as error:  # for the new measurement to record
        return str(error)


# ---------------------------------------------------------------- files of the checkpoint

# Files about the weights -> what reads them.
_ABOUT = {gap.NAME: gap.read_gap, contamination.NAME: contamination.read_contamination}
COPIED = (checkpoint.WEIGHTS, checkpoint.CARD, training_log.NAME, *_ABOUT)


def copy_checkpoint(path: Path, record: EvaluationRecord, source: Source) -> None:
    """Copies what a checkpoint folder holds beside the record, where it is missing or damaged there.

    Of a zoo model or one's own nothing is copied, and of weights that are not ours to hand on only the
    rest: link and hash in the card stand for the weights.
    Files of another network that records of this folder are of stay, and nothing is mixed with them.
    """
    if not isinstance(source, Path):
        return
    folder = path.parent
    files = {name: raw for name in COPIED if (raw := copied(source, name)) is not None}
    there = {name: _there(folder / name) for name in files if os.path.lexists(folder / name)}
    other = {name for name in there if there[name] != files[name]}
    cards = _cards(folder) if other else []
    if _is_anothers(there, cards, record):
        return
    bare = may_be_bare(record.card) and evidence_lost(path, record, expected=True)
    if bare or checkpoint.read_card(source).file_sha256 is not None:
        files.pop(checkpoint.WEIGHTS, None)  # not here, on purpose
    for name, raw in files.items():
        if name not in there or (name in other and _is_damaged(folder / name, raw, cards, record)):
            store.write_atomic(folder / name, raw)


def copied(folder: Path, name: str) -> bytes | None:
    """A file of a checkpoint folder as it is copied: small, no link, and valid of its kind; else None.

    What is there and is not copied is said.
    """
    path = folder / name
    if not os.path.lexists(path) or (is_file(path) and path.stat().st_size > LARGEST_KEPT):
        return None
    try:
        raw = read_whole(path, largest=LARGEST_KEPT)
        if name == checkpoint.CARD:
            checkpoint.read_card(folder)
        elif name in _ABOUT:
            _ABOUT[name](folder, weights_sha256="")
        elif name == training_log.NAME:
            training_log.refuse_others(raw, path)
        elif sha256_of_bytes(raw) != checkpoint.read_card(folder).weights_sha256:
            raise InvalidInput(f"{path} is not the file its card names (sha256 differs)")
    except InvalidInput as error:
        log.warning("%s; it is not copied", error)
        return None
    return raw


def _there(path: Path) -> bytes:
    """What lies at a place to copy to; nothing of a link or whatever is not a small file."""
    try:
        return read_whole(path, largest=LARGEST_KEPT)
    except InvalidInput:
        return b""


def _cards(folder: Path) -> list[ModelCard]:
    """The cards that the records of a folder carry; a damaged record is named where it is read."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if len(path.stem) == 16:
            with contextlib.suppress(InvalidInput):
                found.append(store.read(path).card)
    return found


def _is_anothers(
    there: Mapping[str, bytes], cards: Sequence[ModelCard], record: EvaluationRecord
) -> bool:
    """Whether the weights in a folder are those of another record there, or the card is."""
    others = [card for card in cards if card.weights_sha256 != record.card.weights_sha256]
    weights = hashlib.sha256(there.get(checkpoint.WEIGHTS, b"")).hexdigest()
    card = there.get(checkpoint.CARD, b"")
    return any(card == pretty_json(c).encode() or c.weights_sha256 == weights for c in others)


def _is_damaged(
    target: Path, raw: bytes, cards: Sequence[ModelCard], record: EvaluationRecord
) -> bool:
    """Whether a file that is not the checkpoint's `raw` is no version of it either."""
    there = _there(target)
    if target.name == checkpoint.WEIGHTS or raw.startswith(there):  # a copy that was cut off
        return True
    if target.name == training_log.NAME:
        return len(training_log.read_log(target)) < len(there.splitlines())
    try:
        if target.name == checkpoint.CARD:
            return checkpoint.read_card(target.parent) not in cards
        _ABOUT[target.name](target.parent, weights_sha256=record.card.weights_sha256)
    except InvalidInput:
        return True
    return False
