"""The checks that cost next to nothing: what a few clean images show of a model.

A check returns a Finding with its values whether or not they raise its flag. What each flag means and
from where on it is raised is in flags.py, with the checks of the counts; checks that attack are in
probes.py. After AutoAttack's flags (Croce & Hein 2020, arXiv 2003.01690) and Carlini et al. 2019, arXiv
1902.06705. B images, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.as_found import exact_float32, left_as_found
from bench.attacks.losses import Loss, cross_entropy, fooled, margin
from bench.attacks.problem import Model, frozen, gradient
from bench.judge import Watched, guarded, may_refuse
from bench.measure.clean_logits import FEW, moved, wavering
from bench.reliability.flags import Finding, finding
from bench.schema import MeasurementFailed, Scalar
from bench.stats.intervals import mcnemar_exact

IMAGES = 64  # enough to see each of these; a flag is about the model, not about accuracy

Normalisation = tuple[str, Sequence[float], Sequence[float]]  # name, mean, std; a value a channel


def model_findings(
    model: Model, x: Tensor, y: Tensor, *, normalisations: Sequence[Normalisation] = ()
) -> list[Finding]:
    """Every clean check; `normalisations` are tried besides the usual ones, the card's for example.

    The model is left as it was. Raises MeasurementFailed where it raises on the images as they are, or
    returns anything but logits (B, K).
    """
    x, y = x[:IMAGES], y[:IMAGES]
    watched = model if isinstance(model, Watched) else Watched(model)
    inner = watched.call
    with left_as_found(inner), exact_float32():
        with torch.no_grad():
            first, second = watched(x).detach(), watched(x).detach()
        net = inner.modules() if isinstance(inner, nn.Module) else ()
        modes = [getattr(m, "training", False) for m in net]
        broken = int((~torch.isfinite(first).all(1)).sum())
        sums = first.sum(1)
        certain = bool((first >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())
        return [
            finding("train-mode", {"modules": sum(modes)}),
            finding("non-finite-logits", {"images": broken, "of": len(x)}),
            *tried("randomised", lambda: _steadiness(watched, x, first, second)),
            Finding(
                "probabilities",
                certain,
                {"least": _short(first.min()), "sum": _short(sums.mean())},
            ),
            _zero_gradients(watched, x, y),
            *tried("gradients-in-forward", lambda: [_gradients_in_forward(watched, x)]),
            *tried("state-changes", lambda: [_state_changes(inner, watched, x)]),
            *tried("normalisation", lambda: [_normalisation(watched, x, y, normalisations)]),
            finding("few-classes", {"classes": first.shape[1]}),
        ]


def tried(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check finds. Where the model raises in it, that is found, and no other check is lost.

    Raises MeasurementFailed where the model would leave (SystemExit).
    """
    try:
        return guarded(look)
    except MeasurementFailed as error:
        if not may_refuse(error):
            raise
        return [Finding("check-failed", True, {"check": check, "reason": str(error)[:200]})]


def _steadiness(model: Watched, x: Tensor, first: Tensor, second: Tensor) -> list[Finding]:
    """Is the same image answered alike again, and alike in another batch?"""
    differ, far = moved(first, second, 1e-5)
    wavers, by = wavering(model, x)
    largest = max(float(far.max()), by)
    found = [Finding("randomised", differ or wavers, {"largest_difference": _short(largest)})]
    if not found[0].raised:  # else every pass differs, batch or not
        found.append(_batch_dependent(model, x, first))
    return found


def _short(value: Tensor | float) -> float:
    """Three digits: what a reader needs, and what a record should hold."""
    return float(f"{float(value):.3g}")


def _batch_dependent(model: Watched, x: Tensor, together: Tensor) -> Finding:
    few = x[:FEW]
    with torch.no_grad():
        try:
            alone = torch.cat([model(image[None]) for image in few]).detach()
        except MeasurementFailed as error:
            return Finding("batch-dependent", True, {"alone": str(error)[:200]})
    # Kernels are chosen by batch size and sum in another order: 1e-3 is far above that.
    differ, far = moved(together[: len(few)], alone, 1e-3)
    return Finding("batch-dependent", differ, {"largest_difference": _short(far.max())})


def _zero_gradients(model: Watched, x: Tensor, y: Tensor) -> Finding:
    share, by_margin = (_vanishing(model, x, y, loss) for loss in (cross_entropy, margin))
    values: dict[str, Scalar] = {"share": round(share, 4), "share_margin": round(by_margin, 4)}
    return finding("zero-gradients", {**values, "images": len(x)})


def _vanishing(model: Watched, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Share of images whose gradient is zero, NaN or not there at all."""
    z = x.detach().clone().requires_grad_(True)
    try:
        with frozen(model), torch.enable_grad():
            grad = guarded(lambda: gradient(loss(model(z), y).sum(), z))
    except MeasurementFailed as error:  # it answers without gradients, or its backward pass raises
        if not may_refuse(error):
            raise
        return 1.0
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
                try:
                    right = ~fooled(model(z), y)
                except MeasurementFailed as error:  # it may refuse what is no image
                    if not may_refuse(error):
                        raise
                    continue
                if int(right.sum()) > int(best.sum()):
                    best, change = right, f"{how}, {name}"
    gained, lost = int((best & ~given).sum()), int((given & ~best).sum())
    values: dict[str, Scalar] = {
        "right": int(given.sum()), "right_best": int(best.sum()), "of": len(x), "change": change,
    }  # fmt: skip
    clear = gained - lost >= 0.1 * len(x) and mcnemar_exact(gained, lost) < 0.01
    return Finding("normalisation", clear, values)
