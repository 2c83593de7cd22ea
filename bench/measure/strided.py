"""A strided convolution whose input gradient is computed by a convolution of stride 1.

Where the stride divides the kernel, the gradient's pixels fall into stride x stride phases, each a
small ordinary convolution of the output gradient; together they are one. On a CPU that takes half the
time or less of the usual backward kernel, which is slow for few input channels. I, O channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


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
        (b, channels, height, width), s, p = ctx.shape, ctx.s, ctx.p
        m = phases.shape[-1]
        pieces = functional.conv2d(grad, phases, padding=m - 1).unflatten(1, (channels, s, s))
        rows, columns = pieces.shape[-2:]
        x_grad = grad.new_zeros(
            (b, channels, height, width)
        )  # some pixels may be read by no window
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
