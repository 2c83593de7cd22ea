"""The log of a training run, train.jsonl: one JSON object a logged epoch, read without trust.

A part is what was measured: "train" and "validation" images, and "test" images where the run logged
them for the curve. Every number is at the weights w, in eval mode, unaugmented; robust means under
the PGD of the log, whose last iterate counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records import json_files
from bench.records.one_read import read_whole
from bench.schema import InvalidInput

NAME = "train.jsonl"
LARGEST = 2**20  # bytes; longer files are not a log of ours
_MOST_LINES = 20_000
PARTS = {"train": "training images", "validation": "validation images", "test": "test images"}
LAST_EPOCHS = 6  # the "last" of the AWP paper's tables is the mean over so many epochs

Line = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One part at one logged epoch."""

    epoch: int  # 1-based
    n: int  # images
    robust_correct: int
    clean_correct: int | None
    robust_loss: float | None  # mean cross-entropy under the attack, nats

    @property
    def robust_rate(self) -> float:
        return self.robust_correct / self.n


def read_log(path: Path) -> list[Line]:
    """The lines that are JSON objects; none where there is no such file or it is too long."""
    try:
        text = read_whole(path, largest=LARGEST).decode("utf-8", errors="replace")
    except InvalidInput:
        return []
    lines = (_object(line) for line in text.splitlines()[:_MOST_LINES])
    return [line for line in lines if line]


def refuse_others(raw: bytes, where: Path) -> None:
    """Raises InvalidInput where a file that is copied holds a line that is no JSON object."""
    text = raw.decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if number > _MOST_LINES or _object(line) is None:
            raise InvalidInput(f"{where}, line {number}: no line of a training log")


def _object(line: str) -> Line | None:
    """The JSON object of a line; None where it is none that is read."""
    try:
        found = json_files.parsed(line.encode(), "a line")
    except ValueError:  # InvalidInput is one
        return None
    return found if isinstance(found, dict) else None


def find_log(said: str | Path, places: Sequence[Path]) -> Path:
    """The log of a run: a file, a folder that holds one, or a name under one of the places.

    A name finds `<place>/<name>` and the checkpoint `<name>-last`. Raises InvalidInput.
    """
    given = Path(said)
    folders = [given, *(place / f"{said}{kept}" for place in places for kept in ("", "-last"))]
    for path in (given, *(folder / NAME for folder in folders)):
        if path.is_file():
            return path.resolve() if path == given else path  # a link that a user named is followed
    known = sorted({p.parent.name for place in places for p in place.glob(f"*/{NAME}")})
    there = f"; there are {', '.join(known[:10])}" if known else ""
    raise InvalidInput(
        f"no log of a run at {said}: give a {NAME}, its folder, or a run's name{there}"
    )


def measured(log: Sequence[Line], part: str) -> list[Measured]:
    """What a log says of a part, by epoch; lines that say nothing are left out.

    A later line of the same epoch replaces an earlier one.
    """
    found = {}
    for line in log:
        epoch, n = count(line, "epoch"), count(line, f"{part}_n")
        robust = count(line, f"{part}_robust_correct")
        if epoch is None or robust is None or not n or robust > n:
            continue
        clean = count(line, f"{part}_clean_correct")
        loss = number(line, f"{part}_robust_loss")
        clean = clean if clean is not None and robust <= clean <= n else None
        loss = loss if loss is not None and loss >= 0 else None
        found[epoch] = Measured(epoch, n, robust, clean, loss)
    return [found[epoch] for epoch in sorted(found)]


def held_out(log: Sequence[Line]) -> str:
    """The part that stands for unseen images: "test" where every measured epoch has it."""
    test, validation = measured(log, "test"), measured(log, "validation")
    return "test" if test and len(test) >= len(validation) else "validation"


# ---------------------------------------------------------------- the paper's "last"


@dataclass(frozen=True)
class LastMean:
    """A part averaged over the last epochs of a run."""

    epochs: tuple[int, ...]  # those of the last LAST_EPOCHS that are logged, 1-based
    n: int  # images, the same in each
    robust_rate: float
    clean_rate: float | None
    robust_loss: float | None  # nats

    @property
    def complete(self) -> bool:
        """Whether every one of the last epochs is in it."""
        return len(self.epochs) == LAST_EPOCHS

    @property
    def remark(self) -> str:
        """`mean of epochs 195 to 200`, or how few of the last epochs were logged."""
        if self.complete:
            return f"mean of epochs {self.epochs[0]} to {self.epochs[-1]}"
        listed = ", ".join(map(str, self.epochs))
        return f"only {len(self.epochs)} of the last {LAST_EPOCHS} epochs logged: {listed}"


def mean_of_last(log: Sequence[Line], part: str = "validation") -> LastMean | None:
    """The mean over the last six epochs of a run, as the AWP paper's "last"; None without a log.

    Where some of the six are not logged, the mean is over those that are, and says so: six *logged*
    epochs of a sparse log would reach far back. Epochs with another number of images than the last
    are left out.
    """
    entries = measured(log, part)
    if not entries:
        return None
    end = entries[-1]
    kept = [e for e in entries if e.epoch > end.epoch - LAST_EPOCHS and e.n == end.n]
    return LastMean(
        tuple(e.epoch for e in kept),
        end.n,
        sum(e.robust_correct for e in kept) / (end.n * len(kept)),
        _mean([e.clean_correct for e in kept], end.n),
        _mean([e.robust_loss for e in kept], 1),
    )


def _mean(values: Sequence[float | None], unit: int) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / (unit * len(known)) if len(known) == len(values) else None


# ---------------------------------------------------------------- one line


def number(line: Line, key: str) -> float | None:
    """A finite number of a line; None where it holds none of that name."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e15 and math.isfinite(value) else None


def count(line: Line, key: str) -> int | None:
    """A whole number of a line, at least 0; None where it holds none of that name."""
    value = number(line, key)
    return int(value) if value is not None and value >= 0 and value == int(value) else None
