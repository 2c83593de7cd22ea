"""Deliberately broken models: each is flagged, and none is ranked as robust.

Every case is a small digits network spoiled in one way that makes a number look better, or mean less,
than it is. The flags come from the clean checks, the probes and the counts of a short measurement.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench import table
from bench.measure.evaluate import evaluate
from bench.protocols import COLUMNS
from bench.records.store import write
from bench.reliability.checks import model_findings
from bench.reliability.flags import raised
from bench.reliability.probes import probe_findings
from bench.schema import AttackSpec, Column, EvaluationRecord, Protocol, ThreatModel
from bench.streams import Streams
from tests.board.board_records import sha, with_id

LINF = ThreatModel.parse("linf:0.1")
SHORT = Protocol(
    name="short",
    version=1,
    columns=(
        COLUMNS["fgsm"]("linf", 10),
        Column(
            name="pgd20",
            attacks=(
                AttackSpec(name="pgd", params={"steps": 10}),
                AttackSpec(name="square", params={"queries": 100}),
            ),
        ),
    ),
)


class Function(nn.Module):
    """A layer without weights."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = change


def before(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(Function(change), net).eval()


def after(net: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(net, Function(change)).eval()


def quantised(x: Tensor) -> Tensor:
    """Rounded to 16 levels: the gradient is zero almost everywhere."""
    return (x * 4).round() / 4


def noisy(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def own_statistics(x: Tensor) -> Tensor:
    """BatchNorm with the statistics of whatever batch comes, in eval mode too."""
    return nn.functional.batch_norm(x, None, None, training=True)


def bright_divided_by_zero(x: Tensor) -> Tensor:
    dark = (x.mean((1, 2, 3), keepdim=True) < 0.32).float()
    return x * dark / dark


def constant(x: Tensor) -> Tensor:
    """Always the same class: nothing can break what it gets right."""
    return nn.functional.one_hot(torch.full((len(x),), 3), 10).float() + 0 * x.sum()


class Purified(nn.Module):
    """Walks each image to where the network is surer, then classifies it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            sure = self.net(z).log_softmax(1).amax(1).sum()
            (grad,) = torch.autograd.grad(sure, z)
        return self.net(x + 0.05 * grad.sign())


class Adapted(nn.Module):
    """Changes its own weights with every batch it sees."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.net[-1].bias.add_(1e-6)
        return self.net(x)


def inserted(net: nn.Sequential, place: int, layer: nn.Module) -> nn.Module:
    layers = list(net)
    return nn.Sequential(*layers[:place], layer, *layers[place:]).eval()


# name -> (how it is broken, a flag that must be among those raised)
BROKEN: dict[str, tuple[Callable[[nn.Sequential], nn.Module], str]] = {
    "quantised activations": (
        lambda net: inserted(net, 3, Function(quantised)),
        "zero-gradients",
    ),
    "quantised input": (lambda net: before(net, quantised), "zero-gradients"),
    "huge logits": (lambda net: after(net, lambda z: 1e5 * z), "zero-gradients"),
    "noise layer": (lambda net: inserted(net, 3, Function(noisy)), "randomised"),
    "noise on the input": (lambda net: before(net, noisy), "randomised"),
    "softmax": (lambda net: after(net, lambda z: z.softmax(1)), "probabilities"),
    "double normalisation": (lambda net: before(net, lambda x: (x - 1) / 0.2), "normalisation"),
    "inverted normalisation": (lambda net: before(net, lambda x: x / 255), "normalisation"),
    "train mode": (lambda net: copy.deepcopy(net).train(), "batch-dependent"),
    "train mode with dropout": (
        lambda net: inserted(net, 7, nn.Dropout(0.3)).train(),
        "randomised",
    ),
    "batch statistics": (
        lambda net: inserted(net, 1, Function(own_statistics)),
        "batch-dependent",
    ),
    "constant": (lambda net: Function(constant).eval(), "chance-level"),
    "NaN for some images": (
        lambda net: before(net, bright_divided_by_zero),
        "non-finite-logits",
    ),
    "optimisation inside": (lambda net: Purified(net), "gradients-in-forward"),
    "weights that move": (lambda net: Adapted(net), "state-changes"),
    "detached": (lambda net: after(net, lambda z: z.detach() + 0 * z), "zero-gradients"),
}


def measured(model: nn.Module, x: Tensor, y: Tensor, name: str) -> EvaluationRecord:
    """A record with every flag that an evaluation could raise."""
    record = evaluate(model, x, y, threat=LINF, protocol=SHORT, dataset="digits", engine="ours")
    assert record.failure is None
    more = raised(probe_findings(model, x, y, LINF, streams=Streams.for_images(x, 0)))
    update = {"name": name.replace(" ", "-"), "class_count": 10, "weights_sha256": sha(name)}
    card = record.card.model_copy(update=update)
    fields = {field: getattr(record, field) for field in type(record).model_fields}
    return with_id(fields | {"card": card, "flags": (*record.flags, *more)})


_SOUND: list[EvaluationRecord] = []  # of the network that all are made from, measured once


@pytest.fixture
def ranked(tmp_path, fitted, digits):
    """Ranks a broken network beside the one it was made from."""

    def rank(name: str, broken: nn.Module) -> tuple[table.Row, ...]:
        x, y = digits
        if not _SOUND:
            _SOUND.append(measured(copy.deepcopy(fitted), x, y, "sound"))
        for record in (_SOUND[0], measured(copy.deepcopy(broken), x, y, name)):
            write(record, tmp_path)
        (group,) = table.build(tmp_path).groups
        return group.rows

    return rank


@pytest.mark.parametrize("name", BROKEN)
def test_each_is_flagged_and_none_is_ranked_as_robust(name, ranked, fitted):
    spoil, flag = BROKEN[name]
    sound, broken = ranked(name, spoil(copy.deepcopy(fitted)))
    assert (sound.card.name, sound.rank, sound.unranked) == ("sound", 1, "")
    assert not sound.record.flags
    assert flag in {f.name for f in broken.record.flags}
    assert broken.rank is None
    assert broken.unranked.startswith("unranked: ")
    assert flag in broken.unranked


def test_wrapping_alone_raises_nothing_that_unranks(fitted, digits):
    """A healthy network in a fresh wrapper, which torch starts in train mode."""
    wrapped = nn.Sequential(fitted, Function(lambda z: 2 * z + 1))
    assert [f.name for f in raised(model_findings(wrapped, *digits))] == ["train-mode"]
