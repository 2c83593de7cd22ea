"""Strict immutable data: the base of every noun, its kinds of text, and the text that is hashed."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

# A name that is safe as a folder name and shows as plain text.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Free text from outside; always shown escaped, never as markup.
Text = Annotated[str, StringConstraints(max_length=2000)]
Scalar = bool | int | float | str


class Frozen(BaseModel):
    """Immutable, and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces; what every hash is taken over."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def content_hash(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def safe_name(text: str) -> str:
    """The nearest valid Name: other characters become dashes."""
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "-", text).strip("-.").lstrip("_+=")[:100]
    return name or "unnamed"
