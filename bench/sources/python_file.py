"""Models of the user's own, opened from a Python file.

B images (B, C, H, W) in [0, 1], K classes. Only for files the user wrote or trusts: opening one runs
it. What others submit is weights, never code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.problem import Model
from bench.catalogue import unknown_name
from bench.judge import is_models
from bench.schema import InvalidInput, ModelCard, safe_name
from bench.sources.unregistered import (
    device_named,
    identified,
    on_device,
    refuse_no_model,
    suited,
)


@dataclass(frozen=True)
class OwnModel:
    """An opened model and the card that its record carries."""

    model: Model
    card: ModelCard
    note: str = ""  # what the card's id leaves out


def open_model(
    source: str, x: Tensor, *, dataset: str, name: str | None = None, device: str = "auto",
    batch: int | None = None,
) -> OwnModel:  # fmt: skip
    """Runs `file.py:function`, which returns a model; a Module is put on the device, in eval mode.

    x (N, C, H, W) in [0, 1] are a few images that the model is tried on; name defaults to
    `file-function`, and batch is how many images the model is given at once, at most. device "auto" is
    the GPU for a Module where there is one, and the CPU for a callable, which nothing can move. Raises
    InvalidInput naming the line of the file where it raises, and MeasurementFailed where the model does
    not answer with logits.
    """
    file, _, function = source.rpartition(":")
    name = name or safe_name(f"{Path(file).stem}-{function}")
    model = _built(source, Path(file), function)
    if safe_name(name) != name:
        raise InvalidInput(f"--name is made of letters, digits and ._+=-, got {name!r}")
    if isinstance(model, nn.Module):
        gpu = device == "auto" and torch.cuda.is_available()
        model = _settled(model, device_named("cuda" if gpu else device.replace("auto", "cpu")))
    model = on_device(model, None if device == "auto" else device, x)
    model = suited(model, x, batch)
    found = identified(model, x, name=name, dataset=dataset)
    return OwnModel(model, found.card, found.note)


def _settled(model: nn.Module, device: torch.device) -> nn.Module:
    """The model in eval mode, where it has one, on a device. Raises InvalidInput where it cannot go."""
    refuse_no_model(model)
    with contextlib.suppress(Exception):  # an exported program has no modes to choose from
        model.eval()
    try:
        return model.to(device)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"the model cannot be put on {device}: it raised {reason}") from error


def _built(source: str, path: Path, function: str) -> Model:
    """The model that a function of a file returns."""
    if not (path.name and function):
        raise InvalidInput(f"--model is written file.py:function, got {source!r}")
    if not path.is_file():
        raise InvalidInput(f"--model {source}: no file at {path}")
    with _beside(path):
        module = _run(path, lambda: _imported(path))
        if not hasattr(module, function):
            known = [k for k, v in vars(module).items() if _can_be_named(v, module)]
            raise unknown_name(f"function in {path}", function, known)
        build = getattr(module, function)
        if isinstance(build, nn.Module):  # a network built when the file was read
            return build
        if not callable(build):
            raise InvalidInput(f"{source} is a {type(build).__name__}, not a function")
        needed = _needed_arguments(build)
        if needed:
            raise InvalidInput(
                f"{source} needs {', '.join(needed)}: it is called without arguments and returns "
                "the model"
            )
        model = _run(path, build)
    if not callable(model):
        raise InvalidInput(
            f"{source} returned a {type(model).__name__}; it must return a model: a torch Module or "
            "a callable from images (B, C, H, W) in [0, 1] to logits (B, K)"
        )
    return model


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """The file's folder can be imported from inside, as when python runs the file."""
    before = [*sys.path]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _imported(path: Path) -> ModuleType:
    name = f"own_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by name
    spec.loader.exec_module(module)
    return module


def _run(path: Path, function: Callable[[], Any]) -> Any:
    """What a function of the file returns; where it raises, InvalidInput names the line."""
    try:
        return function()
    except InvalidInput:
        raise
    except BaseException as error:
        if not is_models(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"{path}, line {_line_in(path, error)}, raised {reason}") from error


def _line_in(path: Path, error: BaseException) -> int | None:
    """The deepest line of the file that the error passed through."""
    inside = str(path.resolve())
    if isinstance(error, SyntaxError) and error.filename == inside:
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == inside]
    return lines[-1] if lines else None


def _can_be_named(value: Any, module: ModuleType) -> bool:
    made_here = getattr(value, "__module__", None) == module.__name__
    return isinstance(value, nn.Module) or (callable(value) and made_here)


def _needed_arguments(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins do not tell
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
