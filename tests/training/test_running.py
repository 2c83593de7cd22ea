"""How a network runs while it trains: bfloat16, compiled and folded passes beside the plain ones."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from awp_train.faster import Running, running_of
from awp_train.step import build, optimiser_of, step
from bench.schema import AwpConfig, InvalidInput
from tests.training.tiny_runs import TINY


def updated(dtype=torch.float64, **changed) -> tuple[nn.Module, torch.Tensor]:
    """The network and its loss after one step of a configuration, and before which it was the same.

    In float64, where another order of sums does not turn the sign of a gradient near zero.
    """
    config = TINY.model_copy(
        update={"augment": "none", "awp": AwpConfig(gamma=0.02), "lr": 0.01} | changed
    )
    model = build(config).to(dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 8, 8, generator=generator).to(dtype)
    y = torch.arange(20) % 10
    running = running_of(model, config, x[:2])
    done = step(model, optimiser_of(model, config), config, x, y, epoch=1, batch=0, running=running)
    return model, done.loss


def cosine(one: nn.Module, other: nn.Module) -> float:
    """Of the two updates, from the initial weights they share."""
    start, first, second = (
        torch.cat([p.detach().double().flatten() for p in m.parameters()])
        for m in (build(TINY), one, other)
    )
    first, second = first - start, second - start
    return nn.functional.cosine_similarity(first, second, dim=0).item()


QUICKER = {
    "bf16": {"precision": "bf16"},
    "folded": {"craft_folded": True},
    "bf16-folded": {"precision": "bf16", "craft_folded": True},
}


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
@pytest.mark.parametrize("changed", QUICKER.values(), ids=QUICKER)
def test_a_quicker_step_goes_the_same_way(changed, objective):
    half = "precision" in changed
    dtype = torch.float32 if half else torch.float64
    plain, loss = updated(dtype, objective=objective)
    quick, quick_loss = updated(dtype, objective=objective, **changed)
    assert cosine(plain, quick) > (0.95 if half else 0.9999)
    torch.testing.assert_close(quick_loss, loss, rtol=0.05 if half else 1e-4, atol=0)
    assert all(p.dtype == dtype for p in quick.parameters())


def test_larger_images_are_laid_out_channels_last_and_go_the_same_way(monkeypatch):
    plain, loss = updated()
    monkeypatch.setattr("awp_train.faster.SMALL", 8)
    turned, turned_loss = updated()
    assert _channels_last(turned) and not _channels_last(plain)
    assert cosine(plain, turned) > 0.9999
    torch.testing.assert_close(turned_loss, loss, rtol=1e-4, atol=0)


def _channels_last(model: nn.Module) -> bool:
    kernels = [p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[-1] > 1]
    assert kernels
    return all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)


def test_without_options_the_network_runs_itself():
    model = build(TINY)
    running = running_of(model, TINY, torch.rand(2, 1, 8, 8))
    assert running == Running(model) and running.crafting() is model


def test_logits_of_bfloat16_passes_are_float32():
    config = TINY.model_copy(update={"precision": "bf16"})
    model, x = build(config).eval(), torch.rand(4, 1, 8, 8)
    logits = running_of(model, config, x).training(x)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(x))
    torch.testing.assert_close(logits, model(x), rtol=0.05, atol=0.05)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    config = TINY.model_copy(update={"compiled": True})
    with pytest.raises(InvalidInput, match="compiler"):
        running_of(build(config), config, torch.rand(2, 1, 8, 8))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_a_compiled_step_goes_the_same_way():
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler")
    plain, loss = updated()
    compiled, compiled_loss = updated(compiled=True)
    assert cosine(plain, compiled) > 0.999
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-3, atol=0)
