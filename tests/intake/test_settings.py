"""Settings of a host: every one has a default, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.intake import settings
from bench.intake.settings import Settings
from bench.schema import InvalidInput

WHOLE = """
root = "in"
database = "postgresql://host/db"
records = "hosted"
checkpoints = "nets"
token = "0123456789abcdef"
proxy_header = "X-Forwarded-For"
proxies = ["10.0.0.1"]
uploads_per_hour = 3
submissions_per_method = 4
protocols = ["standard"]
n = 50

[limits]
file = 1000
"""


def written(tmp_path, text: str) -> Path:
    path = tmp_path / "intake.toml"
    path.write_text(text)
    return path


def test_every_setting_is_read_and_has_a_default(tmp_path, monkeypatch):
    path = written(tmp_path, WHOLE)
    found = settings.read(path)
    default = settings.read()
    assert default == Settings() and default.limits.file == 512 * 10**6
    assert {k for k in Settings.model_fields if getattr(found, k) == getattr(default, k)} == set()
    assert found.limits.file == 1000 and found.limits.reserve == default.limits.reserve
    monkeypatch.setenv(settings.VARIABLE, str(path))
    assert settings.read() == found
    assert found.database_url == "postgresql://host/db" and found.out == Path("hosted")
    assert default.database_url == f"sqlite:///{Path('var/intake/jobs.sqlite').absolute()}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uploads_per_hou = 3", "Did you mean 'uploads_per_hour'"),
        ("[limits]\nfiles = 3", "Did you mean 'file'"),
        ("n = 0", "n: Input should be greater"), ("n = ", "is not TOML"),
        ('protocols = ["fats"]', "Did you mean 'fast'"), ("protocols = []", "protocols"),
        ('protocols = ["fast", "fast"]', "named twice"), ('token = "short"', "token"),
        ('database = "mysql://x"', "begins with sqlite"), ('records = "s3://bucket"', "folder"),
        ('proxy_header = "a b"', "proxy_header"), 
        ('proxies = ["10.0.0.0/8"]', "an IPv4 or IPv6 address"),
        ("limits = 3", "limits"),
        ("[limits]\nfile = -1", "limits"), ("\x00", "is not TOML"), ("root = 3", "root"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_file(tmp_path, text, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        settings.read(written(tmp_path, text))
    assert "intake.toml" in str(caught.value) and "short" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="no file at"):
        settings.read(tmp_path / "none.toml")
