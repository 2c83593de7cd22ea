"""Files of weights as others write them, and as nobody should: what is read, said, and spent."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bench import models
from bench.__main__ import main
from bench.schema import InvalidInput
from bench.sources import checkpoint, fitting, pickles

ARGS = {"in_channels": 1, "image_size": 8, "num_classes": 10, "width": 2}


def weights(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(models.build("small_cnn", ARGS).net.state_dict())


ANOTHER = {"in_channels": 1, "image_size": 28, "num_classes": 10}
STATE, OTHER = weights(), weights(2)
FIRST = next(iter(STATE))
MEAN, STD = torch.tensor([0.25]), torch.tensor([0.5])


def under(prefix: str, state: dict | None = None) -> dict:
    return {f"{prefix}{name}": value for name, value in (state or STATE).items()}


def bring(path: Path, folder: Path, **changes):
    call = {"arch": "small_cnn", "dataset": "digits", "name": "a", "arch_args": {"width": 2}}
    return checkpoint.load(
        checkpoint.add(*checkpoint.foreign(path, **(call | changes)), out=folder / "out")
    )


def same(model, state: dict) -> bool:
    held = model.net.state_dict()
    return all(torch.equal(held[name], value.to(held[name].dtype)) for name, value in state.items())


# ---------------------------------------------------------------- what is read

AVERAGED = torch.optim.swa_utils.AveragedModel(nn.Linear(1, 1)).state_dict()
READ = {
    "averaged model": {"n_averaged": torch.tensor(3), **under("module.")},
    "parallel": under("module.module."),
    "compiled": under("_orig_mod."),
    "some keys in a wrapper": under("module.0."),
    "lightning": {"state_dict": under("model."), "hyper_parameters": {"lr": 0.1}, "epoch": 3},
    "beside a criterion": {**under("model."), "criterion.weight": torch.ones(10)},
    "a backbone": under("backbone."),
    "under an attacker": {**under("attacker.model."), **under("model.")},
    "robustness": {
        "model": {**under("module.model."), **under("module.attacker.model.")}, "epoch": 7,
    },
    "numpy scalar beside": {"state_dict": STATE, "best_acc": np.float64(0.5), "e": np.int64(3)},
    "array beside": {"state_dict": STATE, "curve": np.arange(5.0)},
    "arguments beside": {"state_dict": STATE, "args": argparse.Namespace(lr=0.1, path=Path("x"))},
    "sets beside": {"state_dict": STATE, "seen": {1, 2}, "shape": torch.Size([3])},
    "types beside": {"state_dict": STATE, "dtype": torch.float32, "device": torch.device("cpu")},
    "an optimiser beside": {"net": STATE, "optimizer": {"state": {0: {"m": torch.ones(3, 3)}}}},
    "parameters": {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in STATE.items()},
    "views of one tensor": {
        name: torch.cat([value.flatten(), value.flatten()])[: value.numel()].view(value.shape)
        for name, value in STATE.items()
    },
    "transposed": {n: v.t().contiguous().t() if v.ndim == 2 else v for n, v in STATE.items()},
}  # fmt: skip


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_a_file_of_others_is_read(content, old, tmp_path):
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=not old)
    model, card = bring(tmp_path / "file.pt", tmp_path)
    assert same(model, STATE)
    assert card.mean is card.std is None
    assert ("without checksums" in card.weights_note) == old


NORMALISED = {
    "in a sequence": {"0.mean": MEAN, "0.std": STD, **under("1.")},
    "by channel": {"0.mean": MEAN.view(1, 1, 1, 1), "0.std": STD.view(1, 1, 1), **under("1.")},
    "named": {"normalize.mean": MEAN, "normalize.std": STD, **under("model.")},
    "mu and sigma": {"mu": MEAN, "sigma": STD, **STATE},
    "robustness": {
        "normalizer.new_mean": MEAN, "normalizer.new_std": STD, **under("model."),
        "attacker.normalize.new_mean": MEAN, "attacker.normalize.new_std": STD,
        **under("attacker.model."),
    },
    "parallel": {"module.0.mean": MEAN, "module.0.std": STD, **under("module.1.")},
}  # fmt: skip


@pytest.mark.parametrize("content", NORMALISED.values(), ids=NORMALISED)
def test_the_normalisation_of_a_file_is_read(content, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    model, card = bring(tmp_path / "file.pt", tmp_path)
    assert (card.mean, card.std) == ((0.25,), (0.5,))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model(x), model.net((x - 0.25) / 0.5))
    assert bring(tmp_path / "file.pt", tmp_path, mean=(0.25,), std=(0.5,))[1] == card


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("write", [torch.save, safetensors.torch.save_file])
def test_other_precisions_are_read_and_said(kind, write, tmp_path):
    state = {n: v.to(kind) if v.is_floating_point() else v for n, v in STATE.items()}
    write(state, tmp_path / "file.any")
    model, card = bring(tmp_path / "file.any", tmp_path)
    assert same(model, state)
    assert card.weights_note == f"{str(kind).removeprefix('torch.')} weights, read as float32"


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors", ""])
@pytest.mark.parametrize("write", [torch.save, safetensors.torch.save_file])
def test_the_content_tells_the_format(write, suffix, tmp_path):
    write(STATE, tmp_path / f"file{suffix}")
    model, card = bring(tmp_path / f"file{suffix}", tmp_path)
    assert same(model, STATE)
    assert card.weights_note == ""


def test_the_chosen_set_stands_on_the_card(tmp_path):
    torch.save({"model": STATE, "ema": OTHER}, tmp_path / "file.pt")
    model, card = bring(tmp_path / "file.pt", tmp_path, weights="ema")
    assert same(model, OTHER)
    assert "ema" in card.weights_note


# ---------------------------------------------------------------- what is refused, and how


def first(change) -> dict:
    return STATE | {FIRST: change(STATE[FIRST])}


def quantised(value: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


CONTENT = {
    "int8": (first(lambda w: w.to(torch.int8)), f"{FIRST} is of type int8"),
    "complex": (first(lambda w: w.to(torch.complex64)), f"{FIRST} is of type complex64"),
    "boolean": (first(lambda w: w > 0), f"{FIRST} is of type bool"),
    "quantised": (first(quantised), "quantised"),
    "sparse": (first(lambda w: w.to_sparse()), "sparse"),
    "meta": (first(lambda w: w.to("meta")), "device meta"),
    "float8": (first(lambda w: w.to(torch.float8_e4m3fn)), f"{FIRST} is of type float8_e4m3fn"),
    "uint16": (first(lambda w: w.to(torch.uint16)), f"{FIRST} is of type uint16"),
    "beyond float32": (
        first(lambda w: w.double() + 1e300), f"{FIRST} holds values that are not finite in float32"
    ),
    "not finite": (first(lambda w: w * torch.inf), "not finite"),
    "two networks": ({**under("a."), **under("b.", OTHER)}, "under 'a.' and 'b.', and they differ"),
    "two normalisations": (
        {**STATE, "mean": MEAN, "std": STD, "x.mean": MEAN + 1, "x.std": STD},
        "two normalisations",
    ),
    "a mean alone": ({**STATE, "mean": MEAN}, "with mean alone"),
    "of 255": ({**STATE, "mean": MEAN * 500, "std": STD * 255}, "divide mean and std by 255"),
    "more than the network": (
        {**STATE, "projector.weight": torch.rand(3, 3)}, "1 unknown ['projector.weight']; remove"
    ),
    "an optimiser alone": ({"optimizer": {"state": {}, "param_groups": []}}, "tensors only"),
    "a module": (nn.Linear(2, 2), "whole module"),
    "another width": (
        dict(models.build("small_cnn", ARGS | {"width": 4}).net.state_dict()),
        "fits small_cnn, width 4, image_size 8",
    ),
    "images of another size": (
        dict(models.build("small_cnn", ARGS | {"image_size": 28}).net.state_dict()),
        "fits small_cnn, width 2, image_size 28",
    ),
    "another architecture": (
        dict(models.build("cnn_a", ANOTHER).net.state_dict()),
        "fits cnn_a, in_channels 1, image_size 28",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), CONTENT.values(), ids=CONTENT)
def test_what_cannot_be_meant_is_named(content, words, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    refused(tmp_path, words)


def refused(folder: Path, words: str, name: str = "file.pt", **changes) -> None:
    before = (folder / name).read_bytes()
    with pytest.raises(InvalidInput) as told:
        bring(folder / name, folder, **changes)
    assert words in str(told.value)
    assert str(folder / name) in str(told.value)
    assert len(str(told.value)) < 500
    assert (folder / name).read_bytes() == before
    assert not (folder / "out").exists()


def test_a_normalisation_that_the_call_contradicts_is_refused(tmp_path):
    torch.save(NORMALISED["named"], tmp_path / "file.pt")
    refused(
        tmp_path, "holds a normalisation with mean 0.25, --mean says 0.5", mean=(0.5,), std=(0.5,)
    )


KINDS = {
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "web page": (b"\n <!DOCTYPE html>", "web page"),
    "index": (b'{"metadata": {}, "weight_map": {"a": "b"}}', "several files"),
    "JSON": (b'{"a": 1}', "JSON text"),
    "text": (b"hello, world\n" * 5, "text, not a checkpoint"),
    "empty": (b"", "is empty"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "gzip"),
    "numpy": (b"\x93NUMPY\x01\x00" + bytes(99), "numpy array"),
    "tar": (bytes(257) + b"ustar\x00" + bytes(999), "tar archive"),
    "plain pickle": (pickle.dumps({"a": 1}), "plain pickle"),
    "zeros": (bytes(9999), "not a PyTorch checkpoint"),
}


@pytest.mark.parametrize(("raw", "words"), KINDS.values(), ids=KINDS)
def test_the_kind_of_a_file_is_named(raw, words, tmp_path):
    (tmp_path / "file.pt").write_bytes(raw)
    refused(tmp_path, words)


def test_a_scripted_network_is_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)).save(str(tmp_path / "file.pt"))
    refused(tmp_path, "TorchScript")


def test_a_folder_is_named(tmp_path):
    (tmp_path / "file.pt").mkdir()
    with pytest.raises(InvalidInput, match="is a folder"):
        bring(tmp_path / "file.pt", tmp_path)


def saved(content: object, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_a_file_that_is_cut_off_anywhere_is_refused(old, tmp_path):
    raw = saved(STATE, old=old)
    for end in [*range(1, 40, 3), *range(40, len(raw), 997), len(raw) - 1]:
        (tmp_path / "file.pt").write_bytes(raw[:end])
        with pytest.raises(InvalidInput):
            bring(tmp_path / "file.pt", tmp_path)


def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path):
    """Of an archive: all that is read is under a checksum."""
    raw = saved(STATE)
    for place in range(0, len(raw), 211):
        changed = bytearray(raw)
        changed[place] ^= 0x41
        (tmp_path / "file.pt").write_bytes(changed)
        try:
            model, _ = bring(tmp_path / "file.pt", tmp_path)
        except InvalidInput:
            continue
        assert same(model, STATE)


# ---------------------------------------------------------------- hostile files

MARK = "ran-what-a-file-holds"


class Runs:
    """Pickled as a call of a function with the name of a file to make."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def archived(pickled: bytes, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, raw in more.items():
            archive.writestr(f"a/{name.replace('_', '/')}", raw)
    return buffer.getvalue()


def tensor_of(shape: str, stride: str, count: int) -> bytes:
    """The pickle of {'w': a tensor}, of so many numbers and with that shape."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK"
        + bytes([count])
        + b"tQK\x00("
        + shape.encode("latin1")
        + b"t("
        + stride.encode("latin1")
        + b"t\x89ccollections\nOrderedDict\n)RtRs."
    )


HUGE = "J\x40\x0d\x03\x00" * 2  # 200,000 x 200,000


def header(facts: object) -> bytes:
    raw = json.dumps(facts).encode() if not isinstance(facts, bytes) else facts
    return struct.pack("<Q", len(raw)) + raw


def many_entries() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{number}", b"")
    return buffer.getvalue()


def beside(more: dict[str, bytes]) -> bytes:
    """A whole file of weights with more entries than it needs."""
    buffer = io.BytesIO(saved(STATE))
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, raw in more.items():
            archive.writestr(name, raw)
    return buffer.getvalue()


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HOSTILE = {
    "a call": lambda: saved({"w": Runs(os.system, f"touch {MARK}")}),
    "an old call": lambda: saved({"w": Runs(os.system, f"touch {MARK}")}, old=True),
    "eval": lambda: saved({"w": Runs(eval, f"open('{MARK}', 'w')")}),
    "a getter": lambda: saved({"w": Runs(getattr, torch.Size, "count")}),
    "an allowed class, other arguments": lambda: saved({"w": Runs(torch.Size, "abc")}),
    "an extension": lambda: archived(b"\x80\x02\x82\x01."),
    "an instance": lambda: archived(b"(ios\nsystem\n."),
    "a persistent text": lambda: archived(b"P0\n."),
    "numbers repeated": lambda: archived(tensor_of(HUGE, "K\x00K\x00", 1), data_0=b"\0\0\0\0"),
    "numbers beyond": lambda: archived(tensor_of("K\x09", "K\x01", 1), data_0=b"\0\0\0\0"),
    "numbers missing": lambda: archived(tensor_of("K\x01", "K\x01", 1)),
    "a negative size": lambda: archived(tensor_of("J\xff\xff\xff\xff", "K\x01", 1), data_0=bytes(4)),
    "a million tensors": lambda: archived(
        b"\x80\x02(" + 10**6 * tensor_of("K\x01", "K\x01", 1)[2:-1] + b"l.", data_0=bytes(4)
    ),
    "a million lists": lambda: archived(b"\x80\x02" + b"]" * 10**6 + b"."),
    "lists in lists": lambda: archived(b"\x80\x02" + b"](" * 200_000 + b"." ),
    "tuples in tuples": lambda: archived(b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns."),
    "doubling tuples": lambda: archived(b"\x80\x02})q\x00" + b"h\x00\x86q\x00h\x00" * 60 + b"Ns."),
    "doubling lists": lambda: archived(
        b"\x80\x02}X\x01\x00\x00\x00a]q\x00"
        + b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(60)) + b"s."
    ),
    "a huge whole number": lambda: archived(b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "a text that is not there": lambda: archived(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f."),
    "a long text": lambda: archived(b"\x80\x02X\xff\xff\xff\x00" + b"a" * 0xFFFFFF + b"."),
    "many entries": many_entries,
    "two pickles": lambda: archived(pickle.dumps({}, 2), **{"b_data.pkl": b""}),
    "a name that is no text": lambda: beside({"archive/\xe9": b"x"}).replace(b"\xc3\xa9", b"\xe8\xff"),
    "more beside": lambda: beside({"../b": b"x"}),
    "not the header's length": lambda: struct.pack("<Q", 2**63) + b'{"a":1}' + bytes(99),
    "a header of lists": lambda: header(b"{" + b'"a":[' * 200_000),
    "a header of tensors": lambda: header({str(k): F32 for k in range(60_000)}) + bytes(4),
    "a name twice": lambda: header(b'{"a":' + json.dumps(F32).encode() + b',"a":1}') + bytes(4),
    "a shape that wraps": lambda: header({"a": F32 | {"shape": [2**32, 2**32]}}) + bytes(4),
    "tensors that overlap": lambda: header({"a": F32, "b": F32}) + bytes(4),
    "a gap": lambda: header({"a": F32}) + bytes(8),
    "an offset below": lambda: header({"a": F32 | {"data_offsets": [-4, 0]}}) + bytes(4),
    "shapes that are no numbers": lambda: header({"a": F32 | {"shape": ["1"]}}) + bytes(4),
    "facts that are none": lambda: header({"a": 3}) + bytes(4),
    "a type that is none": lambda: header({"a": F32 | {"dtype": "\x1b[31mF8"}}) + bytes(4),
}  # fmt: skip
# Why, where another network would be refused too: that none of it was believed.
REASONS = {
    **dict.fromkeys(("a call", "an old call", "eval", "a getter"), "code"),
    **dict.fromkeys(("numbers beyond",), "a tensor lies beyond its numbers"),
    "numbers missing": "are missing from the archive",
    "a negative size": "does not add up",
    "a million tensors": "has more than",
    "many entries": "100,000 entries",
    "a name that is no text": "UnicodeDecodeError",
    "two pickles": "several data.pkl",
    "more beside": "more in it than torch.save writes",
    "a name twice": "is no JSON",
    "a shape that wraps": "has not the size it names",
    "tensors that overlap": "side by side",
    "a gap": "side by side",
    **dict.fromkeys(("an extension", "an instance", "a persistent text"), "a step that torch.save"),
}
# Bytes beyond what importing torch takes, and seconds of computing; in all, so many at most.
MOST, LONGEST, EVER = 500 * 2**20, 5, 60


def _tried(path: Path) -> str:
    """What a child says of a file under the limits; killed where it passes them."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        said = "traceback"
        try:
            used = int(Path("/proc/self/statm").read_text().split()[5]) * 4096
            resource.setrlimit(resource.RLIMIT_DATA, (used + MOST, used + MOST))
            spent = int(sum(os.times()[:2]))
            resource.setrlimit(resource.RLIMIT_CPU, (spent + LONGEST, spent + LONGEST))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(EVER)
            said = _said(path)
        except BaseException:
            said = f"traceback {traceback.format_exc()[-300:]}"
        finally:
            os.write(write_end, said.encode()[:4000])
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return said or f"killed by {status}"


def _said(path: Path) -> str:
    try:
        bring(path, path.parent)
    except InvalidInput as error:
        return f"refused: {error}"
    return "read"


needs_fork = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


# They take seconds; the corpus of tests/hostile tries their like in every run of CI.
SLOW = {
    "many entries",
    "a header of tensors",
    "a million lists",
    "tuples in tuples",
    "lists in lists",
}
KINDS_OF_HOSTILE = [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in HOSTILE]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS_OF_HOSTILE)
def test_hostile_files_are_refused_within_limits_and_run_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pt").write_bytes(HOSTILE[kind]())
    said = _tried(tmp_path / "file.pt")
    assert said.startswith("refused: ")
    assert REASONS.get(kind, "") in said
    assert said.isprintable() and len(said) < 600
    assert not (tmp_path / MARK).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.pt"]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_places_that_are_no_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(8 * 10**9)
    for name in ("pipe", "zero", "holes"):
        assert _tried(tmp_path / name).startswith("refused: ")


@pytest.mark.parametrize("width", [10**5, 10**9, 10**30, 1e300])
def test_a_card_that_asks_for_a_huge_network_takes_no_memory(width, tmp_path):
    torch.save(STATE, tmp_path / "file.pt")
    bring(tmp_path / "file.pt", tmp_path)
    folder = tmp_path / "out" / "a"
    card = json.loads((folder / "card.json").read_text())
    card["arch_args"]["width"] = width
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(InvalidInput, match="has shape|larger than any network|more than 18 digits"):
        checkpoint.load(folder)


def test_the_command_names_what_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(STATE, "file.pt")
    call = ["import", "file.pt", "--arch", "small_cnn", "--dataset", "digits", "--name", "mine"]
    assert main(call) == 2
    assert "It fits small_cnn, width 2, image_size 8" in capsys.readouterr().err


JUNK = {"criterion.weight": torch.zeros(7, 5, 1, 1), "optimizer.state": torch.zeros(9, 9)}
WRAPPED = {
    "plain": lambda state: state,
    "under a prefix": lambda state: under("module.", state),
    "in another order": lambda state: dict(reversed(state.items())),
    "behind a normalisation": lambda state: {"mu": torch.zeros(1, 3, 1, 1),
                                             "sigma": torch.ones(1, 3, 1, 1)} | under("1.", state),
    "behind other tensors": lambda state: JUNK | under("model.", state),
    "with an average": lambda state: {k: v.clone() for p in ("module.", "ema.")
                                       for k, v in under(p, state).items()},
}  # fmt: skip


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize(
    ("arch", "arguments", "said"),
    [
        ("preact_resnet18", {"in_channels": 3, "width": 16}, "preact_resnet18, width 16"),
        ("preact_resnet18", {"in_channels": 1, "width": 3, "num_classes": 7},
         "preact_resnet18, in_channels 1, num_classes 7, width 3"),
        ("small_cnn", {"in_channels": 3, "image_size": 32, "width": 24},
         "small_cnn, in_channels 3, width 24, image_size 32"),
    ],
)  # fmt: skip
def test_what_fits_is_told_with_its_width(arch, arguments, said, wrapped, tmp_path):
    state = {name: torch.zeros(shape) for name, shape in fitting.shapes_of(arch, arguments).items()}
    safetensors.torch.save_file(WRAPPED[wrapped](state), tmp_path / "plain.safetensors")
    torch.save(WRAPPED[wrapped](state), tmp_path / "file.pt")
    for file in ("plain.safetensors", "file.pt"):
        with pytest.raises(InvalidInput) as error:
            bring(tmp_path / file, tmp_path, arch="cnn_a", dataset="cifar10", arch_args={})
        assert str(error.value).endswith(f". It fits {said}")


def test_a_width_that_is_named_loads_and_another_is_told(tmp_path):
    narrow = dict(models.build("preact_resnet18", {"width": 4}).net.state_dict())
    torch.save(under("module.", narrow), tmp_path / "file.pt")
    call = {"arch": "preact_resnet18", "dataset": "cifar10"}
    model, card = bring(tmp_path / "file.pt", tmp_path, **call, arch_args={"width": 4})
    assert same(model, narrow) and card.arch_args["width"] == 4
    for wrong in ({}, {"width": 64}, {"width": 5}):
        with pytest.raises(InvalidInput, match="It fits preact_resnet18, width 4$"):
            bring(tmp_path / "file.pt", tmp_path, **call, arch_args=wrong)


@pytest.mark.parametrize("arch", ["preact_resnet18", "wide_resnet34_10", "vgg19_bn"])
def test_shapes_are_read_without_drawing_weights(arch):
    """On the meta device a draw would load a thousand modules."""
    before = {*sys.modules}
    shapes = fitting.shapes_of(arch, {"in_channels": 3, "num_classes": 10})
    assert sum(map(pickles.count_of, shapes.values())) > 10**7
    assert len({*sys.modules} - before) < 100
