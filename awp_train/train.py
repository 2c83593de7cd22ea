"""One training run from configuration to checkpoints: `train(config, name=...)`.

B images a batch, N training images, K classes. Every random number is keyed by (seed, epoch, batch,
purpose), so that a resumed run and the twin of an AWP run see the same order, crops and starts.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from awp_train.batches import epoch_batches
from awp_train.checks import check
from awp_train.distributed import Ranks, launch
from awp_train.extra_images import load_extra
from awp_train.faster import running_of
from awp_train.run_files import (
    CURVES,
    STATE,
    Places,
    Run,
    RunState,
    TrainingFailed,
    card_of,
    claim,
    collapse,
    curves,
    finished,
    load_start,
    load_state,
    not_finite,
    save_state,
)
from awp_train.step import (
    averaged,
    averaged_from,
    build,
    decay_of,
    learning_rate,
    mix_in,
    optimiser_of,
    step,
)
from awp_train.tensorboard import events
from awp_train.validation import gap_file, validate
from bench import datasets
from bench.catalogue import OBJECTIVES, dataset_info
from bench.datasets import Examples, as_float
from bench.measure.processes import redrawn_every
from bench.records.lock import locked, made
from bench.schema import InvalidInput, TrainConfig, safe_name
from bench.sources import checkpoint

CHECKPOINTS, RUNS = Path("var/checkpoints"), Path("var/runs")
SAVE_SECONDS = 180.0  # between two states within an epoch
LAST_LOGGED = 6  # epochs at the end that are all logged: the paper's "last" is their mean


def train(
    config: TrainConfig,
    *,
    name: str,
    pair: str | None = None,
    control_of: str | None = None,
    places: Places = Places(),  # noqa: B008 - immutable
    out: Path = CHECKPOINTS,
    runs: Path = RUNS,
    progress: bool = True,
    report: Callable[[float, str], None] | None = None,
    tensorboard: Path | None = None,
    gap: bool = True,
) -> list[Path]:
    """Trains, and returns the checkpoint folders `<name>-best` (by validation) and `<name>-last`.

    `pair` is the run name of the vanilla twin, `control_of` that of the AWP run this is a control of,
    for the cards. `places` says where the files lie that the configuration names. A finished run is
    not trained again, an interrupted one goes on from its last state, at most a few minutes old, on
    one machine to the same bits (CPU, float32). The best epoch is that with most validation images
    robust (natural runs: most right unattacked), the earliest of equals, among multiples of log_every
    and the last epoch; without validation images there is only `last`.
    progress: a bar on stderr; report: called after each epoch with the share done and a few words;
    tensorboard: a folder that gets event files of the log too; gap: whether the gap between training
    and test images is measured at the end, without which no test image is opened.
    Raises InvalidInput, also while another process trains this run; TrainingFailed for a collapse or a
    loss that is not finite.
    """
    check(config)
    if safe_name(name) != name or len(name) > 90:
        raise InvalidInput(f"a run name has at most 90 of A-Z a-z 0-9 . _ + = -, got {name!r}")
    if done := finished(config, name, out):
        _tell(progress, f"{name} is finished: {', '.join(map(str, done))}")
        return done
    made(out)  # hours before anything is put there
    if config.devices > 1:
        report = None  # it lives in this process, and training does not
    with locked(runs / f"{name}.lock", f"the run {name}"):
        run = claim(runs / name, Run(config, pair, control_of, places))
        return launch(
            _train, config.devices, name, run, out, runs / name, progress, report, tensorboard, gap
        )


def _train(
    ranks: Ranks,
    name: str,
    run: Run,
    out: Path,
    folder: Path,
    progress: bool,
    report: Callable[[float, str], None] | None,
    tensorboard: Path | None,
    gap: bool,
) -> list[Path]:
    """The loop of one rank; the first writes every file."""
    # Data: all of it on the device, as stored (uint8 where it is).
    config, device = run.config, ranks.device
    training, validation = datasets.training_split(config, source=run.places.data)
    parts: dict[str, tuple[Examples, int | None]] = {
        "train": (training, None), "validation": (validation, None),
    }  # fmt: skip
    if config.log_test_images:  # for the curve; nothing is chosen by them
        n = min(config.log_test_images, dataset_info(config.dataset, config.own).n_test)
        parts["test"] = (datasets.of_run(config, "test", n=n, source=run.places.data), n)
    images, labels = (part.to(device) for part in _with_extra(training, config, run.places))
    state = load_state(folder)
    ranks.wait()  # the first may write a new state from here on
    if state.failure:
        raise TrainingFailed(f"{state.failure}. To try again, delete {folder}")
    progress = progress and ranks.first

    # Network and optimiser, at the start or where the state left them.
    model = build(config).to(device)
    if config.start is not None and not state.model:
        if run.places.start is None:
            raise InvalidInput(
                f"the run starts from {config.start.name}: say where it is with --start FOLDER"
            )
        load_start(model, run.places.start, config)
    running = running_of(model, config, as_float(images[:2]))
    optimiser = optimiser_of(model, config)
    if state.model:
        model.load_state_dict(state.model)
        optimiser.load_state_dict(state.optimiser)
        state.average = {key: value.to(device) for key, value in state.average.items()}
        _tell(progress, f"{name} goes on after epoch {state.epoch} of {config.epochs}")

    shown, started, saved = "", time.monotonic() - state.seconds, time.monotonic()

    def save() -> None:
        nonlocal saved
        state.model, state.optimiser = model.state_dict(), optimiser.state_dict()
        state.seconds = time.monotonic() - started
        if ranks.first:
            save_state(folder, state)
        saved = time.monotonic()

    def stop_not_finite(what: str) -> TrainingFailed:
        state.failure = not_finite(
            name, what, last, folder, epoch=epoch, batch=batch, rank=ranks.rank
        )
        if ranks.first:
            save_state(folder, state)
        return TrainingFailed(state.failure)

    n_extra = len(labels) - len(training)
    per_epoch = len(epoch_batches(config, len(training), n_extra, 0))
    bar = tqdm(
        total=config.epochs * per_epoch,
        initial=state.epoch * per_epoch + state.batch,
        desc=name,
        unit="batch",
        mininterval=redrawn_every(),
        file=sys.stderr,
        disable=not progress,
    )
    with bar, events(tensorboard if ranks.first else None, name, state.log) as tell:
        while state.epoch < config.epochs and not _out_of_patience(config, state):
            epoch = state.epoch
            batches = epoch_batches(config, len(training), n_extra, epoch)
            on_device = torch.cat(batches).to(device).split([len(part) for part in batches])
            total = state.loss_sum.to(device)
            for batch in range(state.batch, len(batches)):
                lr = learning_rate(config, epoch, batch, len(batches))
                for group in optimiser.param_groups:
                    group["lr"] = lr
                chosen = on_device[batch]
                x, y = as_float(images[chosen]), labels[chosen]
                last = step(
                    model, optimiser, config, x, y,
                    epoch=epoch, batch=batch, running=running, ranks=ranks,
                )  # fmt: skip
                total += last.loss * len(chosen)
                if not math.isfinite(last.loss):  # a sync, small beside those of crafting
                    raise stop_not_finite(f"the loss of batch {batch + 1} of epoch {epoch + 1}")
                if config.averaging == "ema" and epoch >= averaged_from(config):
                    mix_in(state.average, model, 1 - decay_of(config, len(batches)))
                bar.update()
                if batch + 1 < len(batches) and time.monotonic() - saved >= SAVE_SECONDS:
                    state.batch, state.loss_sum = batch + 1, total
                    save()
            loss = float(total) / sum(map(len, batches))
            state.epoch, state.batch, state.loss_sum = epoch + 1, 0, torch.zeros(())
            if config.averaging == "swa" and epoch >= averaged_from(config):
                state.averaged += 1
                mix_in(state.average, model, 1 / state.averaged)

            # The AWP loss is that at w + v; every other number of a line is measured at w, or at the
            # average of w once there is one.
            if is_logged(config, epoch):
                judged = averaged(model, state.average, config, images[: len(training)])
                line: dict[str, float] = {"epoch": epoch + 1, "lr": lr, "loss": loss}
                for part, (examples, limit) in parts.items():
                    line |= validate(judged, examples, config, part, limit=limit, ranks=ranks)
                if not math.isfinite(line["train_robust_loss"]):
                    raise stop_not_finite(f"after epoch {epoch + 1} the loss on training images")
                state.log.append(line | {"seconds": round(time.monotonic() - started, 3)})
                tell(state.log[-1])
                if is_candidate(config, epoch):
                    _keep_best(state, judged, config, line)
                part = "validation" if line["validation_n"] else "train"
                shown = f"{part} robust {line[f'{part}_robust_correct']}/{line[f'{part}_n']}"
                bar.set_postfix_str(shown, refresh=False)
            state.failure = collapse(name, config, state, loss, len(batches))
            save()
            if state.failure:
                raise TrainingFailed(state.failure)
            if report:
                report((epoch + 1) / config.epochs, shown)
    if state.epoch < config.epochs:
        _tell(progress, f"{name} stopped after epoch {state.epoch}: no better since its best")

    judged = averaged(model, state.average, config, images[: len(training)])
    # `last` comes last of all: its presence marks a finished run.
    kept = {"best": (state.best_epoch, state.best_model), "last": (state.epoch, _copied(judged))}
    written = []
    for which, (epoch, weights) in kept.items():
        if epoch:
            model.load_state_dict(weights)
            card = card_of(config, name, run.pair, which, epoch, control_of=run.control_of)
            if ranks.first:
                files = {CURVES: curves(state)}
                if gap:
                    files |= gap_file(model, training, config, epoch=epoch, source=run.places.data)
                checkpoint.save(out / card.name, model, card, files=files)
            written.append(out / card.name)
    if ranks.first:
        (folder / STATE).unlink()
    return written


def _with_extra(training: Examples, config: TrainConfig, places: Places) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) and (N,): the labelled images, followed by the extra ones."""
    if config.extra is None:
        return training.images, training.labels
    if places.extra is None:
        raise InvalidInput(
            f"the run uses extra images of {config.extra.file}: say where it is with --extra FILE"
        )
    extra = load_extra(places.extra, config, source=places.data)
    both = [training.images, extra.images]
    if extra.images.dtype != training.images.dtype:
        both = [training.x, extra.x]
    return torch.cat(both), torch.cat([training.labels, extra.labels])


# ---------------------------------------------------------------- logging and selection


def is_logged(config: TrainConfig, epoch: int) -> bool:
    """Whether a 0-based epoch has a line in train.jsonl."""
    return is_candidate(config, epoch) or epoch >= config.epochs - LAST_LOGGED


def is_candidate(config: TrainConfig, epoch: int) -> bool:
    """Whether a 0-based epoch may be the best."""
    return (epoch + 1) % config.log_every == 0 or epoch + 1 == config.epochs


def _keep_best(
    state: RunState, model: nn.Module, config: TrainConfig, line: dict[str, float]
) -> None:
    judged = "robust" if OBJECTIVES[config.objective].craft else "clean"
    score = line.get(f"validation_{judged}_correct", -1)
    if score > state.best_score:
        state.best_epoch, state.best_score = int(line["epoch"]), int(score)
        state.best_model = _copied(model)


def _out_of_patience(config: TrainConfig, state: RunState) -> bool:
    """Whether early stopping ends the run: counted from the best epoch, or from AWP's start."""
    if config.early_stopping is None or not state.best_epoch or state.batch:
        return False
    since = max(state.best_epoch, config.awp.warm_up if config.awp else 0)
    waited = state.epoch - since >= config.early_stopping
    return waited and is_candidate(config, state.epoch - 1)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def _tell(progress: bool, text: str) -> None:
    if progress:
        tqdm.write(text, file=sys.stderr)
