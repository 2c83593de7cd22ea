"""The board on a port of this machine, and many visitors at once: each opens it and changes a filter.

They speak Streamlit's protocol over a websocket and draw nothing: fifty browsers need more memory and
processors than the server that is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.schema import BenchError, InvalidInput

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

ROOT = Path(__file__).parents[2]
_LONGEST = 120  # seconds that a server takes to start, or a visitor waits for a page


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
    """A server of the records, started afresh, that keeps its caches under the work folder.

    Python's byte code lies there too: what a machine compiles once is not the board's time. Raises
    BenchError with the end of its log where it ends or does not answer.
    """
    work.mkdir(parents=True, exist_ok=True)
    if not (work / ".streamlit").exists():
        (work / ".streamlit").symlink_to(ROOT / ".streamlit")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(app), "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--", "--results", str(records.resolve())]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(work.resolve() / "byte-code")
    log, address = work / "server.log", f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=file, stderr=file)
    try:
        while not _answers(address):
            if process.poll() is not None or time.perf_counter() > begun + _LONGEST:
                said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise BenchError(f"the board does not answer at {address}:\n{said}")
            time.sleep(0.02)
        yield Served(address, process.pid, time.perf_counter() - begun, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- many visitors


@dataclass
class Visit:
    """What one visitor saw."""

    first_table: float = 0.0  # seconds from connecting to the table
    filtered_table: float = 0.0  # seconds from choosing a filter to the new table
    errors: list[str] = field(default_factory=list)


@dataclass
class _Page:
    """What a run of the page's script sent."""

    table: float = 0.0  # seconds
    text: str = ""  # of its paragraphs
    filters: dict[str, tuple[str, list[str], str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def visit_together(address: str, visitors: int) -> list[Visit]:
    """That many visitors arrive at once; the address is the server's, http://host:port."""
    if visitors < 1:
        raise InvalidInput(f"expected at least one visitor, got {visitors}")

    async def all_of_them() -> list[Visit]:
        return await asyncio.gather(*(_visit(address, place) for place in range(visitors)))

    return asyncio.run(all_of_them())


async def _visit(address: str, place: int) -> Visit:
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException
    from websockets.typing import Subprotocol

    visit, stream = Visit(), address.replace("http", "ws", 1) + "/_stcore/stream"
    begun = time.perf_counter()
    try:
        async with connect(
            stream, subprotocols=[Subprotocol("streamlit")], max_size=None, open_timeout=_LONGEST
        ) as connection:
            first = await _page(connection, begun)
            visit.first_table, visit.errors = first.table, first.errors
            if "Data set" not in first.filters:
                visit.errors.append("the page has no filter for the data set")
                return visit
            widget, options, shown = first.filters["Data set"]
            others = [option for option in options if option != shown] or [shown]
            chosen = others[place % len(others)]
            second = await _page(connection, time.perf_counter(), {widget: chosen})
            visit.filtered_table = second.table
            visit.errors += second.errors
            if f" on {chosen} under " not in second.text:
                visit.errors.append(f"the filter did not lead to {chosen}")
    except (OSError, TimeoutError, WebSocketException) as error:
        visit.errors.append(f"{type(error).__name__}: {error}")
    return visit


async def _page(
    connection: ClientConnection, begun: float, chosen: dict[str, str] | None = None
) -> _Page:
    """Asks for the page with the widgets as chosen, and reads until its script has ended."""
    from streamlit.proto.Alert_pb2 import Alert
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    ask, page = BackMsg(), _Page()
    ask.rerun_script.query_string = ""
    for widget, value in (chosen or {}).items():
        ask.rerun_script.widget_states.widgets.add(id=widget, string_value=value)
    await connection.send(ask.SerializeToString())
    async with asyncio.timeout(_LONGEST):
        async for raw in connection:
            assert isinstance(raw, bytes)
            message = ForwardMsg.FromString(raw)
            status, element = message.script_finished, message.delta.new_element
            if message.WhichOneof("type") == "script_finished":
                if status == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                    page.errors.append("the page's script does not run")
                if status != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    return page
            match element.WhichOneof("type"):
                case "dataframe":
                    page.table = page.table or time.perf_counter() - begun
                case "html":
                    page.text += element.html.body
                case "selectbox":
                    box = element.selectbox
                    page.filters[box.label] = (box.id, list(box.options), box.raw_value)
                case "alert" if element.alert.format == Alert.ERROR:
                    page.errors.append(element.alert.body)
                case "exception":
                    page.errors.append(f"{element.exception.type}: {element.exception.message}")
    raise ConnectionError("the server ended the page")
