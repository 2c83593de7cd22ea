"""What function a model computes, read off the model: code, plain attributes and tensors, part by part.

Two networks with the same tensors are two models where an attribute, an activation or a line of
forward differs. The user's classes and functions are read by all that they hold, and the files that
they stand in whole; Python's own modules, installed packages and this package are libraries, read by
name. Comments and line breaks do not count, replaced methods do. A part's text is the same in every
process: no addresses, no order of sets, no places of tensors. Nothing of the model is called.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import re
import sys
import sysconfig
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bench

Place = tuple[str, ...]  # ("layers", "[2]", "sigma"): the way to a part from the model
MOST = 200_000  # parts in all; what goes beyond is not read
DEEPEST = 80  # parts inside one another; what lies deeper is not read
MOST_FILES = 2000  # modules that are looked at in all
USER, PYTHON, LIBRARY = "user", "python", "library"
_PYTHON = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")}
_INSTALLED = {"site-packages", "dist-packages"}
_OURS = Path(bench.__file__).resolve().parent
_DEVICE = re.compile(r"(cpu|mps|cuda(:\d+)?)")
_MANGLED = re.compile(r"___torch_mangle_\d+\.?")  # counts what was compiled before in this process
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_A_MODULE = {*vars(nn.Module()), "_compiled_call_impl"}  # read one by one, or bookkeeping
_OF_A_CLASS = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__"),
    *("__slots__", "__abstractmethods__", "_abc_impl", "__match_args__", "__orig_bases__"),
    *("__parameters__", "__firstlineno__", "__static_attributes__", "__annotate__"),
    *("__annotate_func__", "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__"),
    # What torch makes of an autograd.Function, counted.
    *("_backward_cls", "_autograd_function_id"),
}
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
# Equal ones may be one object or several, as Python pleases.
_WITHOUT_IDENTITY = (tuple, frozenset, types.CodeType, types.MethodType, weakref.ref)
_SAID_BY_REPR = (
    *(types.NoneType, types.EllipsisType, types.NotImplementedType, bool, float, complex),
    *(range, slice, torch.dtype, torch.layout, torch.memory_format),
)


@dataclass
class Reading:
    """The parts of a model as short texts, and those that could not be read."""

    parts: dict[Place, str] = field(default_factory=dict)
    unread: dict[Place, str] = field(default_factory=dict)  # what is there
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
        self.parts[place] = f"{len(values)} items"
        if None not in texts:
            self.parts[place] += f" {_hash(chr(10).join(map(str, texts)))}"
            return
        for number, value in enumerate(values):
            self.value(value, (*place, f"[{number}]"))

    def named(self, attributes: Mapping[str, Any], place: Place) -> None:
        """Reads what stands under names whose order means nothing."""
        for name in sorted(attributes, key=str):
            self.value(attributes[name], (*place, str(name)))

    def _tensor(self, value: Tensor, place: Place) -> None:
        try:
            flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            sha256 = _hash(flat.view(torch.uint8).numpy().tobytes())
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            sha256 = "not read"
            self.unread[place] = f"a tensor, {value.layout}, on {value.device.type}"
        self.parts[place] = f"tensor {value.dtype} {tuple(value.shape)} {sha256}"


def read(model: Any) -> Reading:
    """Reads a Module or any callable."""
    found = Reading()
    with torch._C.DisableTorchFunctionSubclass():
        found.value(model, ())
        for name in _HOOKS:  # those of every network
            hooks = vars(torch.nn.modules.module)[f"_global{name}"]
            found.values(hooks.values(), (f"_global{name}",))
        _read_files(found)
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

    kept = sorted(f"{p!r} {text}" for p, text in first.parts.items() if not moves(p))
    outermost = [p for p in moved if not any(p[:k] in moved for k in range(len(p)))]
    left_out = dict.fromkeys(outermost, "changes with every pass")
    left_out |= {p: what for p, what in second.unread.items() if not moves(p)}
    said = {".".join(p).replace(".[", "[") or "the model": what for p, what in left_out.items()}
    return _hash("\n".join(kept)), tuple(f"{p} ({what})" for p, what in sorted(said.items()))


def plain(value: Any) -> str | None:
    """A number, a text and the like; None for everything else."""
    kind = type(value)
    if kind is torch.device or (kind is str and _DEVICE.fullmatch(value)):
        return "a device"
    if kind is int:
        return f"int {value:x}"
    if kind in (str, bytes, bytearray):
        return f"{kind.__name__} {len(value)} {_hash(value)}"
    if isinstance(value, np.generic):
        return f"numpy {value.dtype} {value.tobytes().hex()}"
    by_repr = kind in _SAID_BY_REPR or isinstance(value, np.dtype)
    if by_repr or kind.__module__ in ("fractions", "decimal", "datetime", "uuid"):
        return f"{kind.__name__} {value!r}"
    return None


def _hash(data: str | bytes | bytearray) -> str:
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    return hashlib.sha256(raw).hexdigest()


# ---------------------------------------------------------------- objects


def _array(r: Reading, value: np.ndarray, place: Place) -> None:
    if value.dtype.hasobject:
        r.values(value.ravel().tolist(), (*place, "[]"))
    held = "" if value.dtype.hasobject else _hash(value.tobytes())
    r.parts[place] = f"array {value.dtype.str} {value.shape} {held}"


def _builtin(r: Reading, value: Any, place: Place) -> None:
    r.parts[place] = f"builtin {getattr(value, '__module__', '')}.{value.__qualname__}"
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        r.value(owner, (*place, "<self>"))


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
    """What an object holds in its __slots__ and __dict__."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, types.MemberDescriptorType) and owner_of(kind) != PYTHON:
                try:
                    found[name] = slot.__get__(value, type(value))
                except AttributeError:  # never set
                    continue
    try:
        return found | object.__getattribute__(value, "__dict__")
    except AttributeError:
        return found


def _mapping(r: Reading, value: Mapping[Any, Any], place: Place) -> None:
    r.values(value, (*place, "<keys>"))
    for number, (key, each) in enumerate(value.items()):
        r.value(each, (*place, f"[{key!r}]" if type(key) in (str, int) else f"[{number}]"))


def _set(r: Reading, value: set[Any] | frozenset[Any], place: Place) -> None:
    """Each member read alone, for their order means nothing."""
    members = []
    for member in value:
        alone = Reading()
        alone.value(member, ())
        members.append(repr(sorted(alone.parts.items())))
    r.values(sorted(members), (*place, "<items>"))


def _of_a_plain_class(r: Reading, value: Any, place: Place) -> None:
    base: Any = next(b for b in (int, float, complex, str, bytes) if isinstance(value, b))
    r.parts[place] = str(plain(base(value)))


# ---------------------------------------------------------------- modules of torch


def _module(r: Reading, module: nn.Module, place: Place) -> None:
    if type(module).__module__.startswith("torch._dynamo") and "_orig_mod" in module._modules:
        r.value(module._modules["_orig_mod"], place)  # torch.compile changes no function
        return
    held = vars(module)
    r.parts[place] = f"training {held.get('training')}"
    r.value(type(module), (*place, "<class>"))
    children = held.get("_modules", {})
    for part in (held.get("_parameters", {}), held.get("_buffers", {}), children):
        r.named(part, place)
    r.values(children, (*place, "<modules>"))  # Sequential calls them in this order
    for kind in _HOOKS:
        r.values(held.get(kind, {}).values(), (*place, kind))
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
        r.parts[inside] = f"training {getattr(each, 'training', None)}"
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


# ---------------------------------------------------------------- whose code it is


@functools.lru_cache(maxsize=10_000)
def owner_of_file(name: str) -> str:
    """Whose code a file holds; what was typed or made by exec is the user's."""
    if name.startswith("<"):
        return PYTHON if name.startswith("<frozen") else USER
    path = Path(name).resolve()
    if _INSTALLED & set(path.parts) or path.is_relative_to(_OURS):
        return LIBRARY
    return PYTHON if any(path.is_relative_to(folder) for folder in _PYTHON) else USER


def owner_of_module(name: str) -> str:
    """Whose module it is, by its file; one without a file may be in the interpreter."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if isinstance(file, str):
        return owner_of_file(file)
    builtin = name != "__main__" and name.split(".")[0] in sys.stdlib_module_names
    return PYTHON if builtin else USER


def owner_of(kind: type) -> str:
    """Whose class it is."""
    return owner_of_module(str(kind.__module__))


def is_bystander(kind: type) -> bool:
    """Loggers, locks, types of annotations and bare objects say nothing of what a model computes."""
    aside = ("logging", "_thread", "threading", "typing", "_abc")
    return kind is object or kind.__module__.split(".")[0] in aside


# ---------------------------------------------------------------- classes, functions, files


def _class(r: Reading, kind: type, place: Place) -> None:
    """A class by its name, and where the user wrote it, by all that its body defines."""
    for each in kind.__mro__[:-1]:  # the last is object
        inside = (*place, each.__qualname__)
        if owner_of(each) != USER:
            r.parts[inside] = f"{each.__module__}.{each.__qualname__}"
            continue
        r.parts[inside] = "the user's"
        r.modules.add(str(each.__module__))
        for name, value in sorted(vars(each).items()):
            slot = isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
            if name not in _OF_A_CLASS and not slot and type(value).__name__ != "_tuplegetter":
                r.value(value, (*inside, name))


def _function(r: Reading, function: types.FunctionType, place: Place) -> None:
    """A function with its defaults, what it closes over, and what it reads of its module."""
    compiled = function.__dict__.get("_torchdynamo_orig_callable")
    if compiled is not None:  # torch.compile changes no function
        r.value(compiled, place)
        return
    code = function.__code__
    if owner_of_file(code.co_filename) != USER:  # a library's wrapper holds the user's function
        r.parts[place] = f"{function.__module__}.{function.__qualname__}"
    else:
        r.parts[place] = f"function {_hash(repr(_structure(code, function.__doc__)))}"
        r.modules.add(str(function.__globals__.get("__name__")))
        r.values([function.__defaults__, function.__kwdefaults__], (*place, "<defaults>"))
        _globals(r, function, place)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            r.value(cell.cell_contents, (*place, name))
        except ValueError:  # not yet assigned
            r.parts[*place, name] = "empty"
    r.named(function.__dict__, place)


def _code(r: Reading, code: types.CodeType, place: Place) -> None:
    r.parts[place] = f"code {_hash(repr(_structure(code)))}"


def _structure(value: object, docstring: str | None = None) -> object:
    """Compiled code, or a constant of it, without names of files and numbers of lines."""
    if isinstance(value, types.CodeType):
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        facts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount)
        raw = (value.co_code, value.co_exceptiontable, value.co_flags)
        documented = bool(docstring) and value.co_consts[:1] == (docstring,)
        return *raw, *names, *facts, [_structure(each) for each in value.co_consts[documented:]]
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value


def _globals(r: Reading, function: types.FunctionType, place: Place) -> None:
    """What a function reads by name: of its own module, and of others that the user wrote."""
    names, every = _names_in(function.__code__)
    space = function.__globals__
    packages = str(space.get("__package__") or "").split(".")
    prefixes = ["", *(".".join(packages[: k + 1]) + "." for k in range(len(packages)))]
    loaded = {n: p + n for p in prefixes for n in every if p + n in sys.modules}
    waiting = [
        ((*place, "<global>"), {n: space[n] for n in names if n in space}),
        (
            (*place, "<import>"),
            {n: sys.modules[m] for n, m in loaded.items() if owner_of_module(m) == USER},
        ),
    ]
    met: set[str] = set()
    while waiting:
        where, held = waiting.pop()
        for name, value in sorted(held.items()):
            if not is_bystander(type(value)):
                r.value(value, (*where, name))
            if isinstance(value, types.ModuleType) and value.__name__ not in met:
                met.add(value.__name__)
                if owner_of_module(value.__name__) == USER:
                    said = {n: vars(value)[n] for n in every if n in vars(value)}
                    waiting.append(((*where, name), said))


def _imported(r: Reading, value: types.ModuleType, place: Place) -> None:
    r.modules.add(value.__name__)
    r.parts[place] = f"module {value.__name__}"


@functools.lru_cache(maxsize=10_000)
def _names_in(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of code and the code inside it: the global names it reads; these with attributes and imports."""
    steps = [step for each in _nested(code) for step in dis.get_instructions(each)]
    names = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return tuple(sorted(names)), tuple(sorted({n for c in _nested(code) for n in c.co_names}))


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _nested(each)


def _read_files(r: Reading) -> None:
    """The user's files that were met, whole, with those that they import.

    Code may reach what no name in it shows: an attribute of a module that it was handed, getattr, a
    library's class that the file has changed. A change anywhere in these files is another model.
    """
    hashes: dict[str, list[str]] = {}
    waiting, known = sorted(r.modules), set(r.modules)
    while waiting:
        module = sys.modules.get(waiting.pop())
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or owner_of_file(file) != USER or len(known) > MOST_FILES:
            continue
        path = Path(file)
        if path.suffix == ".py" and path.is_file():
            status = path.stat()
            sha256 = _hash_of_file(file, status.st_mtime_ns, status.st_size)
            hashes.setdefault(path.name, []).append(sha256)
        for value in list(vars(module).values()):
            inner = value.__name__ if isinstance(value, types.ModuleType) else None
            if isinstance(value, types.FunctionType | type):
                inner = value.__module__
            if isinstance(inner, str) and inner not in known:
                known.add(inner)
                waiting.append(inner)
    for name, found in hashes.items():
        r.parts["<files>", name] = " ".join(sorted(found))
    if len(known) > MOST_FILES:
        r.unread["<files>",] = f"more than {MOST_FILES} modules"


@functools.lru_cache(maxsize=1000)
def _hash_of_file(file: str, modified: int, size: int) -> str:
    """sha256 (hex) of a file as Python compiles it: without comments, docstrings and line numbers."""
    try:
        code = compile(Path(file).read_bytes(), "<file>", "exec", dont_inherit=True, optimize=2)
    except (OSError, SyntaxError, ValueError) as error:
        return f"cannot be read: {type(error).__name__}"
    return _hash(repr(_structure(code)))


_Readers = tuple[tuple[Any, Callable[[Reading, Any, Place], None]], ...]
# kinds -> how one of them is read; the first that fits
_READERS: _Readers = (
    (torch.jit.ScriptModule, _script),
    (nn.Module, _module),
    (torch.jit.ScriptFunction, _scripted),
    (type, _class),
    (types.FunctionType, _function),
    (types.MethodType, lambda r, v, p: r.values([v.__func__, v.__self__], p)),
    (types.BuiltinFunctionType | types.MethodWrapperType, _builtin),
    (types.WrapperDescriptorType | types.MethodDescriptorType, _builtin),
    (types.ClassMethodDescriptorType, _builtin),
    (types.CodeType, _code),
    (types.ModuleType, _imported),
    (np.ndarray, _array),
    (weakref.ref, lambda r, v, p: r.value(v(), (*p, "*"))),
    (torch.Generator | np.random.Generator | np.random.RandomState, _generator),
    (object, _object),
)
# kinds -> how what they hold is read, before their attributes
_CONTENTS: _Readers = (
    (dict | types.MappingProxyType, _mapping),
    (list | tuple | deque, Reading.values),
    (set | frozenset, _set),
    (functools.partial, lambda r, v, p: r.values([v.func, v.args, v.keywords], p)),
    (staticmethod | classmethod, lambda r, v, p: r.value(v.__func__, (*p, "()"))),
    (property, lambda r, v, p: r.values([v.fget, v.fset, v.fdel], p)),
    (functools.cached_property, lambda r, v, p: r.value(v.func, (*p, "()"))),
    (re.Pattern, lambda r, v, p: r.values([v.pattern, v.flags], p)),
    (int | float | complex | str | bytes, _of_a_plain_class),
)
