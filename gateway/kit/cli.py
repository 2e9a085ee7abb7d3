"""The commands of the contract kit: `ringback backend`, `push test` and `push conform`."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from gateway.commands.common import (
    AsJson,
    ConfigPath,
    TenantName,
    clearly,
    fail,
    load,
    must_be_utf_8,
    run_async,
    tenant_of,
)
from gateway.config.development import DEVELOPMENT_AUTH_TOKEN, DEVELOPMENT_ENDPOINT
from gateway.config.sections import Config
from gateway.config.values import is_host
from gateway.endpoints import backends_of, endpoints_of
from gateway.kit.behaviours import UnknownBehaviour
from push.adapters import adapter_named
from push.backends import PRODUCTION, choose
from push.credentials import added
from push.ring import Endpoint, PushError, VerdictKind
from push.signing import decode_secret
from storage.records import Device

if TYPE_CHECKING:  # else where it is needed: other commands start without what calls and serves
    from gateway.kit.bench import Bench
    from gateway.kit.report import Found

ANYWHERE = frozenset({ip_network("0.0.0.0/0"), ip_network("::/0")})
DEVELOPMENT_PORT = urlsplit(DEVELOPMENT_ENDPOINT).port or 0

AuthToken = Annotated[
    str | None, typer.Option(envvar="BACKEND_AUTH_TOKEN", help="What authToken is to be.")
]
SigningSecrets = Annotated[
    list[str] | None,
    typer.Option(
        "--signing-secret",
        envvar="BACKEND_SIGNING_SECRET",
        help="whsec_…; given twice while it is being changed, the new one first.",
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend", help="One of the tenant's further backends (tenants.….push.backends)."
    ),
]


def run_backend(
    config_path: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", readable=False, help="Take the secrets of a tenant from here."
        ),
    ] = None,
    tenant: TenantName = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="0 is any free one.")
    ] = DEVELOPMENT_PORT,
    auth_token: AuthToken = None,
    signing_secret: SigningSecrets = None,
    behave: Annotated[
        str, typer.Option(help="How to misbehave: 503, 429 30, slow 3, hang, drop, reject, …")
    ] = "ok",
    backend: BackendName = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show each request, masked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a customer backend that shows each call, and misbehaves when told to.

    While it runs, type a behaviour and Enter ("help" lists them), or POST one:
    curl -d "slow 3" http://127.0.0.1:8090/control

    With neither a configuration nor secrets it is the backend of `ringback serve` for development.
    """
    from gateway.kit import screen, terminal
    from gateway.kit.backend import FakeBackend

    with clearly():
        secrets, headers = tuple(signing_secret or ()), {}
        if config_path is not None:
            endpoint = _endpoint(load(config_path), tenant, backend)
            secrets, headers = endpoint.signing_secrets, added({}, endpoint.credentials)
            auth_token = endpoint.auth_token if endpoint.adapter == "asapp" else None
        elif auth_token is None and not secrets:
            auth_token = DEVELOPMENT_AUTH_TOKEN
        for secret in secrets:
            _usable(secret)
        if not is_host(host):
            fail("--host: is no address and no host's name")
        shown = screen.ForMachines() if as_json else screen.ForPeople(verbose)
        it = FakeBackend(shown, auth_token, secrets, headers)
        try:
            it.behave(behave)
        except UnknownBehaviour as error:
            fail(f"--behave: {error}")
        run_async(terminal.serve(it, host, port, as_json=as_json))


def _usable(secret: str) -> None:
    try:
        decode_secret(secret)
    except PushError as error:
        fail(f"--signing-secret: {error}")


push = typer.Typer(help="Test a customer backend.", no_args_is_help=True)


@push.command("test")
def push_test(
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    device: Annotated[
        str | None, typer.Option(help="An installation that is registered in the database.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Instead: any device token.")] = None,
    title: Annotated[str, typer.Option(help="Of the notification.")] = "Ringback",
    text: Annotated[str, typer.Option(help="Of the notification.")] = "A test notification.",
    silent: Annotated[bool, typer.Option("--silent", help="Only the number on the icon.")] = False,
    backend: BackendName = None,
    as_json: AsJson = False,
) -> None:
    """Send one real test notification, and print the request, the answer and the verdict.

    It goes to the device's backend as every ring does, once; a --token to the tenant's own. Nothing
    is recorded and no outcome changes. Exit code 0: accepted; 1: not; 2: it could not be sent.
    """
    from gateway.kit import trial

    with clearly():
        must_be_utf_8({"--device": device, "--token": token, "--title": title, "--text": text})
        settings = load(config_path)
        endpoint = _endpoint(settings, tenant, backend)
        if bool(device) == bool(token):
            fail("give either --device, an installation of the database, or --token")
        to = trial.Recipient(token or "")
        if device:
            try:
                to = run_async(trial.recipient(settings.storage, endpoint.tenant, device))
            except trial.NoDevice as error:
                fail(f"--device: {error}")
            if to.device is not None and backend is None:
                endpoint = _endpoint_for(settings, endpoint.tenant, to.device)
        if silent and not endpoint.backend.silent:
            fail(f"--silent: the adapter {endpoint.adapter} has no silent rings, and none are made")
        ring = trial.ring_for(to, silent=silent, title=title, text=text)
        exchange = run_async(trial.ring(endpoint, ring, to.token))
        if as_json:
            print(json.dumps(trial.as_json(exchange, endpoint, to)))
        else:
            trial.show(exchange, endpoint, to)
        if exchange.verdict.kind is not VerdictKind.ACCEPTED:
            raise typer.Exit(1)


@push.command("conform")
def push_conform(
    url: Annotated[
        str | None, typer.Argument(help="The backend's URL; without it, the tenant's endpoint.")
    ] = None,
    config_path: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="Take adapter and secrets from here."),
    ] = None,
    tenant: TenantName = None,
    adapter: Annotated[str, typer.Option(help="The form, without a configuration.")] = "asapp",
    auth_token: AuthToken = None,
    signing_secret: SigningSecrets = None,
    token: Annotated[
        str | None, typer.Option(help="The token of a test device, which will ring often.")
    ] = None,
    dead_token: Annotated[
        str | None, typer.Option(help="The token of an app that was uninstalled.")
    ] = None,
    backend: BackendName = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every call, masked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a customer backend against docs/push-contract.md, check by check.

    Rings it about thirty times. Without --token the device token is made up, and the backend may
    say that it is dead. Exit code 0: nothing failed; 1: something did; 2: it could not be tried.
    """
    from gateway.kit import report

    with clearly():
        must_be_utf_8({"--token": token, "--dead-token": dead_token, "--auth-token": auth_token})
        if config_path is not None:
            endpoint = _endpoint(load(config_path), tenant, backend)
        elif url is None:
            fail("give the backend's URL, or --config for a tenant's endpoint")
        else:
            secrets = tuple(signing_secret or ())
            for secret in secrets:
                _usable(secret)
            try:
                adapter_named(adapter)
            except PushError as error:
                fail(f"--adapter: {error}")
            endpoint = Endpoint(
                tenant="",
                url=url,
                adapter=adapter,
                auth_token=auth_token or "",
                signing_secrets=secrets,
            )
        if url is not None:
            if not _is_address(url):
                fail("URL: is no http or https address; expected https://push.acme.example/ring")
            # Who types an address means it, also one inside.
            endpoint = replace(endpoint, url=url, allow_networks=ANYWHERE)
        found, bench = run_async(_conform(endpoint, token, dead_token))
        if as_json:
            print(json.dumps(report.as_json(found, bench)))
        else:
            report.show(found, bench, verbose=verbose)
        if not report.conforms(found):
            raise typer.Exit(1 if report.answered(found) else 2)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.port != 0
        return known and is_host(parts.hostname or "")
    except ValueError:
        return False


async def _conform(
    endpoint: Endpoint, token: str | None, dead_token: str | None
) -> tuple[Found, Bench]:
    from gateway.kit import conformance
    from gateway.kit.bench import Bench
    from push.caller import Caller

    async with Caller() as caller:
        bench = Bench(endpoint, caller, token, dead_token)
        return await conformance.run(bench), bench


def _endpoint(settings: Config, tenant: str | None, backend: str | None) -> Endpoint:
    """How one of a tenant's backends is called: its own unless one is named."""
    name = tenant_of(settings, tenant)
    push = settings.tenants[name].push
    if push is None:
        fail(f"tenants.{name}.push: is missing; expected the settings of its backend")
    if backend is not None and backend not in push.backends:
        there = ", ".join(push.backends) or "none"
        fail(f"--backend: tenant {name} has no backend {backend!r}; there are: {there}")
    called = {endpoint.backend.name: endpoint for endpoint in endpoints_of(name, push)}
    return called[backend or ""]


def _endpoint_for(settings: Config, name: str, device: Device) -> Endpoint:
    """The backend at which this device rings."""
    backends = backends_of(settings.tenants[name].push)
    backend = choose(backends, device.environment, device.app)
    if backend is None:
        told = f"environment {device.environment or PRODUCTION}"
        if device.app is not None:
            told += f" and app {device.app}"
        fail(f"--device: tenant {name} has no backend for its {told}: it is never rung")
    return _endpoint(settings, name, backend.name or None)
