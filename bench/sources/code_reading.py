"""Classes and functions in a reading of a model: the user's by all that they hold, others by name.

Code is read compiled, as it will run: comments and line breaks do not count, replaced methods do.
Another version of Python compiles otherwise and gives other readings.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import types
from collections.abc import Iterable

from bench.sources.origins import is_library, is_library_file, is_library_module, reads
from bench.sources.reading import DEEPEST, Place, Reading

_OF_A_CLASS = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__"),
    *("__slots__", "__abstractmethods__", "_abc_impl", "__match_args__", "__orig_bases__"),
    *("__parameters__", "__firstlineno__", "__static_attributes__", "__annotate__"),
    *(
        "_backward_cls",
        "_autograd_function_id",
    ),  # what torch makes of an autograd.Function, counted
    *("__annotate_func__", "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__"),
}


def read_class(r: Reading, kind: type, place: Place) -> None:
    """A class by its name, and where the user wrote it, by all that its body defines."""
    for each in kind.__mro__:
        if each is object:
            continue
        inside = (*place, each.__qualname__)
        if is_library(each):
            r.parts[inside] = f"{each.__module__}.{each.__qualname__}"
            continue
        r.parts[inside] = "the user's"
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
    if is_library_file(code.co_filename):  # a wrapper of a library holds the user's function
        r.parts[place] = f"{function.__module__}.{function.__qualname__}"
    else:
        r.parts[place] = "a function"
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
        if not (docstring is not None and number == 0 and constant == docstring):
            r.value(constant, (*place, "<constants>", f"[{number}]"))
        else:
            r.parts[*place, "<constants>", "[0]"] = "None"


def _globals(r: Reading, function: types.FunctionType, place: Place) -> None:
    """What a function reads by name: of its own module, and of others that the user wrote."""
    read_by_name = reads(function.__code__)
    for name in read_by_name.names:
        if name in function.__globals__:
            value = function.__globals__[name]
            inside = (*place, "<global>", name)
            if isinstance(value, types.ModuleType):
                _module_of_user(r, value, read_by_name.attributes, inside)
            elif not is_bystander(type(value)):
                r.value(value, inside)
    package = function.__globals__.get("__package__") or ""
    for name, level in read_by_name.imports:
        absolute = importlib.util.resolve_name("." * level + name, package) if level else name
        if absolute in sys.modules:
            attributes, inside = read_by_name.attributes, (*place, "<import>", name)
            _module_of_user(r, sys.modules[absolute], attributes, inside)


def _module_of_user(
    r: Reading, module: types.ModuleType, attributes: Iterable[str], place: Place
) -> None:
    """Those attributes of a module that code names, where the user wrote the module."""
    r.parts[place] = "module"
    if is_library_module(module.__name__) or len(place) > DEEPEST:
        return
    for name in attributes:
        if name not in vars(module):
            continue
        value, inside = vars(module)[name], (*place, name)
        if not isinstance(value, types.ModuleType):
            r.value(value, inside)
        elif value is not module and name not in place:
            _module_of_user(r, value, attributes, inside)


def is_bystander(kind: type) -> bool:
    """Loggers, locks, types of annotations and bare objects say nothing of what a model computes."""
    aside = ("logging", "_thread", "threading", "typing", "_abc")
    return kind is object or kind.__module__.split(".")[0] in aside
