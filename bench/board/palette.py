"""The colours of the board: each means one thing, and a shape says the same again.

Every mark has a contrast of at least 3:1 on white and on Streamlit's dark background, so one value does
in both themes. Blue, orange, green and red of a pair stay apart for every kind of colour vision.
"""

from __future__ import annotations

# How a network was trained.
AWP = "#2784d5"  # with adversarial weight perturbation
VANILLA = "#d6760c"  # without any weight perturbation
RANDOM = "#48711e"  # with a perturbation of the same size in a random direction
UNKNOWN = "#6b7280"  # it is not known which

# Which images were asked.
CLEAN = "#07a4a4"  # as they are
ATTACKED = "#b42c92"  # under attack
TRAINING = "#aa9105"  # trained on
TEST = "#7550d1"  # held out: validation or test

# What a comparison says of the treated.
BETTER = "#14a862"
WORSE = "#c92035"
NOTHING = "#8a8f98"  # no verdict

LINE = "#7d838c"  # axes, guides, fronts: what is not itself a number

# Colour -> plotly's name of the shape that doubles it. An open verdict is an indication.
SHAPES = {
    AWP: "diamond",
    VANILLA: "circle-open",
    RANDOM: "triangle-up",
    UNKNOWN: "square",
    CLEAN: "circle",
    ATTACKED: "x",
    TRAINING: "hexagon-open",
    TEST: "star",
    BETTER: "triangle-right",
    WORSE: "triangle-left",
    NOTHING: "circle-open-dot",
    LINE: "line-ns-open",
}

# What a style sheet calls them: `var(--awp)`.
MEANINGS = {
    "awp": AWP,
    "vanilla": VANILLA,
    "random": RANDOM,
    "unknown": UNKNOWN,
    "clean": CLEAN,
    "attacked": ATTACKED,
    "training": TRAINING,
    "test": TEST,
    "better": BETTER,
    "worse": WORSE,
    "nothing": NOTHING,
    "line": LINE,
}

# Of words beside which it stands: a doctor's amber, and the two halves of a badge with white text.
CAUTION = "#b87a00"
BADGE_SAYS, BADGE_RANKED, BADGE_UNRANKED, BADGE_TEXT = "#3b424c", "#1f5f8b", "#5f6368", "#ffffff"

# Whether a card says that AWP was used (`records.card_text.awp_text`) -> what its mark means, as a
# character where no shape is drawn.
TRAINED = {
    "yes": ("awp", "◆"),
    "no": ("vanilla", "○"),
    "random": ("random", "▲"),
    "unknown": ("unknown", "■"),
}

# What marks stand on: the two themes of Streamlit, of which newer versions have another dark.
BACKGROUNDS = {"light": "#ffffff", "dark": "#0e1117", "warm dark": "#171614"}

# Paper and ink of the page that is one file; the board takes Streamlit's.
_SURFACES = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1c2128",
        "soft": "#5b6470",
        "rule": "#d8dde3",
        "tint": "#f4f6f8",
        "track": "#c4cbd3",
    },
    "dark": {
        "paper": "#14181d",
        "ink": "#e4e8ec",
        "soft": "#9aa5b1",
        "rule": "#323a43",
        "tint": "#1d232a",
        "track": "#4a545f",
    },
}


def shade(colour: str, opacity: float) -> str:
    """A colour that lets what is behind it through, as plotly and CSS read it; opacity in [0, 1]."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"


def of_sign(sign: int) -> str:
    """The colour of a verdict: 1 better, -1 worse, 0 nothing shown."""
    return {1: BETTER, -1: WORSE}.get(sign, NOTHING)


def css() -> str:
    """The meanings as custom properties, for style sheets."""
    return _root({**MEANINGS, "caution": CAUTION})


def surfaces() -> str:
    """Paper and ink as custom properties, after the visitor's light or dark."""
    dark = _root(_SURFACES["dark"])
    return f"{_root(_SURFACES['light'])}\n@media (prefers-color-scheme: dark) {{ {dark} }}"


def _root(values: dict[str, str]) -> str:
    return ":root {" + " ".join(f"--{name}: {value};" for name, value in values.items()) + "}"
