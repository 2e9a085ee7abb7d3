"""Which failure a broken call was, from the exception that it ended with.

Decides the word for it (`push.verdicts.Failure`), and what of an exception may be said and kept.
Leaves to the verdict what that means for the ring, and to `push.caller` the call.
"""

from __future__ import annotations

import ssl
import traceback
from typing import Final

import aiohttp

from push.adapters import AdapterBroken, OptionError, UnknownAdapterError, Unwritable
from push.oauth import NoToken
from push.ring import Moved
from push.signing import SigningSecretError
from push.tls import TlsFilesError
from push.verdicts import Failure


def failure_of(error: Exception) -> Failure:
    """Return which failure this exception is; `INTERNAL` for one that nobody foresaw."""
    if isinstance(error, TlsFilesError | NoToken):
        return error.failure
    tls = _tls(error)
    if tls is not None:
        return Failure.CLIENT_CERTIFICATE if _wants_certificate(tls) else Failure.TLS
    for kinds, failure in _FAILURES:
        if isinstance(error, kinds):
            return failure
    return Failure.INTERNAL


def _tls(error: BaseException) -> BaseException | None:
    """Return how TLS itself refused: at the handshake, or by an alert after it (TLS 1.3)."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    if any(isinstance(link, _NOT_TLS) for link in chain):
        return None
    refused = [link for link in chain if isinstance(link, ssl.SSLError | aiohttp.ClientSSLError)]
    return refused[-1] if refused else None


def _wants_certificate(error: BaseException) -> bool:
    """Tell whether it is the backend that lacks, or does not take, a certificate of ours."""
    reason = getattr(error, "reason", None) or str(error)
    return "ALERT" in reason and any(word in reason for word in _OUR_CERTIFICATE)


_OUR_CERTIFICATE: Final = ("CERTIFICATE", "UNKNOWN_CA")  # in the names of alerts (RFC 8446, 6.2)
# A connection that ended without a goodbye, which happens on any network.
_NOT_TLS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)

_FAILURES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Failure], ...]] = (
    ((UnknownAdapterError, AdapterBroken, OptionError), Failure.ADAPTER),
    (Unwritable, Failure.UNWRITABLE),
    (Moved, Failure.MOVED),
    (SigningSecretError, Failure.SIGNING_SECRET),
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError), Failure.URL),
    (aiohttp.ConnectionTimeoutError, Failure.CONNECT_TIMEOUT),
    (TimeoutError, Failure.TIMEOUT),
    (aiohttp.ClientConnectorDNSError, Failure.DNS),
    (aiohttp.ClientConnectorError, Failure.CONNECT),
    ((aiohttp.ClientResponseError, aiohttp.ClientPayloadError), Failure.BAD_HTTP),
    ((aiohttp.ClientConnectionError, OSError), Failure.RESET),
)


def forget_frames(error: BaseException | None) -> None:
    """Let go of where an error, and what it came from, was raised. Where somebody keeps it in what
    those frames have, it would keep all of them until the collector comes by, which it seldom does.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def where(error: Exception) -> str:
    """Return the innermost frames as "file:line in function"; a traceback could show values."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{f.filename}:{f.lineno} in {f.name}" for f in reversed(frames))
