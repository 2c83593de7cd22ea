"""Our curve over the official one: is a run of the paper's recipe on track?"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from awp_train.presets import OFFICIAL, find
from awp_train.recipes import changes
from bench.notation import percent, percent_interval, points
from bench.published.curves import FILE, Epoch, Official, read_official
from bench.records import json_files
from bench.records.cards import CARD, read_card
from bench.records.one_read import is_file
from bench.records.store import write_atomic
from bench.schema import InvalidInput, TrainConfig
from bench.stats.intervals import Interval, wilson
from bench.training_log import PARTS, Line, Measured, find_log, held_out, measured, read_log

FOLDER = Path("var/official")
_PLACES = (Path("var/runs"), Path("var/checkpoints"))
# What may differ without making another recipe: what is logged, held out, and how passes are run.
_FREE = {
    "n_validation", "log_every", "log_attack_steps", "log_images", "log_test_images", "recipe",
    "precision", "compiled", "devices", "craft_folded",
}  # fmt: skip


@dataclass(frozen=True)
class Tracking:
    """A run at its last logged epoch beside the official epochs around it."""

    now: Measured
    part: str  # of our images: "validation" or "test"
    window: tuple[Epoch, ...]

    @property
    def ours(self) -> Interval:
        """Robust accuracy, Wilson."""
        return wilson(self.now.robust_correct, self.now.n)

    @property
    def theirs(self) -> Interval:
        """Mean, lowest and highest of the window."""
        rates = [epoch.robust_rate for epoch in self.window]
        return Interval(sum(rates) / len(rates), min(rates), max(rates))

    @property
    def off(self) -> float:
        """How far our estimate is outside the official window, signed; 0 inside it."""
        rate = self.ours.estimate
        return rate - min(max(rate, self.theirs.low), self.theirs.high)

    @property
    def on_track(self) -> bool:
        """Whether our interval reaches into the official window."""
        return self.ours.low <= self.theirs.high and self.ours.high >= self.theirs.low


def compare(log: list[Line], official: Official) -> Tracking:
    """The last logged epoch of a run beside the official epochs around it. Raises InvalidInput."""
    part = held_out(log)
    entries = measured(log, part)
    if not entries:
        raise InvalidInput(
            "the log has no robust accuracy on validation or test images; give the run "
            "--n_validation or --log_test_images"
        )
    return Tracking(entries[-1], part, tuple(official.window(entries[-1].epoch)))


def same_recipe(config: TrainConfig) -> str | None:
    """The official run whose data set, norm, network and perturbation a configuration has."""
    kinds = {_kind(find(preset).config): official for official, preset in OFFICIAL.items()}
    return kinds.get(_kind(config))


def _kind(config: TrainConfig) -> tuple[object, ...]:
    norm = config.threat.norm if config.threat else None
    direction = config.awp.direction if config.awp else None
    return config.dataset, norm, config.arch, config.objective, direction


def described(
    name: str, tracking: Tracking, official: Official, *, attack: str, departs: str = ""
) -> str:
    """Lines that can be pasted: ours, theirs, and whether the run is on track."""
    ours, theirs, window, n = tracking.ours, tracking.theirs, tracking.window, official.n
    now = tracking.now
    if tracking.on_track:
        away = points(ours.estimate - theirs.estimate)
        judged = f"on track: our interval meets the window, {away} points from its mean"
    else:
        side = "above" if tracking.off > 0 else "below"
        judged = f"off track: {abs(100 * tracking.off):.1f} points {side} the official window"
    lines = [
        f"{name}, epoch {now.epoch}: robust {percent(ours.estimate, now.n)} % "
        f"({percent_interval(ours, now.n)}) of {now.n:,} {PARTS[tracking.part]} under {attack}",
        f"{official.name}, epochs {window[0].epoch} to {window[-1].epoch}: "
        f"{percent(theirs.low, n)} to {percent(theirs.high, n)} %, mean "
        f"{percent(theirs.estimate, n)} %, of {n:,} test images under {official.attack}",
        judged,
    ]
    if attack != official.attack:
        lines.append(
            f"The attacks differ: {attack} is not {official.attack}; fewer steps read higher."
        )
    if now.epoch > official.epochs[-1].epoch:
        lines.append(f"The official run ended at epoch {official.epochs[-1].epoch}.")
    if departs:
        lines.append(f"Not the official recipe, so the curves may differ: {departs}")
    return "\n".join(lines)


# ---------------------------------------------------------------- python -m awp_train official


def run(call: argparse.Namespace) -> int:
    """Draws our curve over the official one and says whether the run is on track."""
    from bench.board import article, curves

    path = find_log(call.run, _PLACES)
    name = path.parent.name or path.stem
    target = call.out or FOLDER / f"{name}.html"
    if target.suffix != ".html":
        raise InvalidInput(f"--out is an .html file, which every browser shows; got {target}")
    config = _config(path.parent)
    chosen = call.official or (same_recipe(config) if config else None)
    if chosen is None:
        raise InvalidInput(
            f"no official run has the settings of {name}; choose one with --official: "
            f"{', '.join(OFFICIAL)}"
        )
    official = read_official(chosen, call.curves or FILE)
    log = read_log(path)
    tracking = compare(log, official)
    figure = curves.over_official(name, log, tracking.part, official)
    write_atomic(target, figure.to_html(include_plotlyjs=True, config=article.CHART))
    attack, departs = "the run's own PGD", ""
    if config is not None:
        attack = f"PGD-{config.log_attack_steps}"
        recipe = find(OFFICIAL[chosen]).config if chosen in OFFICIAL else config
        changed = changes(config, recipe).items()
        departs = ", ".join(f"{field} {value}" for field, value in changed if field not in _FREE)
    print(described(name, tracking, official, attack=attack, departs=departs))
    print(target)
    return 0


def _config_of_run(raw: bytes) -> TrainConfig:
    return TrainConfig.model_validate(json.loads(raw)["config"])


def _config(folder: Path) -> TrainConfig | None:
    """The settings of the run whose log lies in a folder, from its run.json or its card."""
    if is_file(folder / "run.json"):
        return json_files.read(folder / "run.json", _config_of_run, "run")
    return read_card(folder).train if is_file(folder / CARD) else None
