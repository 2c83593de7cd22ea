"""Arrays in files that others wrote: they round trip, and no file can run code or take memory."""

from __future__ import annotations

import contextlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from awp_train import array_files
from awp_train.array_files import packed, read_npz, read_pickle
from awp_train.extra_images import describe_extra
from bench.schema import InvalidInput

ARRAYS = hnp.arrays(
    st.sampled_from(["u1", "<i2", ">i4", "<i8", "<f4", ">f8", "?"]),
    hnp.array_shapes(max_dims=4, max_side=5),
)
CONTENTS = st.one_of(
    ARRAYS, st.lists(st.integers(-(2**62), 2**62), max_size=5), st.text(max_size=20), st.none(),
    st.floats(allow_nan=False), st.booleans(), st.tuples(st.integers(), st.text()),
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=8), CONTENTS, max_size=4), st.integers(2, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_pickles_of_data_round_trip(content, protocol, fortran):
    if fortran:
        arrays = {k: v for k, v in content.items() if isinstance(v, np.ndarray)}
        content |= {k: np.asfortranarray(v) for k, v in arrays.items()}
    found = read_pickle(pickle.dumps(content, protocol=protocol))
    assert list(found) == list(content)
    for key, value in content.items():
        assert type(found[key]) is type(value)
        np.testing.assert_array_equal(found[key], value)
        assert getattr(found[key], "dtype", None) == getattr(value, "dtype", None)


def test_one_array_at_two_keys():
    array = np.arange(3)
    found = read_pickle(pickle.dumps({"a": array, "b": array, "c": [array]}))
    assert found["a"] is found["b"]


@given(st.dictionaries(st.sampled_from("abcd"), ARRAYS, max_size=3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_archives_round_trip(tmp_path_factory, arrays, ours):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    if ours:
        path.write_bytes(packed(arrays))
    else:
        np.savez_compressed(path, **arrays)
    found = read_npz(path, "abcd", largest=10_000)
    with np.load(path, allow_pickle=False) as independent:
        assert set(found) == set(arrays) == set(independent)
        for key, array in arrays.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)
            np.testing.assert_array_equal(independent[key], array)


# ---------------------------------------------------------------- hostile pickles


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
    "state of a function": b"\x80\x04c_codecs\nencode\nN}\x8c\x0c__defaults__)s\x86b.",
    "too much text": b"\x80\x04X" + struct.pack("<I", 128 * 2**20 + 1) + b"a.",
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


REASONS = {
    "os.system": "asks for 'os.system', which is not data",
    "state of a name": "sets the state of something that is no array",
    "state of a function": "sets the state of something that is no array",
    "class instance": "which is not data|no data needs",
    "persistent id": "the instruction PERSID, which no data needs",
    "key that is nested": "a key of it is tuple, expected text",
    "as text again and again": "written as text; save it with pickle protocol 4",
    "too much text": "written as text; save it with pickle protocol 4",
    "array of objects": "array of objects, expected arrays of numbers",
    "array of a nested shape": "impossible shape",
    "array without content": "no content",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "extra.pickle"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(InvalidInput, match=rf"extra\.pickle.*({REASONS.get(name, '')})"):
        describe_extra(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing ran


def test_deep_nesting_is_only_data():
    lists = b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b"."
    for raw in (b"\x80\x04N" + b"\x85" * 100_000 + b".", lists, b"\x80\x04]\x94h\x00a."):
        assert isinstance(read_pickle(raw), list)


def test_a_pickle_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr(array_files, "MOST_INSTRUCTIONS", 1000)
    with pytest.raises(InvalidInput, match="more than 1000 instructions"):
        read_pickle(b"\x80\x04" + b"Nq\x00" * 1000 + b".")


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
VALID = pickle.dumps({"data": IMAGES, "extrapolated_targets": np.array([1, 2])}, protocol=3)


@given(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=4), st.booleans())
@settings(max_examples=120, deadline=None)
@example(0, b"\x80", True)
@example(18, b"\\", False)
def test_any_damage_gives_data_or_a_reason(at, new, cut):
    """Damage may go unseen here, which is why sha256 is compared; it never does anything else."""
    with contextlib.suppress(InvalidInput):
        read_pickle(VALID[:at] + new + (b"" if cut else VALID[at + len(new) :]))


@given(st.binary(max_size=60))
@settings(max_examples=120, deadline=None)
def test_any_bytes_give_data_or_a_reason(tail):
    with contextlib.suppress(InvalidInput):
        read_pickle(b"\x80\x04" + tail)


# ---------------------------------------------------------------- hostile archives


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
    path = tmp_path / "extra.npz"
    np.savez(path, images=IMAGES)
    raw = bytearray(path.read_bytes())
    raw[raw.index(IMAGES[1].tobytes())] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(InvalidInput, match=r"damaged \(Bad CRC"):
        read_npz(path, ["images"], largest=6_000)
    np.savez_compressed(path, images=np.zeros((100, 8, 8, 1), np.uint8))
    with pytest.raises(InvalidInput, match="more than can be loaded"):  # a file of a few hundred
        read_npz(path, ["images"], largest=6_000)
    monkeypatch.setattr("awp_train.extra_images.LARGEST", 100)
    with pytest.raises(InvalidInput, match="more than 100 bytes"):
        describe_extra(path)
