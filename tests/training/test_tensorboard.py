"""TensorBoard's files say what the log says; a resumed run's file stands in place of the old one."""

from __future__ import annotations

import json
import math
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from awp_train import tensorboard
from bench.schema import InvalidInput
from bench.training_log import Line
from tests.training.tiny_runs import TINY, equal_runs, quiet


def line(epoch: int, robust: int = 50) -> Line:
    return {
        "epoch": epoch, "lr": 0.1, "loss": 1.5, "train_n": 100, "train_clean_correct": 90,
        "train_robust_correct": robust, "train_robust_loss": 1.25, "validation_n": 0,
        "test_n": 50, "test_robust_correct": 20, "seconds": 10.0 * epoch,
    }  # fmt: skip


def read(folder: Path) -> list[tuple[list[Any], list[tuple[str, int, float, float]]]]:
    """Of each event file: its session marks, and (tag, step, value, wall time) of its scalars."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    files = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        raw, marks, found = path.read_bytes(), [], []
        while raw:  # records: length, its checksum, an event, its checksum
            (size,) = struct.unpack("<Q", raw[:8])
            event = event_pb2.Event.FromString(raw[12 : 12 + size])
            raw = raw[16 + size :]
            if event.HasField("session_log"):
                marks.append((event.step, event.session_log.status))
            for value in event.summary.value:
                found.append((value.tag, event.step, value.simple_value, event.wall_time))
        files.append((marks, found))
    return files


WHOLE = {
    "loss": 1.5, "lr": 0.1, "robust_accuracy/train_n100": 0.5, "clean_accuracy/train_n100": 0.9,
    "robust_loss/train_n100": 1.25, "robust_accuracy/test_n50": 0.4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "scalars"),
    [
        (line(3), WHOLE),  # rates are shares of the images in their tag
        *((nothing, {}) for nothing in (
            {}, {"epoch": 4, "collapsed": True}, {"loss": 1.0}, {"epoch": "2", "loss": 1.0},
            {"epoch": 1.5, "lr": 0.1}, {"epoch": 1, "loss": "x", "lr": None},
            {"epoch": 1, "loss": math.nan})),
    ],
)  # fmt: skip
def test_a_line_is_written_as_far_as_it_says_something(said, scalars):
    assert tensorboard.scalars(said) == scalars


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tensorboard.events(None, "run") as tell:
        tell(line(1))
    assert not list(tmp_path.iterdir())


def test_a_run_is_written_as_it_goes_and_again_where_it_is_resumed(tmp_path):
    pytest.importorskip("tensorboardX")
    with suppress(KeyboardInterrupt), tensorboard.events(tmp_path, "run") as tell:
        tell(line(1))
        tell(line(2))
        raise KeyboardInterrupt
    (first,) = read(tmp_path / "run")
    (path,) = (tmp_path / "run").iterdir()  # its name holds the second it was made in
    path.rename(path.with_name("events.out.tfevents.0"))
    with tensorboard.events(tmp_path, "run", [line(1)], ended=1000.0) as tell:
        tell(line(2, 60))
    old, (marks, found) = read(tmp_path / "run")
    assert old == first
    assert (
        0,
        1,
    ) in marks  # SessionLog.START at step 0: TensorBoard forgets the older file from there on
    assert {(tag, step): value for tag, step, value, _ in found} == pytest.approx(
        {
            (tag, each["epoch"]): value
            for each in (line(1), line(2, 60))
            for tag, value in tensorboard.scalars(each).items()
        }
    )


def test_a_log_is_converted_with_the_times_it_was_written_at(tmp_path):
    pytest.importorskip("tensorboardX")
    log = tmp_path / "digits-at-s0" / "train.jsonl"
    log.parent.mkdir()
    log.write_text("".join(json.dumps(line(epoch)) + "\n" for epoch in (1, 2, 5)))
    folder = tensorboard.convert(log, out=tmp_path / "tb")
    assert folder == tmp_path / "tb" / "digits-at-s0"
    ((_, found),) = read(folder)
    times = {step: at for _, step, _, at in found}
    assert times[5] == pytest.approx(log.stat().st_mtime, abs=0.01)
    assert times[5] - times[1] == pytest.approx(40, abs=0.01)
    assert len(found) == 3 * len(WHOLE)


def test_a_run_that_is_watched_trains_as_one_that_is_not(whole, tmp_path):
    pytest.importorskip("tensorboardX")
    watched = quiet(TINY, tmp_path / "watched", tensorboard=tmp_path / "tb")
    assert equal_runs(whole.folders, watched)
    ((_, found),) = read(tmp_path / "tb" / "run")
    said = {(tag, step): value for tag, step, value, _ in found}
    log = map(json.loads, (watched[-1] / "train.jsonl").read_text().splitlines())
    expected = {
        (tag, each["epoch"]): value
        for each in log
        for tag, value in tensorboard.scalars(each).items()
    }
    assert said == pytest.approx(expected)


def test_a_file_that_is_no_log_is_refused(tmp_path):
    empty = tmp_path / "train.jsonl"
    empty.write_text("{not json")
    with pytest.raises(InvalidInput, match="no line of a training log"):
        tensorboard.convert(empty, out=tmp_path / "tb")
    assert not (tmp_path / "tb").exists()


def test_without_the_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InvalidInput, match="pip install"), tensorboard.events(tmp_path, "run"):
        pass
