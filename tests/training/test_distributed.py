"""Several processes train one network: equal bits on every rank, and the update of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awp_train.distributed import Ranks, launch
from awp_train.step import build, optimiser_of, step
from awp_train.train import train
from bench.schema import AwpConfig, InvalidInput, TrainConfig
from tests.training.tiny_runs import TINY


def config(**changed: Any) -> TrainConfig:
    return TINY.model_copy(update={"batch": 12} | changed)


def plain_network() -> nn.Module:
    """Without BatchNorm, whose statistics depend on how a batch is split."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


def state_of(model: nn.Module) -> Tensor:
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])


PERTURBED = (None, AwpConfig(gamma=0.02, steps=2), AwpConfig(gamma=0.02, direction="random"))
# 11 images: the parts of two ranks differ in size.
PLAIN = [
    (config(awp=AwpConfig(gamma=0.02), objective=objective, lr=0.05), size)
    for objective, size in (("at", 12), ("trades", 11), ("mart", 11))
]


def trained(
    ranks: Ranks, settings: TrainConfig, model: nn.Module, size: int
) -> tuple[Tensor, Tensor]:
    """Weights and buffers after five steps, and the losses."""
    optimiser = optimiser_of(model, settings)
    losses = []
    for number in range(5):
        generator = torch.Generator().manual_seed(number)
        x = torch.rand(size, 1, 8, 8, generator=generator)
        y = torch.randint(10, (size,), generator=generator)
        done = step(model, optimiser, settings, x, y, epoch=1, batch=number, ranks=ranks)
        losses.append(done.loss)
    return state_of(model), torch.stack(losses)


def compared(ranks: Ranks, path: Path) -> None:
    """Writes what ranks and one process have in common, then fails.

    Whether all ranks end alike; cosine of updates and largest difference of losses with one.
    """
    same, apart = [], []
    for awp in PERTURBED:
        own, losses = trained(ranks, config(awp=awp), build(config()), 12)
        everyones = [torch.empty_like(own) for _ in range(ranks.count)]
        torch.distributed.all_gather(everyones, own)
        finite = bool(torch.isfinite(own).all() and torch.isfinite(losses).all())
        same.append(finite and all(torch.equal(own, other) for other in everyones))
    before = state_of(plain_network())
    for settings, size in PLAIN:
        own, losses = trained(ranks, settings, plain_network(), size)
        alone, losses_alone = trained(Ranks(), settings, plain_network(), size)
        cosine = nn.functional.cosine_similarity(own - before, alone - before, dim=0)
        apart.append((float(cosine), float((losses - losses_alone).abs().amax())))
    if ranks.first:
        path.write_text(json.dumps([same, apart]))
    ranks.wait()
    raise InvalidInput("as it was there")


@pytest.mark.slow  # new processes import torch for seconds: one launch for all that is asked of steps
def test_two_processes_hold_the_same_bits_make_the_update_of_one_and_fail_as_one(tmp_path):
    with pytest.raises(InvalidInput, match="as it was there"):
        launch(compared, 2, tmp_path / "seen.json")
    same, apart = json.loads((tmp_path / "seen.json").read_text())
    assert same == [True] * len(PERTURBED) and len(apart) == len(PLAIN)
    assert all(cosine > 0.999 and difference < 2e-3 for cosine, difference in apart), apart


@pytest.mark.slow
def test_a_run_on_two_processes_ends_with_checkpoints(tmp_path):
    written = train(
        config(devices=2, epochs=2),
        name="two",
        out=tmp_path / "c",
        runs=tmp_path / "r",
        progress=False,
    )
    assert [folder.name for folder in written] == ["two-best", "two-last"]
    assert all((folder / "weights.safetensors").exists() for folder in written)


def test_parts_cover_a_batch_once():
    whole = torch.arange(11)
    for count in (1, 2, 3):
        ranks = [Ranks(rank, count) for rank in range(count)]
        assert sorted(torch.cat([r.part(whole) for r in ranks]).tolist()) == whole.tolist()
        assert [r.share(11) * 11 for r in ranks] == pytest.approx(
            [len(r.part(whole)) for r in ranks]
        )
