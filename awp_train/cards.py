"""The cards of a run's two checkpoints, and whether they are there already."""

from __future__ import annotations

import subprocess
from pathlib import Path

from awp_train.state import differences
from bench.catalogue import dataset_info
from bench.schema import InvalidInput, ModelCard, TrainConfig
from bench.sources import checkpoint


def card_of(
    config: TrainConfig,
    name: str,
    pair: str | None,
    which: str,
    kept: int,
    *,
    control_of: str | None = None,
) -> ModelCard:
    """The card of `<name>-<which>`, which is "best" or "last"; kept is its 1-based epoch."""
    extra = config.extra
    return ModelCard(
        name=f"{name}-{which}",
        arch=config.arch,
        arch_args=config.arch_args,
        mean=config.mean,
        std=config.std,
        dataset=config.dataset,
        class_count=dataset_info(config.dataset).class_count,
        weights_sha256="0" * 64,  # filled in where the file is written
        n_parameters=0,
        objective=config.objective,
        awp=config.awp,
        threat=None if config.objective == "natural" else config.threat,
        epochs=config.epochs,
        epoch_kept=kept,
        selected_on="validation" if which == "best" else "last",
        extra_data=f"{extra.n} pseudo-labelled images of {extra.file}" if extra else "",
        seed=config.seed,
        train=config,
        commit=_commit(),
        pair=f"{pair}-{which}" if pair else None,
        control_of=f"{control_of}-{which}" if control_of else None,
    )


def _commit() -> str:
    """The commit of this code, empty outside a git repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def finished(config: TrainConfig, name: str, out: Path) -> list[Path]:
    """The checkpoint folders of a finished run, none where there is no such run.

    Raises InvalidInput where the name belongs to a model of another configuration.
    """
    if not (out / f"{name}-last").exists():
        return []
    before = checkpoint.read_card(out / f"{name}-last").train
    if before != config:
        changed = differences(before, config) if before else "it was not trained here"
        raise InvalidInput(
            f"{out / name}-last holds another model ({changed}); choose another --name"
        )
    return [p for p in (out / f"{name}-best", out / f"{name}-last") if p.exists()]
