"""Who calls: the address that limits are kept by, the token, and which site sent the browser.

A client may write any header. Only what the operator named as the proxy is believed, and only in the
header that was named for it.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from bench.intake.settings import Settings
from bench.schema import InvalidInput

# uvicorn puts the address of X-Forwarded-For in the place of the peer's, where the peer is this
# machine; with this variable empty it leaves the peer alone.
REWRITES = "FORWARDED_ALLOW_IPS"
_UNKNOWN = "somewhere behind a proxy"  # one submitter for all of whom nothing better is known
_HOUR = 3600.0  # seconds
_MOST_KNOWN = 50_000  # callers of an hour that are told apart


def check(settings: Settings) -> None:
    """Raises InvalidInput where the proxy that is to be believed could not be told from others."""
    if settings.proxy_header is not None and os.environ.get(REWRITES) != "":
        raise InvalidInput(
            f"proxy_header = {settings.proxy_header!r} needs the server to see who really calls: "
            f"start it with {REWRITES} set and empty, as in: {REWRITES}= streamlit run app.py"
        )


def submitter(call: HTTPConnection, settings: Settings) -> str:
    """What tells submitters apart: the address of the peer, or the one that the trusted proxy names."""
    if "x-forwarded-for" in call.headers and os.environ.get(REWRITES) != "":
        return _UNKNOWN  # what stands in the peer's place may be of the caller's own choice
    peer = call.client.host if call.client else ""
    if settings.proxy_header is not None and _plain(peer) in map(_plain, settings.proxies):
        named = ",".join(call.headers.getlist(settings.proxy_header)).rpartition(",")[2].strip()
        return _network(named) or _UNKNOWN  # a proxy appends: the last one is its own word
    return _network(peer) or _UNKNOWN


def _plain(address: str) -> str:
    """An address as it is compared: IPv4 is the same inside IPv6; nothing where it is none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    inner = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(inner or found)


def _network(address: str) -> str:
    """An address of version 4, or the 64 bits of one of version 6 that its owner does not choose."""
    found = _plain(address)
    return str(ipaddress.ip_network(f"{found}/64", strict=False)) if ":" in found else found


def has_token(call: HTTPConnection, token: str | None) -> bool:
    """Whether `Authorization: Bearer` is followed by the token, compared in constant time."""
    if token is None:
        return True
    kind, _, given = call.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return kind.lower() == "bearer" and same


def from_elsewhere(call: HTTPConnection) -> bool:
    """Whether a browser was sent here by a page of another site; a program says neither header."""
    if (site := call.headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    origin = call.headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != call.headers.get("host", "").lower()
    except ValueError:
        return True


class Rate:
    """So many calls an hour of each caller; kept in memory, for the whole server."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self._clock = most, clock
        self._calls: dict[str, deque[float]] = {}
        self._pruned = -math.inf  # when callers of an hour ago were forgotten, on the clock

    def wait(self, who: str) -> int:
        """Seconds until the next call of a caller may come; 0: it may, and is counted now."""
        now = self._clock()
        if len(self._calls) >= _MOST_KNOWN and who not in self._calls:
            if now >= self._pruned + 60:
                self._pruned = now
                self._calls = {
                    k: calls for k, calls in self._calls.items() if calls[-1] > now - _HOUR
                }
            who = who if len(self._calls) < _MOST_KNOWN else _UNKNOWN
        calls = self._calls.setdefault(who, deque())
        while calls and calls[0] <= now - _HOUR:
            calls.popleft()
        if len(calls) >= self.most:
            return math.ceil(calls[0] + _HOUR - now)
        calls.append(now)
        return 0
