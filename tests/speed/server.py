"""The board on a port of this machine, started afresh, with caches of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.schema import BenchError

ROOT = Path(__file__).parents[2]
_LONGEST_START = 120  # seconds


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    address: str  # http://127.0.0.1:port
    process: int
    start_seconds: float  # from its start to its first answer
    log: Path

    def memory(self) -> tuple[float, float]:
        """Resident memory now and at its highest, in MB (2 ** 20 bytes)."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        lines = dict(line.split(":", 1) for line in status.splitlines())
        now, highest = (int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
        return now, highest


@contextlib.contextmanager
def served(records: Path, work: Path, *, app: Path = ROOT / "app.py") -> Iterator[Served]:
    """A server of the records that keeps its caches under the work folder.

    Python's byte code lies there too: what a machine compiles once is not the board's time. Raises
    BenchError with the end of its log where it ends or does not answer.
    """
    work.mkdir(parents=True, exist_ok=True)
    settings = work / ".streamlit"
    if not settings.exists():
        settings.symlink_to(ROOT / ".streamlit")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--server.port", str(port), "--server.address", "127.0.0.1"]
    command = [sys.executable, "-m", "streamlit", "run", str(app), *options]
    command += ["--", "--results", str(records.resolve())]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(work.resolve() / "byte-code")
    log = work / "server.log"
    with log.open("w") as file:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address, log)
        yield Served(address, process.pid, time.perf_counter() - begun, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Returns once the server answers."""
    deadline = time.monotonic() + _LONGEST_START
    while True:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise BenchError(f"the board does not answer at {address}:\n{said}") from None
            time.sleep(0.02)
