"""The store of tickets: one a question, whole or not at all, with secrets only as hashes."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from bench.intake.refusal import Refusal
from bench.intake.report import Ask
from bench.intake.store import Store
from bench.intake.ticket import News
from bench.schema import AwpConfig, InvalidInput
from tests.intake.forms import T0, form


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "intake")


def opened(store: Store, k: int = 0, **more):
    asked = {
        "file_sha256": f"{k:064x}", "file_size": 100, "ask": Ask(file_name="net.pt"), "form": form(),
        "protocol": "fast", "now": T0,
    }  # fmt: skip
    return store.open_ticket(**(asked | more))


def test_the_same_question_twice_is_one_ticket_with_one_secret(store):
    ticket, secret = opened(store)
    again, none = opened(store, now=T0 + timedelta(days=1))
    assert again == ticket and none is None and secret and store.all() == [ticket]
    assert store.read(ticket.id[:6]) == store.read(ticket.id) == ticket
    assert secret not in "".join(p.read_text() for p in store.root.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("state", "ours", "changes", "anew"),
    [
        ("rejected", False, {}, False), ("rejected", False, {"claimed_clean": 0.9}, True),
        ("rejected", True, {}, True), ("withdrawn", False, {}, True),
        ("received", False, {"claimed_clean": 0.9}, False),
    ],
)  # fmt: skip
def test_a_closed_ticket_never_blocks_another(store, state, ours, changes, anew):
    ticket, secret = opened(store)
    store.tell(ticket.id, News(doctor="red"))
    if state != "received":
        ticket = store.move(ticket.id, state, "it broke", "mend it", ours=ours, now=T0)
    again, second = opened(store, form=form(**changes), now=T0 + timedelta(1))
    assert again.id == ticket.id and (second is not None) is anew
    if anew:
        assert again.now.state == "received" and again.history[:-1] == ticket.history
        assert again.opened_by(second) and not again.opened_by(secret)
        assert store.news(again.id) == News()
    assert store.read(ticket.id) == again


def test_what_was_removed_stays_removed(store):
    ticket, _ = opened(store)
    store.move(ticket.id, "removed", "not theirs", "Write to the operator.")
    with pytest.raises(Refusal, match="not theirs") as caught:
        opened(store, form=form(name="other"))
    assert caught.value.code == "removed" and not caught.value.ours


def test_a_state_that_was_reached_changes_nothing_and_none_is_skipped(store):
    ticket, _ = opened(store)
    checked = store.move(ticket.id, "checked", now=T0)
    waiting = store.move(ticket.id, "waiting", now=T0)
    assert store.move(ticket.id, "checked", now=T0 + timedelta(1)) == waiting != checked
    with pytest.raises(InvalidInput, match="not ranked next"):
        store.move(ticket.id, "ranked")


def test_the_secret_alone_withdraws(store):
    ticket, secret = opened(store)
    for wrong in ("", "x", "\udc80"):
        with pytest.raises(InvalidInput, match="not the ticket's secret"):
            store.withdraw(ticket.id, wrong)
    assert store.withdraw(ticket.id, secret).now.state == "withdrawn"


@pytest.mark.parametrize("id", ["", "abc", "../x", "g" * 64, "a" * 65, "é" * 8])
def test_what_is_no_id_names_no_file(store, id):
    with pytest.raises(InvalidInput, match="4 to 64"):
        store.read(id)


def test_a_beginning_has_to_be_of_one_ticket(store):
    ids = [opened(store, k)[0].id for k in range(3)]
    (store.root / "tickets" / (ids[0][:4] + "f" * 60 + ".json")).write_text("{}")
    with pytest.raises(InvalidInput, match="2 tickets begin"):
        store.read(ids[0][:4])
    with pytest.raises(InvalidInput, match="no ticket begins"):
        store.read("0" * 64)


@pytest.mark.parametrize("content", ["", "{}", "[", "\x00", '{"form": 1}'])
def test_a_damaged_ticket_is_named_left_and_skipped(store, content):
    good, bad = opened(store, 1)[0], opened(store, 2)[0]
    path = store.root / "tickets" / f"{bad.id}.json"
    path.write_text(content)
    assert store.all() == [good]
    assert [str(path) in words for words in store.damaged()] == [True]
    with pytest.raises(InvalidInput, match="left in place"):
        store.read(bad.id)
    with pytest.raises(InvalidInput, match="left in place"):
        opened(store, 2)
    assert path.read_text() == content


def test_a_ticket_under_the_name_of_another_is_none(store):
    ticket, _ = opened(store)
    path = store.root / "tickets" / f"{ticket.id}.json"
    path.rename(path.with_name("f" * 64 + ".json"))
    assert store.all() == [] and "its name" in store.damaged()[0]


def test_contacts_lie_apart_and_go_a_month_after_their_ticket_closed(store):
    (kept, secret), (other, _) = opened(store, 1, contact="ann@example.org"), opened(
        store, 2, contact="bob@example.org"
    )  # fmt: skip
    path = store.root / "contacts" / f"{kept.id}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "example.org" not in "".join(p.read_text() for p in store.root.glob("tickets/*"))
    assert store.sweep(T0 + timedelta(days=99)) == []
    store.withdraw(kept.id, secret, now=T0)
    assert store.sweep(T0 + timedelta(days=29)) == []
    assert store.sweep(T0 + timedelta(days=30)) == [path]
    assert [p.stem for p in store.root.glob("contacts/*")] == [other.id]


def test_networks_of_a_method_are_counted_and_limited(store):
    for k in range(2):
        opened(store, k, form=form(name=f"n{k}"), most=2)
    opened(store, 5, form=form(objective="trades"), most=2)
    assert store.of_method(form()) == 2
    opened(store, 1, protocol="standard", most=2)  # the same network under another protocol
    with pytest.raises(Refusal, match="2 networks on digits") as caught:
        opened(store, 3, most=2)
    assert caught.value.code == "quota" and len(store.all()) == 4
    awp = form(awp=AwpConfig(gamma=0.01))
    assert awp.method == form(awp=AwpConfig(gamma=0.02)).method != form().method
    assert form(awp="none").method != form().method


def test_two_at_once_open_one_ticket(store):
    made, gate = [], threading.Barrier(6)

    def ask() -> None:
        gate.wait()
        made.append(Store(store.root).open_ticket(
            file_sha256="a" * 64, file_size=1, ask=Ask(), form=form(), protocol="fast"
        ))  # fmt: skip

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({ticket.id for ticket, _ in made}) == 1
    assert sum(secret is not None for _, secret in made) == 1


def test_a_folder_that_is_open_to_others_is_not_used(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(InvalidInput, match="chmod 700"):
        opened(Store(tmp_path))


def test_a_ticket_that_changed_is_read_again(store):
    ticket, _ = opened(store)
    assert store.all()[0].now.state == "received"
    Store(store.root).move(ticket.id, "checked")
    assert store.all()[0].now.state == "checked"
