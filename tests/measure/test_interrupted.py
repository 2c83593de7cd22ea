"""Runs that are interrupted, killed, late or shared by processes end with the identical record."""

from __future__ import annotations

import logging
import os
import pickle
import shutil

import numpy as np
import pytest

from bench.evidence import Perturbations
from bench.measure import parts, shards
from bench.measure.parts import Part
from bench.records import store
from bench.reliability import probes
from bench.schema import OutOfTime
from tests.conftest import small_net
from tests.measure.short_protocols import interrupted_at, run


def test_interrupted_run_continues_to_the_identical_record(
    whole, net, images, tmp_path, monkeypatch
):
    calls = interrupted_at(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(net, images, work=tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 3
    resumed = run(net, images, work=tmp_path)
    assert len(calls) == 4 + 8 - 3  # 2 shards x 4 attacks, 3 of them finished before
    assert store.same_answer(resumed.record, whole.record)
    assert resumed.evidence == whole.evidence
    assert not list(tmp_path.iterdir())


def test_parts_of_another_layout_are_another_job(whole, net, images, tmp_path, monkeypatch):
    """Parts under other names, or of other images, are neither read nor counted."""
    interrupted_at(8, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(net, images, work=tmp_path)
    monkeypatch.setattr(parts.shutil, "rmtree", lambda *a, **k: None)
    (folder,) = tmp_path.iterdir()
    part, *others = sorted(folder.glob("*.npz"))
    assert len(others) == 6
    part.rename(folder / "0000000-20-abcdef012345-0.npz")  # as an earlier version named them
    (folder / "hardness.npy").unlink()  # and the images are dealt again, to the same shards
    again = run(net, images, work=tmp_path)
    assert store.same_answer(again.record, whole.record)
    assert again.evidence == whole.evidence
    assert len(list(folder.glob("*.npz"))) == 1 + 8


@pytest.fixture(scope="session")
def parts_left(few, tmp_path_factory):
    """A work folder with every part of `whole`."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts.shutil, "rmtree", lambda *a, **k: None)
        run(small_net(), few, work=work)
    return work


def _flipped(place: float):
    """One bit of the byte at a share of the whole."""

    def flip(raw: bytes) -> bytes:
        at = int(place * (len(raw) - 1))
        return raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]

    return flip


DAMAGES = [
    lambda raw: raw[:100],
    lambda raw: b"",
    *map(_flipped, (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)),  # headers, values, table, checksum
    lambda raw: bytes(len(raw)),
    lambda raw: raw + b"more",
    lambda raw: raw[:-32],  # as versions without a checksum wrote it
    lambda raw: parts.array_bytes(np.zeros(3)),
    lambda raw: pickle.dumps(raw),
]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("*.npz", None),
        *(("*.npz", damage) for damage in DAMAGES),
        ("hardness.npy", lambda raw: b"not an array"),
        ("hardness.npy", DAMAGES[2]),
        ("clean.npy", lambda raw: raw[:-8]),
        ("clean.npy", DAMAGES[2]),
        ("doubts*.json", lambda raw: b'[{"name": "randomised", "raised": 3}]'),
    ],
)
def test_what_is_damaged_is_computed_again_and_said(
    name, damage, whole, net, images, parts_left, tmp_path, monkeypatch, caplog
):
    work = shutil.copytree(parts_left, tmp_path / "work")
    path = sorted(work.rglob(name))[2 if name == "*.npz" else 0]
    again, real, attack = [], probes.model_findings, shards.Shards._attack
    monkeypatch.setattr(probes, "model_findings", lambda *a: again.append("doubts") or real(*a))
    monkeypatch.setattr(shards.Shards, "_attack", lambda *a: again.append("part") or attack(*a))
    if damage is not None:
        path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        second = run(net, images, work=work)
    assert store.same_answer(second.record, whole.record)
    assert second.evidence == whole.evidence
    assert (f"{path.name} is damaged" in caplog.text) == (damage is not None)
    expected = {"*.npz": ["part"], "doubts*.json": ["doubts"]}.get(name, [])
    assert again == (expected if damage else [])


def test_a_part_that_does_not_fit_what_stood_before_it_is_no_part():
    """It broke one of three images; of the two that it left it would have broken none."""
    none = Perturbations.none((1, 2, 2))
    part = Part(np.array([True, False, True]), np.array([7]), np.full(3, np.inf), none)
    raw = parts.to_bytes(part)
    assert parts.from_bytes(raw, np.array([True, True, True])).predictions.tolist() == [7]
    with pytest.raises(ValueError, match="does not fit the images standing before it"):
        parts.from_bytes(raw, part.standing)


def test_workers_give_the_identical_record(net, images, tmp_path):
    """Forked processes see the model as it is in memory; nothing is pickled, not even a lambda."""

    def model(z):
        return net(z)

    alone, reports = run(model, images), []
    together = run(
        model, images, workers=2, work=tmp_path,
        report=lambda share, text: reports.append((share, text)),
    )  # fmt: skip
    assert store.same_answer(alone.record, together.record)
    assert together.evidence == alone.evidence
    assert reports[-1][0] == pytest.approx(1)
    assert f"{len(images)}/{len(images)} images done" in reports[-1][1]
    bounds = [float(text.split("at most ")[1].split("%")[0]) for _, text in reports]
    assert bounds == sorted(bounds, reverse=True)  # an upper bound only falls
    assert bounds[-1] == round(100 * together.record.worst_case, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_deadline_keeps_what_is_finished_and_says_what_is_missing(
    workers, whole, net, images, tmp_path, monkeypatch
):
    real = shards.Shards._attack

    def late(self, shard, column, spec, standing):
        if spec.name == "square":
            self.deadline = 0.0
        return real(self, shard, column, spec, standing)

    told: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(shards.Shards, "_attack", late)
        with pytest.raises(
            OutOfTime, match=r"of 8 shards x attacks are finished.*goes on from here"
        ):
            run(
                net, images, work=tmp_path, workers=workers, max_seconds=600,
                report=lambda share, text: told.append(text),
            )  # fmt: skip
    assert told
    assert not any(f"{len(images)}/{len(images)} images done" in text for text in told)
    finished = list(tmp_path.rglob("*.npz"))
    assert finished
    assert store.same_answer(run(net, images, work=tmp_path).record, whole.record)


@pytest.mark.parametrize("lies", ["another part", "another measurement", "a link", "a pipe"])
def test_what_is_no_part_of_this_measurement_is_computed_again(
    lies, whole, net, images, parts_left, tmp_path, caplog
):
    work = shutil.copytree(parts_left, tmp_path / "work")
    first, second, *_ = sorted(work.rglob("*.npz"))
    content = first.read_bytes()
    first.unlink()
    if lies == "another part":
        first.write_bytes(second.read_bytes())
    elif lies == "another measurement":  # of the same name: the same images and attacks
        elsewhere = tmp_path / "other" / first.name
        first.write_bytes(parts.sealed(elsewhere, content[:-32]))
    elif lies == "a link":
        (tmp_path / "target").write_bytes(content)
        first.symlink_to(tmp_path / "target")
    else:
        os.mkfifo(first)
    with caplog.at_level(logging.WARNING):
        again = run(net, images, work=work)
    assert f"{first.name} is damaged" in caplog.text
    assert store.same_answer(again.record, whole.record)
    assert again.evidence == whole.evidence
