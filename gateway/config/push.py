"""The push section of a tenant: its customer backend, and how it is called.

Decides: what of it can be run at all. Leaves to others: reading it (`gateway.config.reading`), and
turning it into what the push worker wants (`gateway.endpoints`).
"""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import orjson
from msgspec import Meta, Struct

from gateway.config.content import DEFAULT, Content, Title, check_content
from gateway.config.credentials import Credentials, check_credentials
from gateway.config.values import (
    CaFile,
    Count,
    Flag,
    HourAtMost,
    Lifetime,
    OptionalSecret,
    Seconds,
    Secret,
    Text,
    Url,
    Wait,
    Wrong,
    meta,
    must_be_text,
    networks,
    read_secret,
    shown,
    table,
)
from gateway.wishes import QuietHours, quiet_hours, zone
from push import signing
from push.adapters import AdapterBroken, OptionError, UnknownAdapterError, adapter_named, names
from push.backends import PRODUCTION
from push.guard import Network, Refusal, is_never_called, meant_by, refusal
from push.ring import Endpoint

# --- the values of this section alone -----------------------------------------------------------


def _signing_secret(raw: object, base: Path) -> Secret:
    secret = read_secret(raw, base)
    text = secret.reveal()
    if not text.startswith(signing.SECRET_PREFIX):
        raise ValueError("does not start with whsec_")
    try:
        size = len(b64decode(text.removeprefix(signing.SECRET_PREFIX), validate=True))
    except ValueError:
        raise ValueError("is not base64 after whsec_") from None
    if not signing.MIN_SECRET_BYTES <= size <= signing.MAX_SECRET_BYTES:
        raise ValueError(f"has {size} bytes of key")
    return secret


def _word(raw: object, base: Path) -> str:
    text = must_be_text(raw)
    if not 1 <= len(text) <= 128:
        raise ValueError("is empty" if not text else "is too long")
    return text


def _inside(raw: object, base: Path) -> tuple[Network, ...]:
    found = networks(raw, base)
    for network in found:
        if is_never_called(network):
            raise ValueError(f"has {shown(str(network))}, where no backend is ever called")
    return found


def _quiet(raw: object, base: Path) -> QuietHours:
    text = must_be_text(raw)
    try:
        return quiet_hours(text)
    except ValueError as error:
        raise ValueError(f"is {shown(text)}, which {error}") from None


def _zone(raw: object, base: Path) -> str:
    text = must_be_text(raw)
    if zone(text) is None:
        raise ValueError(f"is {shown(text)}")
    return text


def _options(raw: object, base: Path) -> str:
    """A table, or a JSON object as text: as JSON text."""
    try:
        return orjson.dumps(table(raw)).decode()
    except TypeError as error:
        raise ValueError(f"cannot be written as JSON ({error})") from None


_OPTIONS = "a table, or the text of a JSON object"
_WHSEC = '"whsec_" and the base64 of 24 to 64 random bytes'

SigningSecret = Annotated[Secret | None, meta(_WHSEC, _signing_secret, sourced=True)]
Quiet = Annotated[QuietHours | None, meta('hours such as "22:00-07:00"', _quiet)]
Zone = Annotated[str, meta('a time zone such as "Europe/Vienna"', _zone)]
_RATE = "a number of calls per second above 0, at most 100000"
Rate = Annotated[Annotated[float, Meta(gt=0, le=100_000)] | None, meta(_RATE)]
_WORD = "a text of 1 to 128 characters, as apps tell it when they register"
Word = Annotated[str, meta(_WORD, _word)]
OptionalWord = Annotated[str | None, meta(_WORD, _word)]
Inside = Annotated[tuple[Network, ...], meta('networks such as "10.20.0.0/16"', _inside)]
Options = Annotated[str, meta(_OPTIONS, _options, sourced=True)]


_CALLS = Endpoint(tenant="", url="")  # what is not given is as there


class Calls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A customer backend, and how it is called. Times in seconds."""

    endpoint: Url
    auth_token: OptionalSecret = None
    adapter: Text = _CALLS.adapter
    options: Options = _CALLS.options  # what the adapter wants to know, as JSON
    signing_secret: SigningSecret = None  # requests are signed if given
    previous_signing_secret: SigningSecret = None  # signs too, while the backend changes over
    credentials: Credentials = Credentials()  # beside auth_token and the signature
    allow_http: Flag = False  # plain http to other than loopback, for tests
    allow_networks: Inside = ()  # inside, where the backend may be
    ca_file: CaFile = None  # a private authority's certificates
    connect_timeout: Wait = _CALLS.connect_timeout
    timeout: Wait = _CALLS.timeout
    in_flight: Count = _CALLS.in_flight
    retry_first: Seconds = _CALLS.retry_first
    retry_max: HourAtMost = _CALLS.retry_max  # as a Retry-After: a longer wait is no backoff
    rate_per_second: Rate = _CALLS.rate_per_second  # calls; no limit if not given
    breaker_after: Count = _CALLS.breaker_after  # failures in a row until one ring at a time tries
    suspend_after: Lifetime = _CALLS.suspend_after  # of failure, until operators have to act


class PushBackend(Calls, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A further backend, of one environment and one app or all. It inherits nothing."""

    environment: Word  # as the device tells it
    app: OptionalWord = None  # all, if not given


class Push(Calls, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant's own backend: of `production`, and of every app that has no other there."""

    expires_after: Lifetime = 86_400.0  # a duration in the file, seconds here
    token_expires_after: Lifetime = 270 * 86_400.0  # a token that was not registered again
    title: Title = DEFAULT.title
    content: Content = Content()
    quiet_hours: Quiet = None  # in which no customer is rung, unless they said otherwise
    time_zone: Zone = "UTC"  # of customers of whom nothing better is known
    backends: dict[str, PushBackend] = msgspec.field(default_factory=dict)


def check_push(push: Push, wrong: Wrong) -> None:
    """Refuse what no single value can tell; `wrong` is told the key, the problem, what is right."""
    _check_calls(push, wrong)
    check_content(push.content, lambda name, *why: wrong(f"content.{name}", *why))
    taken: dict[tuple[str, str | None], str] = {(PRODUCTION, None): "endpoint"}
    for name, backend in push.backends.items():
        key = f"backends.{name}"
        if re.fullmatch(r"[a-z0-9_-]{1,64}", name, re.ASCII) is None:
            raise wrong("backends", f"has {shown(name)}", "names of 1 to 64 of a-z 0-9 _ -")
        other = taken.setdefault((backend.environment, backend.app), key)
        if other != key:
            problem = f"is for the same environment and app as {other}"
            raise wrong(key, problem, "another environment or app")
        _check_calls(backend, lambda of, *why, key=key: wrong(f"{key}.{of}", *why))


def _check_calls(push: Calls, wrong: Wrong) -> None:
    _check_adapter(push, wrong)
    if push.endpoint.startswith("http:") and not (push.allow_http or meant_by(push.endpoint)):
        raise wrong("endpoint", "is plain http to another machine", "https (or allow_http = true)")
    why = _refused(push)
    if why is not None:
        expected = "an address on the internet, or one of allow_networks"
        raise wrong("endpoint", f"is an address that is not called ({why.value})", expected)
    if push.previous_signing_secret is not None and push.signing_secret is None:
        raise wrong("previous_signing_secret", "has no present one", "signing_secret as well")
    check_credentials(
        push.credentials,
        push.endpoint.startswith("https:"),
        push.allow_http,
        lambda name, *why: wrong(f"credentials.{name}", *why),
    )
    if push.retry_max < push.retry_first:
        raise wrong(
            "retry_max", f"is {push.retry_max:g}", f"at least retry_first ({push.retry_first:g})"
        )
    if push.timeout < push.connect_timeout:
        expected = f"at least connect_timeout ({push.connect_timeout:g})"
        raise wrong("timeout", f"is {push.timeout:g}", expected)


def _refused(push: Calls) -> Refusal | None:
    """Why the endpoint's address is refused, as far as that can be told without looking it up."""
    host = urlsplit(push.endpoint).hostname or ""
    why = refusal(host, (*push.allow_networks, *meant_by(push.endpoint)))
    return None if why is Refusal.NO_ADDRESS else why


def _check_adapter(push: Calls, wrong: Wrong) -> None:
    try:
        adapter_named(push.adapter, push.options)
    except UnknownAdapterError:
        raise wrong(
            "adapter", f"is {shown(push.adapter)}", f"one of {', '.join(names())}"
        ) from None
    except AdapterBroken as error:
        raise wrong("adapter", error.problem, "an adapter that can be used") from None
    except OptionError as error:
        place = f"options.{error.place}" if error.place else "options"
        raise wrong(place, error.problem, error.expected) from None
    if push.adapter == "asapp" and push.auth_token is None:
        raise wrong("auth_token", "is missing", "a secret text, which asapp sends as authToken")
