"""The credentials of a tenant's push section: what its requests show, and how they are combined.

Decides: which of it can be used together. Leaves to others: reading it (`gateway.config.reading`),
and what it looks like in a request (`push.credentials`).
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from gateway.config.values import (
    CaFile,
    Flag,
    OptionalSecret,
    OptionalText,
    Required,
    Secret,
    Text,
    Url,
    Wrong,
    meta,
    must_be_text,
    table,
)
from push import credentials, tls
from push.guard import Network, meant_by


def _headers(raw: object, base: Path) -> dict[str, Secret]:
    """A table of texts, or a JSON object as text. What is wrong is told by the header's name."""
    given = table(raw)
    known: set[str] = set()
    for name, value in given.items():
        if credentials.HEADER_NAME.fullmatch(name) is None:
            raise ValueError("has a name that no header can have")
        if credentials.is_ours(name) or name.lower() == "content-type":
            raise ValueError(f"has {name}, which is set by the gateway itself")
        if not isinstance(value, str) or re.fullmatch(r"[!-~]([ -~]*[!-~])?", value) is None:
            raise ValueError(f"has {name} with a value that is no printable ASCII text")
        if name.lower() in known:  # of two, one alone would be sent
            raise ValueError(f"has {name} twice, in two spellings")
        known.add(name.lower())
    return {name: Secret(value) for name, value in given.items()}


def _file(raw: object, base: Path) -> Path:
    path = base / must_be_text(raw)
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({path}: {error.strerror})") from None
    return path


_HEADERS = 'a table such as {X-Api-Key = "…"}, or the text of a JSON object'

Headers = Annotated[dict[str, Secret] | None, meta(_HEADERS, _headers, sourced=True)]
PemFile = Annotated[Path | None, meta("a PEM file that this user can read", _file)]


class OAuth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OAuth2 client that gets tokens for its own credentials."""

    token_url: Url
    client_id: Text
    client_secret: Required
    scope: OptionalText = None
    audience: OptionalText = None
    in_body: Flag = False  # id and secret in the form instead of Basic
    ca_file: CaFile = None  # a private authority's certificates, for the token endpoint


class Credentials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant's requests show, beside the body's token and the signature."""

    headers: Headers = None
    bearer: OptionalSecret = None
    basic_user: OptionalText = None
    basic_password: OptionalSecret = None
    client_certificate: PemFile = None  # with its chain
    client_key: PemFile = None  # if it is not in the certificate's file
    client_key_password: OptionalSecret = None
    oauth: OAuth | None = None


def check_credentials(given: Credentials, https: bool, allow_http: bool, wrong: Wrong) -> None:
    """Refuse what no single value can tell. `https`: whether the endpoint is."""
    _check_one_authorization(given, wrong)
    if (given.basic_user is None) != (given.basic_password is None):
        missing = "basic_password" if given.basic_password is None else "basic_user"
        raise wrong(missing, "is missing", "basic_user and basic_password together")
    if given.basic_user is not None and ":" in given.basic_user:
        raise wrong("basic_user", "has a colon in it", "a user name without a colon")
    if given.bearer is not None and not re.fullmatch(r"[!-~]+", given.bearer.reveal()):
        raise wrong("bearer", "has a space or is not ASCII", "a token of visible ASCII characters")
    _check_certificate(given, https, wrong)
    if given.oauth is not None:
        url = given.oauth.token_url
        if url.startswith("http:") and not (allow_http or meant_by(url)):
            raise wrong(
                "oauth.token_url",
                "is plain http to another machine",
                "https (or allow_http = true)",
            )


def _check_one_authorization(given: Credentials, wrong: Wrong) -> None:
    made_by = [
        name
        for name, is_given in (
            ("headers", any(name.lower() == "authorization" for name in given.headers or ())),
            ("bearer", given.bearer is not None),
            ("basic_user", given.basic_user is not None),
            ("oauth", given.oauth is not None),
        )
        if is_given
    ]
    if len(made_by) > 1:
        problem = f"makes Authorization, as {made_by[0]} does"
        raise wrong(made_by[1], problem, "only one of the two")


def _check_certificate(given: Credentials, https: bool, wrong: Wrong) -> None:
    certificate = certificate_of(given)
    if certificate is None:
        for name in ("client_key", "client_key_password"):
            if getattr(given, name) is not None:
                raise wrong(name, "has no certificate", "client_certificate as well")
        return
    if not https:
        raise wrong("client_certificate", "is of no use over plain http", "an https endpoint")
    try:
        tls.show(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "no PEM, or not its key"
        expected = "a PEM certificate, with its key there or in client_key"
        raise wrong("client_certificate", f"cannot be used ({reason})", expected) from None


def certificate_of(given: Credentials) -> credentials.ClientCertificate | None:
    """The client certificate as the push worker wants it."""
    if given.client_certificate is None:
        return None
    password = given.client_key_password
    return credentials.ClientCertificate(
        certificate=str(given.client_certificate),
        key=str(given.client_key) if given.client_key else None,
        key_password=password.reveal() if password else "",
    )


def credentials_of(
    given: Credentials, allow_networks: tuple[Network, ...]
) -> credentials.Credentials:
    """All of it as the push worker wants it."""
    basic = None
    if given.basic_user is not None and given.basic_password is not None:
        basic = (given.basic_user, given.basic_password.reveal())
    return credentials.Credentials(
        headers=tuple((name, value.reveal()) for name, value in (given.headers or {}).items()),
        bearer=given.bearer.reveal() if given.bearer else None,
        basic=basic,
        oauth=_oauth_of(given.oauth, allow_networks) if given.oauth else None,
        certificate=certificate_of(given),
    )


def _oauth_of(given: OAuth, allow_networks: tuple[Network, ...]) -> credentials.OAuth:
    return credentials.OAuth(
        token_url=given.token_url,
        client_id=given.client_id,
        client_secret=given.client_secret.reveal(),
        scope=given.scope,
        audience=given.audience,
        in_body=given.in_body,
        ca_file=str(given.ca_file) if given.ca_file else None,
        allow_networks=meant_by(given.token_url).union(allow_networks),
    )
