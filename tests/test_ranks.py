"""Several processes train one network: equal bits on every rank, and the update of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from awp_train.ranks import Ranks, launch
from awp_train.train import train
from awp_train.update import build, optimiser_of, step
from bench.schema import AwpConfig, InvalidInput, ThreatModel, TrainConfig
from tests.tiny_runs import TINY

STEPS = 10


def config(**changed: Any) -> TrainConfig:
    return TINY.model_copy(update={"batch": 12} | changed)


def plain_network() -> nn.Module:
    """Without BatchNorm, whose statistics depend on how a batch is split."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


def batch_of(number: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.rand(size, 1, 8, 8, generator=generator)
    return x, torch.randint(10, (size,), generator=generator)


PERTURBED = {
    "vanilla": None,
    "awp": AwpConfig(gamma=0.02, steps=2),
    "rwp": AwpConfig(gamma=0.02, direction="random"),
}
NORMALISED = [config(awp=awp) for awp in PERTURBED.values()]
# 11 images: the parts of two ranks differ in size.
PLAIN = [
    (config(awp=AwpConfig(gamma=0.02), objective=objective, lr=0.05), size)
    for objective in ("at", "trades", "mart")
    for size in (12, 11)
]
Outcome = tuple[np.ndarray, np.ndarray, bool]


def trained(ranks: Ranks, settings: TrainConfig, model: nn.Module, size: int) -> Outcome:
    """Weights and buffers after ten steps, the losses, and whether every rank has the same bits."""
    optimiser = optimiser_of(model, settings)
    losses = []
    for number in range(STEPS):
        x, y = batch_of(number, size)
        done = step(model, optimiser, settings, x, y, epoch=1, batch=number, ranks=ranks)
        losses.append(float(done.loss))
    own = torch.cat([t.double().flatten() for t in model.state_dict().values()])
    everyones = [torch.empty_like(own) for _ in range(ranks.count)]
    if ranks.count > 1:
        torch.distributed.all_gather(everyones, own)
    same = ranks.count == 1 or all(torch.equal(own, other) for other in everyones)
    return own.numpy(), np.array(losses), same


def everything(ranks: Ranks) -> list[Outcome]:
    return [trained(ranks, c, build(c), 12) for c in NORMALISED] + [
        trained(ranks, c, plain_network(), size) for c, size in PLAIN
    ]


def test_two_processes_hold_the_same_bits_and_make_the_update_of_one():
    two, one = launch(everything, 2), launch(everything, 1)
    assert all(same for _, _, same in two)
    assert all(np.isfinite(own).all() and np.isfinite(losses).all() for own, losses, _ in two)
    plain = slice(len(NORMALISED), None)
    for (own, losses, _), (alone, losses_alone, _) in zip(two[plain], one[plain], strict=True):
        np.testing.assert_allclose(losses, losses_alone, rtol=2e-3, atol=2e-3)
        assert own @ alone / np.linalg.norm(own) / np.linalg.norm(alone) > 0.999


@pytest.mark.slow
def test_a_run_on_two_processes_ends_with_checkpoints(tmp_path):
    written = train(
        config(devices=2, threat=ThreatModel.parse("linf:0.1")),
        name="two", out=tmp_path / "c", runs=tmp_path / "r", progress=False,
    )  # fmt: skip
    assert [folder.name for folder in written] == ["two-best", "two-last"]
    assert all((folder / "weights.safetensors").exists() for folder in written)


def refused(ranks: Ranks) -> None:
    raise InvalidInput("as it was there")


@pytest.mark.slow
def test_an_error_rises_here_as_it_did_there():
    with pytest.raises(InvalidInput, match="as it was there"):
        launch(refused, 2)


def test_parts_cover_a_batch_once():
    whole = torch.arange(11)
    for count in (1, 2, 3):
        parts = [Ranks(rank, count).part(whole) for rank in range(count)]
        assert sorted(torch.cat(parts).tolist()) == whole.tolist()
        assert sum(Ranks(rank, count).share(11) for rank in range(count)) == pytest.approx(1)
