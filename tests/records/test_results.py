"""Records on disk: never overwritten, named where damaged, withdrawn but not deleted, old ones read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.records import index, store
from bench.records.selection import once_each
from bench.reliability.flags import CHECKS_VERSION
from bench.schema import (
    AttackOutcome,
    AttackSpec,
    ConflictingRecord,
    EvaluationRecord,
    Flag,
    InvalidInput,
)
from bench.schema.frozen import content_hash
from bench.schema.packing import pack_bits, pack_floats, pack_ints, unpack_bits, unpack_ints
from tests.conftest import small_net
from tests.measure.short_protocols import run

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def record() -> EvaluationRecord:
    net = small_net()
    return run(net, torch.rand(40, 1, 8, 8)).record


# Field of a record, of a column and of an attack's outcome -> another value it may have. What is not
# named here is part of the question, which the id answers for.
NO_ANSWER = {
    "card": lambda record: record.card.model_copy(update={"name": "other", "link": "elsewhere"}),
    "flags": lambda record: (*record.flags, Flag(name="made-up", message="a newer look")),
    "environment": lambda record: {"python": "4"},
    "created": lambda record: "2030-01-01T00:00:00Z",
    "seconds": lambda record: record.seconds + 1,
    "evidence_sha256": lambda record: "1" * 64,
}
COST = ("seconds", "forward_passes", "backward_passes", "rejected")
ANSWER = ("labels", "clean_predictions", "columns")
OF_AN_ATTACK = {
    "standing": lambda o: pack_bits(~unpack_bits(o.standing, 40)),
    "adversarial_predictions": lambda o: pack_ints(
        (unpack_ints(o.adversarial_predictions, o.broken) + 1) % 10
    ),
    "largest_perturbation": lambda o: o.largest_perturbation + 1e-3,
    "uint8_survivors": lambda o: o.uint8_survivors + 1,
    "attacked": lambda o: o.attacked + 1,
    "broken": lambda o: o.broken + 1,
    "engine": lambda o: o.engine + "x",
    "spec": lambda o: AttackSpec(name="other"),
}


def with_outcome(record: EvaluationRecord, **update: object) -> EvaluationRecord:
    """The record with fields of the first attack of its second column replaced, unchecked."""
    column = record.columns["mixed"]
    first = column.outcomes[0].model_copy(update=update)
    column = column.model_copy(update={"outcomes": (first, *column.outcomes[1:])})
    return record.model_copy(update={"columns": record.columns | {"mixed": column}})


def test_every_field_is_an_answer_or_none():
    question = {"schema_version", "id", "dataset", "split", "n", "examples_sha256", "threat"}
    question |= {"protocol", "seed", "engine", "engine_version", "precision", "failure", "audit"}
    assert set(EvaluationRecord.model_fields) == question | {*NO_ANSWER, *ANSWER}
    assert set(AttackOutcome.model_fields) == {*COST, *OF_AN_ATTACK}


def test_cost_card_and_flags_are_no_answer_and_what_an_attack_found_is(record):
    outcome = record.columns["mixed"].outcomes[0]
    assert outcome.broken
    for field, other in NO_ANSWER.items():
        assert store.same_answer(record, record.model_copy(update={field: other(record)})), field
    for field in COST:
        dearer = with_outcome(record, **{field: getattr(outcome, field) + 1})
        assert store.same_answer(record, dearer), field
    for field, other in OF_AN_ATTACK.items():
        changed = with_outcome(record, **{field: other(outcome)})
        assert not store.same_answer(record, changed), field


@given(place=st.integers(0, 39), what=st.sampled_from(["clean", "label", "standing", "distance"]))
@settings(max_examples=16, deadline=None)
def test_every_single_bit_counts(place, what, record):
    column = record.columns["mixed"]
    if what == "standing":
        bits = unpack_bits(column.outcomes[0].standing, record.n)
        bits[place] = ~bits[place]
        other = with_outcome(record, standing=pack_bits(bits))
    elif what == "distance":
        far = np.full(record.n, 0.25, dtype=np.float32)
        one = column.model_copy(update={"distances": pack_floats(far)})
        record = record.model_copy(update={"columns": record.columns | {"mixed": one}})
        far[place] += 0.01
        two = column.model_copy(update={"distances": pack_floats(far)})
        other = record.model_copy(update={"columns": record.columns | {"mixed": two}})
    else:
        field = {"clean": "clean_predictions", "label": "labels"}[what]
        values = unpack_ints(getattr(record, field), record.n)
        values[place] = (values[place] + 1) % 10
        other = record.model_copy(update={field: pack_ints(values)})
    assert not store.same_answer(record, other)


def different(record: EvaluationRecord) -> EvaluationRecord:
    """The same question answered otherwise: one broken image is taken for another class."""
    outcome = record.columns["mixed"].outcomes[0]
    classes = unpack_ints(outcome.adversarial_predictions, outcome.broken)
    classes[0] = (classes[0] + 1) % 10
    return with_outcome(record, adversarial_predictions=pack_ints(classes))


def test_a_different_answer_is_refused_and_both_are_shown(record, tmp_path):
    path = store.write(record, tmp_path)
    before = path.read_bytes()
    with pytest.raises(ConflictingRecord) as caught:
        store.write(different(record), tmp_path)
    assert "recorded:" in str(caught.value)
    assert "measured:" in str(caught.value)
    assert path.read_bytes() == before
    assert store.read(path.with_suffix(".refused.json")).id == record.id
    assert any("refused" in p for p in store.collect(tmp_path).problems)


def test_newer_flags_are_appended_and_none_disappears(record, tmp_path):
    seen = Flag(name="seen-before", message="a doubt", values={"of": 3})
    old = record.model_copy(update={"flags": (seen,), "created": "2020-01-01T00:00:00Z"})
    path = store.write(old, tmp_path)
    again = Flag(name="seen-before", message="said otherwise", values={"of": 4})
    new = Flag(name="new", message="another doubt", values={"share": 0.5})
    for flags in ((), (again,), (new,), (new, again)):
        assert store.write(record.model_copy(update={"flags": flags}), tmp_path) == path
    kept = store.read(path)
    appended = new.model_copy(update={"values": {"share": 0.5, "checks": CHECKS_VERSION}})
    assert kept == old.model_copy(update={"flags": (seen, appended)})


def test_the_same_answer_changes_no_file(record, tmp_path):
    path = store.write(record, tmp_path)
    before = path.stat()
    dearer = with_outcome(record, forward_passes=10**6, seconds=99.0)
    store.write(dearer.model_copy(update={"seconds": 100.0}), tmp_path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("otherwise", [False, True])
def test_a_network_measured_under_two_names_is_shown_under_both(otherwise, record, tmp_path):
    store.write(record, tmp_path)
    card = record.card.model_copy(update={"name": "another-name", "authors": "someone else"})
    twin = with_outcome(record.model_copy(update={"card": card}), forward_passes=1, seconds=7.0)
    store.write(different(twin) if otherwise else twin, tmp_path)
    collection = index.collect(tmp_path)
    shown, notes = once_each(collection, tmp_path)
    assert len(shown) == 2
    assert any("same id; each speaks for its own row" in note for note in notes) == otherwise
    for record in collection.records:  # the proven one is believed, whichever is read first
        shown, notes = once_each(collection, tmp_path, {record.sha256})
        assert record in shown
        assert len(shown) == (1 if otherwise else 2)
        assert any("same id; skipped" in note for note in notes) == otherwise


def resigned(raw: bytes, **fields: object) -> bytes:
    """The file of a record with other fields, and the checksum that belongs to them."""
    value = json.loads(raw) | fields
    value.pop("checksum")
    return store.pretty_json(value | {"checksum": content_hash(value)}).encode()


def unsigned(raw: bytes) -> bytes:
    value = json.loads(raw)
    value.pop("checksum")
    return store.pretty_json(value).encode()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "is not JSON"),
        (lambda raw: raw.replace(b'"seed": 0', b'"seed": 1'), "its checksum is not that"),
        (lambda raw: resigned(raw, seed=1), "id is not that of its content"),
        (lambda raw: raw.replace(b'"schema_version": 3', b'"schema_version": 4'), "Update"),
        (lambda raw: resigned(raw, n=39), "not a valid record"),
        (lambda raw: raw.replace(b'"n": 40', b'"n": ' + b"3" * 5000), "is not JSON"),
        (lambda raw: raw.replace(b'"broken": ', b'"broken": 1'), "its checksum is not that"),
        (lambda raw: resigned(raw, schema_version=2), "not a valid record: checksum"),
        (lambda raw: raw.replace(b'"checksum"', b'"another"'), "has no checksum"),
        (lambda raw: unsigned(raw), "has no checksum"),
    ],
)
def test_corrupt_record_is_named_and_left(record, tmp_path, damage, words):
    path = store.write(record, tmp_path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(InvalidInput, match=words):
        store.read(path)
    held = store.collect(tmp_path)
    assert not held.records
    assert str(path) in held.problems[0]
    assert path.read_bytes() == damaged


def test_withdrawn_record_stays_in_the_history(record, tmp_path):
    path = store.write(record, tmp_path)
    store.withdraw(path, "the threat was wrong")
    held = store.collect(tmp_path)
    assert held.withdrawn == {store.record_path(record, tmp_path): "the threat was wrong"}
    assert held.records == (record,)


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    store.write_atomic(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_older_records_still_load():
    files = sorted(FIXTURES.glob("record-v*/*.json"))
    versions = [store.read(file).schema_version for file in files]
    assert versions == [1, 2, 3], "one record of every schema version is kept"


def test_an_older_record_is_the_same_answer_without_what_it_could_not_say(record, tmp_path):
    raw = record.model_dump() | {"schema_version": 1}
    for outcome in (o for column in raw["columns"].values() for o in column["outcomes"]):
        outcome["uint8_survivors"] = None
    path = store.write(EvaluationRecord.model_validate(raw), tmp_path)
    assert b"checksum" not in path.read_bytes()
    assert store.write(record, tmp_path) == path  # nothing new to say, nothing refused
    assert store.read(path).schema_version == 1


def test_a_record_of_schema_3_says_the_hash_of_its_own_content(record, tmp_path):
    path = store.write(record, tmp_path)
    value = json.loads(path.read_text())
    assert value["schema_version"] == 3
    assert value.pop("checksum") == content_hash(value)
    assert value == record.model_dump(mode="json")
    assert store.read(path) == record


def test_flags_join_an_older_record_without_a_checksum(tmp_path):
    """A program of its day can read it still."""
    (old,) = FIXTURES.glob("record-v2/*.json")
    before = json.loads(old.read_text())
    record = store.read(old)
    path = store.record_path(record, tmp_path)
    path.parent.mkdir(parents=True)
    shutil.copy(old, path)
    newer = record.model_copy(update={"flags": (Flag(name="new", message="a doubt"),)})
    assert store.write(newer, tmp_path) == path
    after = json.loads(path.read_text())
    assert [flag["name"] for flag in after.pop("flags")][-1] == "new"
    own = {name for name in before if name not in ("flags", "card")}  # a card may know more today
    assert {name: after[name] for name in own} == {name: before[name] for name in own}
    assert set(after) == {*own, "card"}
