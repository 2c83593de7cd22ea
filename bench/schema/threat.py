"""Threat models: a norm, and a radius as an exact fraction of the pixel range [0, 1]."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from fractions import Fraction
from typing import Any, Literal

from pydantic import model_validator

from bench.schema.errors import InvalidInput
from bench.schema.frozen import Frozen

Norm = Literal["linf", "l2", "l1"]
# As AutoAttack and RobustBench say it.
PUBLISHED_NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
NORMS = tuple(PUBLISHED_NORMS)
_LARGEST_EPS = {"linf": Fraction(1), "l2": Fraction(20), "l1": Fraction(1000)}


def parse_eps(text: str | float | Fraction, norm: str = "linf") -> Fraction:
    """The exact radius in units of the [0, 1] pixel range, from "8/255", "0.3" or a number.

    Raises InvalidInput where it is not positive or larger than images can be apart.
    """
    if isinstance(text, float) and math.isfinite(text):  # 8 / 255 as computed means 8/255
        near = Fraction(text).limit_denominator(10_000)
        text = near if abs(near - Fraction(text)) < 1e-12 else f"{text:.12f}"
    said = str(text).strip()
    if isinstance(text, Fraction):
        said = format_eps(text)
    try:
        if not re.fullmatch(r"[-+]?\d{0,6}(\.\d{0,12})?(/\d{1,6})?", said, re.ASCII):
            raise ValueError(said)  # no exponents: 1e999999999 would take for ever
        eps = Fraction(said)
    except (ValueError, ZeroDivisionError):
        raise InvalidInput(
            f"eps must be a fraction such as 8/255 or 0.3, got {said[:40]!r}"
        ) from None
    if eps <= 0:
        raise InvalidInput(f"eps must be positive, got {text}")
    if eps > _LARGEST_EPS[norm] or (norm == "linf" and eps == 1):
        raise InvalidInput(
            f"eps is a fraction of the pixel range [0, 1], got {text} under {norm}. "
            f"Did you mean {text}/255?"
        )
    return eps


def asked_eps(value: object, norm: str = "linf") -> Fraction:
    """The radius that somebody means by a text, a number, or a scalar of numpy or torch.

    "8/255", "8./255", "1e-3", 0.03137255 and float32(8/255) are what they are near to: within 1e-6
    of it (float16 and bfloat16: within their rounding) a fraction of 255, or a decimal of 4 places;
    what has up to 6 places is taken as written. For what a person or a program asks, never for what a
    record says. Raises InvalidInput as parse_eps.
    """
    bits = _BITS.get(str(getattr(value, "dtype", "")).removeprefix("torch."))
    number = getattr(value, "item", lambda: value)  # of an array that holds one
    with contextlib.suppress(RuntimeError, TypeError, ValueError):
        value = number()
    said = str(value).strip().lower()
    parts = re.fullmatch(rf"({_NUMBER})(?:/({_NUMBER}))?", said, re.ASCII)
    try:
        exact = Fraction(parts[1]) / Fraction(parts[2] or 1) if parts else None
    except (ValueError, ZeroDivisionError):
        exact = None
    if exact is None:
        raise InvalidInput(f"eps must be a fraction such as 8/255 or 0.3, got {said[:40]!r}")
    places = range(1, 5) if bits else (4,)
    near = [Fraction(round(exact * unit), unit) for unit in (255, *(10**k for k in places))]
    within = Fraction(2) ** (math.frexp(exact)[1] - bits - 1) if bits else abs(exact) / 10**6
    close = [each for each in near if each and abs(each - exact) <= within]
    if 10**6 % exact.denominator and close:
        exact = close[0]
    elif exact.denominator >= 10**6:
        exact = Fraction(round(exact * 10**12), 10**12)  # no longer than what can be read back
    return parse_eps(exact, norm)


_BITS = {"float16": 11, "bfloat16": 8}  # of the significand
# A sign, digits, and an exponent of two digits: 1e999999999 would take for ever.
_NUMBER = r"[-+]?\d{0,6}(?:\.\d{0,20})?(?:e[-+]?\d{1,2})?"


def format_eps(eps: Fraction) -> str:
    """The one way a radius is written: a short decimal where exact, else a fraction of 255."""
    if 10**6 % eps.denominator == 0:
        return _decimal(eps, 6)
    if 255 % eps.denominator == 0:
        return f"{eps.numerator * (255 // eps.denominator)}/255"
    if eps.denominator >= 10**6 and 10**12 % eps.denominator == 0:
        return _decimal(eps, 12)
    return f"{eps.numerator}/{eps.denominator}"


def _decimal(eps: Fraction, places: int) -> str:
    whole, rest = divmod(eps.numerator * (10**places // eps.denominator), 10**places)
    return f"{whole}.{rest:0{places}}".rstrip("0").removesuffix(".")


@functools.lru_cache(maxsize=1000)  # every record says its threat three times
def _canonical_eps(eps: str, norm: str) -> str:
    return format_eps(parse_eps(eps, norm))


class ThreatModel(Frozen):
    """The perturbations an adversary may use: a norm, and a radius as an exact fraction."""

    norm: Norm
    eps: str  # fraction of the [0, 1] pixel range, canonical text such as "8/255" or "0.3"

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, data: Any) -> Any:
        if isinstance(data, str):
            return cls._split(data)
        if isinstance(data, dict) and data.get("norm") in NORMS and "eps" in data:
            eps, norm = data["eps"], data["norm"]
            if not isinstance(eps, str):
                return {**data, "eps": format_eps(parse_eps(eps, norm))}
            return {**data, "eps": _canonical_eps(eps, norm)}
        return data

    @staticmethod
    def _split(text: str) -> dict[str, str]:
        norm, colon, eps = str(text).strip().lower().partition(":")
        if not isinstance(text, str) or not colon or norm not in NORMS:
            raise InvalidInput(
                f"a threat model is written norm:eps with norm one of {', '.join(NORMS)}, "
                f"for example linf:8/255; got {text!r:.200}"
            )
        return {"norm": norm, "eps": format_eps(parse_eps(eps, norm))}

    @classmethod
    def parse(cls, text: str | ThreatModel) -> ThreatModel:
        """From "linf:8/255" or "l2:0.5". Raises InvalidInput with a suggestion."""
        return text if isinstance(text, ThreatModel) else cls.model_validate(cls._split(text))

    @classmethod
    def asked(cls, text: str | ThreatModel) -> ThreatModel:
        """As parse, for what a person or a program asks: a radius means what it is near to."""
        if isinstance(text, ThreatModel):
            return text
        norm, colon, eps = str(text).strip().lower().partition(":")
        if not isinstance(text, str) or not colon or norm not in NORMS:
            return cls.parse(text)
        return cls.of(norm, eps)

    @classmethod
    def of(cls, norm: str, eps: object) -> ThreatModel:
        """A norm of NORMS, and a radius as somebody means it (asked_eps)."""
        return cls.model_validate({"norm": norm, "eps": format_eps(asked_eps(eps, norm))})

    @property
    def fraction(self) -> Fraction:
        return Fraction(self.eps)

    @property
    def epsilon(self) -> float:
        """The radius as a float64."""
        return float(self.fraction)

    @property
    def folder(self) -> str:
        """`linf-8_255`: the same name where a slash or colon cannot stand."""
        return f"{self.norm}-{self.eps.replace('/', '_')}"

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps}"
