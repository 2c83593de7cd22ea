"""The judge: the untouched float32 model decides whether an image is misclassified.

Only this verdict counts; what an attack claims does not. B images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from bench.as_found import exact_float32
from bench.attacks.losses import fooled, margin
from bench.attacks.problem import Model
from bench.cli import watch
from bench.cli.interrupt import may_be_users
from bench.schema import BenchError, MeasurementFailed

# Below this margin, relative to the largest logit, float32 rounding could decide: float64 does.
CLOSE = 1e-4
AGREES = 1e-3  # float32 and float64 logits differ by less, relative to the largest


class Watched(nn.Module):
    """A model whose passes are counted and whose answers are checked to be logits (B, K).

    forward_passes are the images that it was asked about. backward_passes are those whose gradient
    was asked back through their logits, at each time that it was: never asked is none, twice is two.
    Gradients asked together (is_grads_batched, vmap) look like one here: no attack asks so.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.call = model  # a Module is registered, so that its parameters can be frozen
        self.forward_passes = 0
        self.backward_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        logits = ask(self.call, x).float()
        count = len(x)
        self.forward_passes += count
        if logits.requires_grad:
            logits = logits.view_as(logits)  # a model may give one tensor twice, or a leaf
            logits.register_hook(lambda _: self._went_back(count))
        return logits

    def _went_back(self, count: int) -> None:
        self.backward_passes += count


def ask(model: Model, x: Tensor) -> Tensor:
    """What a model answers to x (B, C, H, W): logits (B, K), of any floating type.

    It is given a copy of its own: the images are not its to change, and what changes them all the same,
    by x.data or as an array too, raises MeasurementFailed, as whatever it raises does.
    """
    own = x.clone()
    version = own._version
    with watch.in_hand(len(x)):
        logits = logits_of(guarded(lambda: model(own)), len(x))
    if own._version != version or not (torch.equal(own, x) or bool(x.isnan().any())):
        raise MeasurementFailed(
            "the model changes its input in place, so no attack knows what it looked at; "
            "work on a copy (x = x - mean, not x -= mean)"
        )
    return logits


def logits_of(answer: object, count: int) -> Tensor:
    """An answer that is logits (count, K) of some floating type. Raises MeasurementFailed."""
    if not _has_values(answer) or answer.ndim != 2 or len(answer) != count:
        raise MeasurementFailed(
            f"expected logits ({count}, K), the model returned {_described(answer)}"
        )
    if answer.shape[1] < 2 or not answer.is_floating_point():
        raise MeasurementFailed(
            f"expected floating-point logits of at least 2 classes, "
            f"got {answer.dtype} {tuple(answer.shape)}"
            + ("; of one score z make two: [0, z]" if answer.shape[1] == 1 else "")
        )
    return answer.clone() if answer.is_inference() else answer


def _has_values(answer: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor that holds a number at each place: not sparse, nested or without data."""
    return (
        isinstance(answer, Tensor)
        and not answer.is_nested
        and answer.layout == torch.strided
        and not (answer.is_quantized or answer.is_meta)
    )


def _described(answer: object) -> str:
    """What came, and where in it logits may be."""
    if isinstance(answer, Tensor) and not _has_values(answer):
        kind = "nested" if answer.is_nested else str(answer.layout).removeprefix("torch.")
        kind = "quantised" if answer.is_quantized else "meta" if answer.is_meta else kind
        return f"a {kind} tensor; return a plain one"
    if isinstance(answer, Tensor):
        rest = "; flatten it: z.flatten(1)" if answer.ndim > 2 else ""
        return f"{tuple(answer.shape)}{rest}"
    kind = type(answer).__name__
    if kind == "ndarray":
        return "a numpy array; attacks compute with torch tensors: torch.from_numpy(z)"
    if isinstance(answer, Mapping):
        keys = ", ".join(map(str, list(answer)[:8]))
        return f"{kind} with the keys {keys}; return the logits alone"
    if isinstance(answer, tuple | list):
        parts = ", ".join(_described(part).partition(";")[0] for part in answer[:8])
        return f"{kind} of {len(answer)}: {parts}; return the logits alone"
    has = "; return its .logits" if hasattr(answer, "logits") else ""
    return f"{kind}{has}"


def own_copy(model: nn.Module) -> nn.Module:
    """A copy that may be changed. Raises ValueError where it shares a part with the model."""

    def parts(net: nn.Module) -> set[int]:
        return {id(part) for part in (*net.modules(), *net.parameters(), *net.buffers())}

    made = copy.deepcopy(model)
    if parts(made) & parts(model):
        raise ValueError("its copy shares parts with it")
    return made


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


def may_refuse(error: MeasurementFailed) -> bool:
    """Whether the model only refused what it was asked: it raised an error, and did not leave."""
    return error.__cause__ is None or isinstance(error.__cause__, Exception)


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
        self._double: nn.Module | str | None = None  # or why there is none

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
            logits = torch.cat([_at_least_float32(ask(self.model, p)) for p in x.split(self.batch)])
        close = margin(logits, y).abs() < CLOSE * (1 + logits.abs().amax(1))
        self.close_calls += int(close.sum())
        if bool(close.any()) and (exact := self._exact(x[close], logits[close])) is not None:
            logits = logits.to(torch.float64)
            logits[close] = exact
        broken = fooled(logits, y)
        ranked = logits.nan_to_num(nan=-torch.inf).topk(2, dim=1).indices
        top, second = ranked[:, 0], ranked[:, 1]
        wrong = torch.where(top == y, second, top)
        return Verdict(broken, torch.where(broken, wrong, y))

    def _exact(self, x: Tensor, logits: Tensor) -> Tensor | None:
        """float64 logits (B, K); None where the model, or a part of it, cannot be converted.

        So it is for what is no Module or does not compute in float32, and for a copy that says
        something else than the float32 logits (B, K) by more than rounding.
        """
        if self._double is None:
            self._double = _double_of(self.model)
        if not isinstance(self._double, nn.Module):
            return None
        try:
            with torch.no_grad():
                exact = self._double(x.to("cpu", torch.float64)).to(logits.device, torch.float64)
        except Exception:  # float32 tensors inside a closure, say; float32 decides then
            return None
        if exact.shape != logits.shape:
            return None
        rounding = AGREES * (1 + logits.abs().amax())
        return exact if bool(((exact - logits).abs() <= rounding).all()) else None


def _double_of(model: Model) -> nn.Module | str:
    """The model in float64, on the CPU; else why there is none."""
    if not isinstance(model, nn.Module):
        return "it is no Module"
    floats = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    if floats - {torch.float32}:
        return "it computes in another type"
    try:
        return own_copy(model).to("cpu", torch.float64)
    except Exception as refusal:  # a stranger's copying may raise anything
        return f"it cannot be copied ({refusal})"


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
