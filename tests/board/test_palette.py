"""The palette: every mark is seen in both themes, no two meanings are taken for each other."""

from __future__ import annotations

import colorsys
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import bench
from bench.board import palette

PAIRS = (("awp", "vanilla"), ("clean", "attacked"), ("training", "test"), ("better", "worse"))
HUED = (*itertools.chain(*PAIRS), "random")
SOURCES = [
    path
    for room in ("board", "exports")
    for path in (Path(bench.__path__[0]) / room).rglob("*.*")
    if path.suffix in (".py", ".css", ".js", ".j2") and path.name != "palette.py"
]
# Linear sRGB -> as seen with protanopia and deuteranopia: Machado, Oliveira and Fernandes, 2009.
BLIND = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}  # fmt: skip


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))


def linear(colour: str) -> np.ndarray:
    """Linear sRGB (3,), as WCAG 2 has it."""
    return np.array(
        [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb(colour)]
    )


def luminance(colour: str) -> float:
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def hue(colour: str) -> float:
    return 360 * colorsys.rgb_to_hls(*rgb(colour))[0]


def oklab(light: np.ndarray) -> np.ndarray:
    """Linear sRGB (3,) -> OKLab, in which a distance is how different two colours look."""
    cones = np.cbrt(
        np.array(
            (
                (0.4122214708, 0.5363325363, 0.0514459929),
                (0.2119034982, 0.6806995451, 0.1073969566),
                (0.0883024619, 0.2817188376, 0.6299787005),
            )
        )
        @ light.clip(0, 1)
    )
    return cones @ np.array(
        (
            (0.2104542553, 1.9779984951, 0.0259040371),
            (0.7936177850, -2.4285922050, 0.7827717662),
            (-0.0040720468, 0.4505937099, -0.8086757660),
        )
    )


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", palette.BACKGROUNDS)
@pytest.mark.parametrize("meaning", palette.MEANINGS)
def test_every_mark_is_seen(meaning: str, theme: str) -> None:
    assert contrast(palette.MEANINGS[meaning], palette.BACKGROUNDS[theme]) >= 3


@pytest.mark.parametrize(("a", "b"), [*itertools.combinations(HUED, 2)])
def test_no_two_meanings_share_a_hue(a: str, b: str) -> None:
    apart = abs(hue(palette.MEANINGS[a]) - hue(palette.MEANINGS[b]))
    assert min(apart, 360 - apart) >= 15


@pytest.mark.parametrize("matrix", BLIND.values(), ids=BLIND)
@pytest.mark.parametrize(("a", "b"), [*PAIRS, ("awp", "random"), ("vanilla", "random")])
def test_a_pair_is_told_apart_without_red_or_green(
    a: str, b: str, matrix: Sequence[Sequence[float]]
) -> None:
    seen = [oklab(np.array(matrix) @ linear(palette.MEANINGS[name])) for name in (a, b)]
    assert math.dist(*seen) > 0.08


def test_a_shape_says_every_colour_again() -> None:
    colours = list(palette.MEANINGS.values())
    assert len(set(colours)) == len(colours)
    assert set(palette.SHAPES) == set(colours)
    assert len(set(palette.SHAPES.values())) == len(colours)


def test_style_sheets_use_what_somebody_gives() -> None:
    given = palette.css() + palette.surfaces()
    for path in SOURCES:  # a style attribute may give a place, a rule another name
        given += path.read_text(encoding="utf-8")
    known = set(re.findall(r"--([a-z]+)\s*:", given))
    assert {"awp", "vanilla", "better", "paper"} <= known
    for sheet in (path for path in SOURCES if path.suffix == ".css"):
        assert set(re.findall(r"var\(--([a-z]+)", sheet.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_other_file_has_a_colour(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"#(?:[0-9a-fA-F]{3}){1,2}\b", text)
    mixed = re.findall(r"rgba?\((\d+), (\d+), (\d+)", text)
    assert all(len(set(each)) == 1 for each in mixed)  # greys that let the theme through


def test_every_block_of_the_style_sheet_is_closed() -> None:
    """A brace that a merge loses takes what follows into a block for phones."""
    text = Path(palette.__file__).with_name("style.css").read_text()
    depth = 0
    for line in text.splitlines():
        assert depth == 0 or not line.startswith(("@media", "/* ----")), line
        depth += line.count("{") - line.count("}")
    assert depth == 0
