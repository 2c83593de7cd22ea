"""Extra images: every layout round trips, and no file can run code, take memory or slip in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from awp_train import array_npz, array_pickle
from awp_train.extra import describe_extra, load_extra, read_images, save_extra, shared_images
from bench.datasets import load, training_split
from bench.schema import InvalidInput, TrainConfig

CONFIG = TrainConfig(dataset="digits", n_train=200, n_validation=100)
N = 30


def given_extra(path: Path, config: TrainConfig = CONFIG) -> TrainConfig:
    return config.model_copy(update={"extra": describe_extra(path)})


def some(n: int = N, *, channels: int = 1, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, size, size, channels) uint8 and labels 0..9 of no data set."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    return images, np.arange(n) % 10


def saved(path: Path, *, images: np.ndarray, labels: object, layout: str = "NHWC") -> Path:
    np.savez(path, images=images, labels=labels, layout=np.array(layout))
    return path


def pickled(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


# ---------------------------------------------------------------- layouts


def test_our_layout_both_ways_round(tmp_path):
    images, labels = some()
    for layout, axes in (("NHWC", (0, 1, 2, 3)), ("NCHW", (0, 3, 1, 2))):
        path = saved(
            tmp_path / f"{layout}.npz", images=images.transpose(axes), labels=labels, layout=layout
        )
        extra = load_extra(path, given_extra(path))
        assert extra.images.dtype == torch.uint8
        assert torch.equal(extra.images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        assert extra.labels.tolist() == labels.tolist()
        assert (extra.name, extra.class_count, extra.split) == ("digits", 10, f"extra[{N}]")


def test_images_of_diffusion_models(tmp_path):
    """Keys and axes of the published .npz files; compressed ones are read too."""
    images, labels = some(channels=3, size=32)
    for write in (np.savez, np.savez_compressed):
        path = tmp_path / "cifar10.npz"
        write(path, image=images, label=labels.astype(np.int32))
        found, _ = read_images(path, "cifar10")
        assert torch.equal(found, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("numpy", ["numpy 1", "numpy 2"])
def test_the_pickle_of_rst(tmp_path, protocol, numpy):
    images, labels = some(channels=3, size=32)
    raw = pickle.dumps({"data": images, "extrapolated_targets": labels}, protocol=protocol)
    if numpy == "numpy 1":  # the names as it wrote them
        for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
            old = name.replace(b"_core", b"core")
            raw = raw.replace(bytes([len(name)]) + name, bytes([len(old)]) + old)
            raw = raw.replace(name, old)
    path = tmp_path / "ti_500K_pseudo_labeled.pickle"
    path.write_bytes(raw)
    found, targets = read_images(path, "cifar10")
    assert torch.equal(found, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert targets is not None
    assert targets.tolist() == labels.tolist()
    entry = describe_extra(path)
    assert (entry.file, entry.n, entry.fraction) == (path.name, N, 0.5)
    assert entry.sha256 == hashlib.sha256(raw).hexdigest()


ARRAYS = hnp.arrays(
    st.sampled_from(["u1", "<i2", ">i4", "<i8", "<f4", ">f8", "?"]),
    hnp.array_shapes(max_dims=4, max_side=5),
)
CONTENTS = st.one_of(
    ARRAYS, st.lists(st.integers(-(2**62), 2**62), max_size=5), st.text(max_size=20), st.none(),
    st.floats(allow_nan=False), st.booleans(), st.tuples(st.integers(), st.text()),
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=8), CONTENTS, max_size=4), st.integers(2, 5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_pickles_of_data_round_trip(content, protocol, fortran):
    if fortran:
        content = {
            k: np.asfortranarray(v) if isinstance(v, np.ndarray) else v for k, v in content.items()
        }
    found = array_pickle.read(memoryview(pickle.dumps(content, protocol=protocol)))
    assert isinstance(found, dict)
    assert list(found) == list(content)
    for key, value in content.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
        else:
            assert found[key] == value
            assert type(found[key]) is type(value)


def test_one_array_at_two_keys():
    array = np.arange(3)
    found = array_pickle.read(memoryview(pickle.dumps({"a": array, "b": array, "c": [array]})))
    assert isinstance(found, dict)
    assert found["a"] is found["b"]


@given(st.dictionaries(st.sampled_from("abcd"), ARRAYS, max_size=3), st.booleans())
@settings(max_examples=80, deadline=None)
def test_archives_round_trip(tmp_path_factory, arrays, ours):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    if ours:
        path.write_bytes(array_npz.packed(arrays))
    else:
        np.savez_compressed(path, **arrays)
    found = array_npz.read(path, "abcd", largest=10_000)
    with np.load(path, allow_pickle=False) as independent:
        assert set(found) == set(arrays) == set(independent)
        for key, array in arrays.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)
            np.testing.assert_array_equal(independent[key], array)


def test_saved_images_are_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    for name, now in (("a", 1e9), ("b", 1.5e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        save_extra(tmp_path / f"{name}.npz", images, labels, source="a test")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    extra = load_extra(tmp_path / "a.npz", given_extra(tmp_path / "a.npz"))
    assert torch.equal(extra.images, images)
    assert torch.equal(extra.labels, labels)
    save_extra(tmp_path / "a.npz", images, labels, source="a test")
    with pytest.raises(InvalidInput, match="holds other images or labels"):
        save_extra(tmp_path / "a.npz", images, labels + 1, source="a test")


# ---------------------------------------------------------------- files that do not fit


def test_another_file_under_the_same_name_is_refused(tmp_path):
    images, labels = some()
    path = saved(tmp_path / "extra.npz", images=images, labels=labels)
    config = given_extra(path)
    saved(path, images=images, labels=labels[::-1].copy())
    with pytest.raises(InvalidInput, match=r"extra\.npz is not the file.*left in place"):
        load_extra(path, config)
    assert path.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": some(size=7)[0]}, r"shape .*7, 7.* but digits has \(C, H, W\) = \(1, 8, 8\)"),
        ({"images": some(channels=3)[0]}, "but digits has"),
        ({"layout": "NCHW"}, "but digits has"),
        ({"layout": "CHWN"}, "layout must be NCHW or NHWC, got 'CHWN'"),
        ({"images": some()[0] / 255}, "must be uint8 or float32, got float64"),
        ({"images": some()[0].astype(np.float32)}, r"must lie in \[0, 1\]"),
        ({"images": np.full((N, 8, 8, 1), np.nan, np.float32)}, r"must lie in \[0, 1\]"),
        ({"labels": np.arange(N)}, r"20 labels are no class of digits.*0\.\.9; the first, at 10"),
        ({"labels": np.arange(N) % 10 - 1}, "the first, at 0, is -1"),
        ({"labels": np.zeros(N)}, r"whole numbers \(N,\), got float64"),
        ({"labels": np.zeros((N, 1), int)}, "whole numbers"),
        ({"labels": np.zeros(N - 1, int)}, "has 30 images, but 29 labels"),
        ({"images": np.array([{}] * N, dtype=object)}, "an array of objects.*left in place"),
        ({"labels": np.zeros(0, int)}, "is empty"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, words):
    images, labels = some()
    path = tmp_path / "extra.npz"
    saved(path, **({"images": images, "labels": labels} | change))
    with pytest.raises(InvalidInput, match=words) as error:
        load_extra(path, given_extra(path))
    assert str(path) in str(error.value)
    assert path.exists()


def test_a_wrong_count_and_a_missing_entry_are_refused(tmp_path):
    images, labels = some()
    path = saved(tmp_path / "extra.npz", images=images, labels=labels)
    entry = describe_extra(path).model_copy(update={"n": N + 1})
    with pytest.raises(InvalidInput, match="has 30 images, this run names 31"):
        load_extra(path, CONFIG.model_copy(update={"extra": entry}))
    with pytest.raises(InvalidInput, match="names no extra data"):
        load_extra(path, CONFIG)
    with pytest.raises(InvalidInput, match="no extra data at"):
        describe_extra(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected an .npz with images"),
        (b"<html>", "expected an .npz with images"),
        (b"PK\x03\x04 and so on", "truncated or damaged"),
        (b"\x80\x04", "truncated or damaged"),
        (pickle.dumps([1, 2]), "has no labels"),
        (pickle.dumps({"data": some()[0]}), "has no labels"),
        (pickle.dumps({"extrapolated_targets": "abc"}), "no array of numbers"),
        (pickle.dumps({"extrapolated_targets": [1, None]}), "no array of numbers"),
        (pickle.dumps({"extrapolated_targets": [2**70]}), "no array of numbers"),
    ],
)
def test_other_files_are_named_and_left(tmp_path, content, words):
    path = tmp_path / "extra.pickle"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words) as error:
        describe_extra(path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == content


def test_labels_in_a_list_are_read(tmp_path):
    images, labels = some()
    content = {"data": images, "extrapolated_targets": labels.tolist()}
    path = pickled(tmp_path / "extra.pickle", content)
    assert load_extra(path, given_extra(path)).labels.tolist() == labels.tolist()


# ---------------------------------------------------------------- held-out images


def test_test_and_validation_images_are_refused(tmp_path):
    training, validation = training_split(CONFIG)
    for part, words in (
        (load("digits"), "of the 1000 test"),
        (validation, "of the 100 validation"),
    ):
        path = tmp_path / f"{len(part)}.npz"
        few = torch.cat([training.images, part.images[:25]])
        save_extra(path, few, torch.zeros(225, dtype=torch.int64), source="a test")
        with pytest.raises(InvalidInput, match=f"{words} images of digits, which are never"):
            load_extra(path, given_extra(path))
    path = tmp_path / "training.npz"
    save_extra(path, training.images, training.labels, source="a test")
    assert len(load_extra(path, given_extra(path))) == 200


def test_shared_images_are_counted_once_in_any_type():
    images = load("digits", n=40).images
    many = torch.cat([images[:10], images[:10], images[30:]])
    expected = len({row.numpy().tobytes() for row in torch.cat([images[:10], images[30:]])})
    assert shared_images(images, many) == expected
    assert shared_images(images, (many * 255).round().to(torch.uint8)) == expected
    assert shared_images(images[10:30], 1 - images) == 0


# ---------------------------------------------------------------- hostile files


class Calls:
    """Pickles to a call of anything."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def _named(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle that calls module.name with short texts."""
    texts = b"".join(b"\x8c" + bytes([len(a)]) + a for a in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + texts + b"tR."


BLANK = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def _array(state: bytes) -> bytes:
    """A pickle of an array of uint8 whose state is the given instructions."""
    dtype = b"cnumpy\ndtype\n\x8c\x02u1\x89\x88\x87R"
    return b"\x80\x04" + BLANK + b"(K\x01" + state.replace(b"DTYPE", dtype) + b"tb."


# A tuple of two tuples of two … : 2 ** 100 numbers in a hundred objects, never to be walked through.
NESTED = b"K\x01" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(100))
HOSTILE = {
    "os.system": _named("os", "system", b"touch hacked"),
    "posix.system": _named("posix", "system", b"touch hacked"),
    "eval": _named("builtins", "eval", b"open('hacked', 'w')"),
    "python 2 eval": _named("__builtin__", "eval", b"open('hacked', 'w')"),
    "getattr": _named("builtins", "getattr", b"a", b"upper"),
    "numpy load": _named("numpy", "load", b"hacked.npy"),
    "numpy runstring": _named("numpy.testing", "runstring", b"1", b"2"),
    "numpy.core in another place": _named("numpy.core.multiarray", "fromfile", b"/etc/passwd"),
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x11core.multiarray.a\x93.",
    "codecs that open": _named("_codecs", "lookup", b"latin1"),
    "codecs that run": _named("_codecs", "encode", b"a", b"rot13"),
    "codecs of other text": b"\x80\x02c_codecs\nencode\n\x8c\x03\xe2\x82\xac\x8c\x06latin1\x86R.",
    "the class ndarray called": _named("numpy", "ndarray", b"a"),
    "array of a subclass": b"\x80\x04" + BLANK.replace(b"cnumpy\nndarray\n", b"\x8c\x01a") + b".",
    "array of objects": pickle.dumps(np.array([{}], dtype=object)),
    "array of records": pickle.dumps(np.zeros(2, dtype="u1,u2")),
    "array of texts": pickle.dumps(np.array(["a"])),
    "array of times": pickle.dumps(np.array(["2020-01-01"], dtype="M8[D]")),
    "array of another shape": _array(b"J\xff\xff\xff\x7f\x85DTYPE\x89C\x01a"),
    "array of a huge shape": _array(b"\x8a\xff" + b"\x7f" * 255 + b"\x85DTYPE\x89C\x01a"),
    "array of a negative shape": _array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86DTYPE\x89C\x01a"),
    "array of a nested shape": _array(NESTED + b"\x85DTYPE\x89C\x01a"),
    "array of zero times much": _array(b"K\x00\x8a\x08" + b"\x7f" * 8 + b"\x86DTYPE\x89C\x00"),
    "array of 40 axes": _array(b"(" + b"K\x01" * 40 + b"tDTYPE\x89C\x01a"),
    "array without content": b"\x80\x04" + BLANK + b".",
    "state of a dict": b"\x80\x04}}b.",
    "state of a name": b"\x80\x04cnumpy\nndarray\n}b.",
    "class instance": pickle.dumps(Calls(list)),
    "set": pickle.dumps({1, 2}),
    "complex": pickle.dumps(1j),
    "numpy scalar": pickle.dumps(np.float64(1)),
    "persistent id": b"\x80\x02Pa\n.",
    "extension": b"\x80\x02\x82\x01.",
    "old text instruction": b"\x80\x02S'a'\n.",
    "out of band buffer": b"\x80\x05\x97.",
    "protocol 0": b"(dp0\n.",
    "protocol 6": b"\x80\x06N.",
    "bytes of 2 ** 63": b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"a.",
    "text of 2 ** 32": b"\x80\x04X" + struct.pack("<I", 2**32 - 1) + b"a.",
    "memo far away": b"\x80\x04Nr\xff\xff\xff\xffj\xff\xff\xff\xfe.",
    "memo of nothing": b"\x80\x04\x94.",
    "unknown memo": b"\x80\x04h\x07.",
    "mark of nothing": b"\x80\x04t.",
    "below a mark": b"\x80\x04N(\x85.",
    "key without value": b"\x80\x04}(\x8c\x01au.",
    "key that is nested": b"\x80\x04}" + NESTED + b"Ns.",
    "items of no list": b"\x80\x04}K\x01a.",
    "nothing": b"\x80\x04.",
    "no end": b"\x80\x04N",
    "name without end": b"\x80\x04c" + b"a" * 1000,
    "not UTF-8": b"\x80\x04\x8c\x01\xff.",
    "deep stack": b"\x80\x04" + b"N" * 200_000 + b".",
    "as text again and again": b"\x80\x04X" + struct.pack("<I", 2**20) + b"a" * 2**20
    + b"q\x00\x8c\x06latin1q\x01" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 600 + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "extra.pickle"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(InvalidInput, match=r"extra\.pickle"):
        describe_extra(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing ran


def test_deep_nesting_is_only_data():
    raw = b"\x80\x04N" + b"\x85" * 100_000 + b"."
    assert isinstance(array_pickle.read(memoryview(raw)), list)
    lists = b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b"."
    assert isinstance(array_pickle.read(memoryview(lists)), list)
    itself = array_pickle.read(memoryview(b"\x80\x04]\x94h\x00a."))
    assert isinstance(itself, list)


def test_a_pickle_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr(array_pickle, "MOST_INSTRUCTIONS", 1000)
    with pytest.raises(InvalidInput, match="more than 1000 instructions"):
        array_pickle.read(memoryview(b"\x80\x04" + b"Nq\x00" * 1000 + b"."))


VALID = pickle.dumps({"data": some(2)[0], "extrapolated_targets": np.array([1, 2])}, protocol=3)


@given(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
@example(0, b"\x80", True)
def test_any_damage_gives_data_or_a_reason(at, new, cut):
    """Damage may go unseen here, which is why sha256 is compared; it never does anything else."""
    raw = VALID[:at] + new + (b"" if cut else VALID[at + len(new) :])
    with contextlib.suppress(InvalidInput):
        array_pickle.read(memoryview(raw))


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_data_or_a_reason(tail):
    with contextlib.suppress(InvalidInput):
        array_pickle.read(memoryview(b"\x80\x04" + tail))


def member(header: str, content: bytes = b"", *, version: int = 1) -> bytes:
    raw = header.encode("latin1")
    length = struct.pack("<H" if version == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw + content


def described(shape: str, code: str = "|u1") -> str:
    return f"{{'descr': '{code}', 'fortran_order': False, 'shape': ({shape}), }}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (member(described("1000000000000,"), b"a"), "does not have the bytes"),
        (member(described("0, 99999999"), b""), "is empty"),
        (member(described("3,", "|O"), b"cos\nsystem\n"), "objects"),
        (member(described("3,", "|V9"), b"aaa"), "another type"),
        (member(described("-3,"), b"aaa"), "records or is damaged"),
        (member("[" * 9000), "records or is damaged"),
        (member("{'descr': __import__('os'), }"), "records or is damaged"),
        (member(" " * 20_000, version=2), "longer than any"),
        (b"not an array", "is no array"),
        (b"\x93NUMPY\x01\x00\x10", "damaged"),
    ],
)
def test_hostile_archives_are_refused(tmp_path, content, words):
    path = tmp_path / "extra.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.npy", content)
    with pytest.raises(InvalidInput, match=words):
        describe_extra(path)


def test_damaged_and_inflated_archives_are_refused(tmp_path, monkeypatch):
    images, labels = some()
    path = saved(tmp_path / "extra.npz", images=images, labels=labels)
    raw = bytearray(path.read_bytes())
    at = raw.index(images[5].tobytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(InvalidInput, match=r"damaged \(Bad CRC.*left in place"):
        load_extra(path, given_extra(path))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((100, 8, 8, 1), np.uint8), labels=labels)
    path.write_bytes(buffer.getvalue())  # 6,400 bytes of images in a file of a few hundred
    with pytest.raises(InvalidInput, match="more than can be loaded"):
        array_npz.read(path, ["images"], largest=6_000)
    monkeypatch.setattr("awp_train.extra.LARGEST", 100)
    with pytest.raises(InvalidInput, match="more than 100 bytes"):
        describe_extra(path)
