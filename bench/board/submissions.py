"""Whether this server takes submissions, and what it then has beside the pages."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import anyio
import streamlit as st
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.board import head, records
from bench.exports import badge
from bench.intake import settings as host
from bench.intake.settings import Settings
from bench.intake.store import Store
from bench.schema import InvalidInput

_BADGE = {
    "Cache-Control": "max-age=300",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


def settings() -> Settings | None:
    """What the operator turned on with `-- --intake [FILE]`, or with AWP_INTAKE; None: it is off.

    Raises InvalidInput where the file cannot be read.
    """
    asked = records.intake()
    if asked is None or not asked.parts:
        named = os.environ.get(host.VARIABLE)
        if asked is None and not named:
            return None
        asked = Path(named) if named else None
    return _read(asked)


@lru_cache(maxsize=1)
def _read(path: Path | None) -> Settings:
    return host.read(path)


@st.cache_resource(show_spinner=False, max_entries=1)
def store(root: str) -> Store:
    """The tickets below a folder, with what was read of them."""
    return Store(Path(root))


def names() -> frozenset[str]:
    """Of all networks that the board has a record of."""
    found = records.newest().board.collection
    return frozenset(record.name for record in (*found.records, *found.failed))


def beside_the_pages() -> dict[str, Any]:
    """What `st.App` is given beside the script: badges always, the door where it is open.

    Settings that cannot be used are told to the operator, and the server does not start.
    """
    try:
        return _served(settings())
    except InvalidInput as why:
        sys.exit(f"error: {why}")


def _served(asked: Settings | None) -> dict[str, Any]:
    above = head.above()
    routes = [*head.routes(), Route(f"{above}badge/{{name}}.svg", _badge)]
    if asked is None:
        return {"routes": routes}
    from bench.intake.door import Door

    door = Door(asked, names)

    @asynccontextmanager
    async def swept(_: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(door.sweep_for_ever)
            yield
            tasks.cancel_scope.cancel()

    return {"routes": [*routes, *door.routes(above)], "lifespan": swept}


async def _badge(request: Request) -> Response:
    drawn = await to_thread.run_sync(_drawn, request.path_params["name"])
    if drawn is None:
        return Response("no network of this name is on the board\n", 404, media_type="text/plain")
    return Response(drawn, media_type="image/svg+xml", headers=_BADGE)


def _drawn(name: str) -> str | None:
    view = records.newest()
    places = view.made.get(("badges",), lambda: badge.speaking(view.board.groups))
    return badge.badge(*places[name]) if name in places else None
