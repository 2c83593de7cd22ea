"""A real server: it refuses what it should not hold, and loses no visitor while records arrive."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.cli import board
from tests.board.board_records import matched_pair, write_all
from tests.speed.board import arrive
from tests.speed.visitors import ROOT, served, stay_together

MB = 2**20
COMMANDS = {
    "streamlit run": [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), "--"],
    "bench board": [sys.executable, "-m", "bench", "board"],
}


def test_both_commands_run_under_the_same_limits(tmp_path: Path) -> None:
    config = tomllib.loads((ROOT / ".streamlit/config.toml").read_text())
    said = {f"{part}.{name}": value for part in ("browser", "client", "server")
            for name, value in config[part].items()}  # fmt: skip
    flags = [word[2:] for word in board.call(ROOT / "app.py", tmp_path) if "=" in word]
    words = {True: "true", False: "false"}
    assert dict(flag.split("=") for flag in flags) == {
        name: words.get(value, str(value)) if isinstance(value, bool) else str(value)
        for name, value in said.items()
    }
    assert said["server.maxUploadSize"] == 1
    assert said["client.showErrorDetails"] == "none"
    assert not said["browser.gatherUsageStats"]


@contextmanager
def running(command: str, work: Path) -> Iterator[tuple[int, int]]:
    """A server started by a command in a folder without any configuration: its port and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*COMMANDS[command], "--results", str(work / "results")]
    asked = {"STREAMLIT_SERVER_PORT": str(port), "STREAMLIT_SERVER_ADDRESS": "127.0.0.1"}
    found = {**os.environ, **asked, "PYTHONPATH": str(ROOT)}
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            words, cwd=work, env=found, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health").close()
                break
            except OSError:
                assert process.poll() is None, (work / "log").read_text()
                time.sleep(0.1)
        yield port, serving(process.pid)
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


def serving(pid: int) -> int:
    """The process itself, or the one that it started to serve."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def highest(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_large_upload_is_refused_and_not_held(command: str, tmp_path: Path) -> None:
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    write_all(tmp_path / "results", matched_pair(0))
    with running(command, tmp_path) as (port, process):
        stream = f"ws://127.0.0.1:{port}/_stcore/stream"
        with connect(stream, subprotocols=[Subprotocol("streamlit")], max_size=None) as visitor:
            ask = BackMsg()
            ask.rerun_script.query_string = ""
            visitor.send(ask.SerializeToString())
            session, done = "", False
            while not done:
                message = ForwardMsg.FromString(visitor.recv(60))  # type: ignore[arg-type]
                session = session or message.new_session.initialize.session_id
                done = message.WhichOneof("type") == "script_finished"
            before = highest(process)
            for length in (True, False):
                for _ in range(3):
                    assert put(port, session, 60, told=length) == 413
            assert put(port, session, 0.2, told=True) == 204  # a real session: else 400 for all
            assert highest(process) - before < 12


def put(port: int, session: str, size: float, *, told: bool) -> int:
    """The status of a PUT of so many MB to the upload address; told: its length stands in its head."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health") as answer:
        cookies = [value.split(";")[0] for value in answer.headers.get_all("Set-Cookie") or ()]
    token = next((c.split("=", 1)[1] for c in cookies if "xsrf" in c), "")
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    body = [head, *[b"x" * (MB // 10)] * round(10 * size), b"\r\n--b--\r\n"]
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Cookie": "; ".join(cookies)}
    headers["X-Xsrftoken"] = token
    if told:
        headers["Content-Length"] = str(sum(map(len, body)))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    path = f"/_stcore/upload_file/{session}/f"
    try:
        connection.putrequest("PUT", path)
        for name, value in headers.items():
            connection.putheader(name, value)
        if not told:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        try:
            for part in body:
                connection.send(part if told else b"%x\r\n%s\r\n" % (len(part), part))
            if not told:
                connection.send(b"0\r\n\r\n")
        except OSError:  # refused before all of it was sent
            pass
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.slow
def test_no_visitor_is_lost_while_records_arrive(tmp_path: Path) -> None:
    write_all(tmp_path / "r", matched_pair(0))
    with served(tmp_path / "r", tmp_path / "work") as server:
        visits = stay_together(
            server.address, 5, 1, think=2, at_work=lambda: arrive(tmp_path / "r", 1, 3)
        )
        log = server.log.read_text()
    assert [error for visit in visits for error in visit.errors] == []
    assert not any(visit.lost for visit in visits)
    assert all(visit.waits for visit in visits)
    assert "Traceback" not in log
