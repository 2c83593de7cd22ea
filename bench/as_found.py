"""What a measurement leaves as it came: the network that was handed in, and torch around it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

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


class Precisions(NamedTuple):
    """In what float32 operations may compute. None: torch raises, since its newer settings differ."""

    matmul: str | None  # of torch.set_float32_matmul_precision
    cudnn: bool | None  # of torch.backends.cudnn.allow_tf32
    newer: tuple[str, ...]  # of the places below


# From the general to the single operation, which has what is above it where it says none.
_GENERAL = (torch.backends, torch.backends.cudnn, torch.backends.mkldnn)
_ON_CPU = tuple(getattr(torch.backends.mkldnn, name) for name in ("matmul", "conv", "rnn"))
_CUDNN = tuple(getattr(torch.backends.cudnn, name) for name in ("conv", "rnn"))
_ON_GPU = (torch.backends.cuda.matmul, *_CUDNN)
_PLACES: tuple[Any, ...] = (*_GENERAL, *_ON_CPU, *_ON_GPU)


def precisions() -> Precisions:
    """What the process has set."""

    def read(older: Callable[[], Any]) -> Any:
        try:
            return older()
        except RuntimeError:
            return None

    matmul = read(torch.get_float32_matmul_precision)
    cudnn = read(lambda: torch.backends.cudnn.allow_tf32)
    return Precisions(matmul, cudnn, tuple(place.fp32_precision for place in _PLACES))


def put_precisions(wanted: Precisions) -> None:
    """Sets what was read; what torch would not read is left."""
    if wanted.matmul is not None:
        torch.set_float32_matmul_precision(wanted.matmul)
    if wanted.cudnn is not None:
        torch.backends.cudnn.allow_tf32 = wanted.cudnn
    for place, value in zip(_PLACES, wanted.newer, strict=True):
        if place.fp32_precision != value:
            place.fp32_precision = "none"
        if place.fp32_precision != value:  # it is not what stands above it that says so
            place.fp32_precision = value


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 and no bfloat16 in float32 operations inside; settings are as they were afterwards."""
    places: tuple[Any, ...] = _ON_CPU + (_ON_GPU if torch.cuda.is_available() else ())
    if all(place.fp32_precision in _EXACT for place in places):
        yield
        return
    before = precisions()
    if before.matmul is not None:  # the older settings first: torch raises where the two differ
        torch.set_float32_matmul_precision("highest")
    if before.cudnn is not None:
        torch.backends.cudnn.allow_tf32 = False
    for place in places:
        if place.fp32_precision not in _EXACT:
            place.fp32_precision = "ieee"
    try:
        yield
    finally:
        put_precisions(before)


_EXACT = ("ieee", "none")

# What a stranger's forward may set for the whole process: how it is read, and how it is put back.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (precisions, put_precisions),
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
        for name in ("enabled", "benchmark", "deterministic")
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
