"""Classes and functions in a reading of a model: the user's by all that they hold, others by name.

Python's own modules, installed packages and this package are libraries; all else is the user's. Code
is read compiled, as it will run: comments and line breaks do not count, replaced methods do. Another
version of Python compiles otherwise and gives other readings.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import sys
import sysconfig
import types
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import bench

if TYPE_CHECKING:
    from bench.sources.identity import Place, Reading

MOST_FILES = 2000  # modules that are looked at in all
DEEPEST = 80  # parts inside one another; what lies deeper is not read
USER, PYTHON, LIBRARY = "user", "python", "library"
_PYTHON = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")}
_INSTALLED = {"site-packages", "dist-packages"}
_OURS = Path(bench.__file__).resolve().parent
_OF_A_CLASS = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__"),
    *("__slots__", "__abstractmethods__", "_abc_impl", "__match_args__", "__orig_bases__"),
    *("__parameters__", "__firstlineno__", "__static_attributes__", "__annotate__"),
    *("__annotate_func__", "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__"),
    # What torch makes of an autograd.Function, counted.
    *("_backward_cls", "_autograd_function_id"),
}


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


# ---------------------------------------------------------------- reading


def read_class(r: Reading, kind: type, place: Place) -> None:
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


def read_function(r: Reading, function: types.FunctionType, place: Place) -> None:
    """A function with its defaults, what it closes over, and what it reads of its module."""
    compiled = function.__dict__.get("_torchdynamo_orig_callable")
    if compiled is not None:  # torch.compile changes no function
        r.value(compiled, place)
        return
    code = function.__code__
    if owner_of_file(code.co_filename) != USER:  # a library's wrapper holds the user's function
        r.parts[place] = f"{function.__module__}.{function.__qualname__}"
    else:
        r.parts[place] = "a function"
        r.modules.add(str(function.__globals__.get("__name__")))
        read_code(r, code, place, docstring=function.__doc__)
        r.value(function.__defaults__, (*place, "<defaults>"))
        r.value(function.__kwdefaults__, (*place, "<keyword defaults>"))
        _globals(r, function, place)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            r.value(cell.cell_contents, (*place, name))
        except ValueError:  # not yet assigned
            r.parts[*place, name] = "empty"
    r.named(function.__dict__, place)


def read_code(r: Reading, code: types.CodeType, place: Place, docstring: str | None = None) -> None:
    """Compiled code without its names of files and numbers of lines."""
    facts = (
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        *(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        getattr(code, "co_exceptiontable", b""),
    )
    raw = code.co_code + repr(facts).encode(errors="surrogatepass")
    r.parts[*place, "<code>"] = hashlib.sha256(raw).hexdigest()
    for number, constant in enumerate(code.co_consts):
        is_docstring = docstring is not None and number == 0 and constant == docstring
        r.value(None if is_docstring else constant, (*place, "<constants>", f"[{number}]"))


def _globals(r: Reading, function: types.FunctionType, place: Place) -> None:
    """What a function reads by name: of its own module, and of others that the user wrote."""
    read = reads(function.__code__)
    for name in read.names:
        if name in function.__globals__:
            value = function.__globals__[name]
            inside = (*place, "<global>", name)
            if isinstance(value, types.ModuleType):
                _module_of_user(r, value, read.attributes, inside)
            elif not is_bystander(type(value)):
                r.value(value, inside)
    package = function.__globals__.get("__package__") or ""
    for name, level in read.imports:
        absolute = importlib.util.resolve_name("." * level + name, package) if level else name
        r.modules.add(absolute)
        if absolute in sys.modules:
            _module_of_user(r, sys.modules[absolute], read.attributes, (*place, "<import>", name))


def _module_of_user(
    r: Reading, module: types.ModuleType, attributes: Iterable[str], place: Place
) -> None:
    """Those attributes of a module that code names, where the user wrote the module."""
    r.parts[place] = "module"
    r.modules.add(module.__name__)
    if owner_of_module(module.__name__) != USER or len(place) > DEEPEST:
        return
    for name in attributes:
        if name not in vars(module):
            continue
        value, inside = vars(module)[name], (*place, name)
        if not isinstance(value, types.ModuleType):
            r.value(value, inside)
        elif value is not module and name not in place:
            _module_of_user(r, value, attributes, inside)


# ---------------------------------------------------------------- files


def read_files(r: Reading) -> None:
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
    return hashlib.sha256(repr(_structure(code)).encode(errors="surrogatepass")).hexdigest()


def _structure(value: object) -> object:
    if isinstance(value, types.CodeType):
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        facts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount)
        constants = [_structure(constant) for constant in value.co_consts]
        return value.co_code, *names, *facts, value.co_flags, constants
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    return value


class Read(NamedTuple):
    """What code, and the code inside it, reads by name, each in sorted order."""

    names: tuple[str, ...]  # global ones
    attributes: tuple[str, ...]
    imports: tuple[tuple[str, int], ...]  # (module, level) of statements inside functions


@functools.lru_cache(maxsize=10_000)
def reads(code: types.CodeType) -> Read:
    """Of compiled code, instruction by instruction."""
    names: set[str] = set()
    attributes: set[str] = set()
    imports: set[tuple[str, int]] = set()
    before: list[object] = [0, 0]  # arguments of the last two steps: of an import, level and names
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            attributes.add(step.argval)
        elif step.opname == "IMPORT_NAME":
            imports.add((step.argval, before[0] if isinstance(before[0], int) else 0))
        elif isinstance(step.argval, types.CodeType):
            inner = reads(step.argval)
            names |= {*inner.names}
            attributes |= {*inner.attributes}
            imports |= {*inner.imports}
        before = [before[1], step.argval]
    return Read(tuple(sorted(names)), tuple(sorted(attributes)), tuple(sorted(imports)))
