"""What function a model computes, read off the model: code, plain attributes and tensors, part by part.

Two networks with the same tensors are two models where an attribute, an activation or a line of
forward differs. Of a library's classes, torch's above all, names and attributes stand for the code.
A part's text is the same in every process: no addresses, no order of sets, no places of tensors.
Nothing of the model is called.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import re
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.sources.code_reading import (
    DEEPEST,
    PYTHON,
    is_bystander,
    owner_of,
    read_class,
    read_code,
    read_files,
    read_function,
)

Place = tuple[str, ...]  # ("layers", "[2]", "sigma"): the way to a part from the model
MOST = 200_000  # parts in all; what goes beyond is not read
_DEVICE = re.compile(r"(cpu|mps|cuda(:\d+)?)")
_MANGLED = re.compile(r"___torch_mangle_\d+\.?")  # counts what was compiled before in this process
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_OF_A_MODULE = {*vars(nn.Module()), "_compiled_call_impl"}  # read one by one, or bookkeeping
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
# Equal ones may be one object or several, as Python pleases.
_WITHOUT_IDENTITY = (tuple, frozenset, types.CodeType, types.MethodType, weakref.ref)


@dataclass
class Reading:
    """The parts of a model as short texts, and those that could not be read."""

    parts: dict[Place, str] = field(default_factory=dict)
    unread: dict[Place, str] = field(default_factory=dict)  # what is there
    tensors: dict[int, tuple[int, str]] = field(default_factory=dict)  # id -> version and hash
    alive: list[Any] = field(default_factory=list)  # so that an id means one object
    seen: dict[int, Place] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)  # where the user's code that was read stands

    def value(self, value: Any, place: Place) -> None:
        """Reads whatever stands at a place."""
        text = plain(value)
        if text is not None:
            self.parts[place] = text
        elif isinstance(value, Tensor):
            self._tensor(value, place)
        elif len(place) > DEEPEST or len(self.parts) > MOST:
            self.unread[place] = "too deep or too much"
        elif id(value) in self.seen:
            self.parts[place] = f"as {self.seen[id(value)]!r}"
        else:
            self.alive.append(value)
            if not isinstance(value, _WITHOUT_IDENTITY):
                self.seen[id(value)] = place
            next(read for kinds, read in _READERS if isinstance(value, kinds))(self, value, place)

    def values(self, values: Iterable[Any], place: Place) -> None:
        """Reads each value under its number; plain ones together, for a list may hold thousands."""
        values = list(values)
        texts = [plain(v) for v in values]
        if values and None not in texts:
            whole = "\n".join(map(str, texts)).encode(errors="surrogatepass")
            self.parts[*place, "[]"] = hashlib.sha256(whole).hexdigest()
            return
        for number, value in enumerate(values):
            self.value(value, (*place, f"[{number}]"))

    def items(self, values: Sequence[Any], place: Place) -> None:
        """As `values`, with their number."""
        self.parts[place] = f"{len(values)} items"
        self.values(values, place)

    def named(self, attributes: Mapping[str, Any], place: Place) -> None:
        """Reads what stands under names whose order means nothing."""
        for name in sorted(attributes, key=str):
            self.value(attributes[name], (*place, str(name)))

    def _tensor(self, value: Tensor, place: Place) -> None:
        version = -1 if value.is_inference() else value._version
        known = self.tensors.get(id(value))
        if known is None or known[0] != version or version < 0:
            try:
                flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
                raw = flat.view(torch.uint8).numpy().tobytes()
            except (RuntimeError, TypeError, ValueError, NotImplementedError):
                self.parts[place] = f"tensor {value.dtype}"
                self.unread[place] = f"a tensor, {value.layout}, on {value.device.type}"
                return
            known = version, hashlib.sha256(raw).hexdigest()
            self.tensors[id(value)] = known
            self.alive.append(value)
        self.parts[place] = f"tensor {value.dtype} {tuple(value.shape)} {known[1]}"


def read(model: Any, *, before: Reading | None = None) -> Reading:
    """Reads a Module or any callable; tensors unchanged since `before` are not hashed again."""
    found = Reading()
    if before is not None:
        found.tensors, found.alive = before.tensors, before.alive
    with torch._C.DisableTorchFunctionSubclass():
        found.value(model, ())
        for name in _GLOBAL_HOOKS:  # they run in every network
            hooks = vars(torch.nn.modules.module).get(name)
            if hooks:
                found.values(hooks.values(), (name,))
        read_files(found)
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
    left_out = dict.fromkeys(outermost, "changes with every pass")
    left_out |= {p: what for p, what in second.unread.items() if not moves(p)}
    said = {".".join(p).replace(".[", "[") or "the model": what for p, what in left_out.items()}
    return kept.hexdigest(), tuple(f"{p} ({what})" for p, what in sorted(said.items()))


def plain(value: Any) -> str | None:
    """A number, a text and the like; None for everything else."""
    kind = type(value)
    if value is None or value is Ellipsis or value is NotImplemented or kind is bool:
        return repr(value)
    if kind is int:
        return f"int {value:x}"
    if kind is float:
        return f"float {value.hex()}"
    if kind is complex:
        return f"complex {value.real.hex()} {value.imag.hex()}"
    if kind is torch.device or (kind is str and _DEVICE.fullmatch(value)):
        return "a device"
    if kind in (str, bytes, bytearray):
        raw = value.encode(errors="surrogatepass") if kind is str else bytes(value)
        return f"{kind.__name__} {len(raw)} {hashlib.sha256(raw).hexdigest()}"
    if kind in (torch.dtype, torch.layout, torch.memory_format, range, slice):
        return f"{kind.__name__} {value!r}"
    if isinstance(value, np.dtype):
        return f"numpy {value}"
    if isinstance(value, np.generic):
        return f"numpy {value.dtype} {value.tobytes().hex()}"
    if kind.__module__ in ("fractions", "decimal", "datetime", "uuid"):
        return repr(value)
    return None


# ---------------------------------------------------------------- objects


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


def _method(r: Reading, value: types.MethodType, place: Place) -> None:
    r.value(value.__func__, (*place, "()"))
    r.value(value.__self__, (*place, "<self>"))


def _member(r: Reading, value: enum.Enum, place: Place) -> None:
    r.parts[place] = f"{type(value).__qualname__}.{value.name}"
    r.value(value.value, (*place, "<value>"))


def _generator(r: Reading, value: Any, place: Place) -> None:
    r.parts[place] = type(value).__name__  # its state moves as it is used
    r.unread[place] = f"the state of a {type(value).__name__}"


def _object(r: Reading, value: Any, place: Place) -> None:
    """A container, or an instance of any class: its class, items and attributes."""
    kind = type(value)
    if kind.__module__ == "torch._ops":
        r.parts[place] = f"operator {value}"  # its attributes are caches
        return
    r.value(kind, (*place, "<class>"))
    contents = next((read for kinds, read in _CONTENTS if isinstance(value, kinds)), None)
    if contents is not None:
        contents(r, value, place)
    attributes = _attributes(value)
    if owner_of(kind) == PYTHON and kind.__name__ not in ("SimpleNamespace", "Namespace"):
        # Attributes of Python's own objects (caches, locks, files) tell nothing; what they wrap does.
        attributes = {k: v for k, v in attributes.items() if k == "__wrapped__"}
        readable = bool(attributes) or is_bystander(kind)
    else:  # of a class that is not written in Python, instances may hold what cannot be seen
        readable = all(base is object or base.__flags__ & _HEAP_TYPE for base in kind.__mro__)
    r.named(attributes, place)
    if contents is None and not readable:
        r.unread[place] = f"a {kind.__module__}.{kind.__qualname__}"


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds in its __dict__ and __slots__."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType) and owner_of(kind) != PYTHON:
                try:
                    found[name] = slot.__get__(value, type(value))
                except AttributeError:  # never set
                    continue
    try:
        return found | dict(object.__getattribute__(value, "__dict__"))
    except AttributeError:
        return found


def _mapping(r: Reading, value: Mapping[Any, Any], place: Place) -> None:
    r.parts[place] = f"{len(value)} items"
    r.values(list(value), (*place, "<keys>"))
    for number, (key, each) in enumerate(list(value.items())):
        r.value(each, (*place, f"[{key!r}]" if type(key) in (str, int) else f"[{number}]"))


def _set(r: Reading, value: set[Any] | frozenset[Any], place: Place) -> None:
    """Each member read alone, for their order means nothing."""
    r.parts[place] = f"{len(value)} items"
    members = []
    for member in value:
        alone = Reading()
        alone.value(member, ())
        members.append(repr(sorted(alone.parts.items())))
    r.value(sorted(members), (*place, "<items>"))


def _of_a_plain_class(r: Reading, value: Any, place: Place) -> None:
    base: Any = next(b for b in (int, float, complex, str, bytes) if isinstance(value, b))
    r.parts[place] = str(plain(base(value)))


# ---------------------------------------------------------------- modules of torch


def _module(r: Reading, module: nn.Module, place: Place) -> None:
    if type(module).__module__.startswith("torch._dynamo") and "_orig_mod" in module._modules:
        r.value(module._modules["_orig_mod"], place)  # torch.compile changes no function
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
        aside = ("meta", "shape_env")
        own = {k: v for k, v in own.items() if not k.startswith("_") and k not in aside}
    r.named(own, place)


def _script(r: Reading, module: torch.jit.ScriptModule, place: Place) -> None:
    """A scripted or traced module: the code it was compiled to, and what that reads."""
    r.named(dict(module.named_parameters()) | dict(module.named_buffers()), (*place, "<state>"))
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


def _scripted(r: Reading, value: Any, place: Place) -> None:
    r.parts[place] = f"scripted {_MANGLED.sub('', str(value.code))}"


def _imported(r: Reading, value: types.ModuleType, place: Place) -> None:
    r.modules.add(value.__name__)
    r.parts[place] = f"module {value.__name__}"


_Readers = tuple[tuple[Any, Callable[[Reading, Any, Place], None]], ...]
# kinds -> how one of them is read; the first that fits
_READERS: _Readers = (
    (torch.jit.ScriptModule, _script),
    (nn.Module, _module),
    (torch.jit.ScriptFunction, _scripted),
    (type, read_class),
    (types.FunctionType, read_function),
    (types.MethodType, _method),
    (types.BuiltinFunctionType | types.MethodWrapperType, _builtin),
    (types.WrapperDescriptorType | types.MethodDescriptorType, _builtin),
    (types.ClassMethodDescriptorType, _builtin),
    (types.CodeType, read_code),
    (types.ModuleType, _imported),
    (enum.Enum, _member),
    (np.ndarray, _array),
    (weakref.ref, lambda r, v, p: r.value(v(), (*p, "*"))),
    (torch.Generator | np.random.Generator | np.random.RandomState, _generator),
    (object, _object),
)
# kinds -> how what they hold is read, before their attributes
_CONTENTS: _Readers = (
    (dict | types.MappingProxyType, _mapping),
    (list | tuple | deque, Reading.items),
    (set | frozenset, _set),
    (functools.partial, lambda r, v, p: r.values([v.func, v.args, v.keywords], p)),
    (staticmethod | classmethod, lambda r, v, p: r.value(v.__func__, (*p, "()"))),
    (property, lambda r, v, p: r.values([v.fget, v.fset, v.fdel], p)),
    (functools.cached_property, lambda r, v, p: r.value(v.func, (*p, "()"))),
    (re.Pattern, lambda r, v, p: r.values([v.pattern, v.flags], p)),
    (int | float | complex | str | bytes, _of_a_plain_class),
)
