"""Calls of the door without a server: pieces go in as they would come, an answer comes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette

from bench.intake.door import Door

PEER = "198.51.100.7"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    said: dict[str, Any]


async def ask(
    door: Door, method: str, address: str, chunks: Iterable[bytes] = (), *,
    peer: str = PEER, cut: bool = False, **headers: str,
) -> Answer:  # fmt: skip
    """One call; cut: the sender goes away after the last piece instead of ending."""
    sent: list[Any] = []
    pieces: Iterator[bytes] = iter(chunks)

    async def receive() -> Any:
        await asyncio.sleep(0)
        for piece in pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        if cut:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    parts = urlsplit(address)
    named = {"host": "board.example.org", **headers}
    scope = {
        "type": "http", "method": method, "path": parts.path, "raw_path": parts.path.encode(),
        "root_path": "", "query_string": parts.query.encode(), "scheme": "http",
        "server": ("board.example.org", 80), "client": (peer, 40_000),
        "headers": [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in named.items()],
    }  # fmt: skip
    await Starlette(routes=door.routes())(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    answered = {k.decode(): v.decode() for k, v in sent[0].get("headers", ())}
    return Answer(sent[0]["status"], answered, json.loads(body) if body[:1] == b"{" else {})


def call(
    door: Door, method: str, address: str, chunks: Iterable[bytes] = (), **more: Any
) -> Answer:
    """The same, alone."""
    return asyncio.run(ask(door, method, address, chunks, **more))


def post(door: Door, path: str, said: object, **more: Any) -> Answer:
    """A call with JSON."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return call(
        door, "POST", f"/submissions{path}", [text], content_type="application/json", **more
    )
