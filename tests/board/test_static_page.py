"""The static page in a real browser: it sorts, filters, opens details, and nothing foreign runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import table
from bench.exports import formats
from bench.exports.view import select
from bench.published import Published, PublishedRow
from bench.schema import ThreatModel
from tests.board import board_records
from tests.board.conftest import shot

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(not shutil.which("chromium"), reason="Debian's chromium is not installed"),
]
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """The page of fixture records and published rows, some of them with hostile text."""
    root = tmp_path_factory.mktemp("static")
    board_records.write_example(root / "results")
    card = board_records.make_card("hostile", authors=HOSTILE, link="javascript:alert(1)")
    board_records.write_all(root / "results", [board_records.make_record(card, n=1000)])
    row = PublishedRow(
        dataset="cifar10",
        threat=ThreatModel.parse("linf:8/255"),
        name=HOSTILE,
        attack="AutoAttack",
        robust="56.17",
        clean="85.36",
        architecture="W" * 2000,
        link="javascript:alert(1)",
        source="RobustBench/robustbench file.json",
    )
    other = row.model_copy(update={"name": "Other2020", "link": "https://example.org"})
    view = select(table.build(root / "results"), published=Published((row, other)))
    (path,) = formats.write("html", view, root / "board.html")
    return path.as_uri()


@pytest.fixture
def visit(address, new_page):
    """Opens the page, or an address in it; its console must stay silent."""

    def visited(where=address, **look):
        page = new_page(**look)
        page.on("console", lambda message: page.wrong.append(message.text))
        page.goto(where)
        page.locator("#controls").wait_for()
        return page

    return visited


def column(page, heading: str) -> list[str]:
    """What the first table shows in one column, from the top."""
    first = page.locator("table.sortable").first
    names = [name.strip() for name in first.locator("thead th").all_text_contents()]
    cells = first.locator(f"tbody tr:visible td:nth-child({names.index(heading) + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)]
)
def test_it_fits_and_asks_for_nothing(visit, address, width, dark):
    page = visit(width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(f"{address}#{page.locator('details.model .detail').first.get_attribute('id')}")
    page.locator("details.model .detail").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for details in page.locator("details.published").all():
        details.evaluate("each => { each.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    asked = {url.split("#")[0] for url in page.asked if not url.startswith("data:")}
    assert asked == {address}
    page.evaluate("scrollTo(0, 0)")
    shot(page, f"static-{width}-{'dark' if dark else 'light'}")


def test_a_heading_sorts_with_the_keyboard_and_says_so(visit):
    page = visit()
    clean = [float(text) for text in column(page, "clean")]
    button = page.locator("table.sortable").first.get_by_role("button", name="clean", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    assert [float(text) for text in column(page, "clean")] == sorted(clean, reverse=True)
    head = page.locator("table.sortable").first.locator("th[aria-sort]")
    assert head.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert [float(text) for text in column(page, "clean")] == sorted(clean)
    page.locator("table.sortable").first.get_by_role("button", name="model", exact=True).click()
    assert column(page, "model") == sorted(column(page, "model"))
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator("table.sortable").first.get_by_role("button", name="rank", exact=True).click()
    ranks = column(page, "rank")
    known = [int(rank) for rank in ranks if rank]
    assert ranks == [*map(str, sorted(known)), *[""] * (len(ranks) - len(known))]


def test_a_filter_keeps_what_it_names_and_stands_in_the_address(visit):
    page = visit()
    everything = page.locator("table.sortable tbody tr").count()
    page.get_by_role("searchbox").fill("at-awp SEED1 best")
    shown = page.locator("table.sortable tbody tr:visible")
    assert 0 < shown.count() < everything
    for text in shown.all_inner_texts():
        assert "at-awp-seed1-best" in text
    assert page.locator("#said").inner_text() == f"{shown.count()} of {everything} rows"
    models = page.locator("details.model:visible").count()
    assert models == shown.count()
    again = visit(page.url)
    assert again.locator("table.sortable tbody tr:visible").count() == shown.count()
    again.get_by_role("searchbox").fill("no such model")
    assert again.locator("main > section:has(table):visible").count() == 0


def test_a_row_leads_to_its_details_and_so_does_a_shared_address(visit):
    page = visit()
    link = page.locator("table.sortable a[href^='#']").first
    name = link.inner_text()
    link.click()
    details = page.locator("details.model[open]")
    details.wait_for()
    assert details.locator("summary b").inner_text() == name
    assert "python -m bench evaluate" in details.inner_text()
    again = visit(page.url)
    assert again.locator("details.model[open] summary b").inner_text() == name


def test_hostile_text_is_text(visit):
    page = visit()
    page.locator("details.model", has_text="hostile").locator("summary").click()
    text = page.locator("main").inner_text()
    assert text.count("<script>document.title='taken'</script>") == 2
    assert page.title() == "Robustness leaderboard"
    assert page.locator("a[href^='javascript'], img, iframe").count() == 0


def test_markup_that_slipped_through_could_not_run(browser, address, tmp_path):
    text = Path(address.removeprefix("file://")).read_text()
    (tmp_path / "slipped.html").write_text(text.replace("<main>", f"<main>{HOSTILE}"))
    page = browser.new_page()
    page.goto((tmp_path / "slipped.html").as_uri())
    page.locator("#controls").wait_for()
    assert page.title() == "Robustness leaderboard"
