"""A command that did not return has failed, whatever status its process ended with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a command runs here elsewhere")

HEAD = """
import atexit, os, signal, sys, threading, time
from pathlib import Path
from bench.cli.interrupt import exit_with, may_be_users, supervised

def command():
{body}

exit_with(lambda: supervised(command))
"""


def start(body: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD.format(body=textwrap.indent(textwrap.dedent(body), "    "))],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


LEFT = {
    "exits with 0": "os._exit(0)",
    "exits with 7": "os._exit(7)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "aborts": "os.abort()",
    "reads nowhere": "import ctypes; ctypes.string_at(0)",
    "becomes another program": "os.execv('/bin/true', ['true'])",
    "a thread exits": "threading.Thread(target=os._exit, args=(0,), daemon=True).start()\n"
    "time.sleep(60)",
    "goes on as its child": "if os.fork(): os._exit(0)\nreturn 0",
    "closes every file": "os.closerange(3, 64)\nos._exit(0)",
    "leaves a child behind": "if not os.fork(): time.sleep(5)\nos._exit(0)",
}


@pytest.mark.parametrize("body", LEFT.values(), ids=LEFT)
def test_a_process_that_ends_before_its_command_is_a_failure(body, tmp_path):
    process = start(body, tmp_path)
    assert process.wait() == 1
    said = os.read(process.stderr.fileno(), 10_000).decode()
    process.stdout.close()
    process.stderr.close()
    assert "error: the process that did the work" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_a_command_that_returns_keeps_its_status(status, tmp_path):
    process = start(f"print('done')\natexit.register(os._exit, 5)\nreturn {status}", tmp_path)
    out, said = process.communicate()
    assert (process.returncode, said) == (status, "")


def test_what_argparse_leaves_with_is_a_status(tmp_path):
    process = start("print('usage', file=sys.stderr)\nsys.exit(2)", tmp_path)
    _, said = process.communicate()
    assert (process.returncode, said) == (2, "usage\n")


def until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


WAITS = """
try:
    Path("here").write_text("")  # inside: the signal may come as soon as the file is seen
    time.sleep(60)
except KeyboardInterrupt:
    print("heard", may_be_users(), flush=True)
    time.sleep(0.3)  # a second signal would end this
    return 130
"""


# As if the machine were busy: the child is at work before its parent waits for it.
BUSY = "first = interrupt._status\ninterrupt._status = lambda *a: time.sleep(2) or first(*a)\n"


@pytest.mark.parametrize("before", ["", BUSY], ids=["", "busy"])
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to one", "as a terminal does"])
def test_ctrl_c_is_heard_once(send, before, tmp_path):
    head, exit_ = HEAD.format(body=textwrap.indent(WAITS, "    ")).rsplit("exit_with(", 1)
    imports = "import time\nfrom bench.cli import interrupt\n" * bool(before)
    with subprocess.Popen(
        [sys.executable, "-c", f"{imports}{head}{before}exit_with({exit_}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        until(tmp_path / "here")
        send(process.pid, signal.SIGINT)
        out, _ = process.communicate()
    assert (process.returncode, out) == (130, "heard True\n")


@pytest.mark.parametrize("raises", ["raise KeyboardInterrupt", "signal.raise_signal(2)"])
def test_what_a_model_raises_is_not_the_users(raises, tmp_path):
    body = f"try:\n    {raises}\nexcept KeyboardInterrupt:\n    pass\nreturn 40 + may_be_users()"
    process = start(body, tmp_path)
    process.communicate()
    assert process.returncode == 40


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_child_outlives_its_parent(number, tmp_path):
    process = start("Path('here').write_text(str(os.getpid()))\ntime.sleep(60)", tmp_path)
    until(tmp_path / "here")
    time.sleep(0.1)
    child = Path("/proc") / (tmp_path / "here").read_text()
    process.send_signal(number)
    process.communicate()  # ends when nobody holds its pipes
    assert process.returncode == -number
    deadline = time.monotonic() + 60
    while child.exists() and "zombie" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
