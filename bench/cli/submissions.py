"""bench submissions: every network that a file declares, each as a call of `bench submit`.

What a call means is decided by `submit` alone: a flag is read and refused as if it had been typed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from bench.catalogue import unknown_name
from bench.cli import commands
from bench.cli.arguments import failed
from bench.cli.parsing import parser
from bench.records import json_files
from bench.records.one_read import sha256_of
from bench.schema import BenchError, InvalidInput, Name, Sha256, Text
from bench.schema.frozen import Frozen

_PASSED_ON = ("out", "checkpoints", "workers", "max_seconds")


class Network(Frozen):
    """A network that others trained: which file it is, what to measure, and the flags of `submit`."""

    name: Name
    file: Name  # in the folder of weights
    sha256: Sha256  # of that file
    protocols: tuple[Name, ...] = Field(min_length=1, max_length=20)
    n: int = Field(ge=1)
    submit: Mapping[Name, Text | tuple[Text, ...] | bool] = Field(max_length=50)


class Declaration(Frozen):
    """Networks in the order in which they are measured."""

    network: tuple[Network, ...] = Field(min_length=1, max_length=1000)


def run(a: argparse.Namespace) -> int:
    """Submits each network, one after another; what is measured already is found again."""
    declared: dict[str, Network] = {}
    for network in read(a.file).network:
        if network.name in declared:
            raise InvalidInput(f"{a.file}: {network.name} stands twice")
        declared[network.name] = network
    for name in a.only:
        if name not in declared:
            raise unknown_name(f"network in {a.file}", name, declared)
    networks = [each for each in declared.values() if not a.only or each.name in a.only]
    asked = [(each, call, _parsed(call, a.file)) for each in networks for call in calls(each, a)]
    status = 0
    for network, call, arguments in asked:  # all are understood before one is made
        print(shlex.join(["python", "-m", "bench", *call]), file=sys.stderr)
        if a.dry:
            continue
        try:
            _refuse_another(network, a.files)
            status = max(status, int(arguments.run(arguments) or 0))
        except BenchError as error:
            status = max(status, failed(error, network.name))
    return status


def read(path: Path) -> Declaration:
    """What a file declares. Raises InvalidInput naming it where it cannot be read."""
    return json_files.read(path, Declaration.model_validate_json, "list of networks", follow=True)


def calls(network: Network, a: argparse.Namespace) -> Iterator[list[str]]:
    """The words of `submit`, a list a protocol."""
    flags: list[str] = []
    for name, value in network.submit.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is not False:
            texts = (value,) if isinstance(value, str) else value
            flags += [f"--{name}={text.replace('{files}', str(a.files))}" for text in texts]
    passed = {name: getattr(a, name) for name in _PASSED_ON}
    flags += [f"--{name.replace('_', '-')}={v}" for name, v in passed.items() if v is not None]
    flags += ["--yes"] if a.yes else []
    for protocol in [a.protocol] if a.protocol else network.protocols:
        asked = [f"--name={network.name}", f"--protocol={protocol}", f"--n={a.n or network.n}"]
        yield ["submit", str(a.files / network.file), *asked, *flags]


def _parsed(call: list[str], path: Path) -> argparse.Namespace:
    """The arguments of a call. Raises InvalidInput where `submit` takes no such flags, and says so."""
    try:
        return parser(commands.COMMANDS, "python -m bench", None).parse_args(call)
    except SystemExit:
        raise InvalidInput(f"{path}: {call[2][7:]}: submit does not take these flags") from None


def _refuse_another(network: Network, files: Path) -> None:
    found = sha256_of(files / network.file, follow=True)
    if found != network.sha256:
        raise InvalidInput(
            f"{files / network.file} is not the file that is declared: its sha256 is {found}, expected "
            f"{network.sha256}"
        )
