"""The robust generalisation gap of a finished run, measured before its checkpoint is written."""

from __future__ import annotations

from bench import datasets
from bench.catalogue import dataset_info
from bench.datasets import Examples
from bench.gap import NAME
from bench.measure import gap
from bench.records.store import pretty_json
from bench.schema import TrainConfig
from bench.sources import checkpoint
from models import Normalized


def gap_file(
    model: Normalized, training: Examples, config: TrainConfig, *, epoch: int
) -> dict[str, str]:
    """{"gap.json": its text} for the weights that the model holds now; nothing without a threat.

    For the files of a checkpoint. Test images are looked at here, when training is over and the best
    epoch is chosen; nothing is decided by them.
    """
    if config.threat is None:
        return {}
    n = min(gap.IMAGES, dataset_info(config.dataset).n_test)
    test = datasets.load(config.dataset, "test", n=n)
    found = gap.measure_gap(
        model, training, test, config,
        weights_sha256=checkpoint.weights_sha256(model), epoch=epoch,
    )  # fmt: skip
    return {NAME: pretty_json(found)}
