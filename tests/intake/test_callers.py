"""Who calls is not what a caller says, and another site cannot call in a visitor's name."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from bench.intake import callers
from bench.intake.callers import REWRITES, Rate, submitter
from bench.intake.settings import Settings
from bench.schema import InvalidInput


def request(peer: str | None = "198.51.100.7", /, **headers: str) -> Request:
    named = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    client = None if peer is None else (peer, 40_000)
    return Request({"type": "http", "headers": named, "client": client})


DIRECT, REAL = Settings(), Settings(proxy_header="X-Real-IP")
FORWARDED = Settings(proxy_header="X-Forwarded-For", proxies=("10.0.0.1",))


@pytest.mark.parametrize(
    ("peer", "headers", "settings", "who"),
    [
        ("198.51.100.7", {}, DIRECT, "198.51.100.7"),
        ("2001:db8:1:2:3::4", {}, DIRECT, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:9::9", {}, DIRECT, "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", {}, DIRECT, "198.51.100.7"),
        ("198.51.100.7", {"x_real_ip": "203.0.113.9"}, DIRECT, "198.51.100.7"),
        ("198.51.100.7", {"x_forwarded_for": "203.0.113.9"}, DIRECT, "198.51.100.7"),
        ("198.51.100.7", {"x_real_ip": "203.0.113.9"}, REAL, "198.51.100.7"),
        ("127.0.0.1", {"x_real_ip": "203.0.113.9"}, REAL, "203.0.113.9"),
        ("::1", {"x_real_ip": "203.0.113.9"}, REAL, "203.0.113.9"),
        ("::ffff:127.0.0.1", {"x_real_ip": "203.0.113.9"}, REAL, "203.0.113.9"),
        ("127.0.0.1", {"x_real_ip": "nonsense\x00"}, REAL, "somewhere behind a proxy"),
        ("127.0.0.1", {}, REAL, "somewhere behind a proxy"),
        ("10.0.0.1", {"x_forwarded_for": "1.1.1.1, 203.0.113.9"}, FORWARDED, "203.0.113.9"),
        ("10.0.0.2", {"x_forwarded_for": "1.1.1.1, 203.0.113.9"}, FORWARDED, "10.0.0.2"),
        (None, {}, DIRECT, "somewhere behind a proxy"),
    ],
)  # fmt: skip
def test_only_the_trusted_proxy_names_another_address(peer, headers, settings, who, monkeypatch):
    monkeypatch.setenv(REWRITES, "")
    assert submitter(request(peer, **headers), settings) == who


@pytest.mark.parametrize("settings", [DIRECT, REAL])
def test_where_the_server_rewrites_the_peer_whoever_names_another_is_one_submitter(
    settings, monkeypatch
):
    monkeypatch.delenv(REWRITES, raising=False)
    two = [request(peer, x_forwarded_for=peer, x_real_ip=peer) for peer in ("1.1.1.1", "2.2.2.2")]
    assert len({submitter(each, settings) for each in two}) == 1
    assert submitter(request("1.1.1.1"), settings) == "1.1.1.1"


@pytest.mark.parametrize("value", [None, "*", "127.0.0.1"])
def test_a_proxy_that_could_not_be_told_from_others_is_refused(value, monkeypatch):
    monkeypatch.delenv(REWRITES, raising=False)
    if value is not None:
        monkeypatch.setenv(REWRITES, value)
    with pytest.raises(InvalidInput, match="FORWARDED_ALLOW_IPS set and empty"):
        callers.check(REAL)
    callers.check(DIRECT)
    monkeypatch.setenv(REWRITES, "")
    callers.check(REAL)


@pytest.mark.parametrize(
    ("given", "right"),
    [("Bearer " + "t" * 20, True), ("bearer  " + "t" * 20, True), ("Bearer", False), ("", False),
     ("t" * 20, False), ("Basic " + "t" * 20, False), ("Bearer " + "t" * 19, False),
     ("Bearer \xe9" + "t" * 20, False)],
)  # fmt: skip
def test_a_token_is_whole_or_none(given, right):
    assert callers.has_token(request(authorization=given), "t" * 20) is right
    assert callers.has_token(request(authorization=given), None)


@pytest.mark.parametrize(
    ("headers", "elsewhere"),
    [
        ({}, False),
        ({"sec_fetch_site": "same-origin"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "same-site"}, True),
        ({"host": "a.org", "origin": "https://a.org"}, False),
        ({"host": "A.org:8501", "origin": "http://a.org:8501"}, False),
        ({"host": "a.org", "origin": "https://b.org"}, True),
        ({"host": "a.org", "origin": "https://a.org.b.org"}, True),
        ({"host": "a.org", "origin": "null"}, True),
        ({"host": "a.org", "origin": "http://[::"}, True),
    ],
)
def test_a_page_of_another_site_is_told(headers, elsewhere):
    assert callers.from_elsewhere(request(**headers)) is elsewhere


def test_so_many_calls_an_hour_of_each():
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    assert [rate.wait("a"), rate.wait("a"), rate.wait("a"), rate.wait("b")] == [0, 0, 3600, 0]
    now[0] = 1_800.0
    assert rate.wait("a") == 1800
    now[0] = 3_600.0
    assert [rate.wait("a"), rate.wait("a"), rate.wait("a")] == [0, 0, 3600]


def test_more_callers_than_can_be_told_apart_are_one(monkeypatch):
    monkeypatch.setattr(callers, "_MOST_KNOWN", 3)
    now = [0.0]
    rate = Rate(1, clock=lambda: now[0])
    assert [rate.wait(who) for who in "abcde"] == [0, 0, 0, 0, 3600]
    assert rate.wait("a") == 3600  # who is known stays known
    now[0] = 4_000.0
    assert [rate.wait(who) for who in "fgh"] == [0, 0, 0]
