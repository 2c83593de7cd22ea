"""Models that are no checkpoints: where they compute, what they are called, whose function their id is.

B images (B, C, H, W) in [0, 1], K classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.problem import Model
from bench.judge import Watched, exact_float32, is_models
from bench.measure.clean_logits import difference
from bench.reliability.checks import left_as_found
from bench.schema import InvalidInput, MeasurementFailed, ModelCard, safe_name
from bench.sources import identity

PROBED = 8  # images on which a model is tried, and whose logits stand for one without weights


@dataclass(frozen=True)
class Identified:
    """A card, and what its id leaves out because it cannot be read or changes with every pass."""

    card: ModelCard
    note: str = ""  # `not read: sampler (a ...)`, for people; empty where everything was read


def identified(model: Model, x: Tensor, *, dataset: str, name: str | None = None) -> Identified:
    """The card of a model that is no checkpoint, tried on the first images of x (N, C, H, W).

    Its id is a hash of what identity.py reads: code, plain attributes, tensors. A callable without
    tensors of its own may hide some: its logits on these images are hashed too, unless two passes
    give different ones. Raises as first_logits.
    """
    with left_as_found(model):
        logits = first_logits(model, x)
        first = identity.read(_inner(model))
        again = first_logits(model, x[: max(1, min(len(x), PROBED) // 2)])
        second = identity.read(_inner(model))
    function, left_out = identity.digest(first, second)
    hashed = hashlib.sha256(function.encode())
    answer = np.ascontiguousarray(logits.to(torch.float32).numpy())
    randomised = bool(difference(answer[: len(again)], again.to(torch.float32).numpy()))
    tensors = isinstance(model, nn.Module) and bool(model.state_dict())
    if not tensors and not randomised:
        hashed.update(answer.tobytes())
    card = _card(model, dataset, hashed.hexdigest())
    update = {"class_count": logits.shape[1], "name": name or card.name}
    more = f" and {len(left_out) - 8} more" if len(left_out) > 8 else ""
    note = f"not read: {', '.join(left_out[:8])}{more}" if left_out else ""
    return Identified(card.model_copy(update=update), note)


def unregistered(model: Model, dataset: str) -> ModelCard:
    """The card of a model that is not tried because it does not answer; class_count is a guess."""
    found = identity.read(_inner(model))
    return _card(model, dataset, identity.digest(found, found)[0])


def _inner(model: Model) -> Model:
    """A callable itself: where its images are sent is no part of the function."""
    return model.call if isinstance(model, Placed) else model


def _card(model: Model, dataset: str, sha256: str) -> ModelCard:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return ModelCard(
        name=safe_name(getattr(model, "__name__", type(model).__name__)), dataset=dataset,
        class_count=2, weights_sha256=sha256, n_parameters=sum(p.numel() for p in parameters),
    )  # fmt: skip


def first_logits(model: Model, x: Tensor) -> Tensor:
    """(b, K) logits of the first images of x (N, C, H, W), on the CPU.

    Raises InvalidInput for what is no torch model, MeasurementFailed where it raises or returns
    something that is not logits.
    """
    if not callable(model):
        raise InvalidInput(
            f"a model is a callable from images (B, C, H, W) to logits (B, K), "
            f"got {type(model).__name__}"
        )
    x = x[:PROBED].to(device_of(model))
    with torch.no_grad(), exact_float32():
        try:
            answer = model(x)
        except BaseException as error:  # a stranger's model may raise anything; nothing is hidden
            if not is_models(error):
                raise
            raise MeasurementFailed(f"the model raised {type(error).__name__}: {error}") from error
        if isinstance(answer, np.ndarray):
            raise InvalidInput(
                "the model returned a numpy array: attacks need gradients, so it must compute "
                "with torch tensors"
            )
        return Watched(lambda _: answer)(x).cpu()


# ---------------------------------------------------------------- devices


def device_of(model: Model) -> torch.device:
    """Where a model's first tensor lies; the CPU for a callable without any."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


class Placed(nn.Module):
    """A callable without weights of its own, whose images are sent to a device first.

    It always computes in float32 there: what it closes over cannot be converted.
    """

    place: Tensor

    def __init__(self, call: Model, device: torch.device) -> None:
        super().__init__()
        self.call, self.device = call, device
        self.__name__ = getattr(call, "__name__", type(call).__name__)
        self.register_buffer("place", torch.zeros(0, device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x.to(self.device, torch.float32))

    def __deepcopy__(self, memo: dict[int, Any]) -> Placed:
        return Placed(self.call, self.device)  # a closure is shared, not copied


def on_device(model: Model, device: str | torch.device | None, x: Tensor) -> Model:
    """A model that will be given its images on a device.

    A Module stays where its parameters are. Anything else gets its images on the device named, or
    on that of x. Raises InvalidInput where the device does not exist or is not the Module's.
    """
    wanted = None if device is None else device_named(device)
    if isinstance(model, nn.Module) and (*model.parameters(), *model.buffers()):
        found = device_of(model)
        if wanted and (wanted.type != found.type or wanted.index not in (None, found.index)):
            raise InvalidInput(
                f"the model's parameters are on {found}, the device asked for is {wanted}: "
                f"call model.to({str(wanted)!r}) first, or leave the device out"
            )
        return model
    place = wanted or x.device
    return model if place.type == "cpu" else Placed(model, place)


def device_named(name: str | torch.device) -> torch.device:
    """A device of torch. Raises InvalidInput where there is none of that name here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidInput(f"no device named {name!r}: cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("no CUDA device is visible; use device='cpu', or leave it out")
    return device
