"""Hostile records in a real browser: honest rows stand, a page fails alone, no script runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import table
from tests.board.serving import serving
from tests.board.test_browser import settle
from tests.hostile import results as corpus

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(not shutil.which("chromium"), reason="Debian's chromium is not installed"),
]
SCRIPT = (
    "<img src=x onerror=\"document.title='taken'\"><script>alert(1)</script><svg onload=alert(2)>"
    "[x](javascript:alert(3))</textarea></style></script><iframe src=javascript:alert(4)>${7*7}{{7*7}}"
)
CARD = ("authors", "licence", "commit", "extra_data", "weights_note", "arch")
# Model -> what is changed of a sound record, so that it is read and shown.
READ: dict[str, dict[str, Any]] = {
    "says-scripts": {f"card.{field}": SCRIPT for field in CARD}
    | {"card.link": "javascript:alert(5)", "engine_version": SCRIPT}
    | {"columns.fgsm.outcomes.0.engine": SCRIPT, "protocol.columns.0.label": SCRIPT},
    "link-of-a-script": {"card.link": f"https://example.org/{SCRIPT}"},
    "a-raised-flag": {
        "flags": [{"name": "zero-gradients", "message": SCRIPT, "values": {SCRIPT: SCRIPT}}]
    },
    "split-of-scripts": {"split": SCRIPT},
    "no-training": {"card.train": None, "card.authors": SCRIPT, "card.selected_on": None},
    "failed": {"failure": SCRIPT},
}


def _put(folder: Path, model: str, raw: dict[str, Any]) -> None:
    raw = corpus.signed(raw)
    there = folder / corpus.PLACE / model
    there.mkdir(parents=True, exist_ok=True)
    end = ".failed.json" if raw.get("failure") else ".json"
    (there / f"{raw['id']}{end}").write_text(json.dumps(raw))
    (there / "train.jsonl").write_text(f'{{"epoch": 1, "validation_n": {json.dumps(SCRIPT)}}}\n')
    (there / "card.json").write_text(json.dumps({"name": SCRIPT}))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good records, and every hostile one of the corpus, each in a model's folder of its own."""
    folder = tmp_path_factory.mktemp("hostile")
    corpus.good(folder).rmdir()
    for model, changes in READ.items():
        raw = corpus.record()
        for place, value in {**changes, "card.name": model}.items():
            corpus.inside(place, value)(raw)
        _put(folder, model, raw)
    for k, change in enumerate(c for name, c in corpus.FIELDS.items() if "1 GB" not in name):
        raw = corpus.record()
        change(raw)
        _put(folder, f"field-{k}", raw)
    text = json.dumps(corpus.record())
    bad = [
        lambda p, w=write: _write(p, w(text))
        for name, write in corpus.TEXTS.items()
        if "2 million" not in name
    ]
    for k, make in enumerate([*bad, *corpus.THINGS.values()]):
        there = folder / corpus.PLACE / f"file-{k}"
        there.mkdir()
        make(there / f"{corpus.ID}.json")
    (folder / "results" / "studies").mkdir()
    (folder / "results" / "studies" / "odd.json").write_text(json.dumps({"name": SCRIPT}))
    (folder / "results" / "proven.jsonl").write_text(json.dumps({"record": SCRIPT}) + "\n")
    return folder / "results"


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    )


@pytest.fixture(scope="module")
def board(hostile: Path) -> Iterator[str]:
    with serving(hostile) as address:
        yield address


def test_no_page_runs_what_a_record_says_and_each_fails_alone(board, hostile, new_page):
    shown = {m.record.name for g in table.build(hostile).groups for m in g.members}
    assert {*corpus.GOOD, *READ} - {"failed"} <= shown
    pages = ["/", "/?runs=true", "/compare", "/did-awp-help", "/trade-offs?networks=true"]
    pages += ["/how-it-is-measured", "/model", "/model?name=failed"]
    pages += [f"/model?name={name}" for name in sorted(shown)]
    page = new_page()
    page.set_default_timeout(100_000)  # the machine may be busy
    for address in pages:
        page.goto(board + address)
        page.get_by_role("heading", level=1).wait_for()
        settle(page)
        said = page.locator("body").inner_text()
        assert "Traceback" not in said and "Error:" not in said, address
        assert "taken" not in page.title(), address
        assert page.locator("img[src='x'], iframe, svg[onload], a[href^='javascript']").count() == 0
        assert page.locator("script", has_text="alert(").count() == 0
        if address == "/":
            assert "AT-AWP" in page.locator(".board-methods").inner_text()
        if (name := address.partition("name=")[2]) in corpus.GOOD:
            assert "could not be shown" not in said and name in said
        if name == "says-scripts":
            page.get_by_text("Provenance", exact=True).click()
            assert "<script>alert(1)" in page.locator("body").inner_text()
    assert [url for url in page.asked if url[:4] == "http" and "127.0.0.1" not in url] == []
