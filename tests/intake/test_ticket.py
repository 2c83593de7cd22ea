"""Tickets: one a question, told in ten lines, closed to whoever has not its secret."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from bench.intake.report import Ask
from bench.intake.ticket import NEXT, Change, Contact, Form, News, Ticket, lines, new_secret
from bench.schema import AwpConfig, ThreatModel
from tests.intake.forms import T0, form

SECRET, KEPT_SECRET = new_secret()


def ticket(**changes) -> Ticket:
    made = {
        "file_sha256": "a" * 64, "file_size": 190_440, "ask": Ask(file_name="net.pt"),
        "form": form(), "protocol": "fast", "secret_sha256": KEPT_SECRET,
        "history": (Change(state="received", time=T0),),
    }  # fmt: skip
    return Ticket(**(made | changes))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "../x", "pattern"), ("name", "n" * 101, "pattern"), ("dataset", "digts", "digits"),
        ("objective", "tardes", "trades"), ("licence", "x" * 301, "300"),
        ("link", "javascript:alert(1)", "https"), ("claimed_robust", 52, "less than or equal to 1"),
        ("claimed_clean", float("nan"), "finite"), ("consent", "yes", "hashes only"),
        ("twin", "mine", "another model"), ("awp", "some", "none"), ("contact", "a@b", "Extra"),
    ],
)  # fmt: skip
def test_a_form_says_what_is_wrong(field, value, words):
    with pytest.raises(ValidationError, match=words):
        form(**{field: value})


def test_consent_is_asked_for():
    with pytest.raises(ValidationError, match="consent"):
        Form(name="mine", dataset="digits", threat=ThreatModel.asked("linf:0.15"))


def test_what_was_not_said_is_told_from_said_to_be_without():
    assert "awp" not in form().stated and form(awp="none").stated == {"awp": None}
    awp = AwpConfig(gamma=0.005)
    assert form(awp=awp, twin="v").stated == {"awp": awp, "pair": "v"}
    assert [form(awp=a).training.split(", ")[1] for a in (None, "none", awp)] == [
        "AWP not stated", "without AWP", "AWP adversarial",
    ]  # fmt: skip


def test_the_same_question_is_the_same_ticket_and_another_one_another():
    first = ticket()
    same = ticket(ask=Ask(file_name="other.pt"), form=form(name="other", authors="Ann"))
    assert first.id == same.id
    others = [
        ticket(file_sha256="b" * 64), ticket(ask=Ask(weights="ema")), ticket(protocol="standard"),
        ticket(form=form(threat=ThreatModel.asked("l2:1"))),
        ticket(form=form(dataset="digits-0to4")),
        ticket(ask=Ask(arch="small_cnn", dataset="digits", arch_args={"width": 4})),
    ]  # fmt: skip
    assert len({first.id, *(each.id for each in others)}) == 7


@pytest.mark.parametrize("state", NEXT)
def test_a_ticket_moves_forward_alone(state):
    start = ticket(history=(Change(state=state, time=T0),))
    for after in NEXT:
        if after in NEXT[state]:
            moved = start.moved(after, T0, "it broke", "mend it")
            assert moved.now.state == after and moved.history[:-1] == start.history
        else:
            with pytest.raises(ValueError, match="next"):
                start.moved(after, T0, "it broke", "mend it")


def test_a_rejection_without_a_remedy_is_none():
    with pytest.raises(ValueError, match="reason and a remedy"):
        ticket().moved("rejected", T0, "no")


def test_the_secret_opens_its_ticket_alone():
    assert ticket().opened_by(SECRET) and not ticket().opened_by(new_secret()[0])
    assert not ticket().opened_by("") and SECRET not in ticket().model_dump_json()


def test_a_contact_is_in_no_ticket_and_goes_a_month_after():
    contact = Contact(ticket=ticket().id, address="ann@example.org")
    assert "contact" not in Ticket.model_fields and "contact" not in Form.model_fields
    assert not contact.outlived(T0, T0 + timedelta(days=29))
    assert contact.outlived(T0, T0 + timedelta(days=30))


WAITING = (Change(state="received", time=T0), Change(state="waiting", time=T0))
ATTACKED = (*WAITING, Change(state="attacking", time=T0))


@pytest.mark.parametrize(
    ("history", "news", "heading", "line"),
    [
        (WAITING, {}, "State", "waiting 2026-11-28 20:00 UTC"),
        (WAITING, {"place": 3, "starts_in": 600.0}, "State",
         "waiting 2026-11-28 20:00 UTC, place 3 in the queue, starts in about 10 min"),
        (ATTACKED, {"at_most": 0.521, "left": 40.0}, "State",
         "attacking 2026-11-28 20:00 UTC, robust accuracy at most 52.1 %, about 40 s left"),
        (ATTACKED, {"place": 3}, "State", "attacking 2026-11-28 20:00 UTC"),
        (ATTACKED, {"clean": 0.97, "robust": 0.5, "n": 1000, "rank": "rank 3 to 7"}, "Result",
         "clean 97.0 %, robust 50.0 % (n = 1,000), rank 3 to 7"),
        (ATTACKED, {"clean": 0.97, "robust": 0.5}, "Result", "not measured yet"),
        (WAITING, {}, "File", "net.pt, 190,440 bytes, sha256 aaaaaaaaaaaa"),
    ],
)  # fmt: skip
def test_ten_lines_say_how_far_it_is(history, news, heading, line):
    told = lines(ticket(history=history), News(**news))
    assert len(told) == 10 and told[heading] == line


def test_what_was_declared_is_marked_and_cannot_move_the_cursor():
    told = lines(ticket(form=form(claimed_robust=0.5)), News(doctor="a\x1b[2J\n\nb"))
    assert told["Claimed"] == "robust 50.0 % (self-declared)"
    assert told["Training"].endswith("(self-declared)") and told["Doctor"] == "a\\x1b[2J b"


def test_a_ticket_comes_back_from_its_json():
    made = ticket(form=form(awp=AwpConfig(), claimed_clean=0.97)).moved("checked", T0)
    assert Ticket.model_validate_json(made.model_dump_json()) == made
