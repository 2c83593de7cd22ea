"""bench compare: by the records there are, or attacked until sure; refusals say what to do."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from bench import table
from bench.__main__ import main
from bench.measure import shards
from bench.records import store
from bench.schema import Flag
from tests.board.board_records import make_card, make_record, prove, write_all


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def record(name: str, robust: float, **fields):
    return make_record(make_card(name), robust=robust, **fields)


def answer(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["compare", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ---------------------------------------------------------------- by records


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    flags = (Flag(name="zero-gradients", message="."),)
    records = [record("x", 0.6), record("y", 0.5), record("z", 0.505, flags=flags, seed=2)]
    return write_all(tmp_path / "results", records)


def test_two_records_are_compared_measure_by_measure(paths, capsys):
    status, out, _ = answer(capsys, paths[0], paths[1], "--json")
    (found,) = json.loads(out)
    assert status == 0
    assert (found["a"], found["b"], found["n"]) == ("x", "y", 200)
    worst = found["measures"]["worst_case"]
    assert worst["a"] - worst["b"] == pytest.approx(worst["difference"]["estimate"]) == 0.1
    assert worst["separated"] == "a"
    assert found["measures"]["clean"]["separated"] is None
    assert found["remarks"] == []
    _, text, _ = answer(capsys, paths[0], paths[1])
    assert "A = x (record" in text
    assert "n = 200" in text
    assert [line for line in text.splitlines() if line.startswith("clean")][0].endswith(
        "not separated"
    )
    assert "equal" not in text


def test_what_differs_besides_the_models_is_said(paths, capsys):
    _, text, _ = answer(capsys, paths[1], paths[2])
    assert "note: seed differs: 0 and 2" in text
    assert "note: z is not ranked: zero-gradients" in text


def test_checkpoints_are_found_by_their_weights(paths, capsys, tmp_path):
    folders = []
    for path in paths[:2]:
        folder = tmp_path / "c" / path.parent.name
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(store.read(path).card.model_dump_json())
        folders.append(folder)
    write_all(tmp_path / "results", [record(name, 0.4, protocol="gradient") for name in "xy"])
    _, out, _ = answer(capsys, *folders, "--json")
    assert [d["protocols"][0] for d in json.loads(out)] == ["standard", "gradient"]
    _, out, _ = answer(capsys, folders[0], paths[1], "--protocol", "standard", "--json")
    assert json.loads(out)[0]["records"] == [path.name.split(".")[0] for path in paths[:2]]
    status, _, err = answer(capsys, *folders, "--threat", "l2:0.5")
    assert status == 2
    assert "no record of x for l2:0.5" in err
    assert "--until-sure" in err


@pytest.mark.parametrize("forged", ["0", "z"])  # read first, and last
def test_of_one_id_under_two_names_the_known_record_is_compared(forged, paths, capsys, tmp_path):
    prove(tmp_path / "results", *map(store.read, paths), how="measured")
    words = ("--json", "--protocol", "standard")
    card = store.read(paths[0]).card
    (tmp_path / "card.json").write_text(card.model_dump_json())
    before = answer(capsys, tmp_path, paths[1], *words)
    other = make_record(card.model_copy(update={"name": forged}), robust=0.1)
    assert other.id == store.read(paths[0]).id
    write_all(tmp_path / "results", [other])
    assert answer(capsys, tmp_path, paths[1], *words) == before


@pytest.mark.parametrize("listed", [0, 1, 2])
def test_a_record_that_nothing_vouches_for_is_named(listed, paths, capsys, tmp_path):
    prove(tmp_path / "results", *map(store.read, paths[:listed]), how="measured")
    _, out, _ = answer(capsys, *paths[:2], "--json")
    said = [remark for remark in json.loads(out)[0]["remarks"] if "nor proven" in remark]
    strange = [store.read(path) for path in paths[listed:2]] if listed else []
    assert said == [
        f"{r.card.name} (record {r.id}) is neither measured here nor proven: bench verify proves it"
        for r in strange
    ]


def test_records_that_cannot_be_compared_are_refused(paths, capsys, tmp_path):
    (other,) = write_all(tmp_path / "results", [record("w", 0.5, n=100)])
    status, out, err = answer(capsys, paths[0], other)
    assert (status, out) == (2, "")
    assert "n differs: 200 and 100 images" in err
    store.withdraw(paths[1], "wrong")
    status, _, err = answer(capsys, paths[0], paths[1])
    assert status == 2
    assert "withdrawn" in err
    for words in (("none.json", paths[0]), (paths[0], paths[0]), (paths[0], other, "--level", "1")):
        assert answer(capsys, *words)[0] == 2


# ---------------------------------------------------------------- two protocols on one network


@pytest.fixture
def both(tmp_path) -> list[Path]:
    """One network under standard and, with other attack seeds, under fast; images from the 200th on."""
    split = "test[200:400]"
    records = [
        record("x", 0.6, split=split),
        record("x", 0.58, split=split, protocol="fast", seed=1, seconds=4.0),
    ]
    return write_all(tmp_path / "results", records)


def broken(path: Path) -> set[int]:
    found = store.read(path)
    return {200 + int(i) for i in (~found.worst_case_standing & found.clean_correct).nonzero()[0]}


WAYS = {
    "a name": lambda both: ("x", "--protocols", "standard", "fast"),
    "a folder": lambda both: (both[0].parent, "--protocols", "standard", "fast"),
    "a record": lambda both: (both[0], "--protocols", "standard", "fast"),
    "the other record": lambda both: (both[1], "--protocols", "standard", "fast"),
    "both records": lambda both: both,
}


@pytest.mark.parametrize("way", WAYS)
def test_two_protocols_name_the_images_that_only_one_of_them_breaks(way, both, capsys):
    (both[0].parent / "card.json").write_text(store.read(both[0]).card.model_dump_json())
    records = [store.read(path) for path in both]
    status, out, _ = answer(capsys, *WAYS[way](both), "--json")
    (found,) = json.loads(out)
    assert status == 0
    first, second = found["protocols"]
    assert found["records"] == [r.id for r in records]
    assert (first["name"], second["name"], found["n"]) == ("standard", "fast", 200)
    right = records[0].clean_correct & records[1].clean_correct
    ours = [broken(path) & {200 + int(i) for i in right.nonzero()[0]} for path in both]
    assert first["only_it_breaks"] == sorted(ours[0] - ours[1]) != []
    assert second["only_it_breaks"] == sorted(ours[1] - ours[0]) != []
    assert found["both_break"] == len(ours[0] & ours[1])
    counts = (len(ours[0] - ours[1]), len(ours[1] - ours[0]))
    assert found["p_value"] == pytest.approx(binomtest(counts[0], sum(counts)).pvalue)
    for shown, own in zip((first, second), records, strict=True):
        outcomes = [o for column in own.columns.values() for o in column.outcomes]
        passes = sum(o.forward_passes + o.backward_passes for o in outcomes)
        assert (shown["passes"], shown["standing"]) == (passes, own.worst_case_count)
        assert shown["passes_a_standing_image"] == pytest.approx(passes / own.worst_case_count)
    _, text, _ = answer(capsys, *WAYS[way](both))
    assert f"only fast breaks {counts[1]}: {', '.join(map(str, sorted(ours[1] - ours[0])))}" in text
    assert text.index("a standing image") < text.index("seconds")
    assert "counted from 0 in test of digits" in text
    assert "note: seed differs: 0 and 1" in text


def test_a_protocol_that_breaks_more_is_named_and_long_lists_are_cut(tmp_path, capsys):
    same = record("x", 0.6), record("x", 0.2, protocol="fast")
    path, _ = write_all(tmp_path / "results", [*same])
    (path.parent / "card.json").write_text(same[0].card.model_dump_json())
    _, out, _ = answer(capsys, "x", "--protocols", "standard", "fast", "--json")
    (found,) = json.loads(out)
    assert found["breaks_more"] == "fast"
    assert len(found["protocols"][1]["only_it_breaks"]) == 80
    _, text, _ = answer(capsys, "x", "--protocols", "fast", "standard")
    assert "and 40 more (--json names all)" in text
    assert "only standard breaks 0\n" in text
    assert "p < 0.001, exact McNemar: fast breaks more" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{x}"], "compare takes a second model B, or --protocols P Q for A alone"),
        (["{x}", "{x}", "--protocols", "standard", "fast"], "leave out B, --protocol and --until-sure"),
        (["{x}", "--protocols", "standard", "fast", "--protocol", "fast"], "leave out B"),
        (["{x}", "--protocols", "standard", "fast", "--until-sure"], "leave out B"),
        (["{x}", "--protocols", "standard", "standard"], "takes two protocols, got standard twice"),
        (["{x}", "--protocols", "standard", "fats"], "Did you mean 'fast'?"),
        (["{x}", "--protocols", "standard", "quick"], "no record of the network x under quick"),
        (["{x}", "--protocols", "fast", "gradient"], "n differs: 200 and 100 images"),
        (["{x}", "--protocols", "standard", "autoattack"], "the threats differ: linf:0.15 and"),
        (["{x}", "--protocols", "standard", "published-pgd"], "the images differ"),
        (["{x}", "--protocols", "standard", "autoattack-rand"], "judge differently"),
        (["{x}", "--protocols", "standard", "fast", "--threat", "l2:1"], "no record of x for l2:1"),
        (["{standard}", "--protocols", "fast", "gradient"], "images and threat, under gradient"),
        (["{standard}", "{gradient}"], "n differs: 200 and 100 images"),
        (["{standard}", "{other}"], "protocol means other attacks"),
    ],
)  # fmt: skip
def test_protocols_that_cannot_be_compared_are_refused_in_one_sentence(
    words, said, both, tmp_path, capsys
):
    split = "test[200:400]"
    more = [
        record("x", 0.5, protocol="gradient", n=100),
        record("x", 0.5, protocol="autoattack", split=split, threat="linf:0.2"),
        record("x", 0.5, protocol="published-pgd"),
        record("x", 0.5, protocol="autoattack-rand", split=split),
        record("y", 0.5, protocol="published-pgd", split=split),
    ]
    gradient, *_, other = write_all(tmp_path / "results", more)
    (both[0].parent / "card.json").write_text(store.read(both[0]).card.model_dump_json())
    named = {"x": both[0].parent, "standard": both[0], "gradient": gradient, "other": other}
    status, out, err = answer(capsys, *(word.format(**named) for word in words))
    assert (status, out) == (2, "")
    assert said in err and len(err.strip().splitlines()) == 1


# ---------------------------------------------------------------- until sure


_IMPORTED: list[Path] = []  # once for all tests of this file


@pytest.fixture
def folders(tmp_path_factory, digits_cnn) -> list[Path]:
    if _IMPORTED:
        return _IMPORTED
    root = tmp_path_factory.mktemp("imported")
    for name, noise in (("good", 0.0), ("spoiled", 0.5)):
        net = copy.deepcopy(digits_cnn)
        with torch.no_grad():
            last = list(net.net.children())[-1]
            last.weight.add_(noise * last.weight.std() * torch.randn(last.weight.shape))
        torch.save(net.net.state_dict(), root / "net.pt")
        call = ["import", str(root / "net.pt"), "--arch", "small_cnn", "--arch-arg", "width=4"]
        call += ["--dataset", "digits", "--name", name, "--checkpoints", str(root / "c")]
        assert main(call) == 0
        _IMPORTED.append(root / "c" / name)
    return _IMPORTED


def until_sure(capsys, folders, *more):
    quick = ["--protocol", "gradient", "--threat", "linf:0.02", "--workers", "1"]
    return answer(capsys, *folders, "--until-sure", *quick, *more)


def test_until_sure_says_what_is_known_and_what_it_cost(folders, capsys):
    status, out, _ = until_sure(capsys, folders, "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["a"], found["b"], found["n"]) == ("good", "spoiled", 1000)
    assert found["separated"] == "a"
    assert 0 < found["difference"]["low"] < found["difference"]["high"]
    assert found["images"] <= found["measured"] < 1000
    assert found["passes_saved"] > found["passes"] > 0
    assert found["ranked"] is False
    _, text, err = until_sure(capsys, folders)
    assert f"separated after {found['images']} images: A is better" in text
    assert f"({found['measured']} of them before)" in text
    assert "e-value" in err


def test_a_stopped_comparison_goes_on_and_is_no_record(folders, capsys, monkeypatch):
    _, out, _ = until_sure(capsys, folders, "--max-n", "20", "--go-on", "--level", "1e-9", "--json")
    first = json.loads(out)
    assert (first["images"], first["measured"], first["separated"]) == (20, 32, None)
    real, again = shards.Shards._attack, []

    def watched(self, shard, *rest):
        again.append(int(shard[0]))
        return real(self, shard, *rest)

    monkeypatch.setattr(shards.Shards, "_attack", watched)
    _, text, _ = until_sure(capsys, folders, "--max-n", "40", "--go-on", "--level", "1e-9")
    assert "not separated after 40 images" in text
    assert "64 of 1,000 images attacked (32 of them before)" in text
    assert set(again) == {32}
    assert not Path("results").exists()
    assert table.build(Path("results")).groups == ()
    assert all(path.is_relative_to("var/compare") for path in Path("var").rglob("*.npz"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-n", "2000"], "1..1000"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_calls_say_what_to_do(folders, more, said, capsys):
    status, out, err = until_sure(capsys, folders, *more)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_long_comparisons_want_to_be_confirmed(folders, capsys, monkeypatch):
    from bench.measure import estimate

    monkeypatch.setattr(estimate, "estimate_seconds", lambda *a: 9000.0)
    status, _, err = until_sure(capsys, folders)
    assert status == 2
    assert "--yes" in err
