"""The door: a stranger's bytes come in piece by piece, and every answer says what to do next."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.intake import admission, door
from bench.intake.admission import Admitted
from bench.intake.door import Door
from bench.intake.refusal import CODES, Refusal
from bench.intake.report import Ask
from bench.intake.spool import DAY, Limits
from tests.hostile.corpus import CORPUS
from tests.hostile.member import CANARY, Accepted
from tests.intake.asgi import ask, call, post
from tests.intake.conftest import TOKEN
from tests.intake.forms import SEEN
from tests.intake.test_admission import LARGEST, built, here
from tests.intake.test_desk import GOOD

BODY = b"weights" * 1_000
SHA = hashlib.sha256(BODY).hexdigest()
FILE = "/submissions/file?name=net.pt"


def left(one: Door) -> list[str]:
    """Files of the spool, whole or not."""
    found = [*one.spool.root.glob("files/*"), *one.spool.root.rglob("*.part")]
    return sorted(path.name for path in found)


def test_a_file_becomes_a_ticket_that_its_secret_withdraws(open_door, looked):
    one = open_door()
    came = call(one, "PUT", FILE, [BODY[:100], b"", BODY[100:]])
    assert (came.status, came.said["sha256"], came.said["new"]) == (201, SHA, True)
    assert came.said["fits"] == "fits small_cnn, width 4, 3,174 parameters"
    assert came.said["datasets"] == ["digits"] and looked == ["net.pt"]
    said = {"sha256": SHA, "form": {**GOOD, "name": "a b"}}
    checked = post(one, "/check", said).said
    assert set(checked["errors"]) == {"name"} and checked["count"] is None
    assert post(one, "/check", {**said, "form": GOOD}).said == {
        "errors": {}, "count": 0, "most": 100,
    }  # fmt: skip
    made = post(one, "", {"sha256": SHA, "form": GOOD, "contact": "ann@example.org"})
    assert made.status == 201 and [t.id for t in one.store.all()] == [made.said["ticket"]]
    assert made.said["address"] == f"ticket?id={made.said['ticket']}" and made.said["count"] == 1
    again = post(one, "", {"sha256": SHA, "form": GOOD})
    assert (again.status, again.said["secret"]) == (200, None) and len(one.store.all()) == 1
    told = call(one, "GET", f"/submissions/{made.said['ticket']}")
    assert told.status == 200 and len(told.said["lines"]) == 10
    assert "ann@" not in str(told.said) and made.said["secret"] not in str(told.said)
    for secret, status in (("guess", 403), ("", 403), (made.said["secret"], 200)):
        gone = post(one, f"/{made.said['ticket']}/withdraw", {"secret": secret})
        assert gone.status == status
    assert gone.said["state"] == "withdrawn" and gone.said["closed"]


def test_a_known_file_is_answered_before_a_byte_of_it(open_door, looked):
    one = open_door()
    call(one, "PUT", FILE, [BODY])

    def pieces():
        pytest.fail("a piece was asked for")
        yield b""

    came = call(one, "PUT", FILE, pieces(), x_content_sha256=SHA)
    assert (came.status, came.said["new"]) == (201, False)
    assert post(one, "/look", {"sha256": SHA}).said["fits"].startswith("fits small_cnn")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content_length": "7001"}, 400, "cut-off"),
        ({"content_length": "6999"}, 400, "cut-off"),
        ({"content_length": "600000000"}, 413, "too-large"),
        ({"x_content_sha256": "0" * 64}, 400, "cut-off"),
        ({"x_content_sha256": "../../etc/passwd"}, 400, "wrong"),
        ({"origin": "https://elsewhere.example"}, 403, "cross-site"),
        ({"sec_fetch_site": "cross-site"}, 403, "cross-site"),
        ({"cut": True}, 400, "cut-off"),
    ],
)
def test_a_file_that_is_not_taken_leaves_nothing(headers, status, code, open_door, looked):
    one = open_door()
    came = call(one, "PUT", FILE, [BODY], **headers)
    assert (came.status, came.said["code"]) == (status, code), came.said
    assert came.said["reason"] and came.said["remedy"]
    assert left(one) == [] and looked == [] and not one._coming


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (Limits(reserve=0, file=6_000), 413, "too-large"),
        (Limits(reserve=0, submitter=6_000), 429, "quota"),
        (Limits(reserve=0, all=6_000), 507, "no-room"),
        (Limits(reserve=10**18), 507, "no-room"),
    ],
)
def test_limits_hold_for_a_file_that_does_not_say_its_length(
    limits, status, code, open_door, looked
):
    one = open_door(limits)
    came = call(one, "PUT", FILE, [BODY])
    assert (came.status, came.said["code"]) == (status, code)
    assert left(one) == []


def test_an_upload_that_stalls_is_given_up(open_door, looked, monkeypatch):
    monkeypatch.setattr(door, "_LONGEST", 0.0)
    one = open_door()
    came = call(one, "PUT", FILE, [BODY])
    assert (came.status, came.said["code"]) == (400, "cut-off") and "slowly" in came.said["reason"]
    assert left(one) == []


def test_two_at_once_each_come_in_whole(open_door, looked):
    one = open_door()
    bodies = [bytes([k]) * 50_000 for k in (1, 2)]

    async def both():
        sent = ([body[k : k + 1_000] for k in range(0, 50_000, 1_000)] for body in bodies)
        return await asyncio.gather(*(ask(one, "PUT", FILE, pieces) for pieces in sent))

    came = asyncio.run(both())
    assert [each.status for each in came] == [201, 201]
    assert [each.said["sha256"] for each in came] == [hashlib.sha256(b).hexdigest() for b in bodies]
    assert sorted(each.said["sha256"] for each in came) == left(one)


def test_of_one_submitter_few_files_come_at_a_time(open_door, looked, monkeypatch):
    monkeypatch.setattr(door, "_UPLOADS_OF_ONE", 1)
    one = open_door()

    async def several():
        return await asyncio.gather(
            ask(one, "PUT", FILE, [b"a"] * 100), ask(one, "PUT", FILE, [b"b"] * 100),
            ask(one, "PUT", FILE, [b"c"] * 100, peer="198.51.100.8"),
        )  # fmt: skip

    came = asyncio.run(several())
    assert sorted(each.status for each in came) == [201, 201, 503]
    (busy,) = (each for each in came if each.status == 503)
    assert busy.said["code"] == "busy" and busy.headers["retry-after"] == "60"
    assert call(one, "PUT", FILE, [b"b"]).status == 201


def test_a_hundred_networks_of_twenty_clients_at_once_are_a_hundred_tickets(open_door, looked):
    one = open_door()

    async def client(k: int) -> list[str]:
        made = []
        for name in (f"net-{k}-{j}" for j in range(5)):
            came = await ask(one, "PUT", FILE, [name.encode()] * 20, peer=f"198.51.100.{k}")
            said = {"sha256": came.said["sha256"], "form": {**GOOD, "name": name}}
            kind = {"content_type": "application/json", "peer": f"198.51.100.{k}"}
            answer = await ask(one, "POST", "/submissions", [json.dumps(said).encode()], **kind)
            assert (came.status, answer.status) == (201, 201), answer.said
            made.append(answer.said["ticket"])
        return made

    async def everybody():
        return await asyncio.gather(*map(client, range(20)))

    made = {each for tickets in asyncio.run(everybody()) for each in tickets}
    assert len(made) == 100 == len(left(one))
    assert made == {ticket.id for ticket in one.store.all()}
    assert len({ticket.form.name for ticket in one.store.all()}) == 100


def test_a_file_waits_for_a_child_and_is_not_sent_again(open_door, looked, monkeypatch):
    monkeypatch.setattr(door, "_PATIENCE", 0.05)
    one = open_door()

    def slow(spool, kept, asked):
        time.sleep(0.6)
        return Admitted(SEEN, Path("none"), "0" * 64)

    monkeypatch.setattr(admission, "admit", slow)

    async def several():
        return await asyncio.gather(*(ask(one, "PUT", FILE, [bytes([k])]) for k in range(3)))

    came = asyncio.run(several())
    assert sorted(each.status for each in came) == [201, 201, 202]
    (waits,) = (each.said for each in came if each.status == 202)
    assert waits["code"] == "busy" and "before this one" in waits["reason"]
    assert post(one, "/look", {"sha256": waits["sha256"]}).said["fits"]


def test_so_many_uploads_an_hour_of_one_address_whatever_it_says(open_door, looked):
    one = open_door(uploads_per_hour=2, proxy_header="X-Real-IP", proxies=("127.0.0.1",))
    spoofed = [
        call(one, "PUT", FILE, [bytes([k])], x_real_ip=f"203.0.113.{k}",
             x_forwarded_for=f"203.0.113.{k}")
        for k in range(3)
    ]  # fmt: skip
    assert [each.status for each in spoofed] == [201, 201, 429]
    assert int(spoofed[2].headers["retry-after"]) > 3_000
    behind = [
        call(one, "PUT", FILE, [b"x"], peer="127.0.0.1", x_real_ip=ip)
        for ip in ("203.0.113.9", "203.0.113.9", "203.0.113.9", "203.0.113.10")
    ]
    assert [each.status for each in behind] == [201, 201, 429, 201]


def test_a_token_is_asked_for_before_a_byte(open_door, looked):
    one = open_door(token=TOKEN)
    for given in ("", "Bearer wrong", f"Basic {TOKEN}"):
        came = call(one, "PUT", FILE, [BODY], authorization=given)
        assert came.status == 401 and came.headers["www-authenticate"] == "Bearer"
        assert post(one, "", {"sha256": SHA, "form": GOOD}, authorization=given).status == 401
    assert left(one) == []
    assert call(one, "PUT", FILE, [BODY], authorization=f"Bearer {TOKEN}").status == 201


@pytest.mark.parametrize(
    ("path", "said", "headers", "status", "reason"),
    [
        ("", b"{", {}, 400, "not JSON"),
        ("", b"[]", {}, 400, "no JSON object"),
        ("", b'{"a": 1, "a": 2}', {}, 400, "twice"),
        ("", b"\xff", {}, 400, "UTF-8"),
        ("", b'{"form": ' + b"[" * 30_000, {}, 400, "nested"),
        ("/look", {"sha256": "x"}, {}, 400, "64 hexadecimal digits"),
        ("/look", {"sha256": SHA, "ask": {"arch": 3}}, {}, 400, "ask: arch"),
        ("/look", {"sha256": "0" * 64}, {}, 404, "no file of this sha256"),
        ("", {"sha256": "0" * 64, "form": GOOD}, {}, 404, "no file of this sha256"),
        ("", {"sha256": SHA, "form": {}}, {}, 422, "needed"),
        ("", {"sha256": SHA, "form": {**GOOD, "dataset": "cifar10"}}, {}, 422, "3 channels"),
        ("", {"sha256": SHA, "form": {**GOOD, "name": "digits-at-s0"}}, {}, 422, "on the board"),
        ("", b"{}" + b" " * 70_000, {}, 413, "65,536 bytes"),
        ("", {}, {"content_type": "text/plain"}, 415, "JSON"),
        ("", {}, {"sec_fetch_site": "cross-site"}, 403, "another site"),
        ("/check", {}, {"sec_fetch_site": "same-site"}, 403, "another site"),
        (f"/{'0' * 64}/withdraw", {"secret": "x"}, {}, 404, "no ticket"),
        (f"/{'0' * 64}/withdraw", {}, {"origin": "https://b.org"}, 403, "another site"),
    ],
)
def test_a_call_that_is_wrong_is_told_how(path, said, headers, status, reason, open_door, looked):
    one = open_door()
    call(one, "PUT", FILE, [BODY])
    if "content_type" in headers:
        came = call(one, "POST", f"/submissions{path}", [b"{}"], **headers)
    else:
        came = post(one, path, said, **headers)
    assert came.status == status, came.said
    assert reason in came.said["reason"] and came.said["remedy"] and one.store.all() == []
    assert str(one.spool.root) not in str(came.said)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("../../etc/passwd", "passwd"), ("%00%1b%5b2J.pt", "\\x00\\x1b[2J.pt"),
     ("%E2%80%AEtxt.pt", "\\u202etxt.pt"), ("", "the file"), ("n" * 5_000, "n" * 100),
     ("%3Cscript%3E", "<script>")],
)  # fmt: skip
def test_a_hostile_name_is_text(name, shown, open_door, looked):
    one = open_door()
    assert call(one, "PUT", f"/submissions/file?name={name}", [BODY]).status == 201
    assert looked == [shown] and left(one) == [SHA]


@pytest.mark.parametrize("code", CODES)
def test_every_refusal_of_a_child_has_a_status_and_says_what_to_do(
    code, open_door, looked, monkeypatch
):
    def refuse(*_):
        raise Refusal(code, "it is so", "Do this.")

    monkeypatch.setattr(admission, "admit", refuse)
    one = open_door()
    came = call(one, "PUT", FILE, [BODY])
    assert 400 <= came.status < 600 and came.said == {
        "code": code, "reason": "it is so", "remedy": "Do this.",
    }  # fmt: skip
    kept = [] if code in ("unreadable", "too-much", "crashed") else [SHA]
    assert left(one) == kept  # what may fit when it is read in another way stays


def test_a_defect_is_the_operators_to_read(open_door, looked, monkeypatch, capsys):
    monkeypatch.setattr(admission, "admit", lambda *_: 1 / 0)
    came = call(open_door(), "PUT", FILE, [BODY])
    assert came.status == 500 and "log" in came.said["reason"]
    assert "ZeroDivision" not in str(came.said) and "ZeroDivisionError" in capsys.readouterr().err


def test_a_limit_of_networks_of_one_method_is_told(open_door, looked):
    one = open_door(submissions_per_method=1)
    for k in (1, 2):
        sha256 = call(one, "PUT", FILE, [bytes([k])]).said["sha256"]
        came = post(one, "", {"sha256": sha256, "form": {**GOOD, "name": f"net-{k}"}})
    assert came.status == 429 and "1 networks" in came.said["reason"]


def test_a_correction_takes_the_secret_until_the_attack_begins(open_door, looked):
    one = open_door()
    call(one, "PUT", FILE, [BODY])
    made = post(one, "", {"sha256": SHA, "form": GOOD}).said
    said = {"sha256": SHA, "form": {**GOOD, "authors": "Ann"}, "secret": "guess"}
    assert post(one, "", said).status == 403
    again = post(one, "", {**said, "secret": made["secret"]})
    assert again.status == 201 and again.said["ticket"] == made["ticket"]
    assert one.store.read(made["ticket"]).form.authors == "Ann"
    for state in ("checked", "waiting", "attacking"):
        one.store.move(made["ticket"], state)
    said = {"sha256": SHA, "form": GOOD, "secret": again.said["secret"]}
    late = post(one, "", said)
    assert late.status == 409 and "attacking" in late.said["reason"]
    assert post(one, f"/{made['ticket']}/withdraw", said).status == 200
    twice = post(one, f"/{made['ticket']}/withdraw", said)
    assert twice.status == 409 and "withdrawn already" in twice.said["reason"]


def test_after_a_day_nothing_is_left_that_no_ticket_names(open_door, looked):
    one = open_door()
    for body in (BODY, b"other"):
        call(one, "PUT", FILE, [body])
    post(one, "", {"sha256": SHA, "form": GOOD})
    part = one.spool.root / "incoming" / "cut.part"
    part.write_bytes(b"half")
    now = datetime.now(UTC)
    one.sweep(now)
    assert len(left(one)) == 3
    one.sweep(now + timedelta(seconds=DAY + 60))
    assert left(one) == [SHA]


@pytest.mark.slow
def test_a_large_file_is_never_in_memory(open_door, looked):
    one, piece = open_door(), bytes(2**16)
    call(one, "PUT", FILE, [BODY])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    came = call(one, "PUT", FILE, (piece for _ in range(3_200)))
    assert (came.status, came.said["size"]) == (201, 3_200 * 2**16)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


# ---------------------------------------------------------------- with real children

WEIGHTS = [m for m in CORPUS if m.kind == "weights" and not m.needs_a_user]


@pytest.mark.hostile
@pytest.mark.parametrize("member", WEIGHTS, ids=lambda m: m.name)
def test_a_hostile_file_is_refused_through_the_door(member, tmp_path, monkeypatch, open_door):
    (tmp_path / "files").mkdir()
    file = built(member, tmp_path / "files", monkeypatch)
    if file is None:
        pytest.skip("no upload")
    one, size = open_door(Limits(reserve=0, file=LARGEST)), file.stat().st_size
    with file.open("rb") as opened:
        came = call(one, "PUT", FILE, iter(lambda: opened.read(2**20), b""))
    assert not (tmp_path / "files" / CANARY).exists()
    assert not list(one.spool.root.rglob("*.part"))
    honest = isinstance(member.expected, Accepted) and "1.6" not in member.name
    assert came.status == 201 or not honest, came.said
    if came.status == 201:  # which are a network of the catalogue, whatever name was expected
        assert came.said["fits"] == here(file.read_bytes(), Ask())[1].sentence
    elif size > LARGEST or size == 0:
        assert came.said["code"] == ("too-large" if size else "cut-off")
    else:
        assert (came.status, came.said["code"] in ("unreadable", "content", "misfit")) == (
            422,
            True,
        )
        assert came.said["reason"] and came.said["remedy"]
