"""What the pages are called, and what each says of itself before any script runs.

Streamlit answers every address with one file titled "Streamlit", and scripts run later. Who shows a
link, searches or has no scripts reads that file alone, so each page's address answers with it under a
title, a description and a picture of its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import streamlit as st
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from bench.notation import plain

FOLDER = Path(__file__).parent
SITE = "Robustness leaderboard"
ICON = FOLDER / "icon.svg"
# Beside the code where it is installed, in docs/ where it is made.
_PICTURES = (FOLDER / "board.png", FOLDER.parents[1] / "docs" / "board.png")
_INDEX = Path(st.__file__).parent / "static" / "index.html"


class Page(NamedTuple):
    """A page of the board."""

    file: str  # in this folder, without .py
    title: str
    address: str  # below the server's; empty: the page that opens first
    says: str  # what a visitor finds there, in a sentence or two
    in_menu: bool = True


PAGES = (
    Page(
        "leaderboard",
        "Leaderboard",
        "",
        "Does adversarial weight perturbation make networks more robust? Image classifiers attacked "
        "with AutoAttack, ranked with intervals; every number can be checked again.",
    ),
    Page(
        "awp",
        "Did AWP help?",
        "did-awp-help",
        "Networks trained with and without adversarial weight perturbation, matched in all else and "
        "compared image by image: the difference of each method with its interval and verdict.",
    ),
    Page(
        "compare",
        "Compare",
        "compare",
        "Two networks or more on the same images: the paired difference with its interval, and the "
        "images that only one of them withstands.",
    ),
    Page(
        "model",
        "Model",
        "model",
        "What one network withstood, how it was made, and the commands that check its number.",
    ),
    Page(
        "tradeoffs",
        "Trade-offs",
        "trade-offs",
        "Robust accuracy against clean accuracy, size and cost of every network measured here.",
    ),
    Page(
        "measured",
        "How it is measured",
        "how-it-is-measured",
        "What a number here counts, what its interval and rank range cover, which attacks stand "
        "behind it, and what it does not say.",
    ),
    Page(
        "submit",
        "Submit",
        "submit",
        "Hand in a network and learn what it withstands: it is read as data, attacked with the same "
        "protocols as all others, and ranked beside them.",
    ),
    Page(
        "ticket",
        "Ticket",
        "ticket",
        "How far the measurement of a submitted network has come: its place in the queue, the upper "
        "bound so far, and the result.",
        in_menu=False,
    ),
)

_TAGS = Markup(
    "<title>{title}</title>\n"
    '<link rel="icon" type="image/svg+xml" href="{icon}">\n'
    '<meta name="description" content="{says}">\n'
    '<meta property="og:type" content="website">\n'
    '<meta property="og:site_name" content="{site}">\n'
    '<meta property="og:title" content="{title}">\n'
    '<meta property="og:description" content="{says}">\n'
    '<meta property="og:url" content="{url}">\n'
)
_IMAGE = Markup(
    '<meta property="og:image" content="{}">\n'
    '<meta name="twitter:card" content="summary_large_image">\n'
)


def title(page: Page, name: str | None = None) -> str:
    """What the tab of a browser says; a model's page is called by the name in its address."""
    own = plain(name, 60) if name and page.file == "model" else page.title if page.address else ""
    return f"{own} · {SITE}" if own else SITE


def tags(page: Page, url: str, picture: str | None, name: str | None = None) -> Markup:
    """Title, icon, description and Open Graph properties; url and picture are whole addresses."""
    icon = "data:image/svg+xml;base64," + base64.b64encode(ICON.read_bytes()).decode()
    text = _TAGS.format(title=title(page, name), icon=icon, says=page.says, site=SITE, url=url)
    return text + (_IMAGE.format(picture) if picture else Markup())


def routes() -> list[Route]:
    """The addresses of the pages, each answered with a head of its own, and the picture they name."""
    at = above()
    picture = next((path for path in _PICTURES if path.is_file()), None)
    shown = at + picture.name if picture else None
    made = [Route(at + page.address, _answer(page, shown)) for page in PAGES]
    if picture is not None and shown is not None:
        made.append(Route(shown, partial(_send, picture)))
    return made


def above() -> str:
    """The path that all addresses of this server begin with: `/`, or `/folder/`."""
    folder = st.get_option("server.baseUrlPath").strip("/")
    return f"/{folder}/" if folder else "/"


def _answer(page: Page, picture: str | None) -> Callable[[Request], Awaitable[Response]]:
    before, after = _INDEX.read_text(encoding="utf-8").split("</head>", 1)
    before = re.sub(r'<title>.*?</title>|<link rel="shortcut icon"[^>]*>', "", before)

    async def answer(request: Request) -> Response:
        url = request.url
        if request.headers.get("x-forwarded-proto", "").startswith("https"):
            url = url.replace(scheme="https")  # a proxy before the server speaks TLS
        image = str(url.replace(path=picture, query="")) if picture else None
        head = tags(page, str(url), image, request.query_params.get("name"))
        # As Streamlit sends it: asked for anew each time, for it names the scripts of its release.
        return HTMLResponse(f"{before}{head}</head>{after}", headers={"Cache-Control": "no-cache"})

    return answer


async def _send(picture: Path, _: Request) -> Response:
    return FileResponse(picture)
