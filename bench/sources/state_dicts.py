"""Weights in files of others: the one state dict that is meant, as plain tensors; nothing in them runs.

A file may hold several sets of weights, such as the last ones and their average: reading one of them
without a word would measure a network that nobody named. Keys are told apart by their words, which are
those of published training code; another name is a set where it holds the same tensors as a known one,
or where none is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.records.one_read import opened
from bench.schema import InvalidInput
from bench.sources import weight_files
from bench.sources.pickles import Stored
from bench.sources.weight_files import loaded, shown

# Prefixes that wrappers leave, and what torch's AveragedModel counts beside its `module.`.
_COUNTER = "n_averaged"
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
FLOATS = ("float32", "float16", "bfloat16", "float64")


def read_state_dict(path: Path, *, weights: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file of weights, unwrapped, prefixes removed.

    weights names one of several sets that the file holds, as `choose` takes it. Raises InvalidInput
    that says what the file is instead, or which sets it holds.
    """
    with opened(path, follow=True) as (file, _):
        return loaded(unwrap(weight_files.read(file, path).content, path, weights=weights), path)


def _what_it_is(content: object) -> str:
    """What a file holds that is no state dict, in words."""
    if isinstance(content, Stored):
        return "one tensor alone"
    if isinstance(content, Mapping):
        return "an empty dict, no tensors"
    if isinstance(content, list | tuple):
        return f"a {type(content).__name__} of {len(content)}"
    return f"a value of type {type(content).__name__}"


def unwrap(content: object, path: Path, *, weights: str | None = None) -> dict[str, Stored]:
    """The state dict inside a file's content, prefixes that all its keys share removed.

    Raises InvalidInput where the content holds several, such as averaged weights beside the last ones,
    and `weights` does not say which.
    """
    chosen = choose(weight_sets(content), weights, path)
    if chosen is not None:
        content = chosen.content
    if not isinstance(content, Mapping) or not content:
        raise InvalidInput(f"{path} holds {_what_it_is(content)}, expected a state dict")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Stored)}
    others = sorted(shown(k) for k, v in content.items() if not isinstance(v, Stored))
    if others:
        raise InvalidInput(f"{path}: expected tensors only, but {others[:5]} are not")
    if all(k.startswith("module.") for k in tensors.keys() - {_COUNTER}):
        tensors.pop(_COUNTER, None)
    while shared := [p for p in _PREFIXES if tensors and all(k.startswith(p) for k in tensors)]:
        tensors = {k.removeprefix(shared[0]): v for k, v in tensors.items()}
    # Old WideResNets of the TRADES code define a block that no forward pass uses.
    return {k: v for k, v in tensors.items() if not k.startswith("sub_block1.")}


def load_weights(net: nn.Module, state: Mapping[str, Tensor | Stored], where: str) -> None:
    """Copies a state dict into a network; InvalidInput names keys, shapes or values that differ.

    Shapes are compared before numbers are read.
    """
    wanted = net.state_dict()
    # num_batches_tracked is a counter that no forward pass in eval mode reads.
    optional = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(state) - optional)
    unknown = sorted(set(state) - set(wanted))
    if missing or unknown:
        raise InvalidInput(
            f"{where} does not fit the architecture: "
            f"{len(missing)} tensors missing {[*map(shown, missing[:3])]}, "
            f"{len(unknown)} unknown {[*map(shown, unknown[:3])]}"
        )
    for key, value in state.items():
        if tuple(value.shape) != tuple(wanted[key].shape):
            raise InvalidInput(
                f"{where}: {key} has shape {tuple(value.shape)}, "
                f"the architecture expects {tuple(wanted[key].shape)}"
            )
    numbers = {k: numbers_of(v, k, where, wanted[k].dtype) for k, v in state.items()}
    net.load_state_dict({**{k: wanted[k] for k in optional}, **numbers})


def numbers_of(value: Tensor | Stored, name: str, where: str, kind: torch.dtype) -> Tensor:
    """A tensor's finite numbers; InvalidInput names one that holds none, or none of that kind."""
    if isinstance(value, Stored):
        reason = value.odd or ("" if _readable(value.kind, kind) else f"of type {value.kind}")
        if reason:
            raise InvalidInput(
                f"{where}: {shown(name)} is {reason}; weights are read in floating point: save the "
                "network's float32 state_dict()"
            )
        value = loaded({name: value}, Path(where))[name]
    value = value.to(kind)  # float64 may hold more than float32 does
    if not torch.isfinite(value).all():
        raise InvalidInput(
            f"{where}: {shown(name)} holds values that are not finite in {str(kind)[6:]} "
            "(NaN or infinity)"
        )
    return value


def _readable(kind: str, wanted: torch.dtype) -> bool:
    """Whether numbers of a type stand for those that a network wants."""
    if wanted.is_floating_point:
        return kind in FLOATS
    return kind in ("int64", "int32", "int16", "uint8", "int8", *FLOATS)  # counters, cast along


# ---------------------------------------------------------------- sets of weights

# The words of keys under which averaged weights are published.
AVERAGED = frozenset(
    {
        *("ema", "swa", "wa", "avg", "average", "averaged", "averages", "averaging", "polyak"),
        *("shadow", "smooth", "smoothed", "lookahead", "slow", "teacher", "momentum"),
    }
)
_NAMES = frozenset(
    {
        *("state", "dict", "sd", "model", "net", "network", "weights", "weight", "params"),
        *("parameters", "checkpoint", "ckpt", "classifier", "best", "last", "latest", "final"),
        *("current", "raw", "student", "online", "unaveraged", "nonema"),
    }
)
# What training code keeps beside weights, some of it in tensors of the same shapes.
_ASIDE = frozenset(
    {
        *("optim", "optimizer", "optimiser", "opt", "scheduler", "sched", "scaler", "amp", "rng"),
        *("grad", "grads", "gradients", "velocity", "buffer", "buffers", "mask", "masks"),
        *("metric", "metrics", "args", "config", "cfg", "hparams", "hyper", "hyperparameters"),
    }
)
_DEEPEST = 4  # wrappers around a set


@dataclass(frozen=True)
class WeightSet:
    """One set of weights and the keys that lead to it."""

    path: tuple[str, ...]
    content: object  # a mapping of tensors; anything else cannot be read as weights
    tensors: int

    @property
    def name(self) -> str:
        """`best/state_dict`: what --weights takes."""
        return "/".join(self.path)

    @property
    def words(self) -> frozenset[str]:
        """Of all its keys, lower case."""
        return frozenset(word for key in self.path for word in _words(key))


def weight_sets(content: object) -> list[WeightSet]:
    """The sets of weights inside a file's content, in its order; none where it is one set itself."""
    found = [each for each in _leaves(content, ()) if each.path and not each.words & _ASIDE]
    named = [each for each in found if each.words & (AVERAGED | _NAMES)] or found
    return [each for each in found if any(each is n or _alike(each, n) for n in named)]


def choose(sets: list[WeightSet], asked: str | None, path: Path) -> WeightSet | None:
    """The one set there is, or the one that is asked for; None where the file is one set itself.

    asked is a key, keys joined by "/", or a word of them: `ema` is the averaged one, whatever its key.
    Raises InvalidInput that names every set where it is not clear which is meant.
    """
    if asked is None:
        fitting = sets
    elif not sets:
        raise InvalidInput(f"{path} holds one set of weights alone: leave --weights {asked} out")
    else:
        fitting = _asked_for(sets, asked)
    if len(fitting) > 1 or (asked is not None and not fitting):
        held = ", ".join(f"{s.name} ({s.tensors} tensors)" for s in sets)
        several = f"{len(sets)} sets" if len(sets) > 1 else "one set"
        wrong = "" if asked is None else f", of which {asked!r} names {len(fitting) or 'none'}"
        choices = " or ".join(f"--weights {s.name}" for s in sets)
        raise InvalidInput(f"{path} holds {several} of weights: {held}{wrong}. Choose: {choices}")
    if not fitting:
        return None
    (chosen,) = fitting
    if not isinstance(chosen.content, Mapping):
        raise InvalidInput(
            f"{path}: {chosen.name} is a list of {chosen.tensors} tensors without names, which fits no "
            "architecture by itself; save the averaged model's state_dict()"
        )
    return chosen


def _asked_for(sets: list[WeightSet], asked: str) -> list[WeightSet]:
    """The sets that fit a word as closely as any does."""
    word = asked.lower()
    exactly = [s for s in sets if asked == s.name] or [s for s in sets if asked in s.path]
    if exactly:
        return exactly
    if word not in AVERAGED:
        found = [s for s in sets if word in s.words]
        return [s for s in found if not s.words & AVERAGED] or found
    averaged = [s for s in sets if s.words & AVERAGED]
    if not averaged and any("unaveraged" in s.words for s in sets):
        averaged = [s for s in sets if "unaveraged" not in s.words]
    return [s for s in averaged if word in s.words] or averaged


def _leaves(content: object, path: tuple[str, ...]) -> list[WeightSet]:
    """The innermost things that hold tensors, under keys that are text."""
    if not isinstance(content, list | tuple | Mapping):
        return []
    values = content.values() if isinstance(content, Mapping) else content
    tensors = [v for v in values if isinstance(v, Stored)]
    here = [WeightSet(path, content, len(tensors))]
    # A matrix or filter: statistics of images and single numbers are no weights. With anything beside
    # them they are no state dict, and refused as such.
    if any(v.ndim >= 2 for v in tensors):
        return here
    if not isinstance(content, Mapping):
        return []
    inner: list[WeightSet] = []
    if len(path) < _DEEPEST:
        for key, value in content.items():
            if isinstance(key, str):
                inner += _leaves(value, (*path, key))
    named = bool(path) and set(_words(path[-1])) <= AVERAGED | _NAMES
    return here if not inner and tensors and named else inner


def _alike(a: WeightSet, b: WeightSet) -> bool:
    """Whether at least half of the tensors have the same name and shape."""
    first, second = (
        {
            (str(k).removeprefix("module."), v.shape)
            for k, v in each.items()
            if isinstance(v, Stored)
        }
        for each in (w.content if isinstance(w.content, Mapping) else {} for w in (a, b))
    )
    return 2 * len(first & second) >= max(1, min(len(first), len(second)))


def _words(key: str) -> list[str]:
    """stateDict_EMA -> state, dict, ema."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key)
    return [word for word in re.split(r"[^A-Za-z]+", apart.lower()) if word]
