"""One training run from configuration to checkpoints: `train(config, name=...)`.

B images a batch, N training images, K classes. Every random number is keyed by (seed, epoch, batch,
purpose), so that a resumed run and the twin of an AWP run see the same order, crops and starts.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import models
from awp_train.augment import AUGMENTATIONS
from awp_train.awp import adversarial_weights
from awp_train.cards import card_of, finished
from awp_train.objectives import OBJECTIVES
from awp_train.presets import check
from awp_train.schedule import piecewise
from awp_train.state import (
    CURVES,
    STATE,
    RunState,
    claim,
    curves,
    load_state,
    save_state,
)
from awp_train.validation import validate
from bench import checkpoint
from bench.catalogue import dataset_info, unknown_name
from bench.datasets import as_float, training_split
from bench.schema import BenchError, InvalidInput, TrainConfig, safe_name
from bench.streams import Streams
from models import Normalized

# Exceptions, besides InvalidInput for calls and files that were wrong:
#   BenchError
#   └── TrainingFailed   no useful model: collapsed, or not finite; there is no checkpoint


class TrainingFailed(BenchError, RuntimeError):
    """The run stopped for good; the text says at which epoch, and what to try."""


CHECKPOINTS, RUNS = Path("var/checkpoints"), Path("var/runs")
COLLAPSE_TOLERANCE = 0.02  # of ln K


def train(
    config: TrainConfig,
    *,
    name: str,
    pair: str | None = None,
    out: Path = CHECKPOINTS,
    runs: Path = RUNS,
    progress: bool = True,
    report: Callable[[float, str], None] | None = None,
) -> list[Path]:
    """Trains, and returns the checkpoint folders `<name>-best` (by validation) and `<name>-last`.

    `pair` is the run name of the vanilla twin, for the cards. A finished run is not trained again,
    an interrupted one goes on after its last whole epoch, on one machine to the same bits (CPU,
    float32). The best epoch is that with most validation images robust (natural runs: most right
    unattacked), the earliest of equals; without validation images there is only `last`.
    progress: a bar on stderr; report: called after each epoch with the share done and a few words.
    Raises InvalidInput, or TrainingFailed for a collapse or a loss that is not finite.
    """
    check(config)
    if config.objective not in OBJECTIVES:
        raise unknown_name("objective that can be trained yet", config.objective, OBJECTIVES)
    if safe_name(name) != name or len(name) > 90:
        raise InvalidInput(f"a run name has at most 90 of A-Z a-z 0-9 . _ + = -, got {name!r}")
    if done := finished(config, name, out):
        _tell(progress, f"{name} is finished: {', '.join(map(str, done))}")
        return done

    # Data: all of it on the device, as stored (uint8 where it is).
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, validation = training_split(config)
    images, labels = training.images.to(device), training.labels.to(device)
    folder = runs / name
    claim(folder, config, pair)
    state = load_state(folder)
    if state.failure:
        raise TrainingFailed(f"{state.failure}. To try again, delete {folder}")

    model = build(config).to(device)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,  # on every parameter, biases and BatchNorm too, as in AWP
    )
    if state.epoch:
        model.load_state_dict(state.model)
        optimiser.load_state_dict(state.optimiser)
        _tell(progress, f"{name} goes on after epoch {state.epoch} of {config.epochs}")
    batches = len(batches_of(len(training), config.batch))
    bar = tqdm(
        total=config.epochs * batches,
        initial=state.epoch * batches,
        desc=name,
        unit="batch",
        mininterval=0.5,
        file=sys.stderr,
        disable=not progress,
    )
    shown, started = "", time.monotonic() - state.seconds
    with bar:
        for epoch in range(state.epoch, config.epochs):
            lr = piecewise(config, epoch)
            for group in optimiser.param_groups:
                group["lr"] = lr
            order = torch.randperm(len(training), generator=_generator(config, "order", epoch))
            order = order.to(device)
            total = torch.zeros((), device=device)
            for batch, part in enumerate(batches_of(len(training), config.batch)):
                chosen = order[part]
                x, y = as_float(images[chosen]), labels[chosen]
                total += step(model, optimiser, config, x, y, epoch=epoch, batch=batch) * len(y)
                bar.update()
            loss = float(total) / min(len(training), batches * config.batch)  # the epoch's one sync
            if not math.isfinite(loss):
                raise TrainingFailed(_not_finite(name, epoch + 1))

            # The AWP loss is that at w + v; every other number of a line is measured at w.
            line: dict[str, float] = {"epoch": epoch + 1, "lr": lr, "loss": loss}
            if (epoch + 1) % config.log_every == 0 or epoch + 1 == config.epochs:
                line |= validate(model, training, config, "train")
                line |= validate(model, validation, config, "validation")
                if not math.isfinite(line["train_robust_loss"]):
                    raise TrainingFailed(_not_finite(name, epoch + 1))
                state.log.append(line | {"seconds": round(time.monotonic() - started, 3)})
                _keep_best(state, model, config, line)
                shown = _shown(line)
                bar.set_postfix_str(shown, refresh=False)
            state.epoch = epoch + 1
            state.model, state.optimiser = _copied(model), optimiser.state_dict()
            state.seconds = time.monotonic() - started
            state.failure = _collapse(name, config, state, loss, batches)
            save_state(folder, state)
            if state.failure:
                raise TrainingFailed(state.failure)
            if report:
                report((epoch + 1) / config.epochs, shown)

    written = []
    for which, kept, weights in (
        ("best", state.best_epoch, state.best_model),
        ("last", state.epoch, state.model),  # last of all: its presence marks a finished run
    ):
        if kept:
            model.load_state_dict(weights)
            card = card_of(config, name, pair, which, kept)
            checkpoint.save(out / card.name, model, card, files={CURVES: curves(state)})
            written.append(out / card.name)
    (folder / STATE).unlink()
    return written


def build(config: TrainConfig) -> Normalized:
    """The network with the initial weights of this seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config, "initial weights"))
        return models.build(config.arch, config.arch_args, mean=config.mean, std=config.std)


def batches_of(n: int, size: int) -> list[slice]:
    """Slices of an epoch's order; without a last batch of one image, no use to BatchNorm."""
    return [slice(i, i + size) for i in range(0, n, size) if n - i > 1]


def step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    x: Tensor,
    y: Tensor,
    *,
    epoch: int,
    batch: int,
) -> Tensor:
    """One update of the weights from images x (B, C, H, W) in [0, 1]; returns the detached loss."""
    objective = OBJECTIVES[config.objective]
    path = (config.seed, epoch, batch)
    if augment := AUGMENTATIONS[config.augment]:
        x = augment(x, Streams.for_batch(len(y), "augment", *path, device=x.device))
    x_adv = x
    if objective.craft is not None and config.threat is not None:
        # In train mode the attack's passes move the BatchNorm statistics, as in the AWP code. That
        # makes one more clean pass for its log, and from its 2nd epoch on crafts the first batch
        # of an epoch in eval mode by oversight; neither is imitated.
        model.train(config.craft_mode == "train")
        streams = Streams.for_batch(len(y), "craft", *path, device=x.device)
        steps, relative_step = config.attack_steps, config.attack_relative_step
        x_adv = objective.craft(model, x, y, config.threat, streams, steps, relative_step)
    model.train()
    loss_of_batch = partial(objective.loss, model, x, x_adv, y)
    optimiser.zero_grad(set_to_none=True)
    place: AbstractContextManager = nullcontext()
    if config.awp is not None and epoch >= config.awp.warm_up:
        generator = _generator(config, "weights", epoch, batch, device=x.device)
        place = adversarial_weights(model, loss_of_batch, config=config.awp, generator=generator)
    with place:
        loss = loss_of_batch()  # moves the BatchNorm statistics at w + v, as every known AWP does
        loss.backward()
    optimiser.step()
    return loss.detach()


# ---------------------------------------------------------------- selection and failure


def _keep_best(
    state: RunState, model: nn.Module, config: TrainConfig, line: dict[str, float]
) -> None:
    judged = "clean" if config.objective == "natural" else "robust"
    score = line.get(f"validation_{judged}_correct", -1)
    if score > state.best_score:
        state.best_epoch, state.best_score = int(line["epoch"]), int(score)
        state.best_model = _copied(model)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def _collapse(name: str, config: TrainConfig, state: RunState, loss: float, batches: int) -> str:
    """Why the run counts as collapsed, or nothing; also written as the last line of the log.

    A network that answers the same for every image has the loss ln K. AT may start there for a
    while, so it takes a tenth of the run, at least 5 epochs and 50 updates, after the warm-up and
    in a row.
    """
    classes = dataset_info(config.dataset).class_count
    chance = math.log(classes)
    patience = max(5, math.ceil(config.epochs / 10), math.ceil(50 / batches))
    warm_up = config.awp.warm_up if config.awp else 0
    flat = state.epoch > warm_up and abs(loss - chance) < COLLAPSE_TOLERANCE * chance
    state.flat_epochs = state.flat_epochs + 1 if flat else 0
    if state.flat_epochs < patience:
        return ""
    advice = (
        f"a longer warm-up than {warm_up} epochs, a smaller gamma" if config.awp else "a smaller lr"
    )
    state.log.append(
        {"epoch": state.epoch, "loss": loss, "collapsed": True, "flat_epochs": patience}
    )
    return (
        f"{name} collapsed to a constant answer: up to epoch {state.epoch} the training loss was "
        f"within 2 % of ln({classes}) = {chance:.3f} for {patience} epochs in a row. "
        f"No checkpoint was made. Try {advice} or a smaller eps"
    )


def _not_finite(name: str, epoch: int) -> str:
    return (
        f"{name}: the loss of epoch {epoch} is not finite. No checkpoint was made. "
        "Try a smaller lr, or look for values that are not finite in the data"
    )


def _shown(line: dict[str, float]) -> str:
    part = "validation" if line["validation_n"] else "train"
    return f"{part} robust {line[f'{part}_robust_correct']}/{line[f'{part}_n']}"


def _tell(progress: bool, text: str) -> None:
    if progress:
        tqdm.write(text, file=sys.stderr)


def _seed(config: TrainConfig, *path: int | str) -> int:
    digest = hashlib.sha256(json.dumps([config.seed, *path]).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _generator(
    config: TrainConfig, *path: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    return torch.Generator(device).manual_seed(_seed(config, *path))
