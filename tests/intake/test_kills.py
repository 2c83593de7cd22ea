"""Workers that are killed: the records are those of a run that nobody killed."""

from __future__ import annotations

import pytest

pytest.importorskip("dbos", reason="the extra host is not installed")

from bench.intake.store import Store
from bench.measure import sweep
from bench.records import store as records
from tests.intake.hosted import N, host, submitted, trained, until, working


def moments(settings, tickets):
    """What has to be seen for a kill, each after the one before, while these tickets are worked."""
    store = Store(settings.root)

    def states():
        return [store.read(ticket.id).now.state for ticket in tickets]

    def work(name):
        return len(list(settings.root.glob(f"work/*/{name}.json")))

    before = work("outcome")
    yield from [lambda: list(settings.root.glob("weights/*.part"))] * 2  # admission
    yield from [lambda: "received" in states()] * 2
    yield from [lambda: "attacking" in states() and list(settings.root.glob("parts/*/*.npz"))] * 2
    yield from [lambda: "attacking" in states()] * 2
    for k in (1, min(2, len(tickets))):  # merge
        yield lambda k=k: work("outcome") >= before + k


def check(settings, tickets):
    """Every record is there, known, and the one that measuring its checkpoint at once gives."""
    store = Store(settings.root)
    for ticket in tickets:
        assert store.read(ticket.id).now.state == "ranked"
        news = store.news(ticket.id)
        path = settings.out / news.record
        record = records.read(path)
        again = sweep.make_job(
            settings.checkpoints / record.card.name, threat=str(ticket.form.threat),
            protocol=ticket.protocol, n=N, out=settings.root / "again", work=None, device="cpu",
        )  # fmt: skip
        alone = sweep.measure(again, lambda share, text: None)
        assert records.same_answer(record, alone.record)
        assert record.evidence_sha256 == alone.record.evidence_sha256
        assert records.evidence_path(path, record).exists() and news.rank
        assert (news.clean, news.robust) == (record.clean_accuracy, record.worst_case)
    written = [p for p in settings.out.glob("*/*/*/*.json") if len(p.stem) == 16]
    assert len(written) == len(tickets)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("rounds", "every"),
    [
        pytest.param((1,), 3, marks=pytest.mark.slow, id="4 kills of 1 job"),
        pytest.param((3, 3, 4), 1, marks=pytest.mark.drill, id="30 kills of 10 jobs"),
    ],
)
def test_kills_change_no_record(tmp_path, rounds, every):
    """rounds: tickets that arrive together; every how many moments a worker is killed."""
    settings = host(tmp_path)
    store, killed, wanted, tickets = Store(settings.root), 0, 0, []
    for count in rounds:
        first = len(tickets)
        tickets += [
            submitted(settings, trained(seed), f"net-{seed}")[0]
            for seed in range(first, first + count)
        ]
        for moment in [*moments(settings, tickets[first:])][::every]:
            wanted += 1
            with working(settings) as process:
                until(lambda moment=moment: moment() or process.poll() is not None, 120)
                process.kill()
                killed += process.wait() == -9
    assert killed == wanted
    with working(settings):
        until(lambda: all(store.read(t.id).now.state == "ranked" for t in tickets), 900)
    assert not list(settings.root.glob("work/*/failures.txt"))  # no kill counts against a ticket
    check(settings, tickets)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_next_protocol_follows_and_a_withdrawal_is_heard(tmp_path):
    settings = host(tmp_path, protocols=("gradient", "quick"))
    ticket, secret = submitted(settings, trained(0), "net-0")
    store = Store(settings.root)
    with working(settings):
        until(lambda: store.news(ticket.id).protocol == "quick" and store.news(ticket.id).rank)
        assert store.read(ticket.id).now.state == "ranked"
        found = {records.read(p).protocol.name for p in settings.out.glob("*/*/*/*.json")
                 if len(p.stem) == 16}  # fmt: skip
        assert found == {"gradient", "quick"}
        store.withdraw(ticket.id, secret)
        until(lambda: not list(settings.out.rglob("*.safetensors")))
    assert len(list(settings.out.rglob("*.withdrawn.json"))) == 2
