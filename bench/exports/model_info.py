"""RobustBench's model_info files (arXiv 2010.09670): one model of its leaderboard as JSON.

Percentages are strings such as "56.17". A file lies at model_info/<data set>/<norm>/<id>.json.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from bench.schema import InvalidInput, Text
from bench.schema.threat import format_eps, parse_eps

NORMS = {"Linf": "linf", "L2": "l2", "L1": "l1"}  # RobustBench's word -> ours
_LARGEST_FILE = 2**20  # bytes


def _percentage(value: object) -> object:
    """Percentages are strings, but older files hold numbers; neither may be an exponent."""
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, bool) or (isinstance(value, str) and "e" in value.lower()):
        raise ValueError("a percentage is written like 56.17")
    return str(value) if isinstance(value, float) else value


def _text(value: object) -> object:
    """A text that is not there is an empty one: RobustBench's code expects these keys in a file."""
    return "" if value is None else value


def _radius(value: object) -> object:
    """The radius may have been written as a number: 0.03137254901960784 is 8/255."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return format_eps(parse_eps(value, "l1"))


Percentage = Annotated[
    Annotated[Decimal, Field(ge=0, le=100, max_digits=20)] | None,
    BeforeValidator(_percentage),
    PlainSerializer(lambda v: None if v is None else str(v), return_type=str | None),
]

TextOrNone = Annotated[Text, BeforeValidator(_text)]


class ModelInfo(BaseModel):
    """One model of RobustBench's leaderboard; fields it does not name here are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    link: TextOrNone = ""
    name: TextOrNone = ""  # title of the paper
    authors: TextOrNone = ""
    additional_data: bool | None = None
    number_forward_passes: int | None = Field(default=None, ge=0)
    dataset: Text
    venue: TextOrNone = ""
    architecture: TextOrNone = ""
    eps: Annotated[Text | None, BeforeValidator(_radius)] = None  # "8/255", of the pixel range
    clean_acc: Percentage = None
    reported: Percentage = None  # by the authors
    autoattack_acc: Percentage = None
    external: Percentage = None  # the lowest that anybody found; the rank key where it is there
    unreliable: bool | None = None
    footnote: Text | None = None

    def json_text(self) -> str:
        """The file; fields without a value are left out, as RobustBench's own files do."""
        value = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(value, indent=2, ensure_ascii=True) + "\n"


def parse_model_info(raw: Any, where: str) -> ModelInfo:
    """A parsed JSON value as ModelInfo. Raises InvalidInput that names `where` and the field."""
    if not isinstance(raw, dict):
        raise InvalidInput(f"{where} is not a JSON object")
    try:
        return ModelInfo.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "file"
        raise InvalidInput(f"{where} is no model_info file: {field}: {first['msg']}") from None


def read_model_info(path: Path) -> ModelInfo:
    """Reads one file. Raises InvalidInput naming it where it cannot be read."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidInput(
                f"{path} is larger than {_LARGEST_FILE} bytes; not a model_info file"
            )
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} cannot be read as JSON ({error})") from None
    return parse_model_info(raw, str(path))
