"""How many images a network in training gets right, unattacked and under PGD.

Training, validation and test images are measured alike: at the weights w, in eval mode, unaugmented.
"""

from __future__ import annotations

import torch
from torch import nn

from awp_train.distributed import Ranks
from bench import datasets
from bench.attacks import Problem, pgd
from bench.attacks.losses import cross_entropy, fooled
from bench.catalogue import dataset_info
from bench.datasets import Examples, as_float
from bench.gap import NAME
from bench.measure import gap
from bench.models import Normalized
from bench.records.store import pretty_json
from bench.schema import TrainConfig
from bench.sources import checkpoint
from bench.streams import Streams

_BATCH = 500  # images


def validate(
    model: nn.Module,
    examples: Examples,
    config: TrainConfig,
    part: str,
    *,
    limit: int | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
) -> dict[str, float]:
    """Counts on the first `limit` examples, by default log_images, always with the same starts.

    Several ranks count a part each and agree on the sums.
    Keys: <part>_n, <part>_clean_correct, <part>_robust_correct and, in nats, <part>_robust_loss.
    The last PGD iterate is judged, as in the logs of the AWP code; clean errors are not robust.
    """
    n = min(len(examples), config.log_images if limit is None else limit)
    if not n or config.threat is None:
        return {f"{part}_n": 0}
    model.eval()
    device = next(model.parameters()).device
    clean_correct, robust_correct, loss = (torch.zeros((), device=device) for _ in range(3))
    mine = ranks.part(examples[:n])
    for first in range(0, len(mine), _BATCH):
        some = mine[first : first + _BATCH]
        x, y = as_float(some.images.to(device)), some.labels.to(device)
        streams = Streams.for_images(x, config.seed, "validation")
        x_adv = pgd(
            Problem(model, x, y, config.threat, streams), steps=config.log_attack_steps,
            relative_step=config.attack_relative_step, iterate="last",
        )  # fmt: skip
        with torch.no_grad():
            right, logits = ~fooled(model(x), y), model(x_adv)
        clean_correct += right.sum()
        robust_correct += (right & ~fooled(logits, y)).sum()
        loss += cross_entropy(logits, y).sum()
    ranks.sum_([clean_correct, robust_correct, loss])
    return {
        f"{part}_n": n,
        f"{part}_clean_correct": int(clean_correct),
        f"{part}_robust_correct": int(robust_correct),
        f"{part}_robust_loss": float(loss) / n,
    }


def gap_file(
    model: Normalized,
    training: Examples,
    config: TrainConfig,
    *,
    epoch: int,
    source: str | None = None,
) -> dict[str, str]:
    """{"gap.json": its text}: the robust generalisation gap of the weights that the model holds now.

    For the files of a checkpoint; nothing without a threat or test images. source: where images of
    one's own lie. Test images are looked at here, when
    training is over and the best epoch is chosen; nothing is decided by them.
    """
    n = min(gap.IMAGES, dataset_info(config.dataset, config.own).n_test)
    if config.threat is None or not n:
        return {}
    test = datasets.of_run(config, "test", n=n, source=source)
    sha256 = checkpoint.weights_sha256(model)
    found = gap.measure_gap(model, training, test, config, weights_sha256=sha256, epoch=epoch)
    return {NAME: pretty_json(found)}
