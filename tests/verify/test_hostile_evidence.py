"""Evidence that others wrote is compared with its record's images before anything is inflated."""

from __future__ import annotations

import contextlib
import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

from bench import evidence
from bench.evidence import Perturbations
from bench.records import npz
from bench.records.one_read import read_named, sha256_of_bytes
from bench.schema import InvalidInput
from tests.records.hostile import FILES

N, SHAPE = 20, (1, 8, 8)
GOOD = Perturbations(
    np.arange(3, dtype=np.int32), np.ones((2, *SHAPE), np.int8), np.ones(2, np.float32),
    np.zeros((1, *SHAPE), np.float32),
)  # fmt: skip


def good(**changes) -> dict[str, np.ndarray]:
    return {f"pgd/{f}": getattr(GOOD, f) for f in evidence.FIELDS} | {
        f"pgd/{field}": array for field, array in changes.items()
    }


def archived(
    members: dict[str, np.ndarray | bytes], *, method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            if isinstance(content, np.ndarray):
                file = io.BytesIO()
                np.lib.format.write_array(file, content, allow_pickle=True)
                content = file.getvalue()
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _bomb(shape: tuple[int, ...], real: int) -> bytes:
    """A header that promises a shape, then zeros."""
    file = io.BytesIO()
    described = {"descr": "|i1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue() + bytes(real)


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """So many bytes are taken inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


HOSTILE = {
    "no archive": lambda: b"root:$6$",
    "empty": lambda: b"",
    "cut off": lambda: archived(good())[:-40],
    "a flipped bit": lambda: archived(good(), method=0).replace(b"\1" * 9, b"\1" * 8 + b"\3"),
    "a field missing": lambda: archived({k: v for k, v in good().items() if k != "pgd/scale"}),
    "inflates to 100 MB": lambda: archived(good(steps=_bomb((10**8,), 10**8))),
    "promises 10 TB": lambda: archived(good(steps=_bomb((2, 1, 10**6, 10**7), 100))),
    "promises less than it holds": lambda: archived(good(steps=_bomb((2, *SHAPE), 10**7))),
    "a negative side": lambda: archived(good(steps=_bomb((-2, *SHAPE), 128))),
    "other images": lambda: archived(good(steps=np.ones((2, 3, 8, 8), np.int8))),
    "more than the record has": lambda: archived(good(index=np.arange(N + 1, dtype=np.int32))),
    "an image that is none": lambda: archived(good(index=np.array([0, 1, N], np.int32))),
    "a negative image": lambda: archived(good(index=np.array([0, 1, -1], np.int32))),
    "an image twice": lambda: archived(good(index=np.array([0, 1, 1], np.int32))),
    "fewer steps than sizes": lambda: archived(good(scale=np.ones(1, np.float32))),
    "another type": lambda: archived(good(scale=np.ones(2))),
    "objects": lambda: archived(good(scale=np.array([{}, {}], dtype=object))),
    "a pickle": lambda: archived(good(scale=pickle.dumps("x"))),
    "a deep header": lambda: archived(
        good(steps=b"\x93NUMPY\x01\x00\x70\x17" + b"(" * 6000)
    ),
    "another compression": lambda: archived(good(), method=zipfile.ZIP_LZMA),
    "5,000 members": lambda: archived(good() | {f"{k}/x": b"" for k in range(5000)}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_evidence_is_refused_in_little_memory(name):
    raw = HOSTILE[name]()
    refusal = pytest.raises(InvalidInput, match="here is not readable evidence")
    with at_most(len(raw) + 2**22), refusal as refused:
        evidence.from_bytes(raw, n=N, shape=SHAPE, where="here")
    assert len(str(refused.value)) < 400 and "root:" not in str(refused.value)


def test_whole_evidence_is_read_as_it_was_written():
    found = evidence.from_bytes(archived(good()), n=N, shape=SHAPE)["pgd"]
    for field in evidence.FIELDS:
        assert np.array_equal(getattr(found, field), getattr(GOOD, field))
        assert getattr(found, field).flags.writeable  # torch warns of others


def test_a_page_reads_no_array_that_is_larger_than_it_shows():
    """It does not know the shape of the images."""
    raw = archived(good(steps=np.zeros((2, 1, 4096, 4096), np.int8)))
    with pytest.raises(npz.UNREADABLE, match="larger than is read"), npz.opened(raw) as archive:
        npz.perturbations(archive, "pgd/", N, None, largest=2**24)


@pytest.mark.parametrize("form", FILES)
def test_what_is_no_file_is_no_evidence(form, tmp_path):
    FILES[form][0](tmp_path / "file", b"content")
    with pytest.raises(InvalidInput, match=FILES[form][1]):
        read_named(tmp_path / "file", sha256_of_bytes(b"content"), largest=2**20)


def test_another_file_is_hashed_and_not_kept_in_memory(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**26)
    with at_most(2**21), pytest.raises(InvalidInput, match="sha256 differs"):
        read_named(tmp_path / "file", "0" * 64, largest=2**30)
