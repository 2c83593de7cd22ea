"""TensorBoard's event files of a run, written while it trains or from the log of one that has.

Needs the small package tensorboardX; TensorBoard itself only where the files are looked at.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench import training_log
from bench.schema import InvalidInput
from bench.training_log import PARTS, Line, count, measured, number

_PLACES = (Path("var/runs"), Path("var/checkpoints"))


def scalars(line: Line) -> dict[str, float]:
    """Tag -> value of one line of a log; the tag of a rate ends in its number of images.

    Nothing for a line that says nothing, as of a file from elsewhere.
    """
    if count(line, "epoch") is None:
        return {}
    values = {tag: number(line, tag) for tag in ("loss", "lr")}
    for part in PARTS:
        for entry in measured([line], part):
            clean = None if entry.clean_correct is None else entry.clean_correct / entry.n
            images = f"{part}_n{entry.n}"
            values[f"robust_accuracy/{images}"] = entry.robust_rate
            values[f"clean_accuracy/{images}"] = clean
            values[f"robust_loss/{images}"] = entry.robust_loss
    return {tag: value for tag, value in values.items() if value is not None}


@contextmanager
def events(
    folder: Path | None, name: str, log: Sequence[Line] = (), *, ended: float | None = None
) -> Iterator[Callable[[Line], None]]:
    """Opens `<folder>/<name>` with all that the log holds, and yields what writes one more line.

    An earlier file of the same run is kept; TensorBoard shows the new one in its place. Without a
    folder nothing is written. ended: when the last line of the log was written, in seconds since
    1970; by default now. Raises InvalidInput where tensorboardX is not installed.
    """
    if folder is None:
        yield lambda line: None
        return
    with closing(_writer(folder / name)) as writer:
        last = time.time() if ended is None else ended
        whole = (number(log[-1], "seconds") or 0.0) if log else 0.0
        for line in log:
            _write(writer, line, last - whole + (number(line, "seconds") or 0.0))
        writer.flush()
        yield lambda line: _write(writer, line, None)


def convert(log: Path, *, out: Path) -> Path:
    """Writes the event file of an existing train.jsonl; returns its folder `<out>/<run>`."""
    lines = training_log.read_log(log)
    if not any(map(scalars, lines)):
        raise InvalidInput(f"{log} holds no line of a training log")
    name = log.parent.name or "run"
    with events(out, name, lines, ended=log.stat().st_mtime):
        return out / name


def _writer(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InvalidInput(
            "TensorBoard's files are written by the package tensorboardX, which is not installed. "
            "Install it: .venv/bin/uv pip install --python .venv/bin/python tensorboardX"
        ) from None
    # purge_step hides what an earlier file of the folder says from that step on: all of it.
    return SummaryWriter(str(folder), purge_step=0)


def _write(writer: Any, line: Line, at: float | None) -> None:
    for tag, value in scalars(line).items():
        writer.add_scalar(tag, value, count(line, "epoch"), walltime=at)
    writer.flush()  # a killed run loses nothing that its state holds


# ---------------------------------------------------------------- python -m awp_train tensorboard


def run(call: argparse.Namespace) -> int:
    """Converts the logs of finished or running runs and prints the folders."""
    for said in call.runs:
        print(convert(training_log.find_log(said, _PLACES), out=call.out))
    return 0
