"""What a measurement leaves as it came: the network that was handed in, and torch around it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.problem import Model


@contextmanager
def left_as_found(model: Model) -> Iterator[None]:
    """Puts weights, buffers, gradients and modes back afterwards, whatever happens inside.

    In train mode a pass moves BatchNorm's statistics, and a defence that adapts moves its weights. A
    callable that is no Module has nothing that can be put back.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]
    tables = [
        t for m in model.modules() for t in (vars(m).get("_parameters"), vars(m).get("_buffers"))
    ]
    named = [(table, dict(table)) for table in tables if type(table) is dict]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    held = [t for t in (*model.parameters(), *model.buffers()) if not nn.parameter.is_lazy(t)]
    held += [grad for *_, grad in parameters if grad is not None]
    before = [(tensor, tensor.detach().clone()) for tensor in held]
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training != mode:
                module.training = mode
        for table, entries in named:
            if any(table.get(name) is not each for name, each in entries.items()):
                table.update(entries)  # a buffer that forward sets anew
        for parameter, needed, grad in parameters:
            if parameter.requires_grad != needed:
                parameter.requires_grad_(needed)
            if parameter.grad is not grad:
                parameter.grad = grad
        with torch.no_grad():
            for tensor, old in before:
                _put_back(tensor, old)


def _put_back(tensor: Tensor, old: Tensor) -> None:
    if tensor.shape != old.shape or tensor.dtype != old.dtype:
        tensor.data = old
    elif not torch.equal(tensor, old):
        tensor.copy_(old)


# What a stranger's forward may set for the whole process: how it is read, and how it is put back.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda on: torch.use_deterministic_algorithms(on[0], warn_only=on[1]),
    ),
    *(
        (lambda name=name: getattr(torch.backends.cudnn, name),
         lambda on, name=name: setattr(torch.backends.cudnn, name, on))
        for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
    ),
    (torch.get_rng_state, torch.set_rng_state),
    (random.getstate, random.setstate),
)  # fmt: skip


@contextmanager
def undisturbed(model: Model) -> Iterator[None]:
    """As left_as_found, and torch's settings and all random states too. Gradients can be taken inside.

    To stand around a whole measurement only: inside it two passes of a randomised model would be given
    the same random numbers.
    """
    settings = [(put, read(), read) for read, put in _SETTINGS]
    drawn = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        with torch.inference_mode(False), left_as_found(model):
            yield
    finally:
        for put, old, read in settings:
            now = read()
            if not (torch.equal(now, old) if isinstance(old, Tensor) else now == old):
                put(old)
        np.random.set_state(drawn)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


Rest = ParamSpec("Rest")
Answer = TypeVar("Answer")


def leaving_undisturbed(
    function: Callable[Concatenate[Model, Rest], Answer],
) -> Callable[Concatenate[Model, Rest], Answer]:
    """A function of a model, which leaves it and torch undisturbed."""

    @functools.wraps(function)
    def call(model: Model, *more: Rest.args, **named: Rest.kwargs) -> Answer:
        with undisturbed(model):
            return function(model, *more, **named)

    return call
