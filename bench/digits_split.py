"""The one split of scikit-learn's digits: 1,000 test images in a fixed order, 797 others as the pool.

Stratified by class, and every prefix of the test order nearly so, so that the first n are a fair
sample. The indices into `sklearn.datasets.load_digits()` are little-endian uint16, base64.
"""

from __future__ import annotations

import base64
import hashlib

import numpy as np

IMAGES = 1797
SHA256 = "3e505e7f4a563b9140f3089b3f5e8b050edbcb5c0be92d19ae5e5e357ca1e39f"
_TEST = (
    "ygWbALoFjwXwAdMB5AXZACcAAQe7AAsDhwZmBQQEpgLbAwkBcQa9Am0B2QFsAPYD1wGqAdQElAXFAd8GcgRfAfwBaQUs"
    "BeAGNAAJAkICfgC0ADgAJgVlBaUA5gPDAYMCTAILBn0GewX+AGYB5QSIAMQEVQHuAQQDyQIPBR4FTQKZBC4EuAJWAKoF"
    "UAHgBAwBjAJkAnwFywTlACkAlgT7ANYErwVVAO0F5wPxBUAAqQFUBVADDAWpBRUFtQYKBaEG8wXLAfIANgY1A2MAbwUr"
    "AEsB/AQjBSkDZQLOAxUA2wS6BjkGBQNTAS4FAAZWArEG6QKKBIkBJgKZAi4DwgMJBnEESwBEBCECwgQIA+gCwwbdBlQA"
    "+gTFAAAFKgaQALUCjQavAxYEQwIGAvIDKwLFA28BGQZwBrYCiANjBq4CCgMOBrAGSwPQAZQCNQF5BFMEqwKnBZsCogVT"
    "A8QGYQCZAO0CcgA4A3cBYQKdBYAE6Qb3BooGPgIlBp8FRgZwBFoEBwZiBLgFEgABAXoC1AUHAlcFPAZ/BYsAyQTDAKAB"
    "ngXzBroADwBeA0YC0QT2BPAFSwX5BUkFZwATBlEG8wQHBCcBsgF7A/AEEAGEA2EEGQMuBhcDpgG2BZMCigEWAUQDJAMd"
    "Aq8GigKDANUFygRlBNQBdQDIBVYBOQXhAOcB3wSWAwgGkAXNAz4D9QZdA90EcgInA1UFHQV0AhIB2gTfBZ4G/gLpAR8B"
    "NAXGASEGtwIgA5wFlwTWALYBUAYgAA0BHgFPAvIEqgADBu8C8QKPAzcEkQZVBDEFwAA6BOEGmwT1AOMFcgHOAkQCcwHb"
    "AbAASAERACYGswNBBjwAPAW6At8DcAPyBp4BMQCFBtUBBQE3A18AaQAzAHYFEwBlBpYFNAEMA9sFawS0Ar4AlQB+AY4F"
    "NgXsA2IDagKpBoYAgwa6BN0FewKMAPQASgbqBRQEoANGBKAEfgSBA5ICgQIGAZwECQM4BZsGLACiAx0GogYYBl8DuARP"
    "AAEC6gb8AhQCowXjAGgEIAZIBmEGYwOsAQ4AhgO0AXoDIgB+AyAF9AJFAGsCUgWFAYMEPAL3BR8GpACtBLoBKwYVAr0B"
    "MwRMBCIBtQEDAnQFPgYDBGgFuACDAU8GxQWQA5kFdgNDAJ8CgwMxBtAGbQLUAo8B2QUzBrkF0APwA78GSwZTBeICjQI2"
    "BFIDnQZDBOsAdAR5AO4D9gKKBegEzAGqBqsGwwKGAnIDrwAiAn8A/wKUBEEDMgZZBeEF7Ab4A78FtgN1BOEBkwN4ApEB"
    "fQL+BhsAkgANAH4GeACAAlECwQOxAaAAxwF2ANsGLAKfAKQC0gSTAOkEpgSOBn8GpQHDBDIBBgWrAOIFCga8AREBhwHO"
    "BGMEjANFBDUCQAFbBl0ESQR5AyIE6AFsAucGjwTcAtcA5wWtAmQBPwIRBv0DWgN8A9YFBwHVABsDvQZNBDAGOQRuBnYB"
    "UAJsBS4CwgKSBeAF1wQyAAAC+gHmBO8EQAT/BBIC0gFABoUDAQa1BRwEswH+Bb4CpAauABACCAIKAWoDOgbYA3ACAgWf"
    "BiQANAQEABoBJgGnAO8BEgRkANoDyQVUBM8EFQFZA6wCKQK8A50CGwawAqIBVgMfBXEFdgKuA94FVwJsAVgCngRsBmAE"
    "UwY4BkkGHgKAAZMB+AWGAcwEZgTuBREDqQMSA8kD1wb7BLYEKgCABkQBhwNQBP4E5QZJAREC0QVWBpAE8AKlBbQE9AUk"
    "BFkEAQMIBCwBSAOYAbwAJQUoBJwBqAYYAAQFvQNzAGoF5AKqA74G2wKXBWEDrQPPBqkAxwW5AnkBAgHFAmADsARwBdME"
    "awE5AvoDdQEOBB0DfwEfAj8AQgDzAcIBhQTjA+sBawMjAJoA4gAGBmUAQgO+BAYEPQLhA7MELwJSAdkDlQXgACMC6gFx"
    "AasFWAZvBOUDAQDSBmgCIQGHAAcATQZ3Bu8FFwRgAt4E9QLOAPQEcwN9AeYFUgIZAVEBMQGkA7cEMgQEBioCSgMYAc0F"
    "AwUvAzoFIQDgAyoDVALJALIFwgC5BAIH5wSuBU8DKQGrAw8ChAHsBSACegVmAqQEnQTYAWIFkQMEAioBdgSIBkMB3ACa"
    "A3gBewHoBj8FxAKJBO0E8ADGBPsF0QFGBX8C0AUnAhkECAXGAsYATQO5BlIAZgO3ADkAYQXaBQ8BGwVeBhMCRwI7BMsA"
    "ugNeBfUEvwOUAYcFswLIAKYDfAFdBtACGQXxAJUB/ABuA0QGgwWHAkIFEACOAvkDRgNUBowFogRzBLMGxAB4BRAEfAQx"
    "BJgCWwSaBdwGlAP4BoAF1AM9AfQGfQPjASkFaANAA8IFgQYpBKUCuAEDAYgBOwb4AswA4gNXAbsFPAGEBaICSgSuBNIF"
    "WASRBdMF6gAjA3IF4QSGBjAAPAQXBscDRwAoAYkGaQYiBdYBJQIlATABmAZgBdIDjQUMBNAEHgT/AVoATgBbAuECJgMN"
    "AwAEOAHsAJ4ARADBBUAFDAZUA5YB2ABfBbcDiAVQBZwC5AavAU4EAweMBCUELwEtBCsFwQRrBcgEyAO8BV4CRwTKAHoG"
    "CwL5AsYFIwGRABgCuwMOATMDVQZXBloFcQP5BAIAnwSeAhADAAAGA2sANAamBvIBHAX+AwoCMAKKAAoASwJHA/cCAwM="
)


def test_indices() -> np.ndarray:
    """(1000,) indices of the test images, in test order."""
    raw = base64.b64decode(_TEST)
    assert hashlib.sha256(raw).hexdigest() == SHA256
    return np.frombuffer(raw, dtype="<u2").astype(np.int64)


def pool_indices() -> np.ndarray:
    """(797,) indices of all others, ascending; training and validation images are drawn from them."""
    return np.setdiff1d(np.arange(IMAGES), test_indices())


def read(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 8, 8) float32 in [0, 1] and labels (N,) int64 of "test", or of the pool."""
    from sklearn.datasets import load_digits

    data, where = load_digits(), test_indices() if part == "test" else pool_indices()
    images = (data.images[where] / 16).astype(np.float32)[:, None]  # 17 grey levels: not uint8
    return images, data.target[where].astype(np.int64)
