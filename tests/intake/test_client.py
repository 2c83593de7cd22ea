"""The command that hands a file to a server, and a server on a port of this machine."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bench.__main__ import main
from bench.intake.callers import REWRITES
from bench.intake.client import Server
from bench.intake.report import Ask
from bench.intake.spool import Limits
from bench.intake.ticket import Form
from bench.schema import InvalidInput
from tests.intake.conftest import TOKEN
from tests.intake.test_desk import GOOD

FORM = Form.model_validate(GOOD)


@contextmanager
def served(routes) -> Iterator[str]:
    """The address of routes on a free port."""
    config = uvicorn.Config(
        Starlette(routes=routes), port=0, log_level="error", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(b"weights" * 1_000)
    return path


def test_a_file_is_sent_once_and_has_one_ticket(open_door, looked, file):
    one, said = open_door(), []
    with served(one.routes("/board/")) as address:
        server = Server(f"{address}/board")
        made = server.send(
            file, Ask(file_name="net.pt"), FORM, contact="ann@a.org", tell=said.append
        )
        assert made["secret"] and made["state"] == "received" and len(made["lines"]) == 10
        assert said == ["net.pt fits small_cnn, width 4, 3,174 parameters"]
        assert server.ticket(made["ticket"])["lines"] == made["lines"]
        again = server.send(file, Ask(file_name="net.pt"), FORM, tell=said.append)
        assert (again["ticket"], again["secret"]) == (made["ticket"], None)
        assert len(one._uploads._calls["127.0.0.1"]) == 1  # the file itself came once
        other = FORM.model_copy(update={"authors": "Ann"})
        mended = server.send(file, Ask(), other, secret=made["secret"], tell=said.append)
        assert mended["ticket"] == made["ticket"] and mended["secret"]


def test_a_refusal_is_told_with_its_remedy(open_door, looked, file):
    one = open_door(Limits(reserve=0, file=10_000), token=TOKEN)
    with served(one.routes()) as address:
        with pytest.raises(InvalidInput, match=r"token alone\. Ask its operator"):
            Server(address).send(file, Ask(), FORM)
        server = Server(address, TOKEN)
        with pytest.raises(InvalidInput, match="name: a network on the board"):
            server.send(file, Ask(), FORM.model_copy(update={"name": "digits-at-s0"}), tell=len)
        file.write_bytes(bytes(20_000_000))
        with pytest.raises(InvalidInput, match=r"10,000 bytes.* Save the state_dict"):
            server.send(file, Ask(), FORM)
        with pytest.raises(InvalidInput, match="no ticket has this address"):
            server.ticket("0" * 64)


@pytest.mark.parametrize(
    "address", ["", "board.example.org", "ftp://a.org", "http://", "http://a:b"]
)
def test_an_address_that_is_none_is_refused(address, file):
    with pytest.raises(InvalidInput, match=r"a server is https|does not answer"):
        Server(address).send(file, Ask(), FORM)


def test_a_server_that_takes_none_or_is_not_there_is_told(file):
    async def page(_):
        return PlainTextResponse("<html>")

    routes = [Route("/submissions/look", page, methods=["POST"])]
    with served(routes) as address, pytest.raises(InvalidInput, match="takes no submissions"):
        Server(address).send(file, Ask(), FORM)
    with pytest.raises(InvalidInput, match="does not answer"):
        Server(address).send(file, Ask(), FORM)


@pytest.mark.parametrize("rewrites", ["", None, "127.0.0.1"])
def test_behind_uvicorn_nobody_chooses_who_they_are(rewrites, open_door, looked, file, monkeypatch):
    one = open_door()
    monkeypatch.delenv(REWRITES, raising=False)
    if rewrites is not None:
        monkeypatch.setenv(REWRITES, rewrites)
    with served(one.routes()) as address:
        for said in ("203.0.113.1", "203.0.113.2:40000", "[2001:db8::1]:1"):
            ask = urllib.request.Request(f"{address}/submissions/{'0' * 64}")
            ask.add_header("X-Forwarded-For", said)
            ask.add_header("X-Real-IP", said)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(ask)
            caught.value.close()
    assert [len(calls) for calls in one._calls._calls.values()] == [3]


def test_the_command_says_the_ticket_and_its_secret(open_door, looked, file, capsys):
    with served(open_door().routes()) as address:
        words = ["submit", str(file), "--dataset", "digits", "--name", "mine", "--server", address]
        assert main([*words, "--awp", "gamma=0.01", "--hashes-only"]) == 0
        came = capsys.readouterr()
        assert f"ticket {address}/ticket?id=" in came.out and "secret " in came.out
        assert "AWP adversarial, gamma 0.01" in came.out and "fits small_cnn" in came.err
        assert main([*words, "--epochs", "3"]) == 2
        assert "--server takes no --epochs" in capsys.readouterr().err
