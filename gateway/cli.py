"""The command `ringback`. What goes wrong is one clear line on stderr and exit code 2."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import structlog
import typer

from gateway import (
    auth,
    deadletter_cli,
    descriptors,
    inspect,
    keys_cli,
    logs,
    why,
)
from gateway.campaigns import cli as campaign_cli
from gateway.command import (
    WRITTEN,
    AsJson,
    ConfigPath,
    TenantName,
    by_its_code,
    clearly,
    fail,
    load,
    must_be_utf_8,
    say,
    tenant_of,
)
from gateway.config import starter
from gateway.config.sections import Config, LogFormat, Storage, check_tenant_name
from gateway.config.values import ConfigError
from gateway.core import backends_of
from gateway.dryrun import dry_run
from gateway.kit import cli as kit
from gateway.policies import UNREAD_AFTER, Policy
from gateway.protocol import Role
from gateway.server import Gateway
from storage import audit
from storage.database import Database, copy, existing
from storage.records import Key
from storage.schema import MIGRATIONS
from storage.store import Store, Told

_log = structlog.get_logger("gateway.cli")
R = TypeVar("R")

ENDED = "ringback: ended by a fault of its own (see the log); what was confirmed is kept"
PLAIN = (
    "device tokens are not encrypted at rest: put what `ringback keys new` prints into"
    " storage.encryption_key"
)
SWITCH = 0.001  # seconds until the interpreter's lock is handed over (5 ms otherwise)
app = typer.Typer(
    help="Self-hosted chat gateway with push fallback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it has no characters for is an escape
        sys.stdout.reconfigure(errors="backslashreplace")
    with by_its_code():
        app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ringback {version('ringback')}, schema {len(MIGRATIONS)}")
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Which one this is."),
    ] = False,
) -> None:
    """Self-hosted chat gateway with push fallback."""


@app.command()
def serve(config_path: ConfigPath = None) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    with clearly():
        settings = load(config_path)
        if config_path is None:
            say(
                "No configuration was given: this is a DEVELOPMENT gateway, for this machine only."
                f"\n  tenant dev, database {settings.storage.path}"
                "\n  a customer's token:  ringback token --role customer --sub c-42"
                "\n  an agent's token:    ringback token --role agent --sub a-1"
                "\n  for production:      ringback init, then ringback serve --config ringback.toml"
            )
        with logs.set_up(settings.log) as log:
            sound = run(_serve(settings, config_path))
            if not sound:  # by the log's own way: nobody waits for who does not read it
                print(ENDED, file=log)
        if not sound:
            raise typer.Exit(1)


async def _serve(settings: Config, config_path: Path | None) -> bool:
    """Until it is to stop, or a fault of its own ends it: then False."""
    stop, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, again.set)
    warning = descriptors.make_room(settings.limits)
    async with Gateway(settings) as gateway:
        server = settings.server
        for_people = settings.log.format is LogFormat.TEXT
        for problem in (warning, PLAIN if settings.storage.encryption_key is None else None):
            if problem is not None and for_people:
                say(f"ringback: warning: {problem}")
            elif problem is not None:
                _log.warning(problem)
        if for_people:  # machines have it from the log
            chat = server.chat._replace(port=gateway.ports["chat"])
            http = server.http._replace(port=gateway.ports["http"])
            admin = server.admin._replace(port=gateway.ports["admin"])
            say(
                f"Ringback is ready: ws://{chat}/v1/chat and /v1/agent, http://{http}/v1, "
                f"admin http://{admin}"
            )
        ended = gateway.core.store.ended
        reloading = asyncio.create_task(_reload(gateway, config_path, again))
        waiting = [asyncio.create_task(event.wait()) for event in (stop, ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in (reloading, *waiting):
            task.cancel()
    return not ended.is_set()


async def _reload(gateway: Gateway, config_path: Path | None, again: asyncio.Event) -> None:
    """Read the configuration whenever `again` says so; what is wrong with it changes nothing."""
    while await again.wait():
        again.clear()
        try:
            gateway.take_up(await asyncio.to_thread(load, config_path))
        except ConfigError as error:
            _log.error("the configuration was not reloaded; the old one stays", problem=str(error))
        except Exception as error:  # a fault of ours must not cost the next reload
            _log.error("reloading failed", error=type(error).__name__, exc_info=error)


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run a server: uvloop where there is one, and a garbage collector that leaves it alone.

    A gateway's objects are freed by reference counting; full collections over tens of thousands of
    sessions and cached rows only stop the loop. A commit is not to wait long for a busy loop to
    give up the interpreter's lock.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    sys.setswitchinterval(SWITCH)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(readable=False, help="Where to write.")] = WRITTEN,
    tenant: Annotated[str, typer.Option(help="The first tenant's name.")] = "acme",
) -> None:
    """Write a commented configuration with fresh secrets."""
    with clearly():
        check_tenant_name(tenant, "--tenant")
        text = starter.config_text(tenant)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            fail(f"{path} exists already: name another file or remove it first")
        except OSError as error:
            fail(f"cannot write {path}: {error.strerror}")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        say(f"Wrote {path} (readable by you only). Next: ringback serve --config {path}")


@app.command("check-config")
def check_config(config_path: ConfigPath = None) -> None:
    """Say whether the configuration can be used, and if not, why."""
    with clearly():
        settings = load(config_path)
        auth.Verifier(settings.tenants)
        say(f"The configuration is good: {', '.join(sorted(settings.tenants))}")
        if settings.storage.encryption_key is None:
            say(f"Note: {PLAIN}")


@app.command()
def token(
    sub: Annotated[str, typer.Option(help="Whom the token is for.")],
    role: Annotated[Role, typer.Option(help="What they are.")] = Role.CUSTOMER,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    name: Annotated[str | None, typer.Option(help="The name that others see.")] = None,
    ttl: Annotated[float, typer.Option(help="Seconds until it ends.")] = 3600.0,
) -> None:
    """Print a token, to try things out."""
    with clearly():
        settings = load(config_path)
        chosen = tenant_of(settings, tenant)
        print(auth.issue(settings, chosen, role, sub, name=name, ttl=ttl))


@app.command("renew-epoch")
def renew_epoch(config_path: ConfigPath = None) -> None:
    """After restoring a backup: make every client load its conversation anew."""
    with clearly():
        settings = load(config_path)
        asyncio.run(_renew_epoch(existing(settings.storage.path)))
        say("The epoch is new: clients will reload instead of resuming.")


async def _renew_epoch(path: Path) -> None:
    async with Database(path) as database:
        await Store(database, lambda: 0.0).renew_epoch()


@app.command("why")
def tell_why(
    customer: Annotated[str, typer.Argument(help="The customer's id.")],
    seq: Annotated[int, typer.Argument(help="Which message.")],
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    policy: Annotated[
        str | None,
        typer.Option(help=f"Say what another policy would have decided: {', '.join(Policy)}."),
    ] = None,
    after: Annotated[
        float | None,
        typer.Option(
            min=0.0, help=f"Seconds, for the policy unread_after; {UNREAD_AFTER:.0f} without it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what became of a message, and why. The gateway may be running.

    A policy is only tried dry: the gateway itself always follows the default one.
    """
    with clearly():
        must_be_utf_8({"CUSTOMER": customer})
        settings = load(config_path)
        key = Key(tenant_of(settings, tenant), customer)
        dry = _policy(policy)
        if after is not None and dry is not Policy.UNREAD_AFTER:
            fail(f"--after: is for --policy {Policy.UNREAD_AFTER} only")
        told = asyncio.run(_told(settings.storage, key, seq))
        if told is None:
            fail(f"tenant {key.tenant} has no message {seq} of customer {customer}")
        now = time.time()
        answer = why.deliveries(told, now)
        if dry is not None:
            backends = backends_of(settings.tenants[key.tenant].push)
            seconds = UNREAD_AFTER if after is None else after
            answer["policy"] = dry_run(told, dry, now=now, backends=backends, after=seconds)
        if as_json:
            print(json.dumps(answer))
        else:
            inspect.show_message(answer)


def _policy(name: str | None) -> Policy | None:
    try:
        return None if name is None else Policy(name)
    except ValueError:
        fail(f"--policy: give one of {', '.join(Policy)}")


async def _told(storage: Storage, key: Key, seq: int) -> Told | None:
    async with Store.beside(storage.path, storage.keys) as store:
        return await store.told(key, seq)


DatabasePath = Annotated[
    Path | None,
    typer.Option(readable=False, help="The database itself, instead of a configuration."),
]


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(readable=False, help="The new file.")],
    config_path: ConfigPath = None,
    database: DatabasePath = None,
) -> None:
    """Copy a database as it is at one moment. The gateway may be running.

    To go back to it: stop the gateway, put the copy in the database's place (without the `-wal` and
    `-shm` of before), `ringback renew-epoch`, start.
    """
    with clearly():
        copy(database if database is not None else load(config_path).storage.path, to)
        say(f"Wrote {to} (readable by you only).")


@app.command()
def check(
    config_path: ConfigPath = None,
    database: DatabasePath = None,
    as_json: AsJson = False,
) -> None:
    """Recount a database by brute force. The gateway may be running.

    Prints per tenant accepted = acked + pushed + pending + expired + undeliverable, and every row
    that breaks a law. Exit code 0: all holds; 1: something is broken; 2: it cannot be opened.
    """
    with clearly():
        path = database if database is not None else load(config_path).storage.path
        told = audit.audit(path, time.time())
        if as_json:
            print(inspect.audit_as_json(told).decode())
        else:
            inspect.show_audit(told)
        if not told.holds:
            raise typer.Exit(1)


app.command("backend")(kit.run_backend)
app.add_typer(kit.push, name="push")
app.add_typer(campaign_cli.app, name="campaign")
app.add_typer(keys_cli.app, name="keys")
app.add_typer(deadletter_cli.app, name="deadletters")
