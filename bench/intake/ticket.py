"""The ticket: what a submitter says of a checkpoint, how far it has come, and the ten lines that tell.

Everything in a form is the word of its submitter. How to reach them is kept apart (`Contact`): it is
in no ticket, no record and no page.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, Field, StringConstraints, field_validator, model_validator

from bench.catalogue import DATASETS, OBJECTIVES, spelled, unknown_name
from bench.intake.report import Ask, Seen
from bench.protocols import PROTOCOL_NAMES
from bench.schema import AwpConfig, ThreatModel
from bench.schema.errors import visible
from bench.schema.frozen import Frozen, Name, Sha256, content_hash

KEPT_AFTER = timedelta(days=30)  # how long a contact is kept once its ticket is closed
BY_SUBMITTER = "withdrawn by its submitter"
Line = Annotated[str, StringConstraints(max_length=300, strip_whitespace=True)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Consent = Literal["weights and evidence", "hashes only"]
CONSENTS: tuple[Consent, ...] = get_args(Consent)


class Form(Frozen):
    """What a submitter says. An empty text, and None, is what was not said."""

    name: Name
    dataset: Name
    threat: ThreatModel  # that it is measured under
    objective: Name | None = None
    awp: AwpConfig | Literal["none"] | None = None  # "none": said to be trained without
    twin: Name | None = None  # its vanilla twin on the board
    training_images: Line = ""
    extra_data: Line = ""
    paper: Line = ""
    authors: Line = ""
    link: Line = ""
    licence: Line = ""  # of the weights
    claimed_clean: Share | None = None
    claimed_robust: Share | None = None
    consent: Consent

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        if name not in DATASETS:
            raise unknown_name("data set", name, DATASETS)
        return name

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, name: str | None) -> str | None:
        if name is not None and name not in OBJECTIVES:
            raise unknown_name("objective", name, OBJECTIVES)
        return name

    @field_validator("link")
    @classmethod
    def _web(cls, link: str) -> str:
        if link and not link.startswith(("https://", "http://")):
            raise ValueError("a link begins with https://")
        return link

    @model_validator(mode="after")
    def _another_twin(self) -> Form:
        if self.twin == self.name:
            raise ValueError("a twin is another model")
        return self

    @property
    def stated(self) -> dict[str, Any]:
        """Fields of the model's card that this form states, for `checkpoint.foreign`."""
        said: dict[str, Any] = {
            "objective": self.objective, "extra_data": self.extra_data, "authors": self.authors,
            "link": self.link or self.paper, "licence": self.licence, "pair": self.twin,
        }  # fmt: skip
        kept = {field: value for field, value in said.items() if value not in (None, "")}
        if self.awp is not None:
            kept["awp"] = None if self.awp == "none" else self.awp
        return kept

    @property
    def method(self) -> str:
        """What counts as one method on one test set: its networks are counted together."""
        awp = self.awp if self.awp in (None, "none") else "AWP"
        return content_hash([self.dataset, self.objective, awp, self.paper, self.authors])

    @property
    def training(self) -> str:
        """`at, AWP adversarial, gamma 0.01, warm-up 0, twin a-s0`."""
        words = [self.objective or "method not stated"]
        if isinstance(self.awp, AwpConfig):
            awp = self.awp
            words.append(f"AWP {awp.direction}, gamma {awp.gamma:g}, warm-up {awp.warm_up}")
        else:
            words.append("AWP not stated" if self.awp is None else "without AWP")
        return ", ".join(words + ([f"twin {self.twin}"] if self.twin else []))

    @property
    def claims(self) -> str:
        """`clean 97.0 %, robust 52.0 %`, or that nothing is claimed."""
        claimed = {"clean": self.claimed_clean, "robust": self.claimed_robust}
        return ", ".join(f"{k} {100 * v:.1f} %" for k, v in claimed.items() if v is not None)


class Contact(Frozen):
    """How a submitter may be reached; a file of its own beside a ticket, for the operator alone."""

    ticket: Sha256
    address: Line = Field(min_length=3)

    def outlived(self, closed: datetime, now: datetime) -> bool:
        """Whether it is to be deleted, its ticket having been closed."""
        return now >= closed + KEPT_AFTER


State = Literal[
    "received", "checked", "waiting", "attacking", "verified", "ranked",
    "rejected", "withdrawn", "removed",
]  # fmt: skip
# What may come after what. A rejected or withdrawn ticket is received anew where its question is asked
# again; what the operator removed stays removed.
NEXT: Mapping[State, tuple[State, ...]] = {
    "received": ("checked", "rejected", "withdrawn", "removed"),
    "checked": ("waiting", "rejected", "withdrawn", "removed"),
    "waiting": ("attacking", "rejected", "withdrawn", "removed"),
    "attacking": ("waiting", "verified", "rejected", "withdrawn", "removed"),
    "verified": ("ranked", "waiting", "rejected", "withdrawn", "removed"),
    "ranked": ("withdrawn", "removed"),
    "rejected": ("received", "removed"),
    "withdrawn": ("received", "removed"),
    "removed": (),
}


class Change(Frozen):
    """A state that a ticket came to."""

    state: State
    time: AwareDatetime
    reason: Annotated[str, Field(max_length=2_000)] = ""
    remedy: Annotated[str, Field(max_length=2_000)] = ""
    ours: bool = False  # a rejection for a fault of the server


class Ticket(Frozen):
    """One submission: a file, a question, a form, and its history."""

    file_sha256: Sha256
    file_size: int = Field(gt=0)
    ask: Ask
    form: Form
    protocol: Name
    n: int | None = Field(default=None, ge=1)  # images; None: as many as the host takes
    secret_sha256: Sha256
    history: tuple[Change, ...] = Field(min_length=1)

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, name: str) -> str:
        if name not in PROTOCOL_NAMES:
            raise unknown_name("protocol", name, PROTOCOL_NAMES)
        return name

    @property
    def id(self) -> str:
        """sha256 (hex) of file and question: the same one twice is one ticket."""
        return content_hash(
            {
                "file": self.file_sha256,
                "ask": self.ask.model_dump(mode="json", exclude={"file_name"}),
                "dataset": self.form.dataset,
                "threat": str(self.form.threat),
                "protocol": self.protocol,
                **({} if self.n is None else {"n": self.n}),
            }
        )

    @property
    def now(self) -> Change:
        """The state it is in, and why."""
        return self.history[-1]

    @property
    def received(self) -> int:
        """How often it was received: once, and again after every rejection that was mended."""
        return sum(each.state == "received" for each in self.history)

    @property
    def closed(self) -> datetime | None:
        """When nothing more could come, if it is so; a ranked one is closed too."""
        done = self.now.state in ("ranked", "rejected", "withdrawn", "removed")
        return self.now.time if done else None

    def moved(
        self,
        state: State,
        time: datetime,
        reason: str = "",
        remedy: str = "",
        *,
        ours: bool = False,
    ) -> Ticket:
        """The ticket in another state. Raises ValueError where that cannot follow, or has no reason."""
        if state not in NEXT[self.now.state]:
            raise ValueError(f"a ticket that is {self.now.state} is not {state} next")
        if state in ("rejected", "removed") and not (reason and remedy):
            raise ValueError(f"what is {state} has a reason and a remedy")
        change = Change(state=state, time=time, reason=reason, remedy=remedy, ours=ours)
        return self.model_copy(update={"history": (*self.history, change)})

    def opened_by(self, secret: str) -> bool:
        """Whether this is the ticket's secret, compared in constant time."""
        return hmac.compare_digest(_hashed(secret), self.secret_sha256)


def new_secret() -> tuple[str, str]:
    """A secret for whoever submits, shown once, and its sha256 (hex), which a ticket keeps."""
    secret = secrets.token_urlsafe(24)
    return secret, _hashed(secret)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", errors="backslashreplace")).hexdigest()


# ---------------------------------------------------------------- ten lines


class News(Frozen):
    """What others know of a ticket now: the queue, the doctor, a running measurement, the table."""

    seen: Seen | None = None
    doctor: Line = ""  # `green`, or the flags with their remedies
    place: int | None = Field(default=None, ge=1)  # in the queue
    starts_in: float | None = Field(default=None, ge=0)  # seconds
    at_most: Share | None = None  # robust accuracy, so far
    left: float | None = Field(default=None, ge=0)  # seconds
    clean: Share | None = None
    robust: Share | None = None
    n: int | None = Field(default=None, ge=1)  # images
    protocol: Line = ""  # of the result
    record: Line = ""  # its file, below the folder of records
    rank: Line = ""  # `rank 3 to 7 of 40`
    twin: Line = ""  # the difference to the twin, with its interval


def lines(ticket: Ticket, news: News) -> dict[str, str]:
    """Ten lines by their headings, in order, without control characters: page and command show them."""
    form, ask = ticket.form, ticket.ask
    told = {
        "Ticket": f"{ticket.id[:12]}, {form.name}, received {_minute(ticket.history[0].time)}",
        "File": f"{ask.file_name}, {ticket.file_size:,} bytes, sha256 {ticket.file_sha256[:12]}",
        "Network": news.seen.sentence if news.seen else "not looked at yet",
        "Question": f"{spelled(form.dataset)} under {form.threat}, protocol {ticket.protocol}",
        "Training": f"{form.training} (self-declared)",
        "Claimed": f"{form.claims} (self-declared)" if form.claims else "nothing",
        "Doctor": news.doctor or "not asked yet",
        "State": _state(ticket.now, news),
        "Result": _result(news),
        "Published": f"{form.consent}; the ticket's secret withdraws it",
    }
    return {heading: visible(" ".join(text.split())) for heading, text in told.items()}


def _state(change: Change, news: News) -> str:
    words = [f"{change.state} {_minute(change.time)}"]
    if change.state == "waiting" and news.place is not None:
        words.append(f"place {news.place} in the queue")
        words += [f"starts in about {_span(news.starts_in)}"] if news.starts_in is not None else []
    if change.state == "attacking" and news.at_most is not None:
        words.append(f"robust accuracy at most {100 * news.at_most:.1f} %")
        words += [f"about {_span(news.left)} left"] if news.left is not None else []
    text = ", ".join(words)
    return f"{text}: {change.reason}. {change.remedy}".strip() if change.reason else text


def _result(news: News) -> str:
    if news.clean is None or news.robust is None or news.n is None:
        return "not measured yet"
    measured = f"clean {100 * news.clean:.1f} %, robust {100 * news.robust:.1f} % (n = {news.n:,})"
    return ", ".join(filter(None, (measured, news.rank, news.twin)))


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
