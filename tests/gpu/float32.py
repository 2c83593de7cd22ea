"""That the judge computes in float32 where the caller allows TF32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench import evidence
from bench.judge import Judge
from bench.measure.evaluate import measure
from bench.protocols import protocol
from tests.gpu.place import Place, images
from tests.gpu.running import Check, Seen

_cuda: Any = torch.backends.cuda.matmul
_cudnn: Any = torch.backends.cudnn
_onednn: Any = torch.backends.mkldnn
_OPERATIONS = {
    "cuda.matmul": _cuda, "cudnn.conv": _cudnn.conv, "cudnn.rnn": _cudnn.rnn,
    "mkldnn.matmul": _onednn.matmul, "mkldnn.conv": _onednn.conv, "mkldnn.rnn": _onednn.rnn,
}  # fmt: skip
# How a caller allows TF32 (or bfloat16, on a CPU) in float32 operations.
_SWITCHES: dict[str, Callable[[], object]] = {
    "set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cuda.matmul.allow_tf32": lambda: setattr(_cuda, "allow_tf32", True),
    "cudnn.allow_tf32": lambda: setattr(_cudnn, "allow_tf32", True),
    "cuda.matmul.fp32_precision": lambda: setattr(_cuda, "fp32_precision", "tf32"),
    "mkldnn.matmul.fp32_precision": lambda: setattr(_onednn.matmul, "fp32_precision", "bf16"),
    "backends.fp32_precision": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


def _precisions() -> dict[str, str]:
    return {name: each.fp32_precision for name, each in _OPERATIONS.items()}


def _loose(place: Place) -> list[str]:
    """The operations that are not float32 now, of those that the device has."""
    relevant = ("cuda", "cudnn") if place.gpu else ("mkldnn",)
    return [
        f"{name} {value}"
        for name, value in _precisions().items()
        if name.startswith(relevant) and value not in ("ieee", "none")
    ]


@contextmanager
def _as_new() -> Iterator[None]:
    """Precisions as torch starts with, and so again afterwards."""
    before = _precisions(), torch.get_float32_matmul_precision(), _cudnn.allow_tf32
    try:
        yield
    finally:
        for general in (torch.backends, _cudnn, _onednn):
            setattr(general, "fp32_precision", "none")  # noqa: B010 - mypy knows no such attribute
        torch.set_float32_matmul_precision(before[1])
        _cudnn.allow_tf32 = before[2]
        for name, value in before[0].items():
            _OPERATIONS[name].fp32_precision = value


class _Noting(nn.Module):
    """Notes which operations are not float32 while the judge asks; a copy notes nothing."""

    def __init__(self, net: nn.Module, place: Place) -> None:
        super().__init__()
        self.net, self.place, self.noted = net, place, set[str]()

    def forward(self, x: Tensor) -> Tensor:
        self.noted |= set(_loose(self.place))
        answer: Tensor = self.net(x)
        return answer


def float32(switch: str, place: Place) -> Seen:
    """The judge and a measurement where the caller has switched one of the settings on."""
    torch.manual_seed(0)
    wide = place.size(512, 64)
    layers = (nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, wide), nn.ReLU())
    net = nn.Sequential(*layers, nn.Linear(wide, 10)).eval().to(place.device)
    x = images(place.size(64, 8), (1, 8, 8))
    there = x.to(place.device)
    with torch.no_grad(), _as_new():
        _cudnn.allow_tf32 = False  # torch starts with it on
        exact = net(there)
        labels = exact.argmax(1)
        wanted = _logits_of(net, x, labels.cpu())
        _SWITCHES[switch]()
        loose = net(there)
        before, allowed = _precisions(), _loose(place)
        noting = _Noting(net, place)
        Judge(noting)(there, labels)
        judged = _precisions()
        got = _logits_of(net, x, labels.cpu())
        measured = _precisions()
    far = float((loose - exact).abs().max())
    faults = [
        *(f"the judge asked with {name}" for name in sorted(noting.noted)),
        *(["the judge left other settings"] if judged != before else []),
        *(["measure() left other settings"] if measured != before else []),
        *([] if torch.equal(got, wanted) else ["other clean logits were recorded"]),
    ]
    moved = f"switched on ({', '.join(allowed) or 'nothing'}) it moves logits by {far:.1e}"
    text = "; ".join(faults) or "float32 in the judge, equal bits in the record, settings as found"
    return Seen(f"{text}; {moved}", not faults, {"allowed": allowed, "moves logits by": far})


def _logits_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(n, K) what a record's evidence holds of the clean images."""
    found = measure(net, x, y, threat="linf:0.01", protocol=protocol("only-fgsm"))
    if found.record.failure is not None:
        raise AssertionError(found.record.failure)
    logits = evidence.logits_in(found.evidence)
    assert logits is not None
    return torch.from_numpy(logits)


CHECKS = {
    f"float32 {switch}": Check(
        f"float32 where {switch} allows less",
        "float32 in the judge, equal bits, settings as found", partial(float32, switch),
    )
    for switch in _SWITCHES
}  # fmt: skip
