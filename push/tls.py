"""Whom a call trusts, and which certificate it shows: TLS contexts made from the tenants' files.

Decides nothing about a call; a context is made once from its files and kept until `forget`, because
connections can only be kept alive and reused under the same one.
"""

from __future__ import annotations

import ssl

from push.credentials import ClientCertificate
from push.ring import PushError
from push.verdicts import Failure


class TlsFilesError(PushError):
    """A tenant's certificate files cannot be used. `failure` says which."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


class Contexts:
    """TLS contexts by what they are made from."""

    def __init__(self) -> None:
        self._made: dict[tuple[str | None, ClientCertificate | None], ssl.SSLContext] = {}

    def of(
        self, ca_file: str | None, certificate: ClientCertificate | None
    ) -> ssl.SSLContext | bool:
        """Return whom to trust, the system's authorities (True) or those of `ca_file` alone, and
        what to show, as aiohttp takes it. Raises `TlsFilesError`.
        """
        wanted = (ca_file, certificate)
        if wanted == (None, None):
            return True
        if wanted not in self._made:
            self._made[wanted] = _context(ca_file, certificate)
        return self._made[wanted]

    def forget(self) -> None:
        """Read the files anew from now on: calls then use new connections."""
        self._made.clear()


def _context(ca_file: str | None, certificate: ClientCertificate | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise TlsFilesError(Failure.CA_FILE) from error
    if certificate is not None:
        try:
            show(context, certificate)
        except (OSError, ValueError) as error:
            raise TlsFilesError(Failure.CLIENT_CERTIFICATE) from error
    return context


def show(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    """Have `context` show a certificate. Raises `OSError` (`ssl.SSLError`) or `ValueError`.

    The password is always given, if only an empty one: OpenSSL would ask the terminal for it.
    """
    context.load_cert_chain(
        certificate.certificate, certificate.key, password=certificate.key_password
    )
