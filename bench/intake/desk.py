"""What stands on a form and what is said of a ticket, for the door, the pages and the commands."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from bench.catalogue import ARCHITECTURES, DATASETS, unknown_name
from bench.intake.refusal import Refusal
from bench.intake.report import Ask, Seen
from bench.intake.settings import Settings
from bench.intake.spool import Kept
from bench.intake.store import Store
from bench.intake.ticket import NEXT, Form, News, Ticket, lines
from bench.schema import InvalidInput, ThreatModel, safe_name
from bench.schema.errors import visible

log = logging.getLogger(__name__)
_WHOLE_ID = re.compile(r"[0-9a-f]{64}")
_CONTACT = range(3, 301)  # characters
# What pydantic says of texts and numbers -> what a person is told.
_SAID = {
    "missing": "this is needed",
    "string_pattern_mismatch": "letters, digits and ._+=- alone, a letter or a digit first, at most "
    "100 characters",
    "greater_than_equal": "this is too small",
    "model_type": "this is none, or a direction with gamma and warm-up",
    "less_than_equal": "this is too large: a share is between 0 and 1",
}


class Unknown(InvalidInput):
    """No ticket of this address."""


class NotYours(InvalidInput):
    """Another secret than the ticket's."""


class TooLate(InvalidInput):
    """What was said stands in a measurement by now, or the ticket is closed."""


@dataclass(frozen=True)
class Taken:
    """Names that networks have: on the board, and of submissions that are on the way."""

    board: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()  # those of the same file, which may be sent again

    def wrong(self, name: str) -> str:
        """Why a network may not be called so; empty where it may."""
        if name in self.own:
            return ""
        if name in self.board:
            return f"a network on the board is called {name} already"
        return f"a submission that waits is called {name} already" if name in self.waiting else ""


def form(said: object, taken: Taken, contact: str = "") -> tuple[Form | None, dict[str, str]]:
    """A form as its submitter wrote it, and what is wrong by field: `{"awp.gamma": "…"}`.

    None where a field cannot be read; what is wrong with names alone leaves the form.
    """
    if not isinstance(said, dict):
        return None, {"name": "this is needed"}
    wrong: dict[str, str] = {}
    given = {k: v for k, v in said.items() if not (isinstance(v, str) and not v.strip())}
    given = {k: v.strip() if isinstance(v, str) else v for k, v in given.items()}
    if contact.strip() and len(contact.strip()) not in _CONTACT:
        wrong["contact"] = "an address has 3 to 300 characters"
    if "threat" in given:
        try:
            given["threat"] = ThreatModel.asked(str(given["threat"])[:100])
        except InvalidInput as error:
            wrong["threat"] = str(error)
    try:
        made = Form.model_validate(given)
    except ValidationError as error:
        return None, dict(_mistakes(error, given)) | wrong
    if why := taken.wrong(made.name):
        wrong["name"] = why
    if made.twin is not None and made.twin not in taken.board | taken.waiting:
        wrong["twin"] = str(unknown_name("network", made.twin, taken.board | taken.waiting))
    return made, wrong


def _mistakes(error: ValidationError, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        steps = [str(step) for step in each["loc"] if step not in ("AwpConfig", "literal['none']")]
        if each["type"] == "literal_error" and steps == ["awp"] and given.get("awp") != "none":
            continue  # of the two that it may be, the other one was meant
        where = ".".join(steps) or "twin"
        said = _SAID.get(each["type"], each["msg"].removeprefix("Value error, "))
        if where == "name" and isinstance(given.get("name"), str):
            said += f": did you mean {safe_name(given['name'])}?"
        yield where[:100], visible(said[:500])


# ---------------------------------------------------------------- what a file fits


def fitting(seen: Seen) -> list[str]:
    """The data sets whose images a network takes and whose classes it tells."""
    return [name for name in DATASETS if not misfits(seen, name)]


def misfits(seen: Seen, dataset: str) -> dict[str, str]:
    """Why a network cannot be measured on a data set, under the field of the form; empty: it can."""
    info, known = DATASETS[dataset], ARCHITECTURES[seen.arch].arguments
    wanted = {
        "in_channels": (info.channels, "channels"),
        "image_size": (info.image_size, "pixels"),
        "num_classes": (info.class_count, "classes"),
    }
    apart = [
        f"{dataset} has {images} {what}, this network {has}"
        for argument, (images, what) in wanted.items()
        if argument in known
        and (has := seen.arch_args.get(argument, known[argument].default)) != images
    ]
    return {"dataset": "; ".join(apart)} if apart else {}


# ---------------------------------------------------------------- tickets


def taken(store: Store, board: frozenset[str], sha256: str) -> Taken:
    """The names that a network of this file may not have, and those that it has."""
    tickets = store.all()
    own = {ticket.form.name for ticket in tickets if ticket.file_sha256 == sha256}
    waiting = {ticket.form.name for ticket in tickets if ticket.closed is None}
    return Taken(board, frozenset(waiting), frozenset(own))


def opened(
    store: Store, settings: Settings, kept: Kept, ask: Ask, form: Form, seen: Seen, *,
    contact: str = "", secret: str = "",
) -> tuple[Ticket, str | None]:  # fmt: skip
    """The ticket of a question, and its secret where it is new.

    With the secret of a ticket that is not attacked yet, another form takes the place of its own.
    Raises Refusal, NotYours, TooLate.
    """
    ticket, new = store.open_ticket(
        file_sha256=kept.sha256, file_size=kept.size, ask=ask, form=form, contact=contact,
        protocol=settings.protocols[0], n=settings.n, correcting=secret,
        most=settings.submissions_per_method,
    )  # fmt: skip
    if new is not None:
        store.tell(ticket.id, News(seen=seen))
    elif ticket.form != form and secret:
        if not ticket.opened_by(secret):
            raise NotYours("this is not the ticket's secret")
        raise TooLate(f"it is {ticket.now.state} with what was said before")
    return ticket, new


def withdrawn(store: Store, ticket: Ticket, secret: str) -> Ticket:
    """The ticket, taken back by whoever has its secret. Raises NotYours, TooLate."""
    if not ticket.opened_by(secret):
        raise NotYours("this is not the ticket's secret")
    if "withdrawn" not in NEXT[ticket.now.state]:
        raise TooLate(f"it is {ticket.now.state} already")
    return store.withdraw(ticket.id, secret)


def found(store: Store, id: str) -> Ticket:
    """The ticket of a whole id: a beginning could be guessed. Raises Unknown, Refusal."""
    if not _WHOLE_ID.fullmatch(id) or not (store.root / "tickets" / f"{id}.json").is_file():
        raise Unknown("no ticket has this address")
    try:
        return store.read(id)
    except InvalidInput as error:
        log.warning("%s", error)
        raise Refusal(
            "server", "this ticket cannot be read", "Its file is kept: tell the operator."
        ) from None


def told(store: Store, ticket: Ticket) -> dict[str, Any]:
    """What everybody may know of a ticket, as JSON; its ten lines under `lines`."""
    now = ticket.now
    return {
        "ticket": ticket.id,
        "address": f"ticket?id={ticket.id}",
        "state": now.state,
        "closed": ticket.closed is not None,
        "reason": visible(now.reason),
        "remedy": visible(now.remedy),
        "lines": lines(ticket, store.news(ticket.id)),
        "count": store.of_method(ticket.form),
    }
