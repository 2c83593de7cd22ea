"""The board in a real browser: it loads, filters by URL, opens a model, and hostile text stays text."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest

from bench.records import store
from tests.board import board_records
from tests.board.conftest import shot
from tests.board.serving import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(not shutil.which("chromium"), reason="Debian's chromium is not installed"),
]
ROOT = Path(__file__).parents[2]
HOSTILE = "<script>document.title='taken'</script>**bold** [x](javascript:alert(1)) \u202etxt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Fixture records, one of them with hostile text."""
    folder = tmp_path_factory.mktemp("results")
    board_records.write_example(folder)
    card = board_records.make_card("hostile", authors=HOSTILE, link="javascript:alert(1)")
    board_records.write_all(folder, [board_records.make_record(card)])
    (folder / "published").mkdir()
    published = ROOT / "results" / "published" / "robustbench_cifar10_linf.csv"
    shutil.copy(published, folder / "published")
    return folder


@pytest.fixture(scope="module")
def board(folder) -> Iterator[str]:
    """The address of a server that shows the fixture records."""
    with serving(folder) as address:
        yield address


@pytest.fixture
def visit(board, new_page):
    """Opens an address and waits until it has settled; no page may ask another host for anything."""
    opened = []

    def visited(address, **look):
        page = new_page(**look)
        opened.append(page)
        page.set_default_timeout(100_000)  # the machine may be busy
        page.goto(board + address)
        page.get_by_role("heading", level=1).wait_for()
        drawn = '.board-methods, [data-testid="stDataFrame"], [data-testid="stPlotlyChart"]'
        drawn += ', [data-testid="stCode"], .board-scroll table'
        page.locator(drawn).first.wait_for(state="attached")
        settle(page)
        return page

    yield visited
    for page in opened:
        assert [url for url in page.asked if url[:4] == "http" and "127.0.0.1" not in url] == []


def settle(page):
    """Waits until the script of the page has run; what it still does would close a list."""
    page.locator('[data-test-script-state="notRunning"]').wait_for(state="attached")
    page.wait_for_load_state("networkidle")


PAGES = {
    "leaderboard": "/",
    "compare": "/compare?dataset=digits",
    "awp": "/did-awp-help?dataset=digits",
    "model": "/model?name=digits-at-awp-seed0-best&versus=digits-at-seed0-best",
    "trade-offs": "/trade-offs",
    "measured": "/how-it-is-measured",
}
TITLES = {
    "compare": "Compare · Robustness leaderboard",
    "leaderboard": "Robustness leaderboard",
    "awp": "Did AWP help? · Robustness leaderboard",
    "model": "digits-at-awp-seed0-best · Robustness leaderboard",
    "trade-offs": "Trade-offs · Robustness leaderboard",
    "measured": "How it is measured · Robustness leaderboard",
}


DARK = ("leaderboard", "compare", "measured")  # between them they hold what the pages are made of


@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_a_screen_and_a_phone(visit, name):
    page = visit(PAGES[name])
    assert page.title() == TITLES[name]
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(800)
        shot(page, f"{name}-{width}-light")
        assert page.locator('[data-testid="stException"], [data-testid="stAlert"]').count() == 0
        wider = page.evaluate(
            """() => Math.max(...['html', '[data-testid="stMain"]'].map(
                name => document.querySelector(name)).map(e => e.scrollWidth - e.clientWidth))"""
        )
        assert wider <= 1, "the page scrolls sideways"
    assert barriers(page) == []
    if name in DARK:
        assert barriers(visit(PAGES[name], dark=True)) == []


def barriers(page):
    """What axe-core finds: a rule, and the element that breaks it. A bare Streamlit page has none."""
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    return page.evaluate(
        """async () => (await axe.run()).violations.flatMap(
            rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 200)}`))"""
    )


# What a visitor of the landing page without a mouse must come by.
REACHED = {
    "pages": '[data-testid="stTopNavLink"]',
    "rows": ".board-methods a",
    "ticks": ".board-methods input",
    "seeds": ".board-methods summary",
    "compare": ".board-form button",
    "comparisons": ".board-forest a",
    "tiles": ".board-tiles a",
    "filters": '[data-testid="stExpander"] summary, [data-testid="stExpander"] input',
    "downloads": '[data-testid="stDownloadButton"] button',
}


def test_the_keyboard_alone_reaches_every_row_filter_and_download(visit):
    page = visit("/?dataset=digits")
    page.locator('[data-testid="stExpander"] summary', has_text="Filter rows").focus()
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="AWP").wait_for()
    wanted = page.evaluate(
        """kinds => Object.fromEntries(Object.entries(kinds).map(([kind, selector]) => {
            const found = [...document.querySelectorAll(selector)].filter(e => e.checkVisibility());
            found.forEach((element, k) => { element.reached = `${kind} ${k}`; });
            return [kind, found.length];
        }))""",
        REACHED,
    )
    assert all(wanted.values()), wanted
    page.evaluate("document.activeElement.blur()")
    reached, steps = set(), 0
    while steps < 400:
        page.keyboard.press("Tab")
        steps += 1
        now, seen = page.evaluate(
            """() => { const e = document.activeElement, look = getComputedStyle(e);
                return [e.reached || "", look.outlineStyle != "none" || look.boxShadow != "none"]; }"""
        )
        if now in reached:
            break
        if now:
            reached.add(now)
            assert seen or not now.startswith(("rows", "ticks", "seeds", "compare", "tiles")), now
    missed = {f"{kind} {k}" for kind, count in wanted.items() for k in range(count)} - reached
    assert not missed


def test_the_keyboard_alone_ticks_opens_and_compares(visit):
    page = visit("/?dataset=digits")
    boxes = page.locator(".board-methods input")
    for k in (0, 1):
        boxes.nth(k).focus()
        page.keyboard.press("Space")
        assert boxes.nth(k).is_checked()
    page.locator(".board-methods summary").first.focus()
    page.keyboard.press("Enter")
    page.locator(".board-methods details table").first.wait_for(state="visible")
    page.locator(".board-form button").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?**")


def test_it_lands_on_measured_real_data_and_follows_the_dark_of_the_system(visit):
    page = visit("/", dark=True)
    ground = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert sum(int(part) for part in ground.strip("rgba()").split(",")[:3]) < 200
    shot(page, "leaderboard-1280-dark")
    text = page.locator("body").inner_text()
    assert "on Fashion-MNIST under linf:0.1" in text
    assert "published, not measured here" not in text
    assert "Demo data" not in text


def in_address(page, part):
    """Waits until the address, which follows the widgets a moment later, holds a part."""
    page.wait_for_function("part => location.href.includes(part)", arg=part)


def choose(page, label, value):
    """Picks a value of a list with the keyboard."""
    box = page.get_by_role("combobox", name=label)
    box.scroll_into_view_if_needed()
    page.wait_for_timeout(500)  # a list closes when what it hangs on still moves
    box.focus()
    page.keyboard.press("ArrowDown")
    page.locator('[role="option"]').first.wait_for(state="attached")
    page.keyboard.type(value)
    page.wait_for_timeout(400)  # the list narrows
    page.keyboard.press("Enter")


def names_in(page):
    """The methods of the table, from above."""
    return page.locator(".board-methods a.name").all_inner_texts()


def test_a_filter_is_in_the_address_and_the_address_is_the_view(visit, board):
    page = visit("/?dataset=digits")
    whole = names_in(page)
    page.get_by_text("Filter rows").click()
    choose(page, "AWP", "no")
    page.get_by_text("ranks are those of all").wait_for()
    in_address(page, "awp=no")
    shared = visit(page.evaluate("location.href").removeprefix(board))
    assert names_in(shared) == [name for name in whole if "AWP" not in name] != whole
    assert shared.get_by_text("ranks are those of all").count() == 1


def test_a_row_opens_to_its_seeds_and_leads_to_its_model(visit):
    page = visit("/?dataset=digits")
    body = page.locator(".board-methods > tbody").first
    assert not body.locator("details table").is_visible()
    body.locator("summary").click()
    assert body.locator("details tbody tr").count() == 12  # six seeds, best and last
    assert "AutoAttack" in body.locator("details thead").inner_text()
    body.locator("details a").first.click()
    page.wait_for_url("**/model?**")
    page.get_by_role("heading", level=1, name="digits-at").wait_for()


def test_two_ticks_compare(visit):
    page = visit("/?dataset=digits")
    first, second = names_in(page)[:2]
    for name in (first, second):
        page.get_by_role("checkbox", name=f"compare {name}", exact=True).check()
    page.get_by_role("button", name="Compare the ticked rows").click()
    page.wait_for_url("**/compare?**")
    page.get_by_role("heading", level=1, name="Compare").wait_for()
    page.get_by_text("only").first.wait_for()
    text = page.locator("body").inner_text()
    assert first in text and second in text


def test_a_card_on_a_phone_carries_what_the_row_does(visit):
    page = visit("/?dataset=digits")
    wide = page.locator(".board-methods > tbody").first.inner_text().split()
    page.set_viewport_size({"width": 390, "height": 900})
    card = page.locator(".board-methods > tbody").first
    assert sorted(card.inner_text().split()) == sorted(wide)
    for cell in ("rank", "minus twin", "clean", "robust"):
        box = card.locator(f'td[data-label="{cell}"]').bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
    said = card.locator('td[data-label="robust"]').evaluate(
        "cell => getComputedStyle(cell, '::before').content"
    )
    assert "attr" in said or "robust" in said


def test_another_page_shows_the_same_table(visit):
    page = visit("/?dataset=digits")
    page.locator('[data-testid="stTopNavLink"]', has_text="Did AWP help?").click()
    page.get_by_role("heading", level=1, name="Did AWP help?").wait_for()
    page.get_by_text("Demo data").wait_for()
    in_address(page, "dataset=digits")


def test_hostile_text_is_shown_as_text(visit):
    page = visit("/model?name=hostile")
    page.get_by_role("heading", name="Load it in one line").wait_for()
    for folded in ("Card", "Provenance"):
        page.get_by_text(folded, exact=True).click()
    text = page.locator("body").inner_text()
    assert "<script>" in text
    assert "**bold**" in text
    assert "\u202e" not in text
    assert page.title() != "taken"
    assert page.locator('a[href^="javascript"]').count() == 0


def test_csv_download_holds_the_records(folder, visit):
    page = visit("/?dataset=digits")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV", exact=True).click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    lines = list(csv.DictReader(io.StringIO(text)))
    recorded = {record.id: record for record in store.collect(folder).records}
    assert len(lines) > 1
    for line in lines:
        record = recorded[line["record"]]
        assert record.card.name == line["model"]
        assert float(line["worst_case"]) == pytest.approx(100 * record.worst_case, abs=0.006)
        assert int(line["n"]) == record.n
