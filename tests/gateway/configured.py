"""A good configuration, and what tests do with it: change something, and read it."""

import base64
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config.push import Push
from gateway.config.reading import load
from gateway.config.sections import Config
from gateway.config.values import ConfigError

SECRET = "correct-horse-battery-staple-0123456789"
WHSEC = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
ENCRYPTION_KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_KEY = base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()
# The configuration of the issue: every test below changes something in it.
GOOD = f"""
[server]
chat = "127.0.0.1:8080"
[storage]
url = "sqlite:///ringback.db"
[delivery]
ack_timeout = 5.0
[limits]
[log]
[tenants.acme]
origins = ["https://app.acme.example"]
[tenants.acme.auth]
algorithm = "HS256"
secret = "{SECRET}"
[tenants.acme.push]
adapter = "asapp"
endpoint = "https://push.acme.example/ring"
auth_token = "the-auth-token"
signing_secret = "{WHSEC}"
expires_after = "24h"
"""


def read(directory: Path, text: str = GOOD, environ: Mapping[str, str] | None = None) -> Config:
    path = directory / "ringback.toml"
    path.write_text(text)
    return load(path, environ or {})


def refused(
    directory: Path, text: str = GOOD, environ: Mapping[str, str] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(directory, text, environ)
    assert "\n" not in str(caught.value)
    return caught.value


def with_line(section: str, line: str) -> str:
    """GOOD with a line in one section, instead of the one with the same key."""
    head, _, tail = GOOD.partition(f"[{section}]\n")
    inside, bracket, rest = tail.partition("\n[") if tail else ("", "", "")
    if tail.startswith("["):
        inside, bracket, rest = "", "", tail
    key = line.partition(" =")[0]
    kept = [one for one in inside.splitlines() if one.partition(" =")[0] != key]
    return f"{head}[{section}]\n" + "\n".join([line, *kept]) + "\n" + bracket.strip("\n") + rest


def refused_line(directory: Path, section: str, line: str, problem: str, expected: str) -> None:
    """The line is refused under its key, with what is wrong and what would be right."""
    error = refused(directory, with_line(section, line))
    assert error.key == f"{section}.{line.partition(' =')[0]}"
    assert problem in error.problem
    assert expected in error.expected
    assert str(error) == f"{error.key}: {error.problem}; expected {error.expected}"


def push_of(config: Config, tenant: str = "acme") -> Push:
    push = config.tenants[tenant].push
    assert push is not None
    return push
