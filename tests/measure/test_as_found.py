"""What is handed in leaves as it came: the network, the random states, torch's settings."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import AutoAttack, evaluate
from bench.as_found import exact_float32, precisions, put_precisions, undisturbed
from bench.judge import Judge
from bench.measure import evaluate as measuring
from bench.records.store import same_answer
from bench.reliability.doctor import examine
from bench.schema import MeasurementFailed
from tests.conftest import small_net
from tests.measure.short_protocols import QUICK


class Careless(nn.Module):
    """Disturbs all that a forward can reach, and raises in the pass of a number."""

    def __init__(self, raises_at: int, error: type[BaseException]) -> None:
        super().__init__()
        self.net, self.calls, self.raises_at, self.error = small_net(), 0, raises_at, error
        self.drop = nn.Dropout(0.5)
        self.register_buffer("running", torch.zeros(3))
        self.eval()
        self.net[1].train()
        self.net[4].weight.requires_grad_(False)
        self.net[0].weight.grad = torch.ones_like(self.net[0].weight)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.raises_at:
            raise self.error("enough")
        if self.calls > 3:  # what was set stays set
            return self.net(x)
        torch.rand(3), np.random.rand(3), random.random()
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(2)
        self.running = self.running + 1
        self.drop.train()
        with torch.no_grad():
            self.net[0].bias.add_(1e-6)
            self.net[0].weight.data.mul_(1 + 1e-6)
            self.net[0].weight.grad.add_(1)
        self.net[4].bias.requires_grad_(False)
        return self.net(x)


def state(model: nn.Module) -> list[object]:
    tensors = [*model.parameters(), *model.buffers()]
    grads = [p.grad for p in model.parameters()]
    return [
        [(t.tolist(), t.dtype, t.device, t.requires_grad) for t in tensors],
        [id(t) for t in tensors],
        [g if g is None else (id(g), g.tolist()) for g in grads],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()),
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
    ]  # fmt: skip


def by_drop_in(model: nn.Module, x: Tensor, y: Tensor) -> None:
    adversary = AutoAttack(
        model, eps=0.02, version="custom", attacks_to_run=["square"], verbose=False
    )
    adversary.square.n_queries = 3
    adversary.clean_accuracy(x, y)
    adversary.run_standard_evaluation(x, y)


WAYS = {
    "evaluate": lambda m, x, y: evaluate(m, x, y, threat="linf:0.02", protocol=QUICK),
    "AutoAttack": by_drop_in,
    "doctor": lambda m, x, y: examine(m, x, y, threat="linf:0.02"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("at", "error"),
    [(10**9, RuntimeError), (1, RuntimeError), (45, RuntimeError), (45, KeyboardInterrupt)],
    ids=["to the end", "at once", "amid", "Ctrl-C"],
)
def test_all_is_left_as_it_came(way, at, error, monkeypatch):
    if way != "doctor":
        monkeypatch.setattr(measuring, "doubts_of", lambda shards: [])
    model = Careless(at, error)
    x = torch.rand(4, 1, 8, 8)
    y = torch.arange(4) % 10
    before = state(model)
    with contextlib.suppress(RuntimeError, MeasurementFailed, KeyboardInterrupt):
        WAYS[way](model, x, y)
    assert model.calls >= min(at, 20)
    assert state(model) == before


def test_gradients_can_be_taken_of_what_is_measured_in_inference_mode():
    net = small_net()
    with torch.inference_mode():
        x = torch.rand(8, 1, 8, 8)
        record = evaluate(net, x, net(x).argmax(1), threat="linf:0.1", protocol=QUICK)
    assert record.failure is None
    assert "zero-gradients" not in {flag.name for flag in record.flags}


def test_two_passes_of_a_random_model_draw_anew_inside():
    net = nn.Dropout().train()
    with undisturbed(net):
        assert not torch.equal(net(torch.ones(64)), net(torch.ones(64)))


def test_the_model_may_be_named():
    net, x = small_net(), torch.rand(8, 1, 8, 8)
    found = evaluate(model=net, x=x, y=net(x).argmax(1), threat="linf:0.1", protocol=QUICK)
    assert found.failure is None


def older(value: str) -> Callable[[], None]:
    return lambda: torch.set_float32_matmul_precision(value)


def newer(place: object, value: str) -> Callable[[], None]:
    return lambda: setattr(place, "fp32_precision", value)


BACKENDS = torch.backends
SWITCHES = {
    "nothing": lambda: None,
    "matmul high": older("high"),
    "matmul medium": older("medium"),
    "allow_tf32": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "cudnn without": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "everywhere": newer(BACKENDS, "tf32"),
    "cuda": newer(BACKENDS.cudnn, "tf32"),
    "cuda matmul": newer(BACKENDS.cuda.matmul, "tf32"),
    "cudnn conv": newer(BACKENDS.cudnn.conv, "ieee"),
    "onednn": newer(BACKENDS.mkldnn, "bf16"),
    "onednn matmul": newer(BACKENDS.mkldnn.matmul, "bf16"),
    "onednn conv": newer(BACKENDS.mkldnn.conv, "tf32"),
}


@pytest.fixture
def _settings():
    """Those that torch starts with, again afterwards."""
    before = precisions()
    assert before.matmul == "highest" and before.cudnn is True
    yield
    for place in (BACKENDS, BACKENDS.cudnn, BACKENDS.mkldnn):
        place.fp32_precision = "none"
    put_precisions(before)
    assert precisions() == before


class Noting(nn.Module):
    """Notes in what it may compute."""

    def __init__(self, gpu: bool) -> None:
        super().__init__()
        self.net, self.gpu, self.noted = small_net(), gpu, []

    def forward(self, x):
        places = [BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn]
        if self.gpu:
            places += [BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn]
        self.noted += [place.fp32_precision for place in places]
        return self.net(x)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.usefixtures("_settings")
def test_the_judge_computes_in_float32_whatever_the_caller_allows(switch, gpu, monkeypatch):
    """By torch's older settings and by its newer ones, beside which it refuses to read the older."""
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    model = Noting(gpu)
    logits = model.net(x)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    SWITCHES[switch]()
    before = precisions()
    Judge(model)(x, y)
    assert {*model.noted} <= {"ieee", "none"}
    with exact_float32():
        assert torch.equal(model.net(x), logits)
    assert precisions() == before


@pytest.mark.parametrize("after", ["matmul medium", "everywhere", "onednn conv", "cuda matmul"])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.usefixtures("_settings")
def test_precisions_are_left_as_the_caller_set_them(switch, after):
    SWITCHES[switch]()
    before = precisions()
    with undisturbed(small_net()):
        SWITCHES[after]()
    assert precisions().newer == before.newer
    assert before.matmul in (None, precisions().matmul)


@pytest.mark.usefixtures("_settings")
def test_what_stands_above_an_operation_still_decides_afterwards():
    BACKENDS.mkldnn.fp32_precision = "tf32"
    with exact_float32():
        assert BACKENDS.mkldnn.conv.fp32_precision == "ieee"
    BACKENDS.mkldnn.fp32_precision = "ieee"
    assert BACKENDS.mkldnn.conv.fp32_precision == "ieee"


@pytest.mark.parametrize("switch", ["matmul medium", "cuda matmul", "everywhere"])
@pytest.mark.usefixtures("_settings")
def test_a_record_does_not_depend_on_what_the_caller_allows(switch):
    net, x = small_net(), torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        y = net(x).argmax(1)
    records = [evaluate(net, x, y, threat="linf:0.1", protocol=QUICK)]
    SWITCHES[switch]()
    records += [evaluate(net, x, y, threat="linf:0.1", protocol=QUICK)]
    assert same_answer(*records)
