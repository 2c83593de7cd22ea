"""Models that are no checkpoints: where they compute, what they are called, whose function their id is.

B images (B, C, H, W) in [0, 1], K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.as_found import exact_float32, left_as_found
from bench.attacks.problem import Model
from bench.judge import ask, logits_of, may_refuse
from bench.measure.clean_logits import difference, wavering
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
    if not _has_tensors(_inner(model)):
        with left_as_found(model):
            wavers, _ = wavering(model, x.to(device_of(model)))
        if not wavers and not difference(answer[: len(again)], again.to(torch.float32).numpy()):
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
    """A model itself: where and how its images are sent is no part of the function."""
    while isinstance(model, Placed | Suited):
        model = model.call
    return model


def _has_tensors(model: Model) -> bool:
    if not isinstance(model, nn.Module):
        return False
    return any(True for _ in model.parameters()) or bool(model.state_dict())


def _card(model: Model, dataset: str, sha256: str) -> ModelCard:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    inner = _inner(model)
    return ModelCard(
        name=safe_name(getattr(inner, "__name__", type(inner).__name__)), dataset=dataset,
        class_count=2, weights_sha256=sha256, n_parameters=sum(p.numel() for p in parameters),
    )  # fmt: skip


def first_logits(model: Model, x: Tensor) -> Tensor:
    """(b, K) logits of the first images of x (N, C, H, W), on the CPU.

    Raises InvalidInput for what is no torch model, MeasurementFailed where it raises or returns
    something that is not logits.
    """
    refuse_no_model(model)

    def of_torch(z: Tensor) -> Tensor:
        answer = model(z)
        if isinstance(answer, np.ndarray):
            raise InvalidInput(
                "the model returned a numpy array: attacks need gradients, so it must compute "
                "with torch tensors"
            )
        return answer

    x = x[:PROBED].to(device_of(model))
    with torch.no_grad(), exact_float32():
        return ask(of_torch, x).cpu()


# ---------------------------------------------------------------- how images are given


class Suited(nn.Module):
    """A model that is given its images as it takes them: so many at once, or in its own type.

    call is the model, `most` how many images it is given at once at most (None: any number), `least`
    how many at least: those that are missing are the last one again, and what is said of them is left
    out. dtype is what float32 images are converted to.
    """

    def __init__(
        self, call: Model, *, most: int | None, least: int = 1, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.call, self.most, self.least, self.dtype = call, most, least, dtype
        self.training = False  # the mode is the model's own

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._asked(part) for part in x.split(self.most or max(len(x), 1))])

    def _asked(self, x: Tensor) -> Tensor:
        missing = self.least - len(x)
        given = x if missing <= 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])
        # A float64 copy that judges closely is given float64.
        answer = self.call(given if self.dtype == torch.float32 else given.to(self.dtype))
        return logits_of(answer, len(given))[: len(x)]


def suited(model: Model, x: Tensor, batch: int | None = None) -> Model:
    """The model itself, or a Suited one: whatever the number of images, it answers.

    Tried on the first of x (N, C, H, W). batch is how many images go through the model at once, at
    most; a model that takes exactly so many is always given so many. Without it, one that takes
    single images alone gets single images. A Module whose weights are of another type than float32
    gets its images in that type where it refuses float32. Where nothing helps it stays as it is, and
    says itself what is wrong. Raises InvalidInput for what is no model, or one without weights yet.
    """
    refuse_no_model(model)
    if isinstance(model, Suited):
        return model
    x = x[:2].to(device_of(model))
    with torch.no_grad(), exact_float32(), left_as_found(model):
        plain = model if batch is None else Suited(model, most=batch)
        few = [x[:1], x if batch is None else x[:batch]]
        refusal = _refusal(plain, few)
        if refusal is None:
            return plain
        sizes = [(batch, 1), (batch, 2), (batch, batch or 1), (1, 1)]
        for dtype in filter(None, (torch.float32, _own_type(model))):
            for most, least in sizes:
                other = Suited(model, most=most, least=least, dtype=dtype)
                if least <= (most or least) and _refusal(other, few) is None:
                    if _refusal(plain, few) is None:  # it raised for no reason of the images'
                        raise refusal
                    return other
    return plain


def _refusal(model: Model, few: Sequence[Tensor]) -> MeasurementFailed | None:
    """What a model raises instead of returning logits; raised here where it leaves."""
    for x in few:
        try:
            ask(model, x)
        except MeasurementFailed as error:
            if not may_refuse(error):
                raise
            return error
    return None


def _own_type(model: Model) -> torch.dtype | None:
    """The floating type of all weights of a Module, where it is another than float32."""
    if not isinstance(model, nn.Module):
        return None
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return types.pop() if len(types) == 1 and types != {torch.float32} else None


def refuse_no_model(model: Model) -> None:
    """Raises InvalidInput for what cannot be called, and for lazy layers that saw no image yet."""
    if not callable(model):
        raise InvalidInput(
            f"a model is a callable from images (B, C, H, W) to logits (B, K), "
            f"got {type(model).__name__}"
        )
    if isinstance(model, nn.Module):
        lazy = [n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)]
        if lazy:
            raise InvalidInput(
                f"the model has no weights yet: {', '.join(lazy[:4])} of a lazy layer are made by the "
                "first pass. Call model(images[:1]), load its weights, then measure it"
            )


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
