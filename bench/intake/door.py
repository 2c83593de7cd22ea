"""The door: addresses beside the pages, in the same server, through which checkpoints come in.

    PUT  /submissions/file?name=net.pt    the file; what it is, or a reason and a remedy
    POST /submissions/look                the same again, of a file that is here
    POST /submissions/check               a form that is being written: what is wrong so far
    POST /submissions                     file and form -> ticket and secret
    GET  /submissions/ID                  ten lines
    POST /submissions/ID/withdraw         with the secret

Bytes go from the network to the spool, never into memory; nothing here reads them. Every answer is
JSON; a refusal has a code, a reason and a remedy.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import from_thread, to_thread
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.intake import admission, callers, desk
from bench.intake.callers import Rate
from bench.intake.refusal import Code, Refusal
from bench.intake.report import Ask, Seen
from bench.intake.settings import Settings
from bench.intake.spool import DAY, Kept, Spool
from bench.intake.store import Store
from bench.intake.ticket import Form
from bench.records import json_files
from bench.schema import InvalidInput

Made = TypeVar("Made")
_SHA256, _COUNT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9]{1,15}")
_LARGEST_WORDS = 2**16  # bytes of a form
_SWEPT = 3600.0  # seconds between two sweeps
_STALLED = 30.0  # seconds without a byte after which an upload is given up
_LONGEST = 3600.0  # seconds of one upload
_UPLOADS, _UPLOADS_OF_ONE = 16, 4  # at a time, each writing in a thread
_CHILDREN = 2  # at a time; each has torch and a gigabyte
_PATIENCE = 20.0  # seconds that a file waits for a child before it is told to ask again
_CALLS = 2_000  # an hour of one caller, uploads aside: a form is checked while it is written
_STATUS: dict[Code, int] = {
    "too-large": 413, "cut-off": 400, "quota": 429, "no-room": 507, "unreadable": 422,
    "content": 422, "misfit": 422, "too-much": 422, "crashed": 422, "removed": 410, "server": 503,
}  # fmt: skip
_WORTHLESS: tuple[Code, ...] = ("unreadable", "too-much", "crashed")  # however it is read


@dataclass(eq=False)
class Turned(Exception):
    """A call that goes no further, for a reason that is not in the file."""

    status: int
    code: str
    reason: str
    remedy: str
    after: int = 0  # seconds; 0: not told


@dataclass
class Door:
    """What the addresses share: settings, files, tickets, and who called how often.

    Workers find the tickets by themselves. Raises InvalidInput where settings cannot be used.
    """

    settings: Settings
    names: Callable[[], Collection[str]]  # of the networks on the board
    spool: Spool = field(init=False)
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        callers.check(self.settings)
        self.spool = Spool(self.settings.root, self.settings.limits)
        self.store = Store(self.settings.root)
        self.store.prepare()
        self._uploads, self._calls = Rate(self.settings.uploads_per_hour), Rate(_CALLS)
        self._coming: dict[str, int] = {}  # uploads of each submitter now
        self._asking = 0  # files that wait for a child, or have one
        self._places = anyio.Semaphore(_UPLOADS)
        self._writers = anyio.CapacityLimiter(_UPLOADS)
        self._children = anyio.Semaphore(_CHILDREN)
        self._readers = anyio.CapacityLimiter(_CHILDREN)

    def routes(self, above: str = "/") -> list[Route]:
        """Its addresses, below a path that begins and ends with a slash."""
        at = f"{above}submissions"
        return [
            Route(f"{at}/file", _answered(self._file), methods=["PUT"]),
            Route(f"{at}/look", _answered(self._look), methods=["POST"]),
            Route(f"{at}/check", _answered(self._check), methods=["POST"]),
            Route(at, _answered(self._submit), methods=["POST"]),
            Route(f"{at}/{{id}}", _answered(self._tell), methods=["GET"]),
            Route(f"{at}/{{id}}/withdraw", _answered(self._withdraw), methods=["POST"]),
        ]

    # ---------------------------------------------------------------- what is left over

    async def sweep_for_ever(self) -> None:
        """Removes, every hour, what is a day old and belongs to nothing."""
        while True:
            try:
                await to_thread.run_sync(self.sweep, datetime.now(UTC))
            except Exception:  # the operator reads why; the server goes on
                traceback.print_exc(file=sys.stderr)
            await anyio.sleep(_SWEPT)

    def sweep(self, now: datetime) -> None:
        """Removes cut-off uploads, contacts that outlived their time, and files without a ticket."""
        self.store.sweep(now, self.settings.limits)
        wanted = {ticket.file_sha256 for ticket in self.store.all()}
        if not self.store.damaged():  # a ticket that cannot be read may be of any file
            for kept in self.spool.all():
                if kept.sha256 not in wanted and kept.path.stat().st_mtime < now.timestamp() - DAY:
                    self.spool.remove(kept.sha256)

    # ---------------------------------------------------------------- who calls

    def _caller(self, request: Request, rate: Rate) -> str:
        """Who calls. Raises Turned where they may not, or not now."""
        if callers.from_elsewhere(request):
            raise Turned(
                403, "cross-site", "another site sent this", "Use the page of this server."
            )
        who = callers.submitter(request, self.settings)
        if not callers.has_token(request, self.settings.token):
            self._count(who, self._calls)
            raise Turned(
                401, "token", "this server takes submissions with its token alone",
                "Ask its operator for the token, and give it with --token or on the page.",
            )  # fmt: skip
        self._count(who, rate)
        return who

    def _count(self, who: str, rate: Rate) -> None:
        if wait := rate.wait(who):
            raise Turned(
                429, "rate", f"{rate.most:,} calls an hour are taken from one address",
                f"Try again in {-(-wait // 60)} min.", wait,
            )  # fmt: skip

    # ---------------------------------------------------------------- a file

    async def _file(self, request: Request) -> Response:
        who = self._caller(request, self._uploads)
        name = Ask(file_name=request.query_params.get("name", "")[:100])
        kept = await self._received(request, who)
        told = {"sha256": kept.sha256, "size": kept.size, "new": kept.new}
        try:
            return JSONResponse(told | _shown(await self._seen(kept, name)), 201)
        except Turned as busy:  # the file is here: nothing has to be sent again
            return _json(busy, 202, told)

    async def _received(self, request: Request, who: str) -> Kept:
        length, sha256 = (request.headers.get(h) for h in ("content-length", "x-content-sha256"))
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise _wrong("X-Content-SHA256 is 64 hexadecimal digits")
        busy = Turned(503, "busy", "other files are coming in", "Try again in a minute.", 60)
        if self._coming.get(who, 0) >= _UPLOADS_OF_ONE:
            raise busy
        self._coming[who] = self._coming.get(who, 0) + 1
        work = partial(
            self.spool.receive, _chunks(request.stream(), anyio.current_time() + _LONGEST),
            submitter=who,
            size=int(length) if length and _COUNT.fullmatch(length) else None, sha256=sha256,
        )  # fmt: skip
        try:
            async with _turn(self._places, busy):
                return await to_thread.run_sync(work, limiter=self._writers)
        finally:
            self._coming[who] -= 1
            if not self._coming[who]:
                del self._coming[who]

    async def _seen(self, kept: Kept, ask: Ask) -> Seen:
        """What a child makes of a file. Raises Refusal, and Turned where no child is free."""
        self._asking += 1
        try:
            before = f"{self._asking - 1} files are looked at before this one"
            again = "The file is here. Ask again in some seconds."
            async with _turn(self._children, Turned(503, "busy", before, again, 5)):
                admit = partial(admission.admit, self.spool, kept, ask)
                return (await to_thread.run_sync(admit, limiter=self._readers)).seen
        except Refusal as why:
            if kept.new and why.code in _WORTHLESS:
                await to_thread.run_sync(self.spool.remove, kept.sha256)
            raise
        finally:
            self._asking -= 1

    async def _look(self, request: Request) -> Response:
        self._caller(request, self._calls)
        said = await _words(request)
        kept = await self._kept(said)
        return JSONResponse({"sha256": kept.sha256} | _shown(await self._seen(kept, _ask(said))))

    async def _kept(self, said: dict[str, Any]) -> Kept:
        try:
            kept = await to_thread.run_sync(self.spool.known, str(said.get("sha256", "")))
        except InvalidInput as error:
            raise _wrong(str(error)) from None
        if kept is None:
            raise Turned(404, "unknown", "no file of this sha256 is here", "Send the file first.")
        return kept

    # ---------------------------------------------------------------- a form

    async def _check(self, request: Request) -> Response:
        self._caller(request, self._calls)
        said = await _words(request)
        return JSONResponse(await to_thread.run_sync(partial(self._checked, said)))

    def _checked(self, said: dict[str, Any]) -> dict[str, Any]:
        form, wrong = self._form(said)
        count = None if form is None else self.store.of_method(form)
        return {"errors": wrong, "count": count, "most": self.settings.submissions_per_method}

    def _form(self, said: dict[str, Any]) -> tuple[Form | None, dict[str, str]]:
        names = desk.taken(self.store, frozenset(self.names()), str(said.get("sha256", "")))
        return desk.form(said.get("form"), names, str(said.get("contact", "")))

    async def _submit(self, request: Request) -> Response:
        self._caller(request, self._calls)
        said = await _words(request)
        kept = await self._kept(said)
        form, wrong = await to_thread.run_sync(self._form, said)
        seen = await self._seen(kept, _ask(said))
        if form is not None:
            wrong = wrong | desk.misfits(seen, form.dataset)
        if form is None or wrong:
            first = next(iter(wrong.values()), "it says nothing")
            return JSONResponse(
                {"code": "form", "reason": f"the form is not whole: {first}",
                 "remedy": "Correct what is named, and send it again.", "errors": wrong}, 422,
            )  # fmt: skip
        opened = partial(
            desk.opened, self.store, self.settings, kept, _ask(said), form, seen,
            contact=str(said.get("contact", "")), secret=str(said.get("secret", "")),
        )  # fmt: skip
        ticket, secret = await to_thread.run_sync(opened)
        told = await to_thread.run_sync(desk.told, self.store, ticket)
        return JSONResponse(told | {"secret": secret}, 200 if secret is None else 201)

    # ---------------------------------------------------------------- a ticket

    async def _tell(self, request: Request) -> Response:
        self._count(callers.submitter(request, self.settings), self._calls)
        ticket = await to_thread.run_sync(desk.found, self.store, request.path_params["id"])
        return JSONResponse(await to_thread.run_sync(desk.told, self.store, ticket))

    async def _withdraw(self, request: Request) -> Response:
        if callers.from_elsewhere(request):
            raise Turned(
                403, "cross-site", "another site sent this", "Use the page of this server."
            )
        self._count(callers.submitter(request, self.settings), self._calls)
        said = await _words(request)
        ticket = await to_thread.run_sync(desk.found, self.store, request.path_params["id"])
        secret = str(said.get("secret", ""))
        ticket = await to_thread.run_sync(desk.withdrawn, self.store, ticket, secret)
        return JSONResponse(await to_thread.run_sync(desk.told, self.store, ticket))


@asynccontextmanager
async def _turn(places: anyio.Semaphore, busy: Turned) -> AsyncIterator[None]:
    """Inside, one of the places is taken; raises `busy` where none is free in time."""
    with anyio.move_on_after(_PATIENCE) as waited:
        await places.acquire()
    if waited.cancelled_caught:
        raise busy
    try:
        yield
    finally:
        places.release()


# ---------------------------------------------------------------- answers


def _answered(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Turned as turned:
            return _json(turned, turned.status)
        except Refusal as why:
            return _json(Turned(_STATUS[why.code], why.code, why.reason, why.remedy))
        except desk.Unknown as why:
            return _json(Turned(404, "unknown", str(why), "Look at the address again."))
        except desk.NotYours as why:
            return _json(Turned(403, "secret", str(why), "It was shown once, with the ticket."))
        except desk.TooLate as why:
            return _json(Turned(409, "too-late", str(why), "Withdraw it, then send it again."))
        except ClientDisconnect:  # nobody is there to read this
            return _json(Turned(400, "cut-off", "the sender went away", "Send it again."))
        except Exception:  # the operator reads why
            traceback.print_exc(file=sys.stderr)
            return _json(
                Turned(500, "server", "the server failed, and its log says why", "Try again later.")
            )

    return answer


def _json(turned: Turned, status: int = 0, more: dict[str, Any] | None = None) -> JSONResponse:
    told = {"code": turned.code, "reason": turned.reason, "remedy": turned.remedy}
    headers = {"Retry-After": str(turned.after)} if turned.after else {}
    headers |= {"WWW-Authenticate": "Bearer"} if turned.status == 401 else {}
    return JSONResponse((more or {}) | told, status or turned.status, headers)


def _shown(seen: Seen) -> dict[str, Any]:
    """What a page says of a file, and may fill into its form."""
    fits = {"fits": seen.sentence, "arch": seen.arch, "note": seen.note}
    return fits | {"datasets": desk.fitting(seen)}


# ---------------------------------------------------------------- what a call holds


def _chunks(stream: AsyncIterator[bytes], until: float) -> Iterator[bytes]:
    """A request's bytes as they come, in the thread that writes them. Raises Refusal where none do."""
    while chunk := from_thread.run(_next, stream, until):
        yield chunk


async def _next(stream: AsyncIterator[bytes], until: float) -> bytes:
    try:
        with anyio.fail_after(min(_STALLED, max(0.0, until - anyio.current_time()))):
            return await anext(stream, b"")
    except TimeoutError:
        raise Refusal("cut-off", "the file came too slowly", "Send it again.") from None


async def _words(request: Request) -> dict[str, Any]:
    """The JSON object of a call, which no form of another site can send. Raises Turned."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Turned(415, "wrong", "this takes JSON", "Send it with Content-Type application/json.")
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > _LARGEST_WORDS:
            raise Turned(
                413, "too-large", f"a form has at most {_LARGEST_WORDS:,} bytes", "Shorten it."
            )
    try:
        said = json_files.parsed(raw, "what came")
    except InvalidInput as error:
        raise _wrong(str(error).removesuffix("; it is left in place")) from None
    if not isinstance(said, dict):
        raise _wrong("what came is no JSON object")
    return said


def _ask(said: dict[str, Any]) -> Ask:
    """How the file is to be read, as the call says it. Raises Turned."""
    try:
        return Ask.model_validate_json(json.dumps(said.get("ask") or {}))  # strict, but for lists
    except ValidationError as error:
        raise _wrong(f"ask: {json_files.first_mistake(error)}") from None


def _wrong(reason: str) -> Turned:
    return Turned(400, "wrong", reason, "Send it as the page and the command do.")
