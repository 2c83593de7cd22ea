"""The judge: the untouched float32 model decides whether an image is misclassified.

Only this verdict counts; what an attack claims does not. B images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.attacks.losses import fooled, margin
from bench.attacks.problem import Model
from bench.cli.interrupt import may_be_users
from bench.schema import BenchError, MeasurementFailed

# Below this margin, relative to the largest logit, float32 rounding could decide: float64 does.
CLOSE = 1e-4


@contextmanager
def exact_float32() -> Iterator[None]:
    """TF32 off inside, as it was afterwards; without a GPU there is nothing to switch."""
    if not torch.cuda.is_available():
        yield
        return
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


class Watched(nn.Module):
    """A model whose passes are counted and whose answers are checked to be logits (B, K)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.call = model  # a Module is registered, so that its parameters can be frozen
        self.forward_passes = 0
        self.backward_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        version = x._version
        logits = guarded(lambda: self.call(x))
        if x._version != version:
            raise MeasurementFailed(
                "the model changes its input in place, so no attack knows what it looked at; "
                "work on a copy (x = x - mean, not x -= mean)"
            )
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise MeasurementFailed(f"expected logits ({len(x)}, K), the model returned {shape}")
        if logits.shape[1] < 2 or not logits.is_floating_point():
            raise MeasurementFailed(
                f"expected floating-point logits of at least 2 classes, "
                f"got {logits.dtype} {tuple(logits.shape)}"
            )
        self.forward_passes += len(x)
        self.backward_passes += len(x) if logits.requires_grad else 0
        return logits


def is_models(error: BaseException) -> bool:
    """Whether what came out of a call to a model is its own doing: all but Ctrl-C and full memory.

    A model that leaves (SystemExit) has failed like one that raises.
    """
    if isinstance(error, KeyboardInterrupt):
        return not may_be_users()
    return not isinstance(error, MemoryError)


Answer = TypeVar("Answer")


def guarded(ask: Callable[[], Answer]) -> Answer:
    """What a call to the model answers; whatever it raises becomes MeasurementFailed."""
    try:
        return ask()
    except BenchError:
        raise
    except BaseException as error:  # a stranger's model may raise anything; nothing is hidden
        if not is_models(error):
            raise
        raise MeasurementFailed(f"the model raised {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a batch."""

    broken: Tensor  # (B,) bool
    predictions: Tensor  # (B,) int64; differs from the label exactly where broken


class Judge:
    """Judges images by one model; keeps its float64 copy, made only when a margin is close.

    passes above 1 is for randomised models: an image is broken when the majority of so many passes
    says so.
    """

    def __init__(self, model: Model, *, batch: int = 256, passes: int = 1) -> None:
        self.model = model
        self.batch = batch
        self.passes = passes
        self.close_calls = 0  # images so far whose margin was close, whoever decided them
        self._double: nn.Module | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Verdict:
        """Verdict on x (B, C, H, W) with labels y (B,). Ties and non-finite logits are broken."""
        looks = [self._look(x, y) for _ in range(self.passes)]
        if self.passes == 1:
            return looks[0]
        # Predictions differ from the label exactly where a look says broken.
        seen = torch.stack([look.predictions for look in looks])
        wrong = torch.where(seen == y, -1, seen)
        broken = 2 * (wrong >= 0).sum(0) > self.passes
        # The class seen most often among the wrong looks.
        counts = (wrong[:, None] == wrong[None]).sum(1) * (wrong >= 0)
        common = wrong.gather(0, counts.argmax(0, keepdim=True))[0]
        return Verdict(broken, torch.where(broken, common, y))

    def _look(self, x: Tensor, y: Tensor) -> Verdict:
        if not len(x):
            return Verdict(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
        with torch.no_grad(), exact_float32():
            logits = torch.cat([self.model(part).float() for part in x.split(self.batch)])
        close = margin(logits, y).abs() < CLOSE * (1 + logits.abs().amax(1))
        self.close_calls += int(close.sum())
        if bool(close.any()) and (exact := self._exact(x[close])) is not None:
            logits = logits.to(torch.float64)
            logits[close] = exact.to(logits.device)
        broken = fooled(logits, y)
        ranked = logits.nan_to_num(nan=-torch.inf).topk(2, dim=1).indices
        top, second = ranked[:, 0], ranked[:, 1]
        wrong = torch.where(top == y, second, top)
        return Verdict(broken, torch.where(broken, wrong, y))

    def _exact(self, x: Tensor) -> Tensor | None:
        """float64 logits; None where the model, or a part of it, is no Module to be converted."""
        if not isinstance(self.model, nn.Module):
            return None
        if self._double is None:
            self._double = copy.deepcopy(self.model).to("cpu", torch.float64)
        try:
            with torch.no_grad():
                return self._double(x.to("cpu", torch.float64)).to(torch.float64)
        except RuntimeError:  # float32 tensors inside a closure; float32 decides then
            return None
