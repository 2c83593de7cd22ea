"""bench submit --watch or --server: a ticket is queued here or elsewhere, and told in ten lines."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.catalogue import DATASETS
from bench.cli.arguments import floats, pairs
from bench.cli.queue import IN_USE, worker
from bench.cli.submit import parse_awp
from bench.intake import settings
from bench.intake.client import Server
from bench.intake.refusal import Refusal
from bench.intake.report import Ask
from bench.intake.settings import Settings
from bench.intake.spool import Limits, Spool
from bench.intake.store import Store
from bench.intake.ticket import Form, Ticket, lines
from bench.records.json_files import first_mistake
from bench.records.one_read import opened
from bench.schema import InvalidInput, ThreatModel
from bench.schema.errors import visible

_PIECE = 2**20
_LOOK = 0.3  # seconds between two looks at the ticket
_LOOK_ELSEWHERE = 5.0  # and at that of a server
_QUIET = 30.0  # seconds for which a line whose figures alone changed is not said again
# What `submit` takes when it measures here and at once, and a host decides.
_NOT_ASKED: dict[str, Any] = {
    "data": None, "dataset_name": None, "split": "test", "engine": "ours", "precision": "float32",
    "audit": "sample", "device": "auto", "workers": None, "batch": None, "max_seconds": None,
    "pass_seconds": None, "seed": 0, "again": False, "json": False, "trained_against": None,
    "epochs": None, "figures": [], "no_copy": False,
}  # fmt: skip


def submit(a: argparse.Namespace) -> int:
    """Queues a file and works its ticket to its end; the same call goes on with it."""
    where = "--watch" if a.server is None else "--server"
    for name, default in _NOT_ASKED.items():
        if getattr(a, name) != default:
            flag = "figure" if name == "figures" else name.replace("_", "-")
            raise InvalidInput(f"{where} takes no --{flag}: leave it out, or leave {where} out")
    if a.server is not None:
        return _sent(a)
    host = _host(a)
    ask, form = _asked(a), _form(a)
    store = Store(host.root)
    store.prepare()
    ticket, secret = _queued(a, host, store, ask, form)
    if secret is not None:
        print(f"ticket {ticket.id}\nsecret {secret}  (keep it: it withdraws the submission)")
    else:
        print(f"ticket {ticket.id}  (there already)")
    if ticket.closed is None:
        ticket = _watched(host, store, ticket)
    _say(ticket, store, {})
    return 0 if ticket.now.state == "ranked" else 1


def _sent(a: argparse.Namespace) -> int:
    """Hands a file to a server; watches the ticket there where that is asked."""
    if a.intake is not None:
        raise InvalidInput("--server takes no --intake: its operator has settings of their own")
    server = Server(a.server.rstrip("/"), a.token or "")
    made = server.send(
        a.file, _asked(a), _form(a), contact=a.contact or "", secret=a.secret or "",
        tell=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    print(f"ticket {server.address}/{made['address']}")
    if made["secret"] is not None:
        print(f"secret {made['secret']}  (keep it: it withdraws or corrects the submission)")
    said: dict[str, str] = {}
    while a.watch and not made["closed"]:
        said = _changed(made["lines"], said)
        time.sleep(_LOOK_ELSEWHERE)
        made = server.ticket(made["ticket"])
    _changed(made["lines"], said)
    return 0 if made["state"] == "ranked" or not a.watch else 1


def _changed(now: dict[str, str], said: dict[str, str]) -> dict[str, str]:
    """Prints the lines that are new, without what a terminal would obey."""
    for heading, text in now.items():
        if said.get(heading) != text:
            print(visible(f"{heading:10} {text}"), flush=True)
    return now


def _host(a: argparse.Namespace) -> Settings:
    """The settings that are named, else folders of one's own, on whose disk nothing is reserved."""
    found = settings.read(a.intake)
    if found != Settings():
        return found
    return found.model_copy(
        update={
            "records": str(a.out), "protocols": (a.protocol,), "limits": Limits(reserve=0)
        }
    )  # fmt: skip


def _queued(
    a: argparse.Namespace, host: Settings, store: Store, ask: Ask, form: Form
) -> tuple[Ticket, str | None]:
    def pieces() -> Iterator[bytes]:
        with opened(a.file, largest=host.limits.file, follow=True) as (file, _):
            while piece := file.read(_PIECE):
                yield piece

    try:
        kept = Spool(host.root, host.limits).receive(pieces(), submitter="the command line")
        return store.open_ticket(
            file_sha256=kept.sha256, file_size=kept.size, ask=ask, form=form, n=a.n,
            protocol=host.protocols[0], contact=a.contact or "", most=host.submissions_per_method,
        )  # fmt: skip
    except Refusal as error:
        raise InvalidInput(f"{a.file}: {error}") from None


def _asked(a: argparse.Namespace) -> Ask:
    try:
        return Ask.model_validate(
            {
                "file_name": Path(a.file).name[:100], "arch": a.arch,
                "dataset": a.dataset if a.arch else None, "arch_args": pairs(a.arch_arg),
                "weights": a.weights, "mean": floats(a.mean, "--mean"), "std": floats(a.std, "--std"),
            }
        )  # fmt: skip
    except ValidationError as error:
        raise InvalidInput(f"what is asked of the file: {first_mistake(error)}") from None


def _form(a: argparse.Namespace) -> Form:
    threat = a.threat or str(DATASETS[a.dataset].default_threat)
    awp = parse_awp(a.awp)[0] if a.awp is not None else None
    try:
        return Form(
            name=a.name, dataset=a.dataset, threat=ThreatModel.asked(threat), objective=a.objective,
            awp="none" if a.awp is not None and awp is None else awp, twin=a.twin,
            training_images=a.training_images or "", extra_data=a.extra_data or "",
            paper=a.paper or "", authors=a.authors or "", link=a.link or "",
            licence=a.licence or "", claimed_clean=a.claimed, claimed_robust=a.claimed_robust,
            consent="hashes only" if a.hashes_only else "weights and evidence",
        )  # fmt: skip
    except ValidationError as error:
        mistake = first_mistake(error).replace("Value error, ", "")
        raise InvalidInput(f"the form of the submission: {mistake}") from None


# ---------------------------------------------------------------- watched


def _watched(host: Settings, store: Store, ticket: Ticket) -> Ticket:
    """The ticket once it is closed; a worker of this process's own works it."""
    said: dict[str, str] = {}
    when = 0.0
    slot = f"submit-{ticket.id[:12]}"
    with worker(host, slot, only=ticket.id, quiet=True) as process:
        while ticket.closed is None:
            now = lines(ticket, store.news(ticket.id))
            if sys.stdout.isatty():
                _redraw(now, said)
                said = now
            elif (_words(now) != _words(said)) or (
                now != said and time.monotonic() - when > _QUIET
            ):
                _say(ticket, store, said)
                said, when = now, time.monotonic()
            if process.poll() not in (None, 0, IN_USE):
                raise InvalidInput(
                    f"the worker ended with status {process.returncode}; the ticket is kept: the same "
                    "call goes on with it"
                )
            time.sleep(_LOOK)
            ticket = store.read(ticket.id)
    if sys.stdout.isatty():
        _rewind(said)
    return ticket


def _words(told: Mapping[str, str]) -> list[str]:
    """Lines without their figures, which change all the time."""
    return [
        "".join(c for c in told.get(k, "") if not c.isdigit())
        for k in ("Network", "Doctor", "State")
    ]


def _say(ticket: Ticket, store: Store, said: Mapping[str, str]) -> None:
    for heading, text in lines(ticket, store.news(ticket.id)).items():
        if said.get(heading) != text:
            print(f"{heading:10} {text}")
    sys.stdout.flush()


def _redraw(now: Mapping[str, str], said: Mapping[str, str]) -> None:
    if now == said:
        return
    _rewind(said)
    width = shutil.get_terminal_size().columns
    for heading, text in now.items():
        print(f"{heading:10} {text}"[: max(20, width - 1)])
    sys.stdout.flush()


def _rewind(said: Mapping[str, str]) -> None:
    """Moves to the first of the lines that were drawn, and clears them."""
    if said and sys.__stdout__ is not None:
        sys.stdout.flush()
        sys.__stdout__.write(f"\x1b[{len(said)}F\x1b[J")
        sys.__stdout__.flush()
