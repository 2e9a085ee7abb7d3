"""The command `ringback`. What goes wrong is one clear line on stderr and exit code 2."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from gateway import auth, why
from gateway.campaigns import cli as campaign_cli
from gateway.commands import deadletters, keys, printing
from gateway.commands.common import (
    PLAIN,
    WRITTEN,
    AsJson,
    ConfigPath,
    TenantName,
    by_its_code,
    clearly,
    drop,
    fail,
    load,
    must_be_utf_8,
    run_async,
    say,
    tenant_of,
)
from gateway.config import starter
from gateway.config.sections import Storage, check_tenant_name
from gateway.dryrun import dry_run
from gateway.endpoints import backends_of
from gateway.kit import cli as kit
from gateway.policies import AFTER_MOST, UNREAD_AFTER, Policy
from gateway.protocol import Role
from storage import audit
from storage.database import Database, copy, existing
from storage.records import Key
from storage.schema import MIGRATIONS
from storage.store import Store, Told

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
        try:
            with clearly():  # so that it holds for --help and --version too
                code = _ended()
        except typer.Exit as failed:
            code = failed.exit_code
        except BrokenPipeError:  # who reads has what they wanted
            drop(sys.stdout)
            code = 1
        sys.exit(code)


def _ended() -> int | str | None:
    """Run the command line, and return its exit code."""
    try:
        app()
    except SystemExit as ended:
        return ended.code
    return 0


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
    from gateway.commands import (
        serving,  # no other command needs a server, and to import it takes longest
    )

    with clearly():
        serving.serve(config_path)


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
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            path.unlink(missing_ok=True)  # or the next try is refused: something is there already
            fail(f"cannot write {path}: {error.strerror}")
        say(f"Wrote {path} (readable by you only). Next: ringback serve --config {path}")


@app.command("check-config")
def check_config(config_path: ConfigPath = None) -> None:
    """Say whether the configuration can be used, and if not, why."""
    with clearly():
        settings = load(config_path)
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
        run_async(_renew_epoch(existing(settings.storage.path)))
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
            min=0.0,
            max=AFTER_MOST,
            help=f"Seconds, for the policy unread_after; {UNREAD_AFTER:.0f} without it.",
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
        told = run_async(_told(settings.storage, key, seq))
        if told is None:
            fail(f"tenant {key.tenant} has no message {seq} of customer {customer}")
        now = time.time()
        answer = why.deliveries(told, now)
        if dry is not None:
            backends = backends_of(settings.tenants[key.tenant].push)
            answer["policy"] = dry_run(told, dry, now=now, backends=backends, after=after)
        if as_json:
            print(json.dumps(answer))
        else:
            printing.show_message(answer)


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
            print(printing.audit_as_json(told).decode())
        else:
            printing.show_audit(told)
        if not told.holds:
            raise typer.Exit(1)


app.command("backend")(kit.run_backend)
app.add_typer(kit.push, name="push")
app.add_typer(campaign_cli.app, name="campaign")
app.add_typer(keys.app, name="keys")
app.add_typer(deadletters.app, name="deadletters")
