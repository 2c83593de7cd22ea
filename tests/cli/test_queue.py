"""bench queue, bench work and bench submit --watch: what they refuse, and what the operator reads."""

from __future__ import annotations

import json

import pytest

from bench.__main__ import main
from bench.intake import slots
from bench.intake.store import Store
from tests.intake.hosted import committed, host, submitted

ID = "00" * 32


@pytest.fixture
def hosted(tmp_path):
    """Settings in a file, and the arguments that name it."""
    settings, file = host(tmp_path), tmp_path / "intake.toml"
    file.write_text(
        f'root = "{settings.root}"\nrecords = "{settings.out}"\n'
        f'checkpoints = "{settings.checkpoints}"\nprotocols = ["gradient"]\n[limits]\nreserve = 0\n'
    )
    return settings, ["--intake", str(file)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("queue retry", "needs the id of a ticket"), ("queue backup", "needs a file"),
        ("queue list x", "takes nothing more"), (f"queue reject {ID} --remedy r", "--reason"),
        (f"queue reject {ID} --reason r", "--remedy"), (f"queue remove {ID}", "--reason"),
        (f"queue retry {ID} --reason r", "belongs to queue reject and remove"),
        (f"queue retry {ID}", "no ticket begins"), ("queue retry ../x", "hexadecimal"),
        ("queue restore none.tar.gz", "none.tar.gz"), ("work --slot a/b", "--slot takes"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_refused_with_what_is_missing(words, said, hosted, capsys):
    assert main([*words.split(), *hosted[1]]) == 2
    assert said in capsys.readouterr().err
    assert not hosted[0].root.exists() or not list(hosted[0].root.glob("tickets/*"))


def test_a_setting_that_is_not_known_is_named(tmp_path, capsys):
    (tmp_path / "i.toml").write_text("uploads_per_hou = 3")
    assert main(["queue", "--intake", str(tmp_path / "i.toml")]) == 2
    assert "Did you mean 'uploads_per_hour'" in capsys.readouterr().err


def test_the_operator_reads_the_queue_and_acts_on_it(hosted, capsys, tmp_path):
    settings, named = hosted
    assert main(["queue", *named]) == 0 and "none; start one" in capsys.readouterr().out
    ticket, _ = submitted(settings, committed("digits-at-s0-last"), "mine")
    Store(settings.root).move(ticket.id, "checked")
    Store(settings.root).move(ticket.id, "waiting")
    slots.beat(settings.root, "w1")
    assert main(["queue", *named]) == 0
    out = capsys.readouterr().out
    assert f"{ticket.id[:12]}  waiting" in out and "place 1" in out and "w1 on " in out
    assert main(["queue", "--json", *named]) == 0
    assert json.loads(capsys.readouterr().out)["states"] == {"waiting": 1}
    short = ticket.id[:12]
    said = ["--reason", "not a network", "--remedy", "Send a network."]
    for words, after in (
        (["reject", short, *said], "is rejected"), (["retry", short], "is received"),
        (["remove", short, "--reason", "asked for by its author"], "is removed"),
        (["backup", str(tmp_path / "b.tar.gz")], "holds 1 tickets"),
    ):  # fmt: skip
        assert main(["queue", *words, *named]) == 0
        assert after in capsys.readouterr().out
    assert not list(settings.root.glob("files/*"))
    assert main(["queue", "restore", str(tmp_path / "b.tar.gz"), *named]) == 2
    assert "restore into an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--watch --seed 3", "--watch takes no --seed"),
        ("--watch --figure clean=90%,source=x", "--watch takes no --figure"),
        ("--watch --claimed 95", "claimed_clean"), ("--watch --link x", "https"),
        ("--watch --twin mine", "another model"), ("--watch --awp gama=1", "Did you mean 'gamma'"),
        ("--watch --mean a", "--mean"), ("--claimed 0.9", "--claimed belongs to --watch"),
        ("--hashes-only", "--hashes-only belongs to --watch"), ("", "--arch is needed"),
    ],
)  # fmt: skip
def test_a_submission_is_refused_before_anything_is_kept(words, said, hosted, capsys, tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(committed("digits-at-s0-last"))
    named = hosted[1] if "--watch" in words else []
    call = ["submit", str(file), "--dataset", "digits", "--name", "mine", *words.split(), *named]
    assert main(call) == 2
    assert said in capsys.readouterr().err
    assert not list(hosted[0].root.glob("*/*"))


def test_a_file_that_is_too_large_is_told_with_the_limit(hosted, capsys, tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"x" * 2000)
    toml = tmp_path / "intake.toml"
    toml.write_text(toml.read_text() + "file = 1000\n")
    call = ["submit", str(file), "--dataset", "digits", "--name", "mine", "--watch", *hosted[1]]
    assert main(call) == 2
    assert "at most 1,000" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submission_is_worked_to_its_end_and_told(hosted, capsys, tmp_path):
    pytest.importorskip("dbos", reason="the extra host is not installed")
    settings, named = hosted
    file = tmp_path / "net.safetensors"
    file.write_bytes(committed("digits-at-s0-last"))
    call = ["submit", str(file), "--dataset", "digits", "--name", "mine", "--n", "24", "--watch"]
    assert main([*call, *named]) == 0
    out = capsys.readouterr().out
    assert [word in out for word in ("secret", "fits small_cnn", "attacking", "ranked")] == [
        True
    ] * 4
    assert main([*call, *named]) == 0  # the same question: the same ticket, at once
    again = capsys.readouterr().out
    assert "there already" in again and "secret" not in again.partition("\n")[0]
    assert main([*call, *named, "--name", "other", "--weights", "ema"]) == 1
    assert "rejected" in capsys.readouterr().out
    assert len(Store(settings.root).all()) == 2
