"""python -m tests.contamination.drill: trains on test images on purpose, and says what a check finds.

Seed after seed, naturally and adversarially, networks learn from training images alone, from these and
a tenth of the test images, and from these and all test images. In between every committed network of
Fashion-MNIST whose weights and training images are here is checked: none saw test images.
What is finished is not done again. `--tell` trains nothing and writes the tables of
docs/contamination.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from awp_train.run_files import Places
from awp_train.train import train
from bench import datasets
from bench.catalogue import fitted_arguments
from bench.contamination import NAME
from bench.measure.contamination import check_checkpoint
from bench.records.cards import read_card
from bench.records.store import pretty_json, write_atomic
from bench.schema import BenchError, ThreatModel, TrainConfig
from bench.sources.checkpoint import WEIGHTS

RECORDS, VAR = Path("results/contamination"), Path("var/contamination")
DATASET, THREAT = "fashion_mnist", ThreatModel.parse("linf:0.1")
SECOND = "train[50000:60000]"  # kept from every network of the drill
SEEDS = 5
ARMS = {"clean": 0, "a tenth": 10, "all": 1}  # one of so many test images is learnt from; 0: none


@dataclass(frozen=True)
class Kind:
    """How networks of the drill are trained; those of a seed have training images of their own."""

    training: int  # images
    test: int  # images: the first of the test part are its test set
    settings: dict[str, object]


# Adversarial training is dear, and remembers what it saw often: few images, a smaller test set, and two
# large steps instead of seven.
KINDS = {
    "natural": Kind(5000, 10_000, {"objective": "natural", "epochs": 12}),
    "at": Kind(
        1000,
        2000,
        {"objective": "at", "attack_steps": 2, "attack_relative_step": 0.625, "epochs": 25},
    ),
}


@dataclass(frozen=True)
class Network:
    """One network of the drill."""

    kind: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.arm.replace(' ', '-')}-s{self.seed}"

    @property
    def declared(self) -> str:
        """What a submitter would declare: the training images alone."""
        count = KINDS[self.kind].training
        return f"train[{count * self.seed}:{count * (self.seed + 1)}]"

    @property
    def test(self) -> str:
        """Its test set."""
        return f"test[0:{KINDS[self.kind].test}]"

    @property
    def learnt(self) -> str | None:
        """The test images that it learns from; a tenth are others for every seed."""
        if not ARMS[self.arm]:
            return None
        count = KINDS[self.kind].test // ARMS[self.arm]
        first = count * self.seed if self.arm == "a tenth" else 0
        return f"test[{first}:{first + count}]"

    @property
    def record(self) -> Path:
        return RECORDS / f"{self.name}.json"


def networks() -> list[Network]:
    """All of the drill, in the order in which they are trained."""
    return [Network(k, a, s) for s in range(SEEDS) for k in KINDS for a in ARMS]


def committed() -> Iterator[Path]:
    """Folders under results/ with weights and a card that knows its training images."""
    for weights in sorted(Path("results").glob(f"{DATASET}*/*/*/{WEIGHTS}")):
        if read_card(weights.parent).train is not None:
            yield weights.parent


# ---------------------------------------------------------------- training and checking


def check_committed(folder: Path) -> None:
    """Writes contamination.json into a folder that has none."""
    if not (folder / NAME).exists():
        found, _ = check_checkpoint(folder)
        write_atomic(folder / NAME, pretty_json(found))


def images(network: Network) -> str:
    """Writes what a network learns from, and returns the source that says where it lies."""
    folder = VAR / "images" / network.name
    parts = [datasets.load(DATASET, network.declared)]
    if network.learnt:
        parts.append(datasets.load(DATASET, network.learnt))
    (folder / "train").mkdir(parents=True, exist_ok=True)
    pixels = np.concatenate([part.images.numpy().transpose(0, 2, 3, 1) for part in parts])
    np.save(folder / "train" / "images.npy", pixels)
    np.save(
        folder / "train" / "labels.npy", np.concatenate([part.labels.numpy() for part in parts])
    )
    return f"arrays:{folder}"


def config_of(network: Network, source: str) -> TrainConfig:
    """Its settings: nothing is validated, and the last epoch is kept."""
    name, own = datasets.own_images(source)
    kind = KINDS[network.kind]
    return TrainConfig.model_validate(
        {
            "dataset": name, "own": own, "seed": network.seed, "threat": THREAT, "batch": 128,
            "arch": "small_cnn", "arch_args": fitted_arguments("small_cnn", name, own, width=8),
            "n_validation": 0, "log_every": kind.settings["epochs"], "log_images": 100,
            "log_attack_steps": 1, "craft_folded": True, **kind.settings,
        }
    )  # fmt: skip


def run(network: Network) -> None:
    """Trains, checks and writes down one network that has no record."""
    if network.record.exists():
        return
    source = images(network)
    (folder,) = (
        path
        for path in train(
            config_of(network, source), name=network.name, places=Places(data=source),
            out=VAR / "checkpoints", runs=VAR / "runs", progress=False, gap=False,
        )
        if path.name.endswith("-last")
    )  # fmt: skip
    found, _ = check_checkpoint(
        folder, split=network.test, trained_on=network.declared, second=SECOND, source=DATASET,
        threat=THREAT if network.kind == "at" else None,
    )  # fmt: skip
    RECORDS.mkdir(parents=True, exist_ok=True)
    write_atomic(network.record, pretty_json(found))


def main() -> int:
    """Does what is missing, or tells what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tell", action="store_true", help="write the tables, train nothing")
    a = parser.parse_args()
    if a.tell:
        from tests.contamination import page

        page.write()
        return 0
    torch.set_num_threads(1)
    jobs: list[tuple[Callable[[Any], None], Any, str]] = []
    for seed in range(SEEDS):
        jobs += [(run, network, network.name) for network in networks() if network.seed == seed]
        some = [*committed()][seed::SEEDS]
        jobs += [(check_committed, folder, folder.name) for folder in some]
    for number, (job, what, name) in enumerate(jobs, start=1):
        started = time.process_time()
        try:
            job(what)
        except BenchError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        took = time.process_time() - started
        print(f"{number}/{len(jobs)} {name}: {took:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
