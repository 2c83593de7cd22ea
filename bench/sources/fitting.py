"""How the tensors of a foreign file fit an architecture: under which prefix, which normalisation.

Training code wraps networks: `module.`, `model.`, `backbone.`, `1.` behind a normalisation. The prefix
that is meant is the one under which every tensor of the architecture lies, with its shape. C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench import catalogue
from bench.catalogue import ARCHITECTURES
from bench.schema import InvalidInput, Scalar
from bench.sources.pickles import Stored
from bench.sources.state_dicts import FLOATS, numbers_of
from bench.sources.weight_files import shown

Shapes = Mapping[str, tuple[int, ...]]

_MEANS = frozenset({"mean", "mu", "_mean", "new_mean", "image_mean", "pixel_mean", "input_mean"})
_DEVIATIONS = frozenset(
    {"std", "sigma", "_std", "new_std", "image_std", "pixel_std", "input_std", "stddev"}
)
# What training code keeps beside a network and no forward pass of it reads.
_ASIDE = frozenset(
    {
        "criterion",
        "loss",
        "loss_fn",
        "loss_function",
        "optimizer",
        "n_averaged",
        "sub_block1",
        "metrics",
    }
)
_COUNTERS = ("num_batches_tracked", "n_averaged")
LARGEST = 100_000  # argument of an architecture
_MOST_NETWORKS = 4  # of a file whose shapes are looked at: trained and averaged weights, say
_SIZES = (8, 28, 32, 64)  # images that an architecture's first linear layer may have been made for


@dataclass(frozen=True)
class Fit:
    """The tensors of an architecture by its own names, and the normalisation in front of it."""

    state: dict[str, Tensor | Stored]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    note: str = ""  # what a card says of the numbers


def shapes_of(arch: str, arguments: Mapping[str, Scalar]) -> dict[str, tuple[int, ...]]:
    """Of every tensor of an architecture, without memory for any of them.

    Raises InvalidInput where its arguments are wrong, or describe more than any machine holds.
    """
    large = [f"{name} {shown(value, 20)}" for name, value in arguments.items() if not _usual(value)]
    if large:
        raise InvalidInput(f"{shown(arch)}: {', '.join(large)} is larger than any network's")
    with torch.device("meta"), _Unfilled():
        net = catalogue.build(arch, arguments).net
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def fit(
    tensors: Mapping[str, Stored],
    arch: str,
    arguments: Mapping[str, Scalar],
    where: str,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Fit:
    """The tensors that an architecture needs among those of a file.

    mean and std are what the user says of the normalisation; what the file holds of it is read. Raises
    InvalidInput where none or several different networks fit, where tensors are left over, where the
    two normalisations differ; it names an architecture that fits.
    """
    wanted = shapes_of(arch, arguments)
    complete = [p for p in _prefixes(tensors, wanted) if _fits(tensors, wanted, p)]
    if not complete:
        raise InvalidInput(_misfit(tensors, wanted, arch, where) + _would_fit(tensors, arguments))
    state = _one_of(tensors, wanted, complete, where)
    used = {f"{prefix}{name}" for prefix in complete for name in wanted}
    rest = {name: value for name, value in tensors.items() if name not in used}
    held = _normalisation(rest, int(arguments.get("in_channels", 0)), where)
    unknown = [name for name in rest if name not in held.names and not _is_aside(name)]
    if unknown:
        raise InvalidInput(
            f"{where} does not fit the architecture: 0 tensors missing [], {len(unknown)} unknown "
            f"{[*map(shown, sorted(unknown)[:3])]}; remove what is no part of the network"
        )
    for kind, said, found in (("mean", mean, held.mean), ("std", std, held.std)):
        if said is not None and found is not None and not _same(said, found):
            raise InvalidInput(
                f"{where} holds a normalisation with {kind} {_numbers(found)}, --{kind} says "
                f"{_numbers(said)}: leave --mean and --std out"
            )
    return Fit(
        state, held.mean if mean is None else mean, held.std if std is None else std,
        _precision(state),
    )  # fmt: skip


class _Unfilled(TorchFunctionMode):
    """Draws no weights: on the meta device that alone would load a thousand modules."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in (nn.init.normal_, nn.init.kaiming_normal_, Tensor.normal_):
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def _usual(value: Scalar) -> bool:
    return not isinstance(value, int | float) or abs(value) <= LARGEST


# ---------------------------------------------------------------- prefixes


def _prefixes(tensors: Mapping[str, Stored], wanted: Shapes) -> list[str]:
    """What stands before the name of a tensor of the architecture, the shortest first."""
    found = {""}
    for name in tensors:
        for place, letter in enumerate(name):
            if letter == "." and name[place + 1 :] in wanted:
                found.add(name[: place + 1])
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _needed(wanted: Shapes) -> list[str]:
    # num_batches_tracked is a counter that no forward pass in eval mode reads.
    return [name for name in wanted if not name.endswith("num_batches_tracked")]


def _fits(tensors: Mapping[str, Stored], wanted: Shapes, prefix: str) -> bool:
    there = (tensors.get(f"{prefix}{name}") for name in _needed(wanted))
    return all(
        value is not None and value.shape == wanted[name]
        for name, value in zip(_needed(wanted), there, strict=True)
    )


def _one_of(
    tensors: Mapping[str, Stored], wanted: Shapes, prefixes: list[str], where: str
) -> dict[str, Tensor | Stored]:
    """The state dict under prefixes that hold the same; InvalidInput where two differ."""
    first, *others = (
        {name: tensors[f"{p}{name}"] for name in wanted if f"{p}{name}" in tensors}
        for p in prefixes
    )
    if not others:
        return dict(first)
    numbers = {name: _read(first, name, where) for name in _needed(wanted)}
    for prefix, other in zip(prefixes[1:], others, strict=True):
        for name, value in numbers.items():
            if not torch.equal(value, _read(other, name, where)):
                raise InvalidInput(
                    f"{where} holds two networks that fit, under {shown(prefixes[0])!r} and "
                    f"{shown(prefix)!r}, and they differ: save the state_dict() of the one meant"
                )
    return dict(first)


def _read(state: Mapping[str, Stored], name: str, where: str) -> Tensor:
    return numbers_of(state[name], name, where, torch.float32)


def _is_aside(name: str) -> bool:
    words = set(name.split("."))
    return bool(words & _ASIDE) or name.endswith(_COUNTERS)


# ---------------------------------------------------------------- normalisation


@dataclass(frozen=True)
class _Held:
    """The normalisation that a file holds, and the names of its tensors."""

    names: frozenset[str]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def _normalisation(rest: Mapping[str, Stored], channels: int, where: str) -> _Held:
    """Tensors named mean and std of one number a channel; several of a kind must be the same."""
    found: dict[str, tuple[float, ...]] = {}
    names = []
    for name, value in rest.items():
        last = name.rpartition(".")[2]
        kind = "mean" if last in _MEANS else "std" if last in _DEVIATIONS else ""
        if not kind or not channels or value.numel not in (1, channels) or value.ndim > 4:
            continue
        read = numbers_of(value, name, where, torch.float32).flatten().tolist()
        numbers = tuple(round(number, 7) for number in (read * channels)[:channels])
        if not _same(found.setdefault(kind, numbers), numbers):
            raise InvalidInput(f"{where} holds two normalisations whose {kind} differs")
        names.append(name)
    if len(found) == 1:
        (kind,) = found
        raise InvalidInput(
            f"{where} holds a normalisation with {kind} alone: save the network without it, and give "
            "--mean and --std"
        )
    if not found:
        return _Held(frozenset())
    if max(found["mean"]) > 1.5:
        raise InvalidInput(
            f"{where} normalises pixels of 0 to 255 (mean {_numbers(found['mean'])}); images here lie "
            "in [0, 1]: divide mean and std by 255"
        )
    if min(found["std"]) <= 0:
        raise InvalidInput(f"{where} holds a normalisation with std {_numbers(found['std'])}")
    return _Held(frozenset(names), found["mean"], found["std"])


def _same(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= 1e-4 for x, y in zip(a, b, strict=True))


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _precision(state: Mapping[str, Tensor | Stored]) -> str:
    kinds = {v.kind for v in state.values() if isinstance(v, Stored) and v.kind in FLOATS}
    other = sorted(kinds - {"float32"})
    return f"{' and '.join(other)} weights, read as float32" if other else ""


# ---------------------------------------------------------------- what does not fit


def _misfit(tensors: Mapping[str, Stored], wanted: Shapes, arch: str, where: str) -> str:
    """What is wrong under the prefix that fits best."""

    def right(prefix: str) -> int:
        return sum(f"{prefix}{name}" in tensors for name in wanted)

    prefix = max(_prefixes(tensors, wanted), key=right)
    missing = sorted(n for n in _needed(wanted) if f"{prefix}{n}" not in tensors)
    if missing:
        known = {f"{prefix}{name}" for name in wanted}
        unknown = sorted(n for n in tensors if n not in known and not _is_aside(n))
        return (
            f"{where} does not fit the architecture: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {[*map(shown, unknown[:3])]}"
        )
    name = next(n for n in _needed(wanted) if tensors[f"{prefix}{n}"].shape != wanted[n])
    stored = tensors[f"{prefix}{name}"]
    odd = f" ({stored.odd})" if stored.odd else ""
    return f"{where}: {name} has shape {stored.shape}{odd}, the architecture expects {wanted[name]}"


def _would_fit(tensors: Mapping[str, Stored], given: Mapping[str, Scalar]) -> str:
    """`. It fits small_cnn, width 16`: an architecture of the catalogue, where there is one.

    With the arguments that are not what was given, or not the default.
    """
    for arch, arguments in found(tensors):
        schema = ARCHITECTURES[arch].arguments
        usual = {k: schema[k].default for k in arguments}
        told = [
            f"{k} {v}" for k, v in arguments.items() if {v} != {usual[k], given.get(k, usual[k])}
        ]
        return f". It fits {', '.join([arch, *told])}"
    return ""


def found(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, dict[str, int]]]:
    """Architectures of the catalogue whose every tensor a file holds, with their arguments.

    The file may hold more: `fit` says whether what is left over is harmless.
    """
    for arch, arguments in _candidates(tensors):
        try:
            wanted = shapes_of(arch, arguments)
        except InvalidInput:
            continue
        if any(_fits(tensors, wanted, prefix) for prefix in _prefixes(tensors, wanted)):
            yield arch, arguments


def _candidates(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, dict[str, int]]]:
    """Architectures whose tensors a file names, with the arguments that their shapes tell.

    The first convolution tells the channels of the images and the width, the last layer the classes,
    in the order of the architecture: a file has its own, and may hold other tensors before them.
    """
    for arch, info in ARCHITECTURES.items():
        names = shapes_of(arch, {})
        named = [p for p in _prefixes(tensors, names)
                 if all(f"{p}{name}" in tensors for name in _needed(names))]  # fmt: skip
        for prefix in named[:_MOST_NETWORKS]:
            shapes = [tensors[f"{prefix}{name}"].shape for name in _needed(names)]
            filters = [shape for shape in shapes if len(shape) == 4]
            matrices = [shape for shape in shapes if len(shape) == 2]
            if not filters or not matrices:
                continue
            width, channels, *_ = filters[0]
            read = {"in_channels": channels, "num_classes": matrices[-1][0], "width": width}
            known = {k: v for k, v in read.items() if k in info.arguments}
            if max(known.values(), default=0) > 4096:
                continue
            for size in _SIZES if "image_size" in info.arguments else (0,):
                yield arch, {**known, **({"image_size": size} if size else {})}
