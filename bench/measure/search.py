"""A model made fast for searching: frozen, BatchNorm folded, channels last, on request half precision.

The copy only searches. Whether a point is misclassified is asked of the untouched float32 model
wherever the copy could be mistaken. B images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bench.attacks.losses import margin
from bench.attacks.problem import Model, frozen, logits_and_gradient
from bench.judge import Judge, Watched, ask, own_copy
from bench.sources.unregistered import Suited

# The copy's logits may differ from the model's by so much, relative to the largest logit.
TOLERANCE = 1e-4
WIDE = 32  # channels from which convolutions gain by the channels-last layout
# Half precision searches only where it barely moves margins and gradients (docs/protocols.md).
LARGEST_MARGIN_ERROR, SMALLEST_COSINE, BAND = 0.05, 0.99, 8.0


@dataclass(frozen=True)
class Prepared:
    """What attacks search, and how far its logits may be from the model's."""

    model: Model
    band: float  # a misclassified point's logits may look right by it, relative to 1 + max |z|
    notes: str  # what was done, or why nothing was


def prepare(model: Model, x: Tensor) -> Prepared:
    """A float32 copy for searching, checked on clean images x (B, C, H, W); else the model itself.

    Whatever is raised on the way, by copying, by a layer or by a pass, leaves the model as it is, and
    the notes say why.
    """
    net = model.call if isinstance(model, Suited) else model
    if not (isinstance(net, nn.Module) and isinstance(model, nn.Module)):
        return Prepared(model, TOLERANCE, "as it is")
    if any(getattr(m, "training", False) for m in net.modules()):
        return Prepared(model, TOLERANCE, "as it is")
    if any(isinstance(m, torch.jit.ScriptModule) for m in net.modules()):
        return Prepared(model, TOLERANCE, "as it is: it is compiled")
    try:
        with torch.no_grad():
            return _prepared(model, x)
    except Exception as refusal:  # a stranger's network may raise anything
        return Prepared(model, TOLERANCE, f"as it is: no copy of it works ({_line(refusal)})")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _prepared(model: nn.Module, x: Tensor) -> Prepared:
    fast = own_copy(model).requires_grad_(False)
    notes = []
    # In one pass: it is counted how often a layer is asked.
    few = x[: min(2, model.most or 2)] if isinstance(model, Suited) else x[:2]
    if folded := len(fold(fast, few)):
        notes.append(f"{folded} BatchNorm layers folded")
    if strided := _phase(fast):
        notes.append(f"{strided} strided convolutions by phases")
    if any(isinstance(m, nn.Conv2d) and m.in_channels >= WIDE for m in fast.modules()):
        fast.to(memory_format=torch.channels_last)
        notes.append("channels last")
    if not notes:
        return Prepared(model, TOLERANCE, "as it is")
    both = torch.cat([x, 1 - x])  # images, and what is none
    wanted, got = ask(model, both), ask(fast, both)
    error = float(((wanted - got).abs().amax() / (1 + wanted.abs().amax())).nan_to_num(torch.inf))
    if not error <= TOLERANCE:
        return Prepared(model, TOLERANCE, f"as it is: a faster copy was off by {error:.1e}")
    return Prepared(fast, TOLERANCE, ", ".join(notes))


def fold(net: nn.Module, x: Tensor) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
    """Folds every BatchNorm that reads a convolution's or linear layer's output, in place.

    Layers whose weights are computed (pruned, weight-normed, parametrised) or watched by hooks stay.
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
        ask(net, x)
        for hook in hooks:
            hook.remove()
        wanted = ask(net, x)
    folded: list[tuple[nn.Module, nn.Module, nn.Module]] = []
    for layer, norm in pairs:
        if calls[layer] != 1 or calls[norm] != 1 or norm.running_mean is None:
            continue
        if not (_is_plain(layer) and _is_plain(norm)):
            continue
        fuse: Callable[..., nn.Module] = (
            fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
        )
        new, nothing = fuse(layer, norm), nn.Identity()
        _replace(net, layer, new)
        _replace(net, norm, nothing)
        with torch.no_grad():
            moved = (ask(net, x) - wanted).abs().amax() / (1 + wanted.abs().amax())
        if moved <= TOLERANCE:
            folded.append((layer, norm, new))
        else:  # something else reads the layer's output too, a residual connection say
            _replace(net, new, layer)
            _replace(net, nothing, norm)
    return folded


_PLAIN = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is of torch's own class, its weights are its parameters, and no hook reads it."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks,
             layer._backward_pre_hooks)  # fmt: skip
    held = isinstance(getattr(layer, "weight", None), nn.Parameter | None)
    return type(layer) in _PLAIN and held and not any(hooks)


def _phase(net: nn.Module) -> int:
    """Gives strided convolutions their faster gradient; returns how many."""
    count = 0
    for layer in [m for m in net.modules() if type(m) is nn.Conv2d]:
        new = phased(layer) if _is_plain(layer) else layer
        if new is not layer:
            _replace(net, layer, new)
            count += 1
    return count


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new.eval().requires_grad_(False))


# ---------------------------------------------------------------- half precision


def mixed(prepared: Prepared, x: Tensor, y: Tensor) -> Prepared:
    """The same in bfloat16 between the first convolution and the classifier, where that is safe.

    x (B, C, H, W), y (B,) are clean images on which margins and gradients are compared. Where the
    machine does not compute bfloat16, or the model does not bear it, float32 comes back and the notes
    say why.
    """

    def refused(why: str) -> Prepared:
        return Prepared(prepared.model, prepared.band, f"{prepared.notes}; float32: {why}")

    if missing := _unsupported(x.device):
        return refused(missing)
    if not isinstance(prepared.model, nn.Module):
        return refused("the model is not a torch module")
    try:
        fast = _half(prepared.model)
        why, largest = _unbearable(prepared.model, fast, x, y)
    except Exception as error:  # a stranger's network may raise anything
        return refused(f"it does not run in bfloat16 ({_line(error)})")
    if why:
        return refused(why)
    return Prepared(fast, BAND * largest, f"{prepared.notes}; bfloat16 search, float32 verdicts")


def _unsupported(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if torch.cuda.is_bf16_supported() else "this GPU has no bfloat16"
    instructions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    if any(getattr(torch.cpu, name, bool)() for name in instructions):
        return None
    return "this processor has no bfloat16 instructions"


def _half(model: nn.Module) -> nn.Module:
    """A network whose inner convolutions and linear layers compute in bfloat16."""
    net = own_copy(model)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[1:-1]:
        layer.to(torch.bfloat16)
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16),))
    if len(layers) > 1:
        # Bfloat16 images would be 1/256 apart near 1, and so would be the logits: both stay exact.
        layers[0].register_forward_hook(lambda _, __, output: output.to(torch.bfloat16))
        layers[-1].register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    net.register_forward_hook(lambda _, __, logits: logits.float())
    return net


def _unbearable(model: Model, fast: Model, x: Tensor, y: Tensor) -> tuple[str | None, float]:
    """Why the model must not be searched in half precision; and the largest logit difference."""
    with frozen(model):
        logits, exact, grad = logits_and_gradient(Watched(model), x, y, margin)
    rough_logits, rough, rough_grad = logits_and_gradient(Watched(fast), x, y, margin)
    moved, median = torch.quantile((rough - exact).abs(), 0.999), exact.abs().median()
    if not moved <= LARGEST_MARGIN_ERROR * median:
        return f"bfloat16 moves margins by {moved:.2g}, their median is {median:.2g}", 0.0
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


# ---------------------------------------------------------------- strided convolutions

# A strided convolution whose input gradient is computed by a convolution of stride 1: where the stride
# divides the kernel, the gradient's pixels fall into stride x stride phases, each a small ordinary
# convolution of the output gradient; together they are one. On a CPU that takes half the time or less
# of the usual backward kernel, which is slow for few input channels. I, O channels.


def phased(layer: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with the faster gradient, where it has one; else the layer itself.

    For frozen weights: gradients reach the input alone.
    """
    (k, k2), (s, s2) = layer.kernel_size, layer.stride
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    square = k == k2 and s == s2 and isinstance(layer.padding, tuple) and len({*layer.padding}) == 1
    if not (plain and square and s > 1 and k % s == 0) or layer.weight.device.type != "cpu":
        return layer
    return _Phased(layer)


class _Phased(nn.Conv2d):
    """An nn.Conv2d, so that whoever looks for convolutions finds it."""

    phases: Tensor  # (I * s * s, O, k / s, k / s)

    def __init__(self, layer: nn.Conv2d) -> None:
        k, s, p = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
        bias = layer.bias is not None
        super().__init__(layer.in_channels, layer.out_channels, k, s, p, bias=bias)
        self.weight, self.bias = layer.weight, layer.bias
        m, w = k // s, self.weight.detach()
        # w[o, i, t * s + a, u * s + b] belongs to phase (a, b) at tap (t, u), which a gradient reads
        # backwards.
        taps = w.unflatten(3, (m, s)).unflatten(2, (m, s)).flip(2, 4)  # (O, I, m, s, m, s)
        phases = taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous()
        self.register_buffer("phases", phases, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        s, p = self.stride[0], int(self.padding[0])
        answer: Tensor = _Convolution.apply(x, self.weight, self.bias, self.phases, s, p)
        return answer


class _Convolution(torch.autograd.Function):
    """conv2d with the gradient of its input alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, phases: Tensor, s: int, p: int
    ) -> Tensor:
        ctx.save_for_backward(phases)
        ctx.shape, ctx.s, ctx.p = x.shape, s, p
        return functional.conv2d(x, weight, bias, s, p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (phases,) = ctx.saved_tensors
        (_, channels, height, width), s, p = ctx.shape, ctx.s, ctx.p
        m = phases.shape[-1]
        pieces = functional.conv2d(grad, phases, padding=m - 1).unflatten(1, (channels, s, s))
        rows, columns = pieces.shape[-2:]
        x_grad = grad.new_zeros(ctx.shape)  # some pixels may be read by no window
        across = [_kept(phase, s, p, columns, width) for phase in range(s)]
        for i in range(s):
            to, source = _kept(i, s, p, rows, height)
            for j, (to_column, column) in enumerate(across):
                x_grad[:, :, to, to_column] = pieces[:, :, i, j, source, column]
        return x_grad, None, None, None, None, None


def _kept(phase: int, s: int, p: int, count: int, length: int) -> tuple[slice, slice]:
    """Where a phase's rows go in the input, and which of them lie inside it and not in the padding."""
    first = max(0, math.ceil((p - phase) / s))
    to = first * s + phase - p
    number = min(count - first, math.ceil((length - to) / s))
    return slice(to, to + number * s, s), slice(first, first + number)
