"""Networks of others: figures as a person types them, weights that are not copied, and lists."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cli import submissions
from bench.cli.submit import parse_figure
from bench.records import store
from bench.schema import Figure, InvalidInput, ThreatModel
from bench.sources.checkpoint import read_card

ROOT = Path(__file__).parents[2]
LIST = ROOT / "results/external/networks.json"
BALL = ThreatModel.parse("linf:0.15")

# ---------------------------------------------------------------- --figure


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (
            "proven=9420/10000,threat=linf:0.1,source=arXiv 1711.00851",
            {"what": "proven", "count": 9420, "n": 10_000, "threat": "linf:0.1"},
        ),
        ("clean=98.50%, n = 10000 ,source=x", {"what": "clean", "share": "0.9850", "n": 10_000}),
        ("clean=0.985,source=x", {"what": "clean", "share": "0.985"}),
        ("clean=100%,source=x", {"what": "clean", "share": "1.00"}),
        ("clean=94 %,source=x", {"what": "clean", "share": "0.94"}),
        ("clean=3/4,n=4,source=x", {"what": "clean", "count": 3, "n": 4}),
        (
            "threat=linf:8./255,attack=AutoAttack with 5 restarts,attacked=1/2,source=a, b, source=c",
            {
                "what": "attacked", "count": 1, "n": 2, "threat": "linf:8/255",
                "attack": "AutoAttack with 5 restarts", "source": "a, b, source=c",
            },
        ),
        (
            f"clean=1/2,dataset=cifar10-sdp200,images={'a' * 64},source=x",
            {
                "what": "clean", "count": 1, "n": 2, "dataset": "cifar10-sdp200",
                "examples_sha256": "a" * 64,
            },
        ),
    ],
)  # fmt: skip
def test_a_figure_is_read_as_it_is_typed(text, fields):
    source = text.rpartition("source=")[2]
    assert parse_figure(text, "mnist") == Figure.model_validate(
        {"dataset": "mnist", "source": source} | fields
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "source=TEXT"),
        ("proven=1/2,threat=linf:0.1", "source=TEXT"),
        ("proven=1/2,threat=linf:0.1,source= ", "source=TEXT"),
        ("source=x", "one of clean, attacked, proven, got none of them"),
        ("clean=1/2,proven=1/2,source=x", "got clean and proven"),
        ("clean=1/2,clean=1/2,source=x", "clean twice"),
        ("provn=1/2,source=x", "Did you mean 'proven'"),
        ("clean,source=x", "got the part 'clean'"),
        ("clean=,source=x", "got the part 'clean='"),
        ("clean=1/2,,source=x", "got the part ''"),
        ("clean=94.2,n=10000,source=x", "Did you mean 94.2%"),
        ("clean=101%,source=x", "94.2% or 0.942, got '101%'"),
        ("clean=-1/2,source=x", "got '-1/2'"),
        ("clean=nan,source=x", "got 'nan'"),
        ("clean=1e-3,source=x", "got '1e-3'"),
        ("clean=٩/١٠,source=x", "94.2% or 0.942"),
        (f"clean={'9' * 1000},source=x", "94.2% or 0.942, got '9{40}'"),
        ("clean=3/2,source=x", "3 of 2 images"),
        ("clean=1/0,source=x", "greater than or equal to 1"),
        ("clean=1/2,n=3,source=x", "is of 2 images, got n=3"),
        ("clean=0.5,n=many,source=x", "n: Input should be a valid integer"),
        ("clean=33.3%,n=200,source=x", "no whole number of 200"),
        ("clean=1/2,threat=linf:0.1,source=x", "has no threat"),
        ("proven=1/2,source=x", "needs a threat"),
        ("proven=1/2,threat=linf:8,source=x", "Did you mean 8/255"),
        ("proven=1/2,threat=linf:0.1,attack=PGD,source=x", "names no attack"),
        ("clean=1/2,dataset=../x,source=x", "dataset: String should match"),
        ("clean=1/2,images=mnist,source=x", "examples_sha256: String should match"),
    ],
)
def test_what_is_no_figure_is_refused_in_words(text, said):
    with pytest.raises(InvalidInput, match=said):
        parse_figure(text, "mnist")


@pytest.fixture
def call(weights, tmp_path, monkeypatch):
    """A call of submit or import for a network of digits."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(weights, tmp_path / "net.pt")
    words = ["net.pt", "--arch", "small_cnn", "--arch-arg", "width=4", "--dataset", "digits"]
    return [*words, "--name", "mine", "--checkpoints", "c"]


def test_figures_on_the_card_are_marked_as_the_word_of_the_submitter(call, capsys):
    figures = ["--figure", "clean=1/2,source=x", "--figure", "proven=1/2,threat=linf:0.15,source=y"]
    assert main(["import", *call, *figures]) == 0
    card = read_card(Path("c/mine"))
    assert [(f.what, f.count, f.n, f.threat) for f in card.figures] == [
        ("clean", 1, 2, None),
        ("proven", 1, 2, BALL),
    ]
    assert card.declared == ("figures",)
    assert main(["import", *call, "--figure", "clean=2,source=x"]) == 2
    assert "Did you mean 2%" in capsys.readouterr().err
    assert main(["import", *call, *["--figure", "clean=1/2,source=x"] * 41]) == 2
    assert "at most 40 figures, got 41" in capsys.readouterr().err


# ---------------------------------------------------------------- weights of others


def test_weights_that_are_not_ours_are_named_and_not_copied(call, capsys):
    assert main(["import", *call, "--no-copy"]) == 2
    assert "--no-copy without --link" in capsys.readouterr().err
    asked = ["--protocol", "only-fgsm", "--n", "40", "--workers", "1"]
    stated = [
        "--figure",
        "clean=40/40,source=x",
        "--figure",
        "proven=0/40,threat=linf:0.15,source=y",
    ]
    assert (
        main(["submit", *call, *asked, *stated, "--no-copy", "--link", "https://a.example/n"]) == 0
    )
    told = capsys.readouterr().out
    assert "stated       proven ≥ 0 of 40 images: agrees" in told
    assert "of 40 images are right here, but 40 of 40 (x) are stated" in told
    (path,) = store.collect(Path("results")).paths
    sha256 = hashlib.sha256(Path("net.pt").read_bytes()).hexdigest()
    assert read_card(path.parent).file_sha256 == store.read(path).card.file_sha256 == sha256
    assert not (path.parent / "weights.safetensors").exists()
    assert main(["evaluate", "c/mine", *asked]) == 0  # what is missing would be copied again
    assert not (path.parent / "weights.safetensors").exists()

    capsys.readouterr()
    assert main(["verify", str(path), "--no-reattack"]) == 2
    assert f"sha256 {sha256} from https://a.example/n" in capsys.readouterr().err
    for given in ("net.pt", "c/mine"):
        assert main(["verify", str(path), "--no-reattack", "--weights", given]) == 0
    Path("other.pt").write_bytes(b"no weights")
    assert main(["verify", str(path), "--no-reattack", "--weights", "other.pt"]) == 2


# ---------------------------------------------------------------- a list of networks


@pytest.fixture
def listed(call):
    """Writes a list that declares the network of `call` twice, changed or not; the call with it."""

    def write(change=lambda declared: None) -> list[str]:
        submit = {
            "arch": "small_cnn", "arch-arg": ["width=4"], "dataset": "digits", "no-copy": True,
            "link": "https://a.example/n", "figure": ["clean=20/20,source={files}"], "again": False,
        }  # fmt: skip
        sha256 = hashlib.sha256(Path("net.pt").read_bytes()).hexdigest()
        asked = {"file": "net.pt", "sha256": sha256, "protocols": ["only-fgsm"], "n": 20}
        declared = {"network": [{"name": name, **asked, "submit": dict(submit)} for name in "ab"]}
        change(declared)
        Path("networks.json").write_text(json.dumps(declared))
        return [
            "submissions",
            "networks.json",
            "--files",
            ".",
            "--checkpoints",
            "c",
            "--workers",
            "1",
        ]

    return write


def with_(**fields):
    """A change of the second network."""
    return lambda declared: declared["network"][1].update(fields)


def test_every_network_of_a_list_is_submitted_and_found_again(listed, capsys):
    assert main([*listed(), "--dry"]) == 0
    assert not Path("c").exists()
    assert main([*listed(), "--only", "b"]) == 0
    assert [record.card.name for record in store.collect(Path("results")).records] == ["b"]
    capsys.readouterr()
    assert main(listed()) == 0
    said = capsys.readouterr()
    assert "b, digits linf:0.15 only-fgsm (recorded before)" in said.out
    assert "a, digits linf:0.15 only-fgsm: clean" in said.out
    assert "python -m bench submit net.pt --name=a --protocol=only-fgsm --n=20" in said.err
    records = store.collect(Path("results")).records
    assert [(r.card.name, r.card.figures[0].source) for r in records] == [("a", "."), ("b", ".")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_(sha256="0"), "network.1.sha256: String should match"),
        (with_(more=1), "network.1.more: Extra inputs"),
        (with_(n=0), "greater than or equal to 1"),
        (with_(protocols=[]), "at least 1 item"),
        (with_(file="../net.pt"), "network.1.file: String should match"),
        (with_(submit={"no-copi": True}), "b: submit does not take these flags"),
        (with_(submit={"help": True}), "b: submit does not take these flags"),
        (with_(submit={"n": 3}), "network.1.submit.n"),
        (with_(name="a"), "a stands twice"),
        (lambda declared: declared.clear(), "network: Field required"),
    ],
)
def test_a_list_that_cannot_be_understood_makes_no_call(listed, change, said, capsys):
    assert main(listed(change)) == 2
    assert said in capsys.readouterr().err
    assert not Path("c").exists() and not Path("results").exists()


def test_one_network_that_fails_does_not_stop_the_others(listed, capsys):
    words = listed(lambda declared: declared["network"][0].update(sha256="0" * 64))
    assert main(words) == 2
    sha256 = hashlib.sha256(Path("net.pt").read_bytes()).hexdigest()
    assert f"its sha256 is {sha256}, expected 000" in capsys.readouterr().err
    assert [record.card.name for record in store.collect(Path("results")).records] == ["b"]
    assert main([*words, "--only", "c"]) == 2
    assert "no network in networks.json named 'c'" in capsys.readouterr().err


def test_the_committed_list_can_be_submitted_and_is_what_the_files_are(shared):
    """Every call is understood, and every figure is one of the images that the call measures."""
    networks = submissions.read(LIST).network
    assert len(networks) == 6
    for network in networks:
        path = shared / "external" / network.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == network.sha256
        dataset = str(network.submit.get("dataset-name", network.submit["dataset"]))
        for text in network.submit.get("figure", ()):
            figure = parse_figure(text, str(network.submit["dataset"]))
            assert (figure.dataset, figure.n) == (dataset, network.n), text
            assert figure.threat is None or str(figure.threat) == network.submit["threat"]
    assert main(["submissions", str(LIST), "--files", str(shared / "external"), "--dry"]) == 0
