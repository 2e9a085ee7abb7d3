"""How a customer backend, or its token endpoint, knows that it is us: beside the body's own token.

Decides which headers a request's credentials are. They combine: static headers, one `Authorization`
(a bearer token, a user with a password, or an OAuth2 token), a client certificate. Leaves the
signature to `push.signing`, getting OAuth2 tokens to `push.oauth` and `push.tokens`, TLS to
`push.tls`. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from push.guard import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """An OAuth2 client (RFC 6749, section 4.4) and where it gets its tokens.

    `in_body` sends id and secret in the form, for the servers that take no Basic. `ca_file` and
    `allow_networks` are for the token endpoint, as an `Endpoint` has them for the backend.
    """

    token_url: str = field(repr=False)
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None
    audience: str | None = None
    in_body: bool = False
    ca_file: str | None = None
    allow_networks: frozenset[Network] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """PEM files for mutual TLS: the certificate with its chain, and its key (or both in one)."""

    certificate: str
    key: str | None = None
    key_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a tenant's requests carry. Of `bearer`, `basic` and `oauth` one at most is set."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    bearer: str | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    oauth: OAuth | None = None
    certificate: ClientCertificate | None = None


NONE = Credentials()

HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.1
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade"})


def is_ours(name: str) -> bool:
    """Tell whether the gateway itself sets this header, so that nobody else may."""
    return name.lower() in _OURS or name.lower().startswith("webhook-")


def added(
    request: Mapping[str, str], credentials: Credentials, token: str | None = None
) -> dict[str, str]:
    """Return a request's headers with the credentials', which stand in place of equal names.

    `token` is the present OAuth2 token.
    """
    ours = dict(credentials.headers)
    if credentials.bearer is not None:
        ours["Authorization"] = f"Bearer {credentials.bearer}"
    elif credentials.basic is not None:
        ours["Authorization"] = basic(*credentials.basic)
    elif token is not None:
        ours["Authorization"] = f"Bearer {token}"
    if not ours:
        return dict(request)
    names = {name.lower() for name in ours}
    return {name: value for name, value in request.items() if name.lower() not in names} | ours


def basic(user: str, password: str) -> str:
    """Return the value of `Authorization` for a user (RFC 7617, in UTF-8)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
