"""From commands as data to a command line: options, help by topic, and what is settled before one runs.

Nothing here loads torch.
"""

from __future__ import annotations

import argparse
import functools
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bench.catalogue import nearest, unknown_name
from bench.cli.arguments import shortened
from bench.schema import InvalidInput


@dataclass(frozen=True)
class Option:
    """One argument: its flags, or the name of a positional one, and argparse's settings of it."""

    flags: tuple[str, ...]
    settings: dict[str, Any]
    model: bool = False  # where a model lies, for which its name on the board does too
    # Raises InvalidInput for what can be refused before the command's own file, and torch, is loaded.
    check: Callable[[str], object] | None = None

    @property
    def dest(self) -> str:
        """The attribute that holds its value."""
        return str(self.settings.get("dest") or self.flags[0].lstrip("-").replace("-", "_"))


@dataclass(frozen=True)
class Group:
    """Options that help shows under a title; without one, options of which one may be given."""

    options: Sequence[Option]
    title: str = ""
    description: str | None = None


@dataclass(frozen=True)
class Command:
    """A command; run is the `module:function` that takes its arguments and may return a status."""

    topic: str  # the heading of the help under which it stands; none: it is a verb of another
    name: str
    run: str
    help: str
    options: Sequence[Option | Group]
    description: str | None = None


class Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown command with the nearest one."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise argparse.ArgumentError(None, str(unknown_name("command", value, action.choices)))
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        super().error(shortened(message))


def parser(
    commands: Sequence[Command], prog: str, description: str | None
) -> argparse.ArgumentParser:
    """The whole command line; what it parses has `run`, the function to call with it."""
    whole = Parser(
        prog=prog, usage=f"{prog} COMMAND ...", description=description, epilog=_by_topic(commands),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    levels = {
        "": whole.add_subparsers(
            required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog=prog
        )
    }
    for command in commands:
        above, _, name = command.name.rpartition(" ")
        made = levels[above].add_parser(name, help=command.help, description=command.description)
        if not command.run:  # its verbs follow
            levels[name] = made.add_subparsers(required=True, metavar="list | add")
            continue
        _fill(made, command.options)
        made.set_defaults(run=functools.partial(_run, command))
    return whole


def _run(command: Command, a: argparse.Namespace) -> Any:
    for option in _flat(command.options):
        if option.check is not None:
            given = getattr(a, option.dest)
            if given is not None:
                option.check(given)
    for option in _flat(command.options):
        named = getattr(a, option.dest)
        if option.model and named is not None:
            many = isinstance(named, list)
            found = [_place(each, a, option.dest) for each in (named if many else [named])]
            setattr(a, option.dest, found if many else found[0])
    return pkgutil.resolve_name(command.run)(a)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}")


def _flat(options: Sequence[Option | Group]) -> Iterator[Option]:
    for each in options:
        yield from [each] if isinstance(each, Option) else _flat(each.options)


def _place(named: str | Path, a: argparse.Namespace, dest: str) -> str | Path:
    """The folder of a name of the board, or of a checkpoint of ours; what is there as it is.

    Raises InvalidInput where the name stands for several models, or nothing is there.
    """
    what = "record" if dest == "record" or Path(named).suffix == ".json" else "checkpoint"
    if ":" in str(named) or Path(named).exists():  # robustbench:…, or where it lies
        return named
    clash = getattr(a, "model", None) or getattr(a, "name", None)  # for the command to say
    if not _NAME.fullmatch(str(named)) and not clash:
        raise InvalidInput(f"no {what} at {named}")
    results, ours = getattr(a, "results", Path("results")), Path("var/checkpoints", named)
    found = [ours] if ours.is_dir() else [p for p in results.glob(f"*/*/{named}") if p.is_dir()]
    if len(found) > 1:
        raise InvalidInput(f"{named} stands for several: {', '.join(map(str, sorted(found)))}")
    if found:
        return type(named)(found[0])
    known = {p.name for p in (*results.glob("*/*/*"), *ours.parent.glob("*")) if p.is_dir()}
    for near in nearest(str(named), known, cutoff=0.8):
        raise InvalidInput(f"no {what} at {named}. Did you mean {near!r}?")
    if not clash:
        raise InvalidInput(f"no {what} at {named}")
    return named


def _by_topic(commands: Sequence[Command]) -> str:
    topics: dict[str, list[str]] = {}
    for command in commands:
        if command.topic:
            topics.setdefault(command.topic, []).append(f"  {command.name:11} {command.help}")
    lines = [line for topic, of_it in topics.items() for line in (f"{topic}:", *of_it, "")]
    return "\n".join([*lines, "What a command takes: COMMAND --help"])


def _fill(container: argparse._ActionsContainer, options: Sequence[Option | Group]) -> None:
    for each in options:
        if isinstance(each, Option):
            container.add_argument(*each.flags, **each.settings)
        elif each.title:
            _fill(container.add_argument_group(each.title, each.description), each.options)
        else:
            _fill(container.add_mutually_exclusive_group(), each.options)
