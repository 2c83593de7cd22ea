"""Several workers on one PostgreSQL: two are killed, a third one makes the record."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("dbos", reason="the extra host is not installed")

from bench.intake.store import Store
from tests.intake.hosted import host, submitted, trained, until, working
from tests.intake.test_kills import check

_PROGRAMS = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), os.environ.get("PATH", "")]


@pytest.fixture
def postgres():
    """The address of a database server of this test's own."""
    found = {n: shutil.which(n, path=":".join(_PROGRAMS)) for n in ("initdb", "postgres")}
    if None in found.values():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    root = os.geteuid() == 0
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    folder = Path(tempfile.mkdtemp(prefix="awp-postgres-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        if root:
            try:
                shutil.chown(folder, "postgres", "postgres")
            except LookupError:
                pytest.skip("there is no user postgres, and the server does not run as root")
        made = [
            found["initdb"],
            "-D",
            folder / "data",
            "-U",
            "bench",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
        ]
        subprocess.run(made, check=True, capture_output=True, cwd="/", **who)
        call = [found["postgres"], "-D", folder / "data", "-p", str(port), "-h", "127.0.0.1"]
        with subprocess.Popen(
            [*call, "-k", folder, "-F"], cwd="/", stderr=subprocess.DEVNULL, **who
        ) as server:
            try:
                until(lambda: _answers(port), 60)
                yield f"postgresql://bench@127.0.0.1:{port}/jobs"
            finally:
                server.terminate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    import psycopg

    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(f"postgresql://bench@127.0.0.1:{port}/postgres").close()
        return True
    return False


def _worker_at_work(settings) -> int:
    """The process of the worker whose child holds the parts; 0 where none does."""
    for lock in settings.root.glob("parts/*.lock"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            child = int(lock.read_text())
            return int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_of_three_workers_are_killed_and_the_record_is_the_same(postgres, tmp_path):
    settings = host(tmp_path, database=postgres)
    ticket, _ = submitted(settings, trained(0), "net-0")
    store = Store(settings.root)
    with contextlib.ExitStack() as held:
        workers = [held.enter_context(working(settings, f"w{k}")) for k in range(3)]
        for _ in range(2):
            living = [w for w in workers if w.poll() is None]
            until(lambda living=living: _worker_at_work(settings) in [w.pid for w in living])
            found = _worker_at_work(settings)
            killed = next(w for w in living if w.pid == found)
            killed.kill()
            assert killed.wait() == -9
        until(lambda: store.read(ticket.id).now.state == "ranked")
        assert sum(w.poll() is None for w in workers) == 1
    check(settings, [ticket])
