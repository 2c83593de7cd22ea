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
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.schema import BenchError, InvalidInput

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

ROOT = Path(__file__).parents[2]
TABLE = 'class="board-methods"'  # of the landing page
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


def caption(dataset: str) -> str:
    """What stands in the caption of the table of a data set, and of no other."""
    return f": {dataset}, "


# ---------------------------------------------------------------- many visitors


@dataclass
class Visit:
    """What one visitor saw."""

    first_table: float = 0.0  # seconds from connecting to the table
    filtered_table: float = 0.0  # seconds from choosing a filter to the new table
    errors: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # seconds, each filter of one who stays
    lost: bool = False  # the connection ended before the visitor left


@dataclass
class _Page:
    """What a run of the page's script sent."""

    table: float = 0.0  # seconds
    text: str = ""  # of its paragraphs
    filters: dict[str, tuple[str, list[str], str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    looks: tuple[str, float] = ("", 0.0)  # the part that asks again by itself, and seconds between


def visit_together(address: str, visitors: int) -> list[Visit]:
    """That many visitors arrive at once; the address is the server's, http://host:port."""
    if visitors < 1:
        raise InvalidInput(f"expected at least one visitor, got {visitors}")

    async def all_of_them() -> list[Visit]:
        return await asyncio.gather(*(_visit(address, place) for place in range(visitors)))

    return asyncio.run(all_of_them())


def stay_together(
    address: str, visitors: int, seconds: float, *, think: float = 10, at_work: Callable[[], object]
) -> list[Visit]:
    """That many visitors arrive at once and stay, each changing a filter about every `think` seconds.

    Between filters an open page asks by itself whether there is something new, as a browser does.
    at_work is called in a thread meanwhile; the visitors leave no sooner than it has returned.
    """
    if visitors < 1:
        raise InvalidInput(f"expected at least one visitor, got {visitors}")

    async def all_of_them() -> list[Visit]:
        leave = time.perf_counter() + seconds
        work = asyncio.create_task(asyncio.to_thread(at_work))
        stays = (_stay(address, place, leave, think, work) for place in range(visitors))
        visits = await asyncio.gather(*stays)
        await work
        return visits

    return asyncio.run(all_of_them())


@contextlib.asynccontextmanager
async def _connected(address: str, visit: Visit) -> AsyncIterator[ClientConnection]:
    """A visitor's connection; how it was lost stands among the errors of the visit."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException
    from websockets.typing import Subprotocol

    stream = address.replace("http", "ws", 1) + "/_stcore/stream"
    try:
        async with connect(
            stream, subprotocols=[Subprotocol("streamlit")], max_size=None, open_timeout=_LONGEST
        ) as connection:
            yield connection
    except (OSError, WebSocketException) as error:
        visit.lost = not isinstance(error, TimeoutError)
        visit.errors.append(f"{type(error).__name__}: {error}")


async def _visit(address: str, place: int) -> Visit:
    visit = Visit()
    begun = time.perf_counter()
    async with _connected(address, visit) as connection:
        first = await _page(connection, begun)
        visit.first_table, visit.errors = first.table, first.errors
        if "Data set" not in first.filters:
            visit.errors.append("the page has no filter for the data set")
            return visit
        widget, others = _others(first)
        chosen = others[place % len(others)]
        second = await _page(connection, time.perf_counter(), {widget: chosen})
        visit.filtered_table = second.table
        visit.errors += second.errors
        if caption(chosen) not in second.text:
            visit.errors.append(f"the filter did not lead to {chosen}")
    return visit


def _others(page: _Page) -> tuple[str, list[str]]:
    """The filter of the data set, and what it has besides what is shown."""
    widget, options, shown = page.filters["Data set"]
    return widget, [option for option in options if option != shown] or [shown]


async def _stay(
    address: str, place: int, leave: float, think: float, work: asyncio.Task[object]
) -> Visit:
    visit, begun = Visit(), time.perf_counter()
    async with _connected(address, visit) as connection:
        page = await _page(connection, begun)
        visit.first_table, visit.errors = page.table, page.errors
        widget, names = _others(page)
        chosen = dict[str, str]()
        change = time.perf_counter() + think * (0.5 + place % 10 / 10)  # not all at one moment
        while not visit.waits or time.perf_counter() < leave or not work.done():
            await _watch(connection, page, chosen, until=change)
            chosen = {widget: names[(place + len(visit.waits)) % len(names)]}
            begun = time.perf_counter()
            page = await _page(connection, begun, chosen, caption(chosen[widget]))
            visit.waits.append(page.table)
            visit.errors += page.errors
            change = max(change + think, time.perf_counter())
    return visit


async def _watch(
    connection: ClientConnection, page: _Page, chosen: dict[str, str], until: float
) -> None:
    """Reads what an open page is sent, and asks again when its part that looks by itself is due."""
    fragment, every = page.looks
    due = time.perf_counter() + (every or _LONGEST)
    while (left := until - time.perf_counter()) > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(left, due - time.perf_counter()))):
                await connection.recv()
        if time.perf_counter() >= due:
            await _ask(connection, chosen, fragment)
            due = time.perf_counter() + every


async def _ask(connection: ClientConnection, chosen: dict[str, str], fragment: str = "") -> None:
    from streamlit.proto.BackMsg_pb2 import BackMsg

    ask = BackMsg()
    ask.rerun_script.query_string = ""
    ask.rerun_script.fragment_id = fragment
    ask.rerun_script.is_auto_rerun = bool(fragment)
    for widget, value in chosen.items():
        ask.rerun_script.widget_states.widgets.add(id=widget).string_array_value.data.append(value)
    await connection.send(ask.SerializeToString())


async def _page(
    connection: ClientConnection,
    begun: float,
    chosen: dict[str, str] | None = None,
    wanted: str = "",
) -> _Page:
    """Asks for the page with the widgets as chosen, and reads until a script that shows it has ended.

    wanted: what the page says; one that was on its way before and does not say it is passed over.
    """
    from streamlit.proto.Alert_pb2 import Alert
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    page = _Page()
    await _ask(connection, chosen or {})
    async with asyncio.timeout(_LONGEST):
        async for raw in connection:
            assert isinstance(raw, bytes)
            message = ForwardMsg.FromString(raw)
            status, element = message.script_finished, message.delta.new_element
            match message.WhichOneof("type"):
                case "script_finished":
                    if status == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                        page.errors.append("the page's script does not run")
                    elif status != ForwardMsg.FINISHED_SUCCESSFULLY:
                        continue
                    if page.errors or wanted in page.text:
                        return page
                    page = _Page()
                case "auto_rerun":
                    page.looks = message.auto_rerun.fragment_id, message.auto_rerun.interval
            match element.WhichOneof("type"):
                case "html":
                    page.text += element.html.body
                    if TABLE in element.html.body:
                        page.table = page.table or time.perf_counter() - begun
                case "button_group":
                    group = element.button_group
                    options = [option.content for option in group.options]
                    first = [options[place] for place in group.default]
                    shown = next(iter([*group.raw_values, *first]), "")
                    page.filters[group.label] = (group.id, options, shown)
                case "alert" if element.alert.format == Alert.ERROR:
                    page.errors.append(element.alert.body)
                case "exception":
                    page.errors.append(f"{element.exception.type}: {element.exception.message}")
    raise ConnectionError("the server ended the page")
