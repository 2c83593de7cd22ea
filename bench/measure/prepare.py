"""A model made fast for searching: frozen, BatchNorm folded, channels last, on request half precision.

The copy only searches. Whether a point is misclassified is asked of the untouched float32 model
wherever the copy could be mistaken. B images, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bench.attacks.losses import margin
from bench.attacks.problem import Model, frozen, logits_and_gradient
from bench.judge import Judge
from bench.measure.strided import phased
from bench.schema import MeasurementFailed

# The copy's logits may differ from the model's by so much, relative to the largest logit.
TOLERANCE = 1e-4
WIDE = 32  # channels from which convolutions gain by the channels-last layout
# Half precision searches only where it barely moves margins and gradients (docs/protocols.md).
LARGEST_MARGIN_ERROR, SMALLEST_COSINE, BAND = 0.05, 0.99, 8.0


@dataclass(frozen=True)
class Prepared:
    """What attacks search, and how far its logits may be from the model's."""

    model: Model
    band: (
        float  # logits of a misclassified point may look right by so much, relative to 1 + max |z|
    )
    notes: str  # what was done, or why nothing was


def prepare(model: Model, x: Tensor) -> Prepared:
    """A float32 copy for searching, checked on clean images x (B, C, H, W); else the model itself."""
    if not isinstance(model, nn.Module) or any(m.training for m in model.modules()):
        return Prepared(model, TOLERANCE, "as it is")
    try:
        fast = copy.deepcopy(model)
    except (
        TypeError,
        RuntimeError,
        ValueError,
    ) as refusal:  # what cannot be copied is not prepared
        return Prepared(model, TOLERANCE, f"as it is: it cannot be copied ({refusal})")
    fast.requires_grad_(False)
    notes = []
    if folded := len(fold(fast, x[:2])):
        notes.append(f"{folded} BatchNorm layers folded")
    if strided := _phase(fast):
        notes.append(f"{strided} strided convolutions by phases")
    if any(isinstance(m, nn.Conv2d) and m.in_channels >= WIDE for m in fast.modules()):
        fast.to(memory_format=torch.channels_last)
        notes.append("channels last")
    if not notes:
        return Prepared(model, TOLERANCE, "as it is")
    error = _largest_error(model, fast, x)
    if not error <= TOLERANCE:
        return Prepared(model, TOLERANCE, f"as it is: a faster copy was off by {error:.1e}")
    return Prepared(fast, TOLERANCE, ", ".join(notes))


def _largest_error(model: Model, fast: Model, x: Tensor) -> float:
    """Largest difference of logits, on images and on noise, relative to 1 + the largest logit."""
    both = torch.cat([x, 1 - x])
    with torch.no_grad():
        wanted, got = model(both), fast(both)
    return float(((wanted - got).abs().amax() / (1 + wanted.abs().amax())).nan_to_num(torch.inf))


def fold(net: nn.Module, x: Tensor) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
    """Folds every BatchNorm that reads a convolution's or linear layer's output, in place.

    Returns (layer, BatchNorm, what stands for both) for each. Which one reads which is seen on a real
    pass of x (B, C, H, W) in eval mode, so any Python in forward() is left as it is.
    """
    made: dict[int, nn.Module] = {}  # id of an output -> the layer that made it
    kept: list[Tensor] = []  # outputs stay alive, so that an id means one tensor
    pairs: list[tuple[nn.Module, nn.BatchNorm1d | nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d | nn.Linear):
            made[id(output)] = module
        elif id(inputs[0]) in made and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            pairs.append((made[id(inputs[0])], module))
        kept.extend((inputs[0], output))

    kinds = nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d
    hooks = [m.register_forward_hook(after) for m in net.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        wanted = net(x)
    folded: list[tuple[nn.Module, nn.Module, nn.Module]] = []
    for layer, norm in pairs:
        if calls[layer] != 1 or calls[norm] != 1 or norm.running_mean is None:
            continue
        new, nothing = _fused(layer, norm), nn.Identity()
        _replace(net, layer, new)
        _replace(net, norm, nothing)
        with torch.no_grad():
            moved = (net(x) - wanted).abs().amax() / (1 + wanted.abs().amax())
        if moved <= TOLERANCE:
            folded.append((layer, norm, new))
        else:  # something else reads the layer's output too, a residual connection say
            _replace(net, new, layer)
            _replace(net, nothing, norm)
    return folded


def _phase(net: nn.Module) -> int:
    """Gives strided convolutions their faster gradient; returns how many."""
    layers = [m for m in net.modules() if type(m) is nn.Conv2d and not _has_hooks(m)]
    faster = [(layer, phased(layer)) for layer in layers]
    for layer, new in faster:
        if new is not layer:
            _replace(net, layer, new)
    return sum(new is not layer for layer, new in faster)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _fused(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return fuse_conv_bn_eval(layer, norm)
    assert isinstance(layer, nn.Linear)
    return fuse_linear_bn_eval(layer, norm)


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new.eval().requires_grad_(False))


# ---------------------------------------------------------------- half precision


def mixed(prepared: Prepared, x: Tensor, y: Tensor, *, force: bool = False) -> Prepared:
    """The same in bfloat16 between the first convolution and the classifier, where that is safe.

    x (B, C, H, W), y (B,) are clean images on which margins and gradients are compared. Where the
    machine does not compute bfloat16, or the model does not bear it, float32 comes back and the notes
    say why. `force` skips the question whether the machine is any faster with it.
    """
    refusal = None if force else _unsupported(x.device)
    if refusal is None and not isinstance(prepared.model, nn.Module):
        refusal = "the model is not a torch module"
    if refusal is None:
        assert isinstance(prepared.model, nn.Module)
        fast = _half(prepared.model)
        refusal, largest = _unbearable(prepared.model, fast, x, y)
    if refusal is not None:
        return Prepared(prepared.model, prepared.band, f"{prepared.notes}; float32: {refusal}")
    return Prepared(fast, BAND * largest, f"{prepared.notes}; bfloat16 search, float32 verdicts")


def _unsupported(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if torch.cuda.is_bf16_supported() else "this GPU has no bfloat16"
    for instructions in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        if getattr(torch.cpu, instructions, lambda: False)():
            return None
    return "this processor has no bfloat16 instructions"


class _Half(nn.Module):
    """A network whose inner convolutions and linear layers compute in bfloat16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).float()


def _half(model: nn.Module) -> _Half:
    net = copy.deepcopy(model)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[1:-1]:
        layer.to(torch.bfloat16)
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16),))
    if len(layers) > 1:
        # Bfloat16 images would be 1/256 apart near 1, and so would be the logits: both stay exact.
        layers[0].register_forward_hook(lambda _, __, output: output.to(torch.bfloat16))
        layers[-1].register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    return _Half(net)


def _unbearable(model: Model, fast: Model, x: Tensor, y: Tensor) -> tuple[str | None, float]:
    """Why the model must not be searched in half precision; and the largest logit difference."""
    try:
        with frozen(model):
            logits, exact, grad = logits_and_gradient(model, x, y, margin)
        rough_logits, rough, rough_grad = logits_and_gradient(fast, x, y, margin)
    except (RuntimeError, MeasurementFailed) as error:
        return f"it does not run in bfloat16 ({str(error).splitlines()[0]})", 0.0
    moved = torch.quantile((rough - exact).abs(), 0.999)
    if not moved <= LARGEST_MARGIN_ERROR * exact.abs().median():
        return (
            f"bfloat16 moves margins by {moved:.2g}, their median is {exact.abs().median():.2g}",
            0,
        )
    cosine = nn.functional.cosine_similarity(grad.flatten(1), rough_grad.flatten(1)).median()
    if not cosine >= SMALLEST_COSINE:
        return f"gradients in bfloat16 have cosine {cosine:.3f}", 0.0
    far = (rough_logits - logits).abs().amax() / (1 + logits.abs().amax())
    return None, float(far)


def verdict(
    prepared: Prepared, judge: Judge, near: Tensor
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """(z, y, logits, image) -> (R,) bool, the judge's word wherever the copy's logits leave doubt.

    near (B,) bool is set for images of which some point was in doubt and not broken.
    """

    def broken(z: Tensor, y: Tensor, logits: Tensor, image: Tensor) -> Tensor:
        clearly_right = margin(logits, y) < -prepared.band * (1 + logits.abs().amax(1))
        hit = torch.zeros_like(clearly_right)
        doubtful = (~clearly_right).nonzero()[:, 0]  # NaN is doubtful too
        if len(doubtful):
            answer = judge(z[doubtful], y[doubtful]).broken.to(hit.device)
            hit[doubtful] = answer
            near[image[doubtful[~answer]]] = True
        return hit

    return broken
