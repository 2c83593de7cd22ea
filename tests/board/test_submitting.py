"""The pages of a submission: how to hand in, how far it has come, what came of it; and badges."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from streamlit.testing.v1 import AppTest

from bench.board import palette, submissions, submit_form
from bench.exports import badge, formats
from bench.exports.view import select
from bench.intake.report import Ask
from bench.intake.settings import VARIABLE
from bench.intake.store import Store
from bench.intake.ticket import CONSENTS, Form, News, Ticket
from bench.records import store as records
from bench.table import WORST_CASE, build
from tests.board import board_records
from tests.board.board_pages import Open, assert_harmless, headers, html
from tests.board.test_palette import contrast
from tests.intake.forms import SEEN

HOSTILE = "<img src=x onerror=alert(1)> **evil** \u202etxt"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A host of submissions that the board serves too."""
    file = tmp_path / "intake.toml"
    file.write_text(f'root = "{tmp_path / "intake"}"\nprotocols = ["standard"]\n')
    monkeypatch.setenv(VARIABLE, str(file))
    store = Store(tmp_path / "intake")
    store.prepare()
    return store


def ticket(
    store: Store, *states: str, name: str = "mine", **news: object
) -> tuple[Ticket, str, AppTest]:
    form = Form(
        name=name, dataset="digits", threat="linf:0.15", authors=HOSTILE, training_images=HOSTILE,
        consent="weights and evidence", claimed_clean=0.97, claimed_robust=0.5, twin="twin",
    )  # fmt: skip
    made, secret = store.open_ticket(
        file_sha256="a" * 64, file_size=9, ask=Ask(file_name=HOSTILE), form=form,
        protocol="standard",
    )  # fmt: skip
    assert secret is not None
    for state in states:
        end = state in ("rejected", "removed")
        store.move(made.id, state, HOSTILE if end else "", HOSTILE if end else "")
    store.tell(made.id, News(seen=SEEN, **news))
    return store.read(made.id), secret


def steps(app: AppTest) -> list[str]:
    found = re.findall(r'<li class="(\w*)"[^>]*>(\w+)', html(app))
    return [f"{mark} {word}".strip() for mark, word in found]


def test_where_none_are_taken_three_steps_say_how_to_hand_in(open_app: Open, recorded: Path):
    app = open_app(recorded, "submit")
    assert len(app.code) == 3 and "1. Look" in html(app) and "3. Hand the record in" in html(app)
    for command in app.code:
        assert command.value.startswith("python -m bench ")
    assert "takes no submissions" in html(open_app(recorded, "ticket", id="0" * 64))


def test_where_they_are_taken_the_form_is_offered_with_twins(
    host, open_app: Open, recorded: Path, monkeypatch
):
    shown = []
    monkeypatch.setattr(submit_form, "show", lambda names, *, token: shown.append((names, token)))
    app = open_app(recorded, "submit")
    assert "<strong>standard</strong>" in html(app) and not app.code
    ((names, token),) = shown
    assert names == sorted(submissions.names()) and len(names) > 10 and not token


def test_the_form_is_a_component_that_the_page_can_mount(host, open_app: Open, recorded: Path):
    open_app(recorded, "submit")


class _Controls(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.labels: set[str] = set()
        self.ids: list[str] = []
        self.fields: dict[str, str] = {}
        self.described: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.labels |= {found["for"]} if "for" in found else set()
        self.ids += [found["id"]] if "id" in found else []
        if "data-field" in found:
            self.fields[found["data-field"]] = found["id"]
            self.described.append(found["aria-describedby"])


def test_every_field_of_a_ticket_has_a_labelled_place_and_one_for_its_error():
    controls = _Controls(str(submit_form.html()))
    assert len(set(controls.ids)) == len(controls.ids)
    assert set(controls.fields.values()) <= controls.labels
    assert set(controls.described) <= set(controls.ids)
    asked = {name.partition(".")[0] for name in controls.fields}
    assert asked == {*Form.model_fields} - {"consent"} | {"contact", "secret"}
    for consent in CONSENTS:
        assert f'value="{consent}"' in submit_form.html()


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ((), ["now Received", "Checked", "Waiting", "Attacking", "Verified", "Ranked"]),
        (("checked", "waiting"),
         ["done Received", "done Checked", "now Waiting", "Attacking", "Verified", "Ranked"]),
        (("checked", "waiting", "attacking", "waiting"),
         ["done Received", "done Checked", "now Waiting", "Attacking", "Verified", "Ranked"]),
        (("checked", "rejected"),
         ["done Received", "done Checked", "Waiting", "Attacking", "Verified", "Ranked"]),
        (("checked", "waiting", "attacking", "verified", "ranked"),
         ["done Received", "done Checked", "done Waiting", "done Attacking", "done Verified",
          "done Ranked"]),
    ],
)  # fmt: skip
def test_a_ticket_shows_its_steps_and_hostile_words_stay_words(
    states, shown, host, open_app: Open, recorded: Path
):
    made, _ = ticket(host, *states, doctor=f"amber; warn: confidence, {HOSTILE}", at_most=0.61)
    app = open_app(recorded, "ticket", id=made.id)
    assert steps(app) == shown
    assert_harmless(app)
    page = html(app)
    assert "small_cnn, width 4, 3,174 parameters" in page and "(self-declared)" in page
    assert 'board-doctor amber"><strong>Doctor: amber</strong> warn: confidence' in page
    assert ("at most 61.0 %" in page) == (states[-1:] == ("attacking",))
    assert ("<strong>Rejected</strong>: &lt;img" in page) == ("rejected" in states)


@pytest.mark.parametrize("id", ["", "0" * 64, "../../etc/passwd", HOSTILE])
def test_an_address_of_no_ticket_says_so(id, host, open_app: Open, recorded: Path):
    app = open_app(recorded, "ticket", id=id)
    said = "no ticket has this address" if id else "shown when a network is submitted"
    assert said in html(app)
    assert_harmless(app)


def test_a_beginning_of_an_address_opens_no_ticket(host, open_app: Open, recorded: Path):
    made, _ = ticket(host)
    assert "no ticket has this address" in html(open_app(recorded, "ticket", id=made.id[:12]))


def test_the_secret_withdraws_and_nothing_else_does(host, open_app: Open, recorded: Path):
    made, secret = ticket(host, "checked")
    app = open_app(recorded, "ticket", id=made.id)
    for given, state in (("guess", "checked"), (secret, "withdrawn")):
        app.text_input[0].set_value(given)
        app.button[0].click().run()
        assert host.read(made.id).now.state == state
        assert bool(app.info) == (state == "checked")
    assert "<strong>Withdrawn</strong>" in html(app) and not app.button


def test_a_ranked_ticket_shows_rank_claims_a_badge_and_a_line_of_latex(
    host, open_app: Open, tmp_path: Path
):
    pair = board_records.matched_pair(0)
    board_records.write_all(tmp_path / "r", pair)
    (group,) = build(tmp_path / "r").groups
    row = group.rows[0]
    file = host.root.parent / "intake.toml"
    file.write_text(file.read_text().replace("standard", group.protocol.name))
    form = Form(
        name=row.card.name, dataset=group.dataset, threat=group.threat, claimed_robust=1.0,
        claimed_clean=row.rates["clean"].estimate, consent="hashes only",
    )  # fmt: skip
    made, _ = host.open_ticket(
        file_sha256="b" * 64, file_size=9, ask=Ask(), form=form, protocol=group.protocol.name
    )
    for state in ("checked", "waiting", "attacking", "verified", "ranked"):
        host.move(made.id, state)
    host.tell(made.id, News(clean=0.9, robust=0.5, n=group.n, protocol=group.protocol.name))
    page = open_app(tmp_path / "r", "ticket", id=made.id)
    text = html(page)
    assert headers(page) == ["Result", "Show it"]
    rate = f"{100 * row.rates[WORST_CASE].estimate:.1f} %"
    assert rate in text and ": inside" in text and "claimed 100.0: more than measured" in text
    assert f'src="badge/{row.card.name}.svg"' in text
    assert any(f"badge/{row.card.name}.svg" in code.value for code in page.code)
    assert any(code.value.startswith("% rank, model") and " & " in code.value for code in page.code)
    withdrawn = next((tmp_path / "r").rglob(f"{row.record.id}.json"))
    records.withdraw(withdrawn, "taken back")
    assert "The board shows it in a moment" in html(open_app(tmp_path / "r", "ticket", id=made.id))


# ---------------------------------------------------------------- badges


def parts(text: str) -> tuple[str, list[str], list[dict[str, str]]]:
    """Title, texts and rectangles of a badge; raises where it is no XML."""
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    texts = [each.text or "" for each in root.iter(f"{space}text")]
    drawn = [dict(each.attrib) for each in root.iter(f"{space}rect")]
    return root.findtext(f"{space}title") or "", texts, drawn


def test_a_badge_says_what_its_row_does_within_its_width(recorded: Path):
    view = select(build(recorded))
    places = badge.speaking(view.groups)
    assert {row.card.name for group in view.groups for row in group.rows} == set(places)
    for name, (group, row) in places.items():
        title, (label, said), boxes = parts(badge.badge(group, row))
        assert title.startswith(f"{name}: ") and label == "robust"
        if row.rank is None:
            assert said.startswith("unranked (") and "%" not in said
        else:
            rate = row.rates[WORST_CASE]
            assert said.startswith(f"{100 * rate.estimate:.1f} % [")
            assert f"(n = {group.n:,}, {group.threat}, " in said
        for found in re.findall(r'<text x="(\d+)"[^>]*textLength="(\d+)"', badge.badge(group, row)):
            start, long = map(int, found)
            box = boxes[1] if start < 50 else boxes[2]
            assert int(box.get("x", 0)) < start
            assert start + long < int(box.get("x", 0)) + int(box["width"])
        for box in boxes[1:]:
            assert contrast(palette.BADGE_TEXT, box["fill"]) > 4.5


def test_hostile_words_of_a_badge_are_text():
    drawn = badge._drawn("<b>", HOSTILE + "\x00\x1b]]>", '"/><script>', palette.BADGE_UNRANKED)
    title, texts, _ = parts(drawn)
    assert title == '"/><script>' and texts[0] == "<b>"
    assert "\u202e" not in texts[1] and "<img" in texts[1]


def test_badges_are_written_a_file_a_model(recorded: Path, tmp_path: Path):
    view = select(build(recorded))
    written = formats.write("badge", view, tmp_path / "out")
    assert {path.suffix for path in written} == {".svg"} and len(written) == len(
        {row.card.name for group in view.groups for row in group.rows}
    )


def test_a_badge_has_no_colour_of_a_verdict():
    colours = {palette.BADGE_SAYS, palette.BADGE_RANKED, palette.BADGE_UNRANKED}
    assert not colours & set(palette.MEANINGS.values())


def test_of_several_measurements_autoattack_on_most_images_speaks(tmp_path: Path):
    pair = board_records.matched_pair(0)
    board_records.write_all(tmp_path / "r", pair)
    groups = build(tmp_path / "r").groups
    spoken = badge.speaking([*groups, *groups[::-1]])
    assert {name: group.n for name, (group, _) in spoken.items()} == {
        row.card.name: max(g.n for g in groups if any(r.card.name == row.card.name for r in g.rows))
        for group in groups
        for row in group.rows
    }
