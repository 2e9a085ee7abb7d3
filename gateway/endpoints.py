"""A tenant's backends and how the push worker calls them, from the tenant's configuration."""

from __future__ import annotations

from gateway.config.credentials import credentials_of
from gateway.config.push import Calls, Push
from push.adapters import adapter_named
from push.backends import Backend
from push.guard import meant_by
from push.ring import Endpoint


def backends_of(push: Push | None) -> tuple[Backend, ...]:
    """Which devices each of the tenant's endpoints is for; its own, without a name, first."""
    if push is None:
        return ()
    backends = [Backend(silent=adapter_named(push.adapter, push.options).silent)]
    for name, backend in push.backends.items():
        silent = adapter_named(backend.adapter, backend.options).silent
        backends.append(Backend(name, backend.environment, backend.app, silent))
    return tuple(backends)


def endpoints_of(tenant: str, push: Push) -> tuple[Endpoint, ...]:
    """How the push worker calls that tenant's backends, in the order of `backends_of`."""
    every = (push, *push.backends.values())
    pairs = zip(every, backends_of(push), strict=True)
    return tuple(endpoint_of(tenant, calls, backend) for calls, backend in pairs)


def endpoint_of(tenant: str, push: Calls, backend: Backend) -> Endpoint:
    """How the push worker calls one of that tenant's backends."""
    secrets = (push.signing_secret, push.previous_signing_secret)
    return Endpoint(
        tenant=tenant,
        backend=backend,
        url=push.endpoint,
        adapter=push.adapter,
        options=push.options,
        auth_token=push.auth_token.reveal() if push.auth_token else "",
        signing_secrets=tuple(secret.reveal() for secret in secrets if secret is not None),
        credentials=credentials_of(push.credentials, push.allow_networks),
        ca_file=str(push.ca_file) if push.ca_file else None,
        allow_networks=meant_by(push.endpoint).union(push.allow_networks),
        connect_timeout=push.connect_timeout,
        timeout=push.timeout,
        in_flight=push.in_flight,
        retry_first=push.retry_first,
        retry_max=push.retry_max,
        rate_per_second=push.rate_per_second,
        breaker_after=push.breaker_after,
        suspend_after=push.suspend_after,
    )
