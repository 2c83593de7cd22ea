"""Records on disk: never overwritten, named where damaged, withdrawn but not deleted, old ones read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import results
from bench.schema import ConflictingRecord, EvaluationRecord, Flag, InvalidInput
from tests.short_protocols import run


def test_a_different_answer_is_refused_and_both_are_shown(net, images, tmp_path):
    record = run(net, images).record
    path = results.write(record, tmp_path)
    before = path.read_bytes()
    other = record.model_copy(
        update={"flags": (*record.flags, Flag(name="made-up", message="another answer"))}
    )
    with pytest.raises(ConflictingRecord) as caught:
        results.write(other, tmp_path)
    assert "recorded:" in str(caught.value)
    assert "measured:" in str(caught.value)
    assert path.read_bytes() == before
    assert results.read(path.with_suffix(".refused.json")).id == record.id
    assert any("refused" in p for p in results.collect(tmp_path).problems)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "is not JSON"),
        (lambda raw: b"<html>", "is not JSON"),
        (lambda raw: raw.replace(b'"seed": 0', b'"seed": 1'), "id is not that of its content"),
        (lambda raw: raw.replace(b'"schema_version": 2', b'"schema_version": 3'), "Update"),
        (lambda raw: raw.replace(b'"n": 300', b'"n": 299'), "not a valid record"),
        (lambda raw: raw.replace(b'"n": 300', b'"n": ' + b"3" * 5000), "is not JSON"),
        (lambda raw: raw.replace(b'"broken": ', b'"broken": 1'), "not a valid record"),
    ],
)
def test_corrupt_record_is_named_and_left(net, images, tmp_path, damage, words):
    path = results.write(run(net, images).record, tmp_path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(InvalidInput, match=words):
        results.read(path)
    held = results.collect(tmp_path)
    assert not held.records
    assert str(path) in held.problems[0]
    assert path.read_bytes() == damaged


def test_withdrawn_record_stays_in_the_history(net, images, tmp_path):
    record = run(net, images).record
    path = results.write(record, tmp_path)
    results.withdraw(path, "the threat was wrong")
    held = results.collect(tmp_path)
    assert held.withdrawn == {record.id: "the threat was wrong"}
    assert held.records == (record,)


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    results.write_atomic(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        results.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_older_records_still_load():
    files = sorted((Path(__file__).parent / "fixtures").glob("record-v*/*.json"))
    assert files, "one record of every schema version is kept"
    for file in files:
        assert isinstance(results.read(file), EvaluationRecord)


def test_an_older_record_is_the_same_answer_without_what_it_could_not_say(net, images, tmp_path):
    new = run(net, images).record
    columns = {
        name: column.model_copy(
            update={
                "outcomes": tuple(
                    o.model_copy(update={"uint8_survivors": None}) for o in column.outcomes
                )
            }
        )
        for name, column in new.columns.items()
    }
    old = new.model_copy(update={"schema_version": 1, "columns": columns})
    path = results.write(old, tmp_path)
    assert results.write(new, tmp_path) == path  # nothing new to say, nothing refused
    assert results.read(path).schema_version == 1
