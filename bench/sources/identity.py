"""What function a model computes, read off the model: code, plain attributes and tensors, part by part.

Two networks with the same tensors are two models where an attribute, an activation or a line of
forward differs. Of a library's classes, torch's above all, names and attributes stand for the code.
Where tensors lie is no part of the function. Nothing of the model is called.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import re
import types
import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.sources.code_reading import is_bystander, read_class, read_code, read_function
from bench.sources.origins import is_pythons
from bench.sources.reading import Place, Reading, plain

_MANGLED = re.compile(r"___torch_mangle_\d+\.?")  # counts what was compiled before in this process
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_A_MODULE = {*vars(nn.Module()), "_compiled_call_impl"}  # read one by one, or bookkeeping
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)


def read(model: Any, *, before: Reading | None = None) -> Reading:
    """Reads a Module or any callable; tensors unchanged since `before` are not hashed again."""
    found = Reading(_part)
    if before is not None:
        found.tensors, found.alive = before.tensors, before.alive
    with torch._C.DisableTorchFunctionSubclass():
        found.value(model, ())
    return found


def digest(first: Reading, second: Reading) -> tuple[str, tuple[str, ...]]:
    """sha256 (hex) over the parts in which two readings agree, and what it leaves out, in words.

    Between the readings the model answered: a counter or a kept activation changes with every pass, and
    is no part of the function.
    """
    every = first.parts.keys() | second.parts.keys()
    moved = {p for p in every if first.parts.get(p) != second.parts.get(p)}

    def moves(place: Place) -> bool:
        return any(place[:k] in moved for k in range(len(place) + 1))

    kept = hashlib.sha256(b"identity 1\n")
    for place in sorted(p for p in first.parts if not moves(p)):
        kept.update(f"{place!r} {first.parts[place]}\n".encode(errors="surrogatepass"))
    outermost = [p for p in moved if not any(p[:k] in moved for k in range(len(p)))]
    left_out = {_shown(p): "changes with every pass" for p in outermost}
    left_out |= {_shown(p): what for p, what in second.unread.items() if not moves(p)}
    return kept.hexdigest(), tuple(f"{p} ({what})" for p, what in sorted(left_out.items()))


def _shown(place: Place) -> str:
    return ".".join(place).replace(".[", "[") or "the model"


# ---------------------------------------------------------------- one part


def _part(r: Reading, value: Any, place: Place) -> None:
    if isinstance(value, nn.Module):
        _module(r, value, place)
    elif isinstance(value, torch.jit.ScriptFunction):
        r.parts[place] = f"scripted {_MANGLED.sub('', str(value.code))}"
    elif isinstance(value, type):
        read_class(r, value, place)
    elif isinstance(value, types.FunctionType):
        read_function(r, value, place)
    elif isinstance(value, types.MethodType):
        r.value(value.__func__, (*place, "()"))
        r.value(value.__self__, (*place, "<self>"))
    elif isinstance(value, _BUILTIN):
        _builtin(r, value, place)
    elif isinstance(value, types.CodeType):
        read_code(r, value, place)
    elif isinstance(value, types.ModuleType):
        r.parts[place] = f"module {value.__name__}"
    elif isinstance(value, enum.Enum):
        r.parts[place] = f"{type(value).__qualname__}.{value.name}"
        r.value(value.value, (*place, "<value>"))
    elif isinstance(value, np.ndarray):
        _array(r, value, place)
    elif isinstance(value, weakref.ref):
        r.value(value(), (*place, "*"))
    elif isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState):
        r.parts[place] = type(value).__name__  # its state moves as it is used
        r.unread[place] = f"the state of a {type(value).__name__}"
    elif type(value).__module__ == "torch._ops":
        r.parts[place] = f"operator {value}"  # its attributes are caches
    else:
        _object(r, value, place)


def _array(r: Reading, value: np.ndarray, place: Place) -> None:
    r.parts[place] = f"array {value.dtype.str} {value.shape}"
    if value.dtype.hasobject:
        r.values(value.ravel().tolist(), place)
    else:
        r.parts[place] += f" {hashlib.sha256(value.tobytes()).hexdigest()}"


def _builtin(r: Reading, value: Any, place: Place) -> None:
    r.parts[place] = f"builtin {getattr(value, '__module__', '')}.{value.__qualname__}"
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        r.value(owner, (*place, "<self>"))


def _object(r: Reading, value: Any, place: Place) -> None:
    """A container, or an instance of any class: its class, items and attributes."""
    kind = type(value)
    r.value(kind, (*place, "<class>"))
    readable = True
    if isinstance(value, dict | types.MappingProxyType):
        keys, values = list(value.keys()), list(value.values())
        r.parts[place] = f"{len(keys)} items"
        r.values(keys, (*place, "<keys>"))
        for number, (key, each) in enumerate(zip(keys, values, strict=True)):
            r.value(each, (*place, f"[{key!r}]" if type(key) in (str, int) else f"[{number}]"))
    elif isinstance(value, list | tuple | deque):
        r.parts[place] = f"{len(value)} items"
        r.values(value, place)
    elif isinstance(value, set | frozenset):
        r.parts[place] = f"{len(value)} items"
        r.value(sorted(map(_alone, value)), (*place, "<items>"))
    elif isinstance(value, functools.partial):
        r.values([value.func, value.args, value.keywords], place)
    elif isinstance(value, staticmethod | classmethod):
        r.value(value.__func__, (*place, "()"))
    elif isinstance(value, property):
        r.values([value.fget, value.fset, value.fdel], place)
    elif isinstance(value, functools.cached_property):
        r.value(value.func, (*place, "()"))
    elif isinstance(value, re.Pattern):
        r.values([value.pattern, value.flags], place)
    elif isinstance(value, int | float | complex | str | bytes):  # of a class of its own
        base: Any = next(b for b in (int, float, complex, str, bytes) if isinstance(value, b))
        r.parts[place] = str(plain(base(value)))
    else:
        readable = False
    attributes = _attributes(value)
    if is_pythons(kind) and kind.__name__ not in ("SimpleNamespace", "Namespace"):
        # Attributes of Python's own objects (caches, locks, files) tell nothing; what they wrap does.
        attributes = {k: v for k, v in attributes.items() if k == "__wrapped__"}
        readable = readable or bool(attributes) or is_bystander(kind)
    else:
        readable = readable or not any(_is_closed(base) for base in kind.__mro__)
    r.named(attributes, place)
    if not readable:
        r.unread[place] = f"a {kind.__module__}.{kind.__qualname__}"


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds in its __dict__ and __slots__."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType) and not is_pythons(kind):
                try:
                    found[name] = slot.__get__(value, type(value))
                except AttributeError:  # never set
                    continue
    try:
        return found | dict(object.__getattribute__(value, "__dict__"))
    except AttributeError:
        return found


def _is_closed(kind: type) -> bool:
    """Whether a class is not written in Python: its instances may hold what cannot be seen."""
    return kind is not object and not kind.__flags__ & _HEAP_TYPE


def _alone(value: Any) -> str:
    """A member of a set, whose order means nothing."""
    r = Reading(_part)
    r.value(value, ())
    return repr(sorted(r.parts.items()))


# ---------------------------------------------------------------- modules of torch


def _module(r: Reading, module: nn.Module, place: Place) -> None:
    if type(module).__module__.startswith("torch._dynamo") and "_orig_mod" in module._modules:
        r.value(module._modules["_orig_mod"], place)  # torch.compile changes no function
        return
    if isinstance(module, torch.jit.ScriptModule):
        _script(r, module, place)
        return
    r.parts[place] = f"training {getattr(module, 'training', None)}"
    r.value(type(module), (*place, "<class>"))
    held = vars(module)
    r.named(held.get("_parameters", {}), place)
    r.named(held.get("_buffers", {}), place)
    children = held.get("_modules", {})
    r.values(list(children), (*place, "<modules>"))  # Sequential calls them in this order
    for name, child in children.items():
        r.value(child, (*place, name))
    for kind in _HOOKS:
        for number, hook in enumerate(held.get(kind, {}).values()):
            r.value(hook, (*place, kind, f"[{number}]"))
    own = {k: v for k, v in held.items() if k not in _OF_A_MODULE}
    if isinstance(module, torch.fx.GraphModule):
        r.parts[*place, "<code>"] = module.code
        own = {
            k: v for k, v in own.items() if not k.startswith("_") and k not in ("meta", "shape_env")
        }
    r.named(own, place)


def _script(r: Reading, module: torch.jit.ScriptModule, place: Place) -> None:
    """A scripted or traced module: the code it was compiled to, and what that reads."""
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    r.named(state, (*place, "<state>"))
    for name, each in module.named_modules():
        inside, inner = (*place, name), each._c
        r.parts[inside] = f"training {each.training}"
        for method in sorted(inner._method_names()):
            code = inner._get_method(method).code
            r.parts[*inside, method] = _MANGLED.sub("", code)
            for attribute in sorted(set(re.findall(r"\.(\w+)", code))):
                if inner.hasattr(attribute):
                    held = inner.getattr(attribute)
                    if not isinstance(held, Tensor | torch._C.ScriptModule | torch._C.ScriptObject):
                        r.value(held, (*inside, "<attributes>", attribute))
        if inner._has_method("forward"):
            constants = each.code_with_constants[1].const_mapping
            r.value(dict(constants), (*inside, "<constants>"))
