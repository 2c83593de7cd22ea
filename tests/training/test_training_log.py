"""The log of a run: foreign lines say nothing, and "last" is the mean over the last six epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.training_log import LAST_EPOCHS, Line, held_out, mean_of_last, measured, read_log


def line(epoch: int, robust: int, *, part: str = "validation", n: int = 200, **more: float) -> Line:
    counts = {"n": n, "clean_correct": n, "robust_correct": robust, "robust_loss": 1.5}
    return {"epoch": epoch, **{f"{part}_{key}": value for key, value in counts.items()}, **more}


def written(path: Path, log: list[Line]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in log))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]\nnull\n5",
        '{"epoch": NaN, "train_n": 1, "train_robust_correct": 1}',
        '{"epoch": 1, "train_n": 0, "train_robust_correct": 0}',
        '{"epoch": 1, "train_n": 2, "train_robust_correct": 3}',
        '{"epoch": 1, "train_n": 2, "train_robust_correct": -1}',
        '{"epoch": 1.5, "train_n": 2, "train_robust_correct": 1}',
        '{"epoch": true, "train_n": "2", "train_robust_correct": 1}',
        "[" * 100_000,
        '{"epoch": ' + "9" * 5000 + "}",
        '{"epoch": 1' + "0" * 400 + ', "train_n": 1, "train_robust_correct": 1}',
        "x" * (2**20 + 1),
    ],
)
def test_a_log_that_says_nothing_is_no_log(tmp_path, text):
    path = tmp_path / "train.jsonl"
    assert read_log(path) == []
    path.write_text(text)
    log = read_log(path)
    assert measured(log, "train") == []
    assert mean_of_last(log, "train") is None


def test_lines_are_read_by_epoch_and_doubtful_values_left_out(tmp_path):
    log = [
        line(3, 90), line(1, 50), line(3, 100),
        line(2, 60, validation_robust_loss=-1.0, validation_clean_correct=10),
        {"epoch": 4, "loss": 2.3, "collapsed": True},
    ]  # fmt: skip
    path = written(tmp_path / "train.jsonl", log)
    path.write_text(path.read_text() + "{not json\n")
    first, second, third = measured(read_log(path), "validation")
    assert (first.epoch, first.robust_rate, first.robust_loss) == (1, 0.25, 1.5)
    assert (second.clean_correct, second.robust_loss) == (None, None)  # the rest of it is kept
    assert (third.epoch, third.robust_correct) == (3, 100)  # a later line of the epoch replaces


def test_test_images_stand_for_unseen_ones_only_where_all_epochs_have_them():
    assert held_out([line(1, 5)]) == "validation"
    assert held_out([line(1, 5) | line(1, 4, part="test")]) == "test"
    assert held_out([line(1, 5), line(2, 5) | line(2, 4, part="test")]) == "validation"


# ---------------------------------------------------------------- last


@pytest.mark.parametrize(
    ("epochs", "kept", "remark"),
    [
        (range(1, 201), range(195, 201), "mean of epochs 195 to 200"),
        (range(5, 101, 5), (95, 100), "only 2 of the last 6 epochs logged: 95, 100"),
    ],
)
def test_last_is_the_mean_over_six_epochs(epochs, kept, remark):
    last = mean_of_last([line(epoch, epoch) for epoch in epochs])
    assert last is not None
    assert (last.epochs, last.remark) == (tuple(kept), remark)
    assert last.complete == (len(kept) == 6)
    assert last.robust_rate == pytest.approx(97.5 / 200 if len(kept) == 2 else 197.5 / 200)
    assert (last.clean_rate, last.robust_loss) == (1.0, 1.5)


@given(st.dictionaries(st.integers(1, 40), st.integers(0, 200), min_size=1))
def test_last_lies_between_the_epochs_it_is_of(robust):
    log = [line(epoch, right) for epoch, right in robust.items()]
    last = mean_of_last(log)
    assert last is not None
    end = max(robust)
    kept = [robust[e] / 200 for e in robust if e > end - LAST_EPOCHS]
    assert len(kept) == len(last.epochs)
    assert min(kept) - 1e-9 <= last.robust_rate <= max(kept) + 1e-9
    assert last.complete == all(e in robust for e in range(end - 5, end + 1))


def test_epochs_of_another_number_of_images_and_unknown_values_do_not_mix():
    log = [line(1, 100, n=100), line(2, 50), {**line(3, 70), "validation_robust_loss": None}]
    last = mean_of_last(log)
    assert last is not None
    assert (last.epochs, last.robust_rate) == ((2, 3), 0.3)
    assert last.robust_loss is None
