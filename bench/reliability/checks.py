"""The checks that cost next to nothing: what a few clean images show of a model.

A check returns a Finding with its values whether or not they raise its flag. What each flag means and
from where on it is raised is in flags.py, with the checks of the counts; checks that attack are in
probes.py. After AutoAttack's flags (Croce & Hein 2020, arXiv 2003.01690) and Carlini et al. 2019, arXiv
1902.06705. B images, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.attacks.losses import Loss, cross_entropy, fooled, margin
from bench.attacks.problem import Model, frozen
from bench.judge import Watched, exact_float32
from bench.reliability.flags import Finding, finding
from bench.schema import MeasurementFailed, Scalar
from bench.stats.intervals import mcnemar_exact

IMAGES = 64  # enough to see each of these; a flag is about the model, not about accuracy
FEW = 4  # images where a check runs them one by one, or needs only one pass

Normalisation = tuple[str, Sequence[float], Sequence[float]]  # name, mean, std; a value a channel


def model_findings(
    model: Model, x: Tensor, y: Tensor, *, normalisations: Sequence[Normalisation] = ()
) -> list[Finding]:
    """Every clean check; `normalisations` are tried besides the usual ones, the card's for example.

    Buffers are put back as they were. Raises MeasurementFailed where the model raises or returns
    anything but logits (B, K).
    """
    x, y = x[:IMAGES], y[:IMAGES]
    watched = model if isinstance(model, Watched) else Watched(model)
    inner = watched.call
    with left_as_found(inner), exact_float32():
        with torch.no_grad():
            first, second = watched(x).detach(), watched(x).detach()
        modes = [m.training for m in inner.modules()] if isinstance(inner, nn.Module) else []
        broken = int((~torch.isfinite(first).all(1)).sum())
        differ, far = _moved(first, second, 1e-5)
        sums = first.sum(1)
        certain = bool((first >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())
        found = [
            finding("train-mode", {"modules": sum(modes)}),
            finding("non-finite-logits", {"images": broken, "of": len(x)}),
            Finding("randomised", differ, {"largest_difference": _short(far.max())}),
        ]
        if not differ:  # else every pass differs, batch or not
            found.append(_batch_dependent(watched, x, first))
        return [
            *found,
            Finding(
                "probabilities",
                certain,
                {"least": _short(first.min()), "sum": _short(sums.mean())},
            ),
            _zero_gradients(watched, x, y),
            _gradients_in_forward(watched, x),
            _state_changes(inner, watched, x),
            _normalisation(watched, x, y, normalisations),
            finding("few-classes", {"classes": first.shape[1]}),
        ]


@contextmanager
def left_as_found(model: Model) -> Iterator[None]:
    """Puts buffers back afterwards: in train mode a pass moves BatchNorm's statistics."""
    named = dict(model.named_buffers()) if isinstance(model, nn.Module) else {}
    before = {name: buffer.detach().clone() for name, buffer in named.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in named.items():
                if not torch.equal(buffer, before[name]):
                    buffer.copy_(before[name])


def _short(value: Tensor | float) -> float:
    """Three digits: what a reader needs, and what a record should hold."""
    return float(f"{float(value):.3g}")


def _moved(a: Tensor, b: Tensor, relative: float) -> tuple[bool, Tensor]:
    """Whether answers (B, K) differ by more than `relative` of the logits' spread, and how far (B,).

    Relative to the spread, so that logits times a constant give the same answer; 1e-6 of the largest
    covers float32 rounding.
    """
    finite = torch.isfinite(a).all(1), torch.isfinite(b).all(1)
    both = finite[0] & finite[1]
    far = (a - b)[both].abs().amax(1) if bool(both.any()) else a.new_zeros(1)
    scale = a[both] if bool(both.any()) else a.new_zeros(1, 1)
    limit = relative * (scale.amax(1) - scale.amin(1)).max() + 1e-6 * scale.abs().max()
    return bool((far > limit).any()) or bool((finite[0] != finite[1]).any()), far


def _batch_dependent(model: Watched, x: Tensor, together: Tensor) -> Finding:
    few = x[:FEW]
    with torch.no_grad():
        try:
            alone = torch.cat([model(image[None]) for image in few]).detach()
        except MeasurementFailed as error:
            return Finding("batch-dependent", True, {"alone": str(error)[:200]})
    # Kernels are chosen by batch size and sum in another order: 1e-3 is far above that.
    differ, far = _moved(together[: len(few)], alone, 1e-3)
    return Finding("batch-dependent", differ, {"largest_difference": _short(far.max())})


def _zero_gradients(model: Watched, x: Tensor, y: Tensor) -> Finding:
    share, by_margin = (_vanishing(model, x, y, loss) for loss in (cross_entropy, margin))
    values: dict[str, Scalar] = {"share": round(share, 4), "share_margin": round(by_margin, 4)}
    return finding("zero-gradients", {**values, "images": len(x)})


def _vanishing(model: Watched, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Share of images whose gradient is zero, NaN or not there at all."""
    z = x.detach().clone().requires_grad_(True)
    with frozen(model), torch.enable_grad():
        total = loss(model(z), y).sum()
        (grad,) = (
            torch.autograd.grad(total, z, allow_unused=True) if total.requires_grad else [None]
        )
    if grad is None:
        return 1.0
    return (grad.nan_to_num().flatten(1).abs().amax(1) == 0).double().mean().item()


_AUTOGRAD = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}


class _GradientCalls(TorchFunctionMode):
    """Counts calls of autograd while active; nothing is left behind, unlike a patched function."""

    count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += func in _AUTOGRAD
        return func(*args, **(kwargs or {}))


def _gradients_in_forward(model: Watched, x: Tensor) -> Finding:
    """Calls from Python are seen, those inside a scripted module are not."""
    with torch.no_grad(), _GradientCalls() as calls:
        model(x[:FEW])
    return finding("gradients-in-forward", {"calls": calls.count})


def _state_changes(inner: Model, model: Watched, x: Tensor) -> Finding:
    tensors = [*inner.parameters(), *inner.buffers()] if isinstance(inner, nn.Module) else []
    before = [tensor._version for tensor in tensors]
    with torch.no_grad():
        model(x[:FEW])
    changed = sum(t._version != v for t, v in zip(tensors, before, strict=True))
    return finding("state-changes", {"tensors": changed, "of": len(tensors)})


# Mean and std that networks are commonly trained with, by channel count.
_USUAL: dict[int, tuple[Normalisation, ...]] = {
    1: (("MNIST", (0.1307,), (0.3081,)), ("Fashion-MNIST", (0.286,), (0.353,))),
    3: (
        ("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
        ("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
}


def _normalisation(model: Watched, x: Tensor, y: Tensor, more: Sequence[Normalisation]) -> Finding:
    """Accuracy with one normalisation more and one less; a clear gain says that one is amiss."""
    channels = x.shape[1]
    own = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).clamp_min(1e-3).tolist()
    tried = [*more, *_USUAL.get(channels, ()), ("these images'", *own)]
    tried += [("1/2", [0.5] * channels, [0.5] * channels)]
    tried += [("pixels in 0..255", [0.0] * channels, [1 / 255] * channels)]
    with torch.no_grad():
        given = ~fooled(model(x), y)
        best, change = given, "none"
        for name, mean, std in tried:
            m, s = (x.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
            for how, z in (("once more", (x - m) / s), ("once less", x * s + m)):
                right = ~fooled(model(z), y)
                if int(right.sum()) > int(best.sum()):
                    best, change = right, f"{how}, {name}"
    gained, lost = int((best & ~given).sum()), int((given & ~best).sum())
    values: dict[str, Scalar] = {
        "right": int(given.sum()), "right_best": int(best.sum()), "of": len(x), "change": change,
    }  # fmt: skip
    clear = gained - lost >= 0.1 * len(x) and mcnemar_exact(gained, lost) < 0.01
    return Finding("normalisation", clear, values)
