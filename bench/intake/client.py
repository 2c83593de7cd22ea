"""A submission sent to a server: the same addresses that its page uses, over the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from bench.intake.report import Ask
from bench.intake.ticket import Form
from bench.records.one_read import opened, sha256_of
from bench.schema import InvalidInput
from bench.schema.errors import visible

_PIECE = 2**20  # bytes sent at once
_WAITS = 300.0  # seconds for an answer: a file is looked at meanwhile
_PATIENCE = 1_800.0  # seconds that a file may wait to be looked at
_AGAIN = 5.0  # seconds before a busy server is asked again
_LARGEST = 2**20  # bytes of an answer
Said = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A server that takes submissions: `https://board.example.org`, perhaps with a folder."""

    address: str
    token: str = ""

    def send(
        self, file: Path, ask: Ask, form: Form, *, contact: str = "", secret: str = "",
        tell: Callable[[str], object] = print,
    ) -> Said:  # fmt: skip
        """Sends a file and what is said of it; what the server says of the ticket.

        `secret` is that of the new ticket, or None where the same question has one. tell is called with
        what the file was found to be. Raises InvalidInput with the server's reason and remedy.
        """
        sha256 = sha256_of(file, follow=True)
        asked = {"sha256": sha256, "ask": ask.model_dump(mode="json", exclude_defaults=True)}
        found = self._call("POST", "/look", asked, unless=("unknown", "busy"))
        if found.get("code") == "unknown":
            self._put(file, sha256, ask.file_name)
        until = time.monotonic() + _PATIENCE
        while "fits" not in (found := self._call("POST", "/look", asked, unless=("busy",))):
            if time.monotonic() > until:
                raise self._refused(found)
            tell(f"{found['reason']}: waiting")
            time.sleep(_AGAIN)
        tell(f"{file.name} {found['fits']}")
        words = form.model_dump(mode="json") | {"threat": str(form.threat)}
        return self._call(
            "POST", "", {**asked, "form": words, "contact": contact, "secret": secret}
        )

    def ticket(self, id: str) -> Said:
        """What the server says of a ticket now, its ten lines among it. Raises InvalidInput."""
        return self._call("GET", f"/{quote(id, safe='')}", None)

    def _put(self, file: Path, sha256: str, name: str) -> None:
        with opened(file, largest=2**40, follow=True) as (stream, size):
            headers = {"Content-Length": str(size), "X-Content-SHA256": sha256}
            until = time.monotonic() + _PATIENCE
            while True:
                stream.seek(0)
                pieces = iter(lambda: stream.read(_PIECE), b"")
                said = self._answer("PUT", f"/file?name={quote(name, safe='')}", headers, pieces)
                if said.get("code") != "busy" or "sha256" in said or time.monotonic() > until:
                    break
                time.sleep(_AGAIN)
        # What was found is asked for again, read as the submitter says it is to be read.
        if "sha256" not in said and said.get("code") not in ("content", "misfit"):
            raise self._refused(said)

    def _call(
        self, method: str, path: str, said: Said | None, unless: tuple[str, ...] = ()
    ) -> Said:
        raw = b"" if said is None else json.dumps(said).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
        answer = self._answer(method, path, headers, [raw])
        if "code" in answer and answer["code"] not in unless:
            raise self._refused(answer)
        return answer

    def _answer(self, method: str, path: str, headers: dict[str, str], pieces: Any) -> Said:
        where = urlsplit(self.address)
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}.get(
            where.scheme
        )
        if kind is None or not where.hostname:
            raise InvalidInput(f"a server is https://NAME, got {self.address[:200]!r}")
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            connection = kind(where.hostname, where.port, timeout=_WAITS)
            with contextlib.closing(connection):
                connection.putrequest(method, f"{where.path.rstrip('/')}/submissions{path}")
                for name, value in headers.items():
                    connection.putheader(name, value)
                connection.endheaders()
                # A server that refuses does not read to the end: what it says comes all the same.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    for piece in pieces:
                        connection.send(piece)
                answer = connection.getresponse()
                raw, status = answer.read(_LARGEST), answer.status
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InvalidInput(f"{self.address} does not answer ({error})") from None
        try:
            said = json.loads(raw)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise InvalidInput(
                f"{self.address} takes no submissions (it answers {status}): its operator turns them "
                "on with --intake"
            )
        return said

    def _refused(self, said: Said) -> InvalidInput:
        wrong = said.get("errors")
        listed = "; ".join(f"{k}: {v}" for k, v in wrong.items()) if isinstance(wrong, dict) else ""
        reason = listed or said.get("reason", "it says nothing")
        return InvalidInput(visible(f"{self.address}: {reason}. {said.get('remedy', '')}".strip()))
