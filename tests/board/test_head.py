"""What the server sends of a page before any script runs: a title, a description, a picture."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import streamlit as st
from starlette.applications import Starlette

from bench.board import head

HOSTILE = '"><script>alert(1)</script>\u202e' + "A" * 500


def answer(path: str, query: str = "", **headers: str) -> tuple[int, str]:
    """Status and text of an answer of the pages' routes, without a server."""
    sent: list[Any] = []
    asked: list[None] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        if not asked:
            asked.append(None)
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Event().wait()  # who asked stays

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": query.encode(), "scheme": "http", "server": ("127.0.0.1", 80),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    asyncio.run(Starlette(routes=head.routes())(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body.decode("utf-8", "replace")


class Head(HTMLParser):
    """Titles, properties and scripts of a page's HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.said: dict[str, list[str]] = {}
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.scripts += tag == "script"
        if tag == "meta" and (name := found.get("property") or found.get("name")):
            self.said.setdefault(name, []).append(found["content"] or "")


@pytest.mark.parametrize("page", head.PAGES, ids=lambda page: page.file)
def test_each_page_says_what_it_is_once(page: head.Page) -> None:
    status, text = answer(f"/{page.address}", host="board.example.org")
    assert status == 200
    said = Head(text).said
    assert [unescape(t) for t in re.findall("<title>(.*?)</title>", text)] == [head.title(page)]
    assert said["description"] == said["og:description"] == [page.says]
    assert said["og:title"] == [head.title(page)]
    assert said["og:url"] == [f"http://board.example.org/{page.address}"]
    assert said["og:image"] == ["http://board.example.org/board.png"]
    assert text.count('rel="icon"') == 1 and "favicon.png" not in text
    assert 50 < len(page.says) < 200  # what search engines show whole
    assert (head.FOLDER / f"{page.file}.py").is_file()


def test_no_two_pages_say_the_same() -> None:
    for field in ("file", "title", "address", "says"):
        assert len({getattr(page, field) for page in head.PAGES}) == len(head.PAGES)


def test_a_models_page_is_called_by_its_name_and_hostile_text_stays_text() -> None:
    plain = Head(answer("/model", "name=wong_mnist", host="a.org")[1])
    assert plain.said["og:title"] == ["wong_mnist · Robustness leaderboard"]
    asked = urlencode({"name": HOSTILE})
    hostile = Head(answer("/model", asked, host='"><script>x</script>')[1])
    assert hostile.scripts == plain.scripts
    assert [len(values) for values in hostile.said.values()] == [1] * len(plain.said)
    assert "\u202e" not in hostile.said["og:title"][0]
    assert len(hostile.said["og:title"][0]) < 100


def test_behind_a_proxy_links_are_https() -> None:
    _, text = answer("/", host="board.example.org", x_forwarded_proto="https")
    assert Head(text).said["og:url"] == ["https://board.example.org/"]
    assert Head(text).said["og:image"] == ["https://board.example.org/board.png"]


def test_the_picture_is_there_and_no_other_file() -> None:
    assert answer("/board.png")[0] == 200
    assert answer("/board.json")[0] == 404


def test_under_a_folder_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st, "get_option", {"server.baseUrlPath": "/robust/"}.__getitem__)
    assert answer("/robust/did-awp-help", host="a.org")[0] == 200
    said = Head(answer("/robust/", host="a.org")[1]).said
    assert said["og:image"] == ["http://a.org/robust/board.png"]


def test_without_a_picture_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(head, "_PICTURES", (tmp_path / "board.png",))
    assert "og:image" not in Head(answer("/", host="a.org")[1]).said


@pytest.mark.parametrize("path", [*head.FOLDER.glob("*.css")], ids=lambda path: path.name)
def test_a_style_sheet_closes_what_it_opens(path: Path) -> None:
    depth = 0
    for line in path.read_text().splitlines():
        if line.startswith(("/* ---", "@media")):
            assert depth == 0, line
        depth += line.count("{") - line.count("}")
    assert depth == 0
