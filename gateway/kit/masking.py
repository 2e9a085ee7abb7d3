"""A request as it may be shown: whole, but for what must not be seen.

Decides what of a request is a secret. Of the headers only those that are known to be harmless are
shown; in the body every value that is or contains a secret is masked. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

MASK: Final = "***"
SHORTEST: Final = 6  # characters of a secret that is looked for within other text, too
_HARMLESS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "retry-after",
        "user-agent",
        "webhook-id",
        "webhook-timestamp",
    }
)


def headers(given: Mapping[str, str]) -> list[str]:
    """One line for each header."""
    return [f"{name}: {_header(name.lower(), value)}" for name, value in given.items()]


def _header(name: str, value: str) -> str:
    if name == "webhook-signature":
        return " ".join(f"v1,{MASK}" for _ in value.split())
    return value if name in _HARMLESS else MASK


def body(raw: bytes, secrets: Mapping[str, str]) -> str:
    """The body, indented if it is JSON. `secrets` maps what is masked to what is shown instead."""
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return text(raw.decode(errors="replace"), secrets)
    return orjson.dumps(_walked(parsed, secrets), option=orjson.OPT_INDENT_2).decode()


def _walked(value: Any, secrets: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return text(value, secrets)
    if isinstance(value, list):
        return [_walked(each, secrets) for each in value]
    if isinstance(value, dict):
        return {text(name, secrets): _walked(each, secrets) for name, each in value.items()}
    return value


def text(given: str, secrets: Mapping[str, str]) -> str:
    """A text without the secrets that are in it; a short one is masked only where it is all."""
    if given in secrets:
        return secrets[given]
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            given = given.replace(secret, secrets[secret])
    return given
