"""How a network runs while it trains: bfloat16, compiled and folded passes beside the plain ones."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from awp_train.faster import folded, running_of
from awp_train.step import build, optimiser_of, step
from bench import models
from bench.schema import AwpConfig, InvalidInput
from tests.training.tiny_runs import TINY, bits, settings

AWP = AwpConfig(gamma=0.02)


def updated(dtype=torch.float64, **changed) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network after one step, the update as a vector, and the loss.

    In float64, where another order of sums does not turn the sign of a gradient near zero.
    """
    config = settings(**{"awp": AWP, "lr": 0.01} | changed)
    model = build(config).to(dtype)
    start = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    y, running = torch.arange(20) % 10, running_of(model, config, x[:2])
    done = step(model, optimiser_of(model, config), config, x, y, epoch=1, batch=0, running=running)
    end = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    return model, end - start, done.loss


def go_the_same_way(one, other, *, cosine: float, rtol: float) -> None:
    assert nn.functional.cosine_similarity(one[1], other[1], dim=0) > cosine
    torch.testing.assert_close(other[2], one[2], rtol=rtol, atol=0)


@pytest.mark.parametrize(
    ("objective", "changed"),
    [("trades", {"precision": "bf16"}), ("mart", {"craft_folded": True}),
     ("at", {"precision": "bf16", "craft_folded": True})],
)  # fmt: skip
def test_a_quicker_step_goes_the_same_way(objective, changed):
    half = "precision" in changed
    dtype = torch.float32 if half else torch.float64
    plain = updated(dtype, objective=objective)
    quick = updated(dtype, objective=objective, **changed)
    go_the_same_way(plain, quick, cosine=0.95 if half else 0.9999, rtol=0.05 if half else 1e-4)
    assert all(p.dtype == dtype for p in quick[0].parameters())


def test_larger_images_are_laid_out_channels_last_and_go_the_same_way(monkeypatch):
    plain = updated()
    monkeypatch.setattr("awp_train.faster.SMALL", 8)
    turned = updated()
    go_the_same_way(plain, turned, cosine=0.9999, rtol=1e-4)
    for model, expected in ((plain[0], False), (turned[0], True)):
        kernels = [p for p in model.parameters() if p.dim() == 4 and 1 not in p.shape[1:]]
        laid = {k.is_contiguous(memory_format=torch.channels_last) for k in kernels}
        assert laid == {expected}


def test_without_options_the_network_runs_itself_and_bfloat16_gives_float32_logits():
    model, x = build(TINY).eval(), torch.rand(4, 1, 8, 8)
    running = running_of(model, TINY, x)
    assert running.training is model and running.crafting() is model
    logits = running_of(model, settings(precision="bf16"), x).training(x)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(x))
    torch.testing.assert_close(logits, model(x), rtol=0.05, atol=0.05)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InvalidInput, match="compiler"):
        running_of(build(TINY), settings(compiled=True), torch.rand(2, 1, 8, 8))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_a_compiled_step_goes_the_same_way():
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler")
    go_the_same_way(updated(), updated(compiled=True), cosine=0.999, rtol=1e-3)


# ---------------------------------------------------------------- the copy that crafts


@pytest.mark.parametrize(
    ("arch", "arguments", "side"),
    [
        ("small_cnn", {"in_channels": 1, "image_size": 12, "width": 4}, 12),
        ("preact_resnet18", {"in_channels": 3}, 8),
    ],
)
def test_logits_and_gradients_are_the_networks_after_a_step(arch, arguments, side):
    net, x = models.build(arch, arguments), torch.rand(2, arguments["in_channels"], side, side)
    for name, buffer in net.named_buffers():
        if name.endswith(("_mean", "_var")):
            buffer.uniform_(0.5, 2)
    before, refreshed = bits(net.state_dict()), folded(net.train(), x)
    refreshed()
    assert bits(net.state_dict()) == before
    assert net.training and all(p.requires_grad for p in net.parameters())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        net.train()
        net(x).square().sum().mul(1e-3).backward()
        optimiser.step()
    net.eval()
    fast = refreshed()
    assert not fast.training and len(list(fast.modules())) == len(list(net.modules()))
    assert sum(isinstance(m, nn.Identity) for m in fast.modules()) > 0
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    wanted, got = net(z), fast(w)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    (expected,) = torch.autograd.grad(wanted.logsumexp(1).sum(), z)
    (gradient,) = torch.autograd.grad(got.logsumexp(1).sum(), w)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)
