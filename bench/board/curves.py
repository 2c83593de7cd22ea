"""Training curves of runs that differ in their seed alone, as one band: mean, lowest, highest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.training_log import PARTS, Line, Measured, held_out, measured

Log = Sequence[Line]
Value = Callable[[Measured], float | None]


@dataclass(frozen=True)
class Band:
    """One value of one part over the epochs that every run logged."""

    epochs: list[int]  # 1-based
    low: list[float]
    mean: list[float]
    high: list[float]
    runs: int


def robust_percent(entry: Measured) -> float:
    """Robust accuracy in percent."""
    return 100 * entry.robust_rate


def robust_loss(entry: Measured) -> float | None:
    """Mean cross-entropy under the attack, nats."""
    return entry.robust_loss


def band(logs: Sequence[Log], part: str, value: Value) -> Band | None:
    """The band of a value over runs; None where they share no epoch that says it."""
    curves = []
    for log in logs:
        known = {entry.epoch: value(entry) for entry in measured(log, part)}
        curves.append({epoch: number for epoch, number in known.items() if number is not None})
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    if not epochs:
        return None
    columns = [[curve[epoch] for curve in curves] for epoch in epochs]
    return Band(
        epochs,
        [min(column) for column in columns],
        [sum(column) / len(column) for column in columns],
        [max(column) for column in columns],
        len(curves),
    )


def shown_parts(methods: Mapping[str, Sequence[Log]]) -> tuple[str, ...]:
    """The parts to draw: training images, and one part unseen in training, the same for all."""
    logs = [log for runs in methods.values() for log in runs]
    unseen = "test" if logs and all(held_out(log) == "test" for log in logs) else "validation"
    return tuple(p for p in ("train", unseen) if any(measured(log, p) for log in logs))


def caption(methods: Mapping[str, Sequence[Log]]) -> str:
    """What the lines are, with the number of images behind them."""
    runs = max(map(len, methods.values()), default=0)
    over = f"Lines: means over {runs} seeds; bands: lowest and highest. " if runs > 1 else ""
    logs = [log for each in methods.values() for log in each]
    sizes = []
    for part in shown_parts(methods):
        seen = sorted({entry.n for log in logs for entry in measured(log, part)})
        count = f"{seen[0]:,}" if len(seen) == 1 else f"{seen[0]:,} to {seen[-1]:,}"
        sizes.append(f"{count} {PARTS[part]}")
    return (
        f"{over}PGD during training on {' and '.join(sizes)}, at the trained weights, in eval mode, "
        "unaugmented: a weaker attack than the columns of the tables. Nothing is chosen on test images."
    )
