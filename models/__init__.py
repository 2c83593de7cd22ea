"""The networks that can be named in a model card: shapes and initial weights, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from bench.catalogue import architecture_arguments, architecture_info
from bench.schema import InvalidInput
from models.cnn_a import cnn_a
from models.normalized import Normalized
from models.preact_resnet import preact_resnet18
from models.small_cnn import small_cnn
from models.vgg import vgg19_bn
from models.wide_resnet import wide_resnet28_10, wide_resnet34_10

__all__ = ["ARCHITECTURES", "Normalized", "build"]

# Each takes exactly the arguments of its entry in bench.catalogue.ARCHITECTURES.
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "cnn_a": cnn_a,
    "small_cnn": small_cnn,
    "preact_resnet18": preact_resnet18,
    "wide_resnet28_10": wide_resnet28_10,
    "wide_resnet34_10": wide_resnet34_10,
    "vgg19_bn": vgg19_bn,
}


def build(
    arch: str,
    arch_args: Mapping[str, bool | int | float | str],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Normalized:
    """A freshly initialised network, in training mode, behind its normalisation.

    Initial weights come from torch's global generator: seed it, or load weights afterwards. Raises
    InvalidInput for an unknown architecture or argument and for a value that cannot be built.
    """
    arguments = architecture_arguments(arch, dict(arch_args))
    for key, value in arguments.items():
        least = 2 if key == "num_classes" else 1
        whole = isinstance(value, int) or value.is_integer()
        if not whole or value < least:
            meaning = architecture_info(arch).arguments[key].meaning
            raise InvalidInput(
                f"{arch}: {key} ({meaning}) must be a whole number >= {least}, got {value!r}"
            )
    channels = int(arguments["in_channels"])
    for kind, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise InvalidInput(
                f"{kind} must have one value for each of the {channels} image channels, "
                f"got {len(values)}: {tuple(values)}"
            )
    net = ARCHITECTURES[arch](**{key: int(value) for key, value in arguments.items()})
    return Normalized(net, mean, std)
