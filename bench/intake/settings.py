"""What the host of submissions decides: one file of TOML, each setting with a default.

`AWP_INTAKE=FILE`, or `--intake FILE` of the commands, names the file; without one the defaults hold.
Where a relative path is named, it is below the folder that the program was started in.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError, field_validator

from bench.catalogue import unknown_name
from bench.intake.spool import Limits
from bench.protocols import PROTOCOL_NAMES
from bench.records.json_files import first_mistake
from bench.records.one_read import read_whole
from bench.schema import InvalidInput
from bench.schema.frozen import Frozen

VARIABLE = "AWP_INTAKE"
_LARGEST = 2**16  # bytes of a file of settings
_DATABASES = ("sqlite:///", "postgresql://")
Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,99}$")]
Few = Annotated[int, Field(ge=1, le=10**9)]


class Settings(Frozen):
    """Folders, addresses, limits and the order of the protocols."""

    root: Path = Path("var/intake")  # spool, tickets, work; mode 0700
    database: str | None = None  # of the jobs; None: a file of SQLite in root
    records: str = "results"  # where hosted records live: a folder
    checkpoints: Path = Path("var/submitted")  # of networks that were submitted, and of no others
    token: Annotated[str, Field(min_length=16, max_length=300)] | None = None  # to submit at all
    # The header in which the proxy before the server names the client; None: no proxy is trusted.
    proxy_header: Header | None = None
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")  # addresses that this proxy calls from
    limits: Limits = Limits()  # bytes
    uploads_per_hour: Few = 20  # of one submitter
    submissions_per_method: Few = 100  # networks of one method on one test set
    protocols: Annotated[tuple[str, ...], Field(min_length=1, max_length=4)] = ("fast", "standard")
    n: Annotated[int, Field(ge=1)] | None = None  # images; None: all on a GPU, at most 1,000 else

    @field_validator("limits")
    @classmethod
    def _sizes(cls, limits: Limits) -> Limits:
        if min(limits.file, limits.submitter, limits.all, limits.reserve + 1) < 1:
            raise ValueError("a limit is a number of bytes above 0")
        return limits

    @field_validator("protocols")
    @classmethod
    def _known_protocols(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in PROTOCOL_NAMES:
                raise unknown_name("protocol", name, PROTOCOL_NAMES)
        if len(set(names)) != len(names):
            raise ValueError("a protocol is named twice")
        return names

    @field_validator("proxies")
    @classmethod
    def _addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for each in proxies:
            try:
                ipaddress.ip_address(each)
            except ValueError:
                raise ValueError(f"a proxy is an IPv4 or IPv6 address, got {each[:60]!r}") from None
        return proxies

    @field_validator("database")
    @classmethod
    def _known_database(cls, address: str | None) -> str | None:
        if address is not None and not address.startswith(_DATABASES):
            raise ValueError(f"a database begins with {' or '.join(_DATABASES)}")
        return address

    @field_validator("records")
    @classmethod
    def _a_folder(cls, where: str) -> str:
        if not where or "://" in where:
            raise ValueError("records live in a folder; other addresses are not served yet")
        return where

    @property
    def database_url(self) -> str:
        """Where the jobs are kept; one file beside the tickets unless something else is named."""
        return self.database or f"sqlite:///{self.root.absolute() / 'jobs.sqlite'}"

    @property
    def out(self) -> Path:
        """The folder of the records."""
        return Path(self.records)


def read(path: Path | None = None) -> Settings:
    """The settings of a file, or of the one that the environment names, or the defaults.

    Raises InvalidInput that names the file, and the nearest setting for one that is not known.
    """
    if path is None:
        if not os.environ.get(VARIABLE):
            return Settings()
        path = Path(os.environ[VARIABLE])
    raw = read_whole(path, largest=_LARGEST, follow=True)
    try:
        said = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not TOML ({error})") from None
    _known(path, "setting", said, Settings.model_fields)
    if isinstance(said.get("limits"), dict):
        _known(path, "setting of [limits]", said["limits"], Limits.__dataclass_fields__)
    try:
        return Settings.model_validate(said)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {first_mistake(error).replace('Value error, ', '')}") from None


def _known(path: Path, kind: str, said: dict[str, Any], known: Any) -> None:
    for name in said:
        if name not in known:
            raise InvalidInput(f"{path}: {unknown_name(kind, name, known)}")
