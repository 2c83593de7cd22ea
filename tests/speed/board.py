"""python -m tests.speed.board: how long visitors of 5,000 records wait, and what memory that takes.

A real browser for what one visitor sees, scripted visitors for fifty at once. Prints a number beside
its target and writes results/speed/board.json. Nothing fails where a target is missed: this is a
benchmark, not a test. The browser runs on the same processors as the server.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from bench.catalogue import DATASETS, OBJECTIVES
from bench.records.store import now, pretty_json, record_path, text_of, write_atomic
from bench.records.store import read as read_record
from bench.schema import AwpConfig, BenchError, InvalidInput, ModelCard, ThreatModel
from bench.schema.frozen import Frozen
from tests.board.board_records import make_card, make_record
from tests.speed.report import BOARD, machine
from tests.speed.visitors import Served, caption, served, stay_together, visit_together

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

VISITORS = 50
# What no page of Streamlit can be faster than.
_PLAIN_PAGE = "import pyarrow as pa\nimport streamlit as st\nst.dataframe(pa.table({'a': [1]}))\n"
_LONGEST = 120_000  # ms that anything in the browser may take


GROUPS, ROWS, IMAGES = 25, 200, 1000
_DATASETS = ("cifar10", "cifar100", "svhn", "fashion_mnist", "digits")
_MEASUREMENTS = (
    ("linf:8/255", "standard"), ("linf:8/255", "gradient"), ("l2:0.5", "standard"),
    ("l2:0.5", "gradient"), ("linf:4/255", "standard"),
)  # fmt: skip
# How robust: in steps that are seen, from AT on.
_OBJECTIVES = {name: 0.5 + 0.02 * k for k, name in enumerate(tuple(OBJECTIVES)[1:])}


class Number(Frozen):
    """One thing that was measured, each time it was."""

    name: str
    unit: Literal["s", "MB", "errors"]
    values: tuple[float, ...]
    target: float | None = None  # at most this; None: measured for its own sake

    def __str__(self) -> str:
        """`warm first page: 0.61 s (0.58 to 0.70, 5 times); target 1 s: 0.61 of it`."""
        digits = {"s": 2, "MB": 0, "errors": 0}[self.unit]
        middle = statistics.median(self.values)
        text = f"{self.name}: {middle:.{digits}f} {self.unit}"
        if len(self.values) > 1:
            low, high = min(self.values), max(self.values)
            text += f" ({low:.{digits}f} to {high:.{digits}f}, {len(self.values)} times)"
        if self.target is None:
            return text
        if self.target == 0:
            return f"{text}; target none"
        return f"{text}; target {self.target:g} {self.unit}: {middle / self.target:.2f} of it"


class BoardSpeed(Frozen):
    """What the board was measured to take."""

    schema_version: Literal[1] = 1
    groups: int
    rows: int = Field(ge=1)  # of a group
    n: int = Field(ge=1)  # images of a record
    visitors: int
    numbers: tuple[Number, ...]
    load: tuple[float, float]  # processes that wanted to run, over a minute: before and after
    machine: dict[str, str]
    created: str  # UTC, ISO 8601

    def __str__(self) -> str:
        lines = [
            f"{self.groups * self.rows:,} records: {self.groups} groups of {self.rows}, n = {self.n:,}",
            *(f"  {number}" for number in self.numbers),
            f"  load of the machine: {self.load[0]:.1f} before, {self.load[1]:.1f} after, on "
            f"{self.machine['cores']} cores",
        ]
        return "\n".join(lines)


def measure(
    records: Path,
    work: Path,
    *,
    repetitions: int,
    visitors: int,
    arriving: float,
    say: Callable[[str], object],
) -> list[Number]:
    """Starts the board again and again and looks at it; the work folder holds its caches."""
    cache, plain = work / "var" / "board", work / "plain.py"
    write_atomic(plain, _PLAIN_PAGE)
    with browser() as chromium:
        say("start that compiles Python's byte code, not counted")
        _cold(chromium, records, work)
        with served(records, work, app=plain) as server:
            context = chromium.new_context()
            alone = [_first_page(context, server)[0] for _ in range(1 + repetitions)]
            context.close()
        absent, present = [], []
        for repetition in range(repetitions):
            say(f"cold starts, {repetition + 1} of {repetitions}")
            shutil.rmtree(cache)
            absent.append(_cold(chromium, records, work))
            present.append(_cold(chromium, records, work))
    numbers = [
        _number("cold first page, no caches in var/", [page for _, page in absent], 3),
        _number("cold first page, caches in var/", [page for _, page in present], 3),
        _number("start of the server before it", [start for start, _ in absent + present]),
        _number("for comparison, warm page of Streamlit with a table of one cell", alone[1:]),
    ]
    with served(records, work) as server:
        with browser() as chromium:
            numbers += _warm(chromium, server, repetitions, say, 1.2 * statistics.median(alone[1:]))
            numbers += _memory(server, "one visitor", None)
            say("a new record")
            numbers.append(_new_record(chromium, server, records))
        say(f"{visitors} visitors")  # the browser is closed: it would take part of the processors
        numbers += _crowd(server, visitors)
        for every in (0.0, arriving):
            say(f"{visitors} visitors who stay, {_arrival(every)}")
            numbers += _stayed(server, records, visitors, every)
        numbers += _memory(server, f"{visitors} visitors", 400)
    return numbers


def _number(
    name: str,
    values: Sequence[float],
    target: float | None = None,
    unit: Literal["s", "MB", "errors"] = "s",
) -> Number:
    return Number(name=name, unit=unit, values=tuple(round(v, 4) for v in values), target=target)


# ---------------------------------------------------------------- the records


def write_many(
    root: Path, *, groups: int = GROUPS, rows: int = ROWS, n: int = IMAGES
) -> list[Path]:
    """Writes groups * rows generated records of n images each; returns their paths.

    Raises InvalidInput above 25 groups or 200 rows a group, or where the folder holds something.
    """
    if not (1 <= groups <= GROUPS and 1 <= rows <= ROWS and n >= 1):
        raise InvalidInput(
            f"expected 1 to {GROUPS} groups, 1 to {ROWS} rows and n >= 1, "
            f"got {groups} groups, {rows} rows, n = {n}"
        )
    if root.exists() and any(root.iterdir()):
        raise InvalidInput(f"{root} is not empty; name a new folder")
    # Measurement before data set, so that few groups already are of several data sets.
    places = itertools.product(_MEASUREMENTS, _DATASETS)
    paths = []
    for (threat, protocol), dataset in itertools.islice(places, groups):
        for card, robust in itertools.islice(_models(dataset, ThreatModel.parse(threat)), rows):
            record = make_record(card, robust=robust, threat=threat, protocol=protocol, n=n)
            path = record_path(record, root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text_of(record))  # not store.write: 5,000 flushes take a minute
            paths.append(path)
    return paths


def _models(dataset: str, threat: ThreatModel) -> Iterator[tuple[ModelCard, float]]:
    """Cards, and how robust each is; twins and the seeds of a method stand together."""
    for objective, kept, seed, perturbed in itertools.product(
        _OBJECTIVES, ("validation", "last"), range(10), (False, True)
    ):
        twin = f"{dataset}-{threat.folder}-{objective}-s{seed}-{kept}".replace("_", "-")
        card = make_card(
            twin + "-awp" * perturbed, dataset=dataset, objective=objective, threat=threat,
            class_count=DATASETS[dataset].class_count, seed=seed, selected_on=kept,
            awp=AwpConfig(gamma=0.005, warm_up=10) if perturbed else None,
            pair=twin if perturbed else None,
        )  # fmt: skip
        luck = np.random.default_rng(int(card.weights_sha256[:8], 16)).normal(0, 0.02)
        yield card, _OBJECTIVES[objective] + luck + 0.03 * perturbed - 0.03 * (kept == "last")


# ---------------------------------------------------------------- one visitor, in a browser


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's chromium. Raises InvalidInput where it or playwright is not installed."""
    path = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        path = None
    if path is None:
        raise InvalidInput("expected playwright (make setup) and Debian's chromium; one is missing")
    quiet = ("disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", *(f"--{flag}" for flag in quiet)]
        )
        yield chromium
        chromium.close()


def _first_page(visitor: Browser | BrowserContext, server: Served) -> tuple[float, Page]:
    """Seconds from an address to the table on the screen; the page, once its script has ended."""
    page = visitor.new_page()
    begun = time.perf_counter()
    page.goto(server.address, wait_until="commit", timeout=_LONGEST)
    page.locator('.board-methods, [data-testid="stDataFrame"] canvas').first.wait_for(
        timeout=_LONGEST
    )
    seconds = time.perf_counter() - begun
    _settle(page)
    return seconds, page


def _settle(page: Page) -> None:
    """Until the page's script has ended."""
    page.locator('[data-test-script-state="notRunning"]').first.wait_for(timeout=_LONGEST)


def _cold(chromium: Browser, records: Path, work: Path) -> tuple[float, float]:
    """Seconds of a start, then of its first page, in a browser that was never here."""
    with served(records, work) as server:
        seconds, page = _first_page(chromium, server)
        page.close()
        return server.start_seconds, seconds


def _warm(
    chromium: Browser,
    server: Served,
    repetitions: int,
    say: Callable[[str], object],
    target: float,
) -> list[Number]:
    """Pages and filters on a server that has shown its first page; target: of such a page, seconds."""
    context = chromium.new_context()
    _, page = _first_page(context, server)
    again = []
    for repetition in range(repetitions):
        say(f"warm pages, {repetition + 1} of {repetitions}")
        seconds, other = _first_page(context, server)
        other.close()
        again.append(seconds)
    names = _options(page)
    first = [_filter(page, name) for name in names[1:]]  # groups that nobody has seen
    say("filters")
    later = [_filter(page, name) for _ in range(repetitions) for name in names]
    context.close()
    return [
        _number("warm first page", again, round(target, 2)),
        _number("new table after a filter", [table for table, _ in later], 0.3),
        _number("whole page after a filter", [end for _, end in later]),
        _number("new table after a filter, its group never shown", [t for t, _ in first], 0.3),
        _number("whole page after a filter, its group never shown", [end for _, end in first]),
    ]


def _options(page: Page) -> list[str]:
    """The data sets to choose from, the one that is shown first."""
    box = page.get_by_role("radiogroup", name="Data set")
    names = [name.strip() for name in box.get_by_role("radio").all_inner_texts()]
    shown = box.locator('[aria-checked="true"]').inner_text().strip()
    return [shown, *(name for name in names if name != shown)]


def _filter(page: Page, dataset: str) -> tuple[float, float]:
    """Seconds from choosing a data set to its table, and to the end of the page."""
    box = page.get_by_role("radiogroup", name="Data set")
    option = box.get_by_role("radio", name=dataset, exact=True)
    option.wait_for()
    begun = time.perf_counter()
    option.click()
    # Its caption names it, so the old one does not match.
    page.locator(".board-methods", has_text=caption(dataset)).wait_for(timeout=_LONGEST)
    shown = time.perf_counter() - begun
    _settle(page)
    return shown, time.perf_counter() - begun


def _new_record(chromium: Browser, server: Served, records: Path) -> Number:
    """Seconds until an open page shows a record that has just been written."""
    _, page = _first_page(chromium, server)
    heading = page.locator(".board-methods caption").text_content() or ""
    dataset, threat, protocol = heading.split(": ", 1)[1].removeprefix("demo: ").split(", ")[:3]
    said = page.locator(".board-p", has_text="right under every attack").first.inner_text()
    folder = records / dataset / ThreatModel.parse(threat).folder
    for old in folder.glob("*/*.json"):
        record = read_record(old)
        if record.protocol.name == protocol:  # of the table that is shown
            break
    card = record.card.model_copy(update={"name": "new", "pair": None})
    record = record.model_copy(update={"card": card})  # the same answer, given for another name
    begun = time.perf_counter()
    write_atomic(folder / "new" / old.name, text_of(record))
    page.wait_for_function(  # the number of networks
        "said => [...document.querySelectorAll('.board-p')].every(each => each.innerText != said)",
        arg=said, timeout=_LONGEST,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    page.close()
    return _number("a new record on an open page", [seconds], 10)


# ---------------------------------------------------------------- many


def _crowd(server: Served, visitors: int) -> list[Number]:
    """Visitors who arrive together and each change a filter."""
    visits = visit_together(server.address, visitors)
    errors = [error for visit in visits for error in visit.errors]
    for error in sorted(set(errors)):
        print(f"error of a visitor: {error}", file=sys.stderr)
    logged = server.log.read_text(encoding="utf-8", errors="replace").count("Traceback")
    together = f"of {visitors} at once"
    return [
        _number(f"errors {together}", [len(errors)], 0, "errors"),
        _number("errors in the server's log", [logged], 0, "errors"),
        _number(f"table {together}", [visit.first_table for visit in visits]),
        _number(f"filtered table {together}", [visit.filtered_table for visit in visits]),
    ]


_STAY = 60.0  # seconds


def _arrival(every: float) -> str:
    return f"a record arriving every {every:g} s" if every else "nothing arriving"


def _stayed(server: Served, records: Path, visitors: int, every: float) -> list[Number]:
    """Visitors who stay and choose again and again, while records arrive or none does."""
    visits = stay_together(
        server.address, visitors, _STAY if every else _STAY / 2,
        at_work=partial(arrive, records, every, round(_STAY / every) if every else 0),
    )  # fmt: skip
    errors = [error for visit in visits for error in visit.errors]
    for error in sorted(set(errors)):
        print(f"error of a visitor: {error}", file=sys.stderr)
    of = f"of {visitors} who stay, {_arrival(every)}"
    waits = [wait for visit in visits for wait in visit.waits]
    return [
        _number(f"lost connections {of}", [sum(visit.lost for visit in visits)], 0, "errors"),
        _number(f"errors {of}", [len(errors)], 0, "errors"),
        _number(f"filtered table {of}", waits or [0.0]),
        _number(f"worst wait for it {of}", [max(waits, default=0.0)]),
    ]


def arrive(records: Path, every: float, count: int) -> None:
    """Writes that many records into the largest table, one every so many seconds."""
    for _ in range(count):
        time.sleep(every)
        card = make_card(f"arrived-{time.time_ns()}", dataset="cifar10")
        record = make_record(card, robust=0.4, threat="linf:8/255", n=IMAGES)
        path = record_path(record, records)
        write_atomic(path, pretty_json(record))


def _memory(server: Served, when: str, target: float | None) -> list[Number]:
    now_and_highest = server.memory()
    return [
        _number(f"{what} {when}", [round(held, 1)], target, "MB")
        for what, held in zip(
            ("memory after", "highest memory up to"), now_and_highest, strict=True
        )
    ]


# ---------------------------------------------------------------- command line


def main() -> int:
    """Measures, prints and writes."""
    a = _parser().parse_args()
    groups, rows, n = (2, 6, 50) if a.quick else (GROUPS, ROWS, IMAGES)
    say = partial(print, file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="board-") as folder:
            say(f"writing {groups * rows:,} records")
            records = Path(folder, "records")
            write_many(records, groups=groups, rows=rows, n=n)
            before = os.getloadavg()[0]
            numbers = measure(
                records, Path(folder, "work"), repetitions=1 if a.quick else a.repetitions,
                visitors=a.visitors, arriving=a.arriving, say=say,
            )  # fmt: skip
    except BenchError as error:
        say(f"error: {error}")
        return 2 if isinstance(error, InvalidInput) else 1
    result = BoardSpeed(
        groups=groups, rows=rows, n=n, visitors=a.visitors, numbers=tuple(numbers),
        load=(round(before, 2), round(os.getloadavg()[0], 2)), machine=machine(), created=now(),
    )  # fmt: skip
    write_atomic(
        a.out or Path("var/speed" if a.quick else "results/speed") / BOARD, pretty_json(result)
    )
    print(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.speed.board", description=(__doc__ or "").split("\n\n", 1)[1]
    )
    parser.add_argument("--repetitions", type=int, default=5, metavar="R")
    parser.add_argument("--visitors", type=int, default=VISITORS, metavar="V", help="at once")
    parser.add_argument(
        "--arriving", type=float, default=5, metavar="S",
        help="seconds between the records that arrive while visitors stay (default 5)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="default results/speed/board.json")
    parser.add_argument(
        "--quick", action="store_true",
        help="a few records, into var/speed: tries everything, measures nothing",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
