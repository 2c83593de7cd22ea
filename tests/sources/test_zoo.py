"""RobustBench's zoo: names, weights from disk or download, and what is refused; without a network."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import warnings
from fnmatch import fnmatch
from importlib import import_module
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bench import datasets
from bench.__main__ import main
from bench.measure import sweep
from bench.records import store
from bench.schema import InvalidInput, ThreatModel
from bench.sources import zoo
from bench.sources.robustbench_repairs import import_robustbench

WIDE = "robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRN"  # 2.2 million weights: small
AWP = {
    "cifar10/Linf/Wu2020Adversarial": 10,
    "cifar10/L2/Wu2020Adversarial": 10,
    "cifar100/Linf/Wu2020Adversarial": 100,
    "cifar10/Linf/Wu2020Adversarial_extra": 10,
}


def place(entry, content=None, *, suffix=".pt"):
    """Weights on disk: of a fresh network, or `content`, which may be a function of its state."""
    torch.manual_seed(1)
    state = zoo.build(entry).state_dict()
    content = state if content is None else content(state) if callable(content) else content
    path = entry.path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(content, path)
    return path


@pytest.fixture
def wide(tmp_path) -> zoo.Entry:
    return zoo.find(WIDE, tmp_path / "zoo")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", AWP)
def test_awp_entries_say_where_they_are_and_how_they_were_trained(name, tmp_path):
    entry = zoo.find(f"robustbench:{name}", tmp_path)
    assert entry.link == f"robustbench:{name}"
    assert entry.path == tmp_path / f"{name}.pt"
    assert entry.gdrive_id in entry.address
    assert entry.ranked_under == ThreatModel.parse("l2:0.5" if "/L2/" in name else "linf:8/255")
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"weights")
    with torch.device("meta"):
        model, card = zoo.build(entry), zoo.read_card(entry)
    *_, last = (m for m in model.modules() if isinstance(m, nn.Linear))
    assert last.out_features == AWP[name]
    wide = "WideResNet-28-10" if name.endswith("_extra") else "WideResNet-34-10"
    method = {"_extra": "RST-AWP", "cifar100": "AT-AWP"}
    expected = next((m for word, m in method.items() if word in name), "TRADES-AWP")
    assert (card.arch, card.method) == (wide, expected)
    assert card.awp.gamma == (0.01 if expected == "AT-AWP" else 0.005)
    assert bool(card.extra_data) == (expected == "RST-AWP")


def test_unique_ids_need_no_more_and_ambiguous_ones_are_robustbenchs_default_or_listed():
    assert zoo.find("robustbench:Wu2020Adversarial_extra").link.endswith(
        "cifar10/Linf/Wu2020Adversarial_extra"
    )
    for name in ("Wu2020Adversarial", "cifar10/Wu2020Adversarial"):
        assert zoo.find(f"robustbench:{name}").link == "robustbench:cifar10/Linf/Wu2020Adversarial"
    with pytest.raises(InvalidInput, match="several") as error:
        zoo.find("robustbench:Gowal2020Uncovering")
    for board in ("cifar10/L2", "cifar100/Linf"):
        assert f"robustbench:{board}/Gowal2020Uncovering" in str(error.value)
    assert zoo.find("robustbench:l2/Wu2020Adversarial").dataset == "cifar10"
    assert zoo.find("robustbench:cifar100/Wu2020Adversarial").threat == "Linf"
    with pytest.raises(InvalidInput, match=r"these exist: .*cifar100/Linf/Wu2020Adversarial"):
        zoo.find("robustbench:cifar100/L2/Wu2020Adversarial")


def test_unknown_id_suggests_the_nearest_and_a_folder_is_a_folder(tmp_path):
    assert zoo.source("var/checkpoints/a") == Path("var/checkpoints/a")
    assert zoo.source(Path(WIDE), tmp_path) == zoo.find(WIDE, tmp_path)
    with pytest.raises(InvalidInput, match="Did you mean Wu2020Adversarial"):
        zoo.find("robustbench:wu2020adversariel")
    with pytest.raises(InvalidInput, match="list --zoo"):
        zoo.find("robustbench:")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Chen2020Adversarial", "ensemble of 3 weight files"),
        ("cifar10/Linf/Bai2024MixedNUTS", "ensemble of 2 weight files"),
        ("cifar10/Linf/Debenedetti2022Light_XCiT-S12", "timm keeps its weights"),
        ("imagenet/Linf/Salman2020Do_R18", "no imagenet images"),
    ],
)
def test_what_is_not_measured_here_says_why(name, reason):
    with pytest.raises(InvalidInput, match=reason):
        zoo.find(f"robustbench:{name}")


@pytest.mark.slow
def test_every_architecture_that_is_not_refused_builds():
    for entry in zoo.entries():
        if entry.refusal or entry.id == "Kang2021Stable":  # reads values while it is built: 2 GB
            continue
        with torch.device("meta"):
            model = zoo.build(entry)
        assert sum(p.numel() for p in model.parameters()) > 1_000_000, entry.link


# ---------------------------------------------------------------- what is known of them


def test_every_entry_of_the_two_norms_has_the_name_of_its_leaderboard():
    known = {e.link.removeprefix(zoo.PREFIX) for e in zoo.entries() if not e.refusal}
    names = zoo._architecture_names()
    assert not [key for key in known if "/corruptions/" not in key and not names.get(key)]
    assert set(zoo.TRAINED) == set(AWP) < known


# ---------------------------------------------------------------- weights on disk

FORMS = {
    "state_dict, module.": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "model.": lambda s: {"state_dict": {f"module.model.{k}": v for k, v in s.items()}},
    "no normalisation": lambda s: {k: v for k, v in s.items() if k not in ("mu", "sigma")},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_load_as_robustbench_loads_them(form, wide):
    path = place(wide, FORMS[form])
    model, card = zoo.load(wide)
    utils = import_module(f"{import_robustbench().__name__}.utils")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = utils.load_model(wide.id, wide.root, wide.dataset, wide.threat)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), theirs(x))
    assert not model.training
    assert card.weights_sha256 == store.sha256_of(path)
    assert card.n_parameters == sum(p.numel() for p in theirs.parameters())
    assert (card.name, card.link) == ("Hendrycks2020AugMix_WRN", WIDE)
    assert (card.dataset, card.class_count) == ("cifar10", 10)
    assert (card.arch, card.method) == (type(theirs).__name__, "unknown")


def test_the_last_of_two_epochs_is_taken_as_robustbench_takes_it(tmp_path):
    entry = zoo.find("robustbench:Andriushchenko2020Understanding", tmp_path)

    def two(state):
        best = {k: torch.zeros_like(v) for k, v in state.items()}
        return {"last": state | {"model_preact_hl1.1.weight": torch.zeros(3)}, "best": best}

    place(entry, two)
    utils = import_module(f"{import_robustbench().__name__}.utils")
    theirs = utils.load_model(entry.id, tmp_path, entry.dataset, entry.threat)
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(zoo.load(entry)[0](x), theirs(x))


def test_other_suffixes_put_there_by_hand_are_read_and_replaced(wide):
    for factor, suffix in enumerate((".safetensors", ".pth"), 1):
        path = place(wide, lambda s, f=factor: {k: f * v for k, v in s.items()}, suffix=suffix)
        model, card = zoo.load(wide)
        torch.manual_seed(1)
        assert torch.equal(model.fc.weight, factor * zoo.build(wide).fc.weight)
        assert card.weights_sha256 == store.sha256_of(path) == zoo.read_card(wide).weights_sha256
    place(wide, lambda s: s | {"sub_block1.weight": torch.zeros(9)}, suffix=suffix)
    assert zoo.read_card(wide).weights_sha256 == store.sha256_of(path) != card.weights_sha256


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-code-ran",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": Hostile()}, "holds more than tensors"),
        ({"other": torch.zeros(3)}, "does not fit the architecture"),
        (lambda s: {k: v for k, v in s.items() if k != "fc.bias"}, "fc.bias"),
        (lambda s: s | {"module.fc.bias": s["fc.bias"]}, "fc.bias twice"),
        (lambda s: s | {"fc.bias": torch.full((10,), torch.nan)}, "not finite"),
        (lambda s: s | {"fc.bias": torch.zeros(100)}, "shape"),
    ],
    ids=["hostile pickle", "other keys", "missing", "twice", "nan", "other shape"],
)
def test_other_files_in_the_weights_place_are_refused(content, said, wide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = place(wide, content)
    with pytest.raises(InvalidInput, match=said):
        zoo.load(wide)
    assert path.exists()
    assert not Path("hostile-code-ran").exists()


def test_normalisation_that_is_trained_must_be_in_the_file(tmp_path):
    entry = zoo.find("robustbench:cifar10/corruptions/Modas2021PRIMEResNet18", tmp_path)
    place(entry, lambda s: {k: v for k, v in s.items() if k != "mu"})
    with pytest.raises(InvalidInput, match="mu"):
        zoo.load(entry)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def images(tmp_path, wide) -> Path:
    """Four images, three of them under the labels that the network of `wide` gives them."""
    x = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    place(wide)
    with torch.no_grad():
        y = zoo.load(wide)[0](datasets.as_float(x.permute(0, 3, 1, 2))).argmax(1)
    y[0] = (y[0] + 1) % 10
    folder = tmp_path / "images"
    folder.mkdir()
    np.save(folder / "images.npy", x.numpy())
    np.save(folder / "labels.npy", y.numpy())
    return folder


@pytest.mark.slow
def test_a_zoo_model_is_measured_from_the_command_line(images, wide, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = ["evaluate", WIDE, "--zoo", "zoo", "--dataset", f"arrays:{images}"]
    call += ["--dataset-name", "cifar10", "--protocol", "gradient", "--json"]
    assert main(call) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["name"], answer["n"], answer["clean"]) == ("Hendrycks2020AugMix_WRN", 4, 0.75)
    assert answer["threat"] == "linf:8/255"
    record = store.read(Path(answer["records"][0]))
    assert record.card == zoo.read_card(wide)
    model, card = zoo.load(dataclasses.replace(zoo.find(record.card.link), root=wide.root))
    assert card.weights_sha256 == record.card.weights_sha256  # its link brings it back
    x = datasets.load(f"arrays:{images}", name="cifar10").x
    assert model(x).argmax(1).tolist() == record.clean_prediction_array.tolist()
    monkeypatch.setattr("bench.measure.evaluate.measure", lambda *a, **k: pytest.fail("again"))
    assert main(call) == 0
    assert not (tmp_path / "models").exists()


def test_the_leaderboards_threat_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "build", lambda entry: nn.Linear(2, 10))
    entry = zoo.find("robustbench:cifar10/L2/Ding2020MMA", tmp_path)
    place(entry)
    assert str(sweep.make_job(entry).threat) == "l2:0.5"
    assert str(sweep.make_job(entry, threat="linf:4/255").threat) == "linf:4/255"


def test_list_says_which_weights_are_on_disk(wide, tmp_path, capsys):
    path = place(wide)
    assert main(["list", "--zoo", str(tmp_path / "zoo")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (mine,) = [line for line in lines if str(path) in line]
    assert mine.split()[:3] == ["cifar10", "corruptions", "Hendrycks2020AugMix_WRN"]
    (other,) = [line for line in lines if line.split()[2:3] == ["Wu2020Adversarial_extra"]]
    assert "not on disk" in other
    assert main(["evaluate", "robustbench:Wu2020Adversariel"]) == 2


# ---------------------------------------------------------------- download


def proxied(monkeypatch, port):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")


def test_offline_says_where_the_file_is_and_where_it_belongs(wide, monkeypatch):
    proxied(monkeypatch, 9)  # where nothing listens
    with pytest.raises(InvalidInput, match=r"drive\.google\.com cannot be reached") as error:
        zoo.load(wide)
    said = (WIDE, str(wide.path), wide.address, f"id {wide.gdrive_id}")
    assert all(words in str(error.value) for words in said)
    assert not wide.root.exists()


def test_a_silent_download_is_given_up(wide, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        proxied(monkeypatch, silent.getsockname()[1])
        monkeypatch.setattr(zoo, "STALL", 0.3)
        with pytest.raises(OSError, match=r"nothing arrived for 0\.3 seconds"):
            zoo.gdown("id", wide.root / "weights.pt")


def test_a_download_takes_its_name_when_it_is_complete(wide, monkeypatch):
    prepared = place(wide)
    raw = prepared.read_bytes()
    prepared.unlink()
    other = wide.path.with_name("other.pt")  # a neighbour, which stays
    other.touch()
    for content in (raw[: len(raw) // 2], b"<!DOCTYPE html> quota exceeded"):
        monkeypatch.setattr(zoo, "gdown", lambda drive, path, c=content: path.write_bytes(c))
        with pytest.raises(InvalidInput, match="could not be downloaded"):
            zoo.fetch(wide)
        assert list(wide.path.parent.iterdir()) == [other]
    monkeypatch.setattr(zoo, "gdown", lambda drive, path: path.write_bytes(raw))
    assert zoo.load(wide)[1].weights_sha256 == store.sha256_of(prepared)
    assert {p.name for p in wide.path.parent.iterdir()} == {other.name, wide.path.name}


def test_weights_are_not_fetched_to_where_no_file_can_be(wide, monkeypatch):
    monkeypatch.setattr(zoo, "gdown", lambda *call: pytest.fail("downloaded"))
    with pytest.raises(InvalidInput, match="the folder /proc takes no files .*; name another one"):
        zoo.fetch(dataclasses.replace(wide, root=Path("/proc/nowhere")))


# ---------------------------------------------------------------- a real checkpoint


@pytest.mark.slow
def test_a_trained_network_keeps_its_accuracy_through_the_zoo(shared, tmp_path):
    """pyautoattack's example is a ResNet-18 as Sehwag2021Proxy_R18 is one: 93.8 % of 1,017 images."""
    if not (shared / "data/cifar10-first1017").is_dir():
        pytest.skip("../shared/data/cifar10-first1017 is not here")
    (example,) = [f for f in files("pyautoattack") or [] if f.name == "model_test.pt"]
    entry = zoo.find("robustbench:cifar10/Linf/Sehwag2021Proxy_R18", tmp_path)
    entry.path.parent.mkdir(parents=True)
    entry.path.symlink_to(example.locate())
    model, card = zoo.load(entry)
    assert card.n_parameters == 11_173_962
    data = datasets.load(f"parquet:{shared}/data/cifar10-first1017", name="cifar10")
    right = sweep.clean_predictions(model, data) == data.labels.numpy()
    assert (len(right), round(100 * right.mean(), 1)) == (1017, 93.8)


# ---------------------------------------------------------------- the page


PAGE = (Path(__file__).parents[2] / "docs/zoo.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_python_of_the_page_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    monkeypatch.setattr(zoo, "build", lambda entry: net)
    for name in re.findall(r'zoo\.load\("(.*?)"\)', code):
        place(zoo.find(name))
    exec(compile(code, "docs/zoo.md", "exec"), {})
    assert capsys.readouterr().out


def test_commands_of_the_page_name_what_exists():
    for name in re.findall(r"evaluate (robustbench:\S+)", PAGE):
        assert zoo.find(name).link.endswith(name.removeprefix(zoo.PREFIX))
    refused = {entry.id for entry in zoo.entries() if entry.refusal and entry.dataset != "imagenet"}
    patterns = re.findall(r"`(\w+2\d{3}[\w*-]+)`", PAGE.split("Refused")[1].split("## Coming")[0])
    assert refused == {i for i in refused if any(fnmatch(i, p) for p in patterns)}
    assert all(any(fnmatch(i, p) for i in refused) for p in patterns)
