"""python -m tests.board.picture: takes docs/board.png of the landing page, and says what it shows.

The sidecar docs/board.json holds the numbers of the picture's tables as a hash. --check compares it
with today's records, without a browser.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import table
from bench.board import filters
from bench.published import files
from bench.records.store import pretty_json, write_atomic
from bench.schema import BenchError, InvalidInput
from bench.stats import contrasts
from bench.stats.comparisons import answer_in_a_sentence, comparisons, front
from bench.stats.intervals import Interval
from bench.stats.method_rows import MethodRow, method_table
from bench.table import CLEAN, WORST_CASE, Group
from tests.speed.board import browser
from tests.speed.visitors import served

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "board.png"
WIDTH, HEIGHT = 1280, 1400  # px: the answer, the tiles, and the head of the table


def main() -> int:
    """Takes the picture, or checks that the one there shows today's numbers."""
    parser = argparse.ArgumentParser(prog="python -m tests.board.picture", description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR")
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="take none; exit 1 where it is stale")
    a = parser.parse_args()
    try:
        if a.check:
            problem = stale(a.results, a.picture)
            if problem:
                print(problem, file=sys.stderr)
            return 1 if problem else 0
        write_atomic(a.picture, take(a.results))
        write_atomic(sidecar(a.picture), pretty_json(said(a.results, a.picture)))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    print(a.picture)
    return 0


# ---------------------------------------------------------------- what it shows


def sidecar(picture: Path) -> Path:
    """The file beside a picture that says what it shows."""
    return picture.with_suffix(".json")


def stale(results: Path, picture: Path) -> str:
    """Why the picture is not of these results, and what to do; empty where it is."""
    name, again = f"{picture.parent.name}/{picture.name}", "make picture"
    try:
        found = json.loads(sidecar(picture).read_bytes())
        now = said(results, picture)
        shown, same = (
            found["sha256"] == now["sha256"],
            found["picture_sha256"] == now["picture_sha256"],
        )
    except FileNotFoundError as missing:
        return f"{missing.filename} is missing: {again}"
    except (ValueError, TypeError, KeyError):
        return f"{sidecar(picture)} cannot be read: {again}"
    if not shown:
        return f"{name} shows other numbers than {results.name}/: {again}"
    return "" if same else f"{name} is not the picture that its sidecar was written for: {again}"


def said(results: Path, picture: Path) -> dict[str, str]:
    """The table that the landing page opens with, its answer, and hashes of numbers and picture."""
    numbers = shown(results)
    return {
        "table": numbers["table"]["of"] if numbers["table"] else "",
        "answer": numbers["answer"],
        "sha256": hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest(),
        "picture_sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
    }


def shown(results: Path) -> dict[str, Any]:
    """The numbers of the landing page before a visitor chooses anything, as the pages make them."""
    groups = table.build(results).groups
    found = comparisons(groups)
    places = filters.places_of(groups, files.load(results / files.FOLDER))
    opens = min(places[0].groups, key=filters.says_less, default=None) if places else None
    return {
        "answer": answer_in_a_sentence(found),
        "comparisons": [
            [one.label, one.group.key, _ends(one.method.differences[WORST_CASE]), one.verdict.words]
            for one in front(found)
        ],
        "table": _table(opens) if opens is not None else None,
    }


def _table(group: Group) -> dict[str, Any]:
    pairs = contrasts.pairs(group)
    rows = method_table(group, contrasts.answers(group, pairs), pairs).rows
    return {"of": group.heading, "key": group.key, "rows": [_row(row) for row in rows]}


def _row(row: MethodRow) -> list[Any]:
    rates = [_ends(row.rate(measure)) for measure in (CLEAN, WORST_CASE)]
    difference = None if row.difference is None else _ends(row.difference)
    return [row.name, row.rank, row.range_text, row.seeds, rates, difference, row.badges]


def _ends(interval: Interval) -> list[str]:
    """As the page writes numbers, and no finer: processors differ in the last bits."""
    return [f"{100 * x:.2f}" for x in (interval.low, interval.estimate, interval.high)]


# ---------------------------------------------------------------- the picture


def take(results: Path) -> bytes:
    """The landing page, light, as a PNG of 256 colours. Raises InvalidInput without chromium."""
    from PIL import Image

    with (
        tempfile.TemporaryDirectory(prefix="picture-") as work,
        browser() as chromium,
        served(results, Path(work)) as server,
    ):
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(server.address)
        page.locator(".board-methods").wait_for(timeout=120_000)
        page.locator('[data-test-script-state="notRunning"]').first.wait_for(timeout=120_000)
        page.wait_for_load_state("networkidle")
        page.evaluate("document.fonts.ready")
        taken = page.screenshot()
    file = io.BytesIO()
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
