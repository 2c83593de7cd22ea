"""Many visitors at once, scripted: each opens the board and changes a filter, as a browser would.

They speak Streamlit's protocol over a websocket and draw nothing: fifty browsers need more memory and
processors than the server that is looked at.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.schema import InvalidInput

if TYPE_CHECKING:
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.asyncio.client import ClientConnection

_LONGEST = 120  # seconds that a visitor waits for a page


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

    visit = Visit()
    stream = address.replace("http", "ws", 1) + "/_stcore/stream"
    begun = time.perf_counter()
    try:
        async with connect(
            stream, subprotocols=[Subprotocol("streamlit")], max_size=None, open_timeout=_LONGEST
        ) as connection:
            first = await _page(connection, begun, {}, visit)
            visit.first_table = first.table
            if "Data set" not in first.filters:
                visit.errors.append("the page has no filter for the data set")
                return visit
            widget, options, shown = first.filters["Data set"]
            others = [option for option in options if option != shown]
            chosen = others[place % len(others)] if others else shown
            begun = time.perf_counter()
            second = await _page(connection, begun, {widget: chosen}, visit)
            visit.filtered_table = second.table
            if f" on {chosen} under " not in second.text:
                visit.errors.append(f"the filter did not lead to {chosen}")
    except (OSError, TimeoutError, WebSocketException) as error:
        visit.errors.append(f"{type(error).__name__}: {error}")
    return visit


async def _page(
    connection: ClientConnection, begun: float, chosen: dict[str, str], visit: Visit
) -> _Page:
    """Asks for the page with the widgets as chosen, and reads until its script has ended."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    ask = BackMsg()
    ask.rerun_script.query_string = ""
    for widget, value in chosen.items():
        state = ask.rerun_script.widget_states.widgets.add()
        state.id, state.string_value = widget, value
    await connection.send(ask.SerializeToString())
    page = _Page()
    async with asyncio.timeout(_LONGEST):
        while True:
            raw = await connection.recv()
            assert isinstance(raw, bytes)
            message = ForwardMsg.FromString(raw)
            if message.WhichOneof("type") == "delta":
                _note(message, page, begun, visit)
            elif message.WhichOneof("type") == "script_finished":
                status = message.script_finished
                if status == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                    visit.errors.append("the page's script does not run")
                if status != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    return page


def _note(message: ForwardMsg, page: _Page, begun: float, visit: Visit) -> None:
    from streamlit.proto.Alert_pb2 import Alert

    element = message.delta.new_element
    kind = element.WhichOneof("type")
    if kind == "dataframe" and not page.table:
        page.table = time.perf_counter() - begun
    elif kind == "html":
        page.text += element.html.body
    elif kind == "selectbox":
        box = element.selectbox
        page.filters[box.label] = (box.id, list(box.options), box.raw_value)
    elif kind == "alert" and element.alert.format == Alert.ERROR:
        visit.errors.append(element.alert.body)
    elif kind == "exception":
        visit.errors.append(f"{element.exception.type}: {element.exception.message}")
