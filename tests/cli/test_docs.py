"""What the README shows runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.protocols import COLUMNS, PROTOCOL_NAMES

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("page", "code"),
    [
        (page, code)
        for page in PAGES
        if page != "docs/zoo.md"  # it needs weights that are downloaded
        for code in blocks(page, "python")
    ],
)
def test_python_of_the_pages_runs(page, code, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out


def test_make_targets_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"`make ([a-z -]+?)(?:[ `A-Z]|$)", (ROOT / page).read_text())
        assert {word for words in named for word in words.split()} <= targets, page


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert link.startswith("https://") or (ROOT / page).parent.joinpath(link).exists(), link


def test_protocol_page_names_every_column_and_protocol():
    text = (ROOT / "docs/protocols.md").read_text()
    for name in (*COLUMNS, *PROTOCOL_NAMES):
        assert f"| `{name}` |" in text
