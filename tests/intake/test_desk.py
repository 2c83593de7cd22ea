"""A form as people fill it in: every mistake is told beside its field, nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bench.intake import desk
from bench.intake.desk import Taken
from bench.intake.refusal import Refusal
from bench.intake.report import Ask
from bench.intake.settings import Settings
from bench.intake.spool import Kept
from bench.intake.store import Store
from bench.intake.ticket import Form
from bench.schema import AwpConfig
from tests.intake.forms import SEEN

GOOD = {"name": "mine", "dataset": "digits", "threat": "linf:0.15", "consent": "hashes only"}
NAMES = Taken(frozenset({"digits-at-s0"}), frozenset({"theirs"}), frozenset({"own"}))


def test_what_is_empty_was_not_said():
    form, wrong = desk.form({**GOOD, "objective": " ", "twin": "", "awp": None, "paper": ""}, NAMES)
    assert wrong == {} and form == Form.model_validate(GOOD)


@pytest.mark.parametrize(
    ("field", "value", "came"),
    [
        ("name", " mine ", "mine"),
        ("threat", "Linf 0.15 ", None),
        ("awp", "none", "none"),
        ("awp", {"direction": "random", "gamma": "0.02", "warm_up": "3"},
         AwpConfig(direction="random", gamma=0.02, warm_up=3)),
        ("claimed_robust", 0.523, 0.523),
        ("twin", "theirs", "theirs"),
        ("name", "own", "own"),
    ],
)  # fmt: skip
def test_what_is_right_is_taken_as_it_is_meant(field, value, came):
    form, wrong = desk.form({**GOOD, field: value}, NAMES)
    if came is None:
        assert set(wrong) == {field}
        return
    assert wrong == {} and form is not None and getattr(form, field) == came


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "", "needed"),
        ("name", "my net", "did you mean my-net"),
        ("name", "../../etc", "letters, digits"),
        ("name", "n" * 101, "at most 100"),
        ("name", "a\x1b[2J", "letters, digits"),
        ("name", 7, "string"),
        ("name", "digits-at-s0", "on the board is called"),
        ("name", "theirs", "that waits is called"),
        ("dataset", "digit", "Did you mean 'digits'"),
        ("dataset", None, "string"),
        ("threat", "linf:9", "Did you mean 9/255"),
        ("threat", "", "needed"),
        ("objective", "att", "Known:"),
        ("awp", {"direction": "up"}, "adversarial"),
        ("awp", "some", "is none, or a direction"),
        ("awp", {"direction": "random", "gamma": "-1"}, "too small"),
        ("awp", {"direction": "random", "warm_up": "x"}, "integer"),
        ("awp", {"steer": 1}, "not permitted"),
        ("twin", "mine", "another model"),
        ("twin", "nobody", "no network named"),
        ("link", "javascript:alert(1)", "https://"),
        ("claimed_clean", 97, "between 0 and 1"),
        ("claimed_robust", "most", "number"),
        ("claimed_robust", -0.1, "too small"),
        ("consent", "all", "weights and evidence"),
        ("consent", "", "needed"),
        ("authors", "a" * 301, "300"),
        ("rank", "1", "not permitted"),
    ],
)
def test_a_mistake_is_told_beside_its_field_alone(field, value, words):
    _, wrong = desk.form({**GOOD, field: value}, NAMES)
    assert [name.partition(".")[0] for name in wrong] == [field], wrong
    (said,) = wrong.values()
    assert words in said and "\x1b" not in said and len(said) < 900


@pytest.mark.parametrize("said", [None, [], "form", 3, {}])
def test_what_is_no_form_is_none(said):
    form, wrong = desk.form(said, NAMES)
    assert form is None and "name" in wrong


def test_several_mistakes_are_told_at_once():
    _, wrong = desk.form(
        {"name": "a b", "threat": "l9:1", "awp": {"direction": "random", "gamma": 7}}, NAMES, "x"
    )
    assert set(wrong) == {"name", "dataset", "threat", "awp.gamma", "consent", "contact"}


def test_a_network_fits_data_sets_of_its_images_and_classes():
    assert desk.fitting(SEEN) == ["digits"]
    assert "3 channels, this network 1" in desk.misfits(SEEN, "cifar10")["dataset"]
    without = SEEN.model_copy(update={"arch": "preact_resnet18", "arch_args": {}})
    assert desk.fitting(without) == ["cifar10", "svhn"]


# ---------------------------------------------------------------- tickets


def opened(store: Store, form: Form, secret: str = "", sha256: str = "a" * 64):
    kept = Kept(sha256, 9, store.root / "none")
    return desk.opened(store, Settings(n=50), kept, Ask(), form, SEEN, secret=secret)


def test_the_same_question_is_one_ticket_and_its_secret_corrects_it(tmp_path):
    store, form = Store(tmp_path / "intake"), Form.model_validate(GOOD)
    ticket, secret = opened(store, form)
    assert secret is not None and opened(store, form) == (ticket, None)
    assert (ticket.protocol, ticket.n) == ("fast", 50)
    other = form.model_copy(update={"authors": "Ann"})
    assert opened(store, other)[1] is None
    with pytest.raises(desk.NotYours):
        opened(store, other, "guess")
    assert store.read(ticket.id).form == form
    again, new = opened(store, other, secret)
    assert again.id == ticket.id and again.form.authors == "Ann" and new not in (None, secret)
    assert not again.opened_by(secret) and again.now.state == "received"


def test_a_ticket_is_found_by_its_whole_address_and_told_without_its_contact(tmp_path):
    store = Store(tmp_path / "intake")
    ticket, secret = opened(store, Form.model_validate(GOOD))
    assert desk.found(store, ticket.id) == ticket
    for id in ("", ticket.id[:12], "0" * 64, "../" + ticket.id, ticket.id.upper() + "x"):
        with pytest.raises(desk.Unknown):
            desk.found(store, id)
    told = desk.told(store, ticket)
    assert told["lines"]["Network"] == SEEN.sentence
    assert len(told["lines"]) == 10 and told["state"] == "received" and not told["closed"]
    assert secret and secret not in str(told) and ticket.secret_sha256 not in str(told)
    (tmp_path / "intake" / "tickets" / f"{ticket.id}.json").write_text("{")
    with pytest.raises(Refusal, match="tell the operator") as caught:
        desk.found(store, ticket.id)
    assert str(tmp_path) not in str(caught.value)


def test_a_name_is_taken_while_its_ticket_is_open_but_not_of_the_same_file(tmp_path):
    store = Store(tmp_path / "intake")
    ticket, secret = opened(store, Form.model_validate(GOOD))
    names = desk.taken(store, frozenset({"mine"}), "b" * 64)
    assert "on the board" in names.wrong("mine")
    assert "waits" in desk.taken(store, frozenset(), "b" * 64).wrong("mine")
    assert desk.taken(store, frozenset({"mine"}), "a" * 64).wrong("mine") == ""
    assert secret is not None
    store.withdraw(ticket.id, secret, now=datetime.now(UTC))
    assert desk.taken(store, frozenset(), "b" * 64).wrong("mine") == ""
