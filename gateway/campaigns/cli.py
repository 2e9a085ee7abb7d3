"""The commands `ringback campaign …`: a client of the campaigns' calls.

What a command prints is what the gateway told it. A campaign belongs to the gateway: when a command
ends, or is ended, the campaign goes on.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import orjson
import typer
from rich.table import Table

from gateway.campaigns.audience import ENDINGS, Format
from gateway.commands.common import (
    AsJson,
    ConfigPath,
    TenantName,
    bar,
    clearly,
    fail,
    id_column,
    in_utc,
    say,
    screen,
)
from gateway.commands.remote import (
    Access,
    Failed,
    Service,
    Token,
    Unreachable,
    Url,
    access,
    ask,
    in_path,
    run,
)
from gateway.protocol import RATE_DEFAULT, UNFIT, Unknown

POLL = 0.5  # seconds between two looks at how far it is
LOST = 120.0  # seconds for which a gateway that does not answer is waited for
PIECE = 65_536  # bytes of the file in one piece
INTERRUPTED = 130
GOING = ("scheduled", "running", "paused")

app = typer.Typer(help="Send to many customers, and follow it.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="The campaign's id, cp_….")]


class _Campaign(TypedDict):
    """What is read of a campaign; there is more to it."""

    id: str
    state: str
    created_at: str
    send_at: NotRequired[str]
    recipients: int
    duplicates: int
    sent: int
    skipped: int
    left: int
    duplicate: NotRequired[bool]


class _Page(TypedDict):
    campaigns: list[_Campaign]
    more: bool


class _Report(TypedDict):
    recipients: int
    rung: int
    in_chat: int
    pending: int
    skipped: dict[str, int]
    failed: dict[str, int]
    left: int
    read: int


@app.command()
def send(
    text: Annotated[str, typer.Option(help="What to say; {name} is a column of the file.")],
    recipients: Annotated[
        Path | None,
        typer.Argument(
            readable=False, help="The audience: .csv with a column customer, or .jsonl."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the notification; may have fields.")] = None,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="To all with a live device, without a file.")
    ] = False,
    send_at: Annotated[
        str | None, typer.Option(help="When to begin: 2026-11-25T08:00:00Z.")
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option("--expires-at", "--expires", help="When it is of no use any more.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Recipients per second.")] = RATE_DEFAULT,
    unknown: Annotated[
        Unknown, typer.Option(help="What to do about customers whom nobody has seen.")
    ] = Unknown.CREATE,
    key: Annotated[
        str | None, typer.Option(help="Sent again with the same key, it is the same campaign.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Stay and show how far it is.")] = True,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Send one message to many, each at most once. Ctrl-C leaves the campaign running."""
    with clearly():
        if (recipients is None) is not all_devices:
            fail("give a file of recipients, or --all-devices, and not both")
        if not math.isfinite(rate):  # JSON has no such number
            fail("--rate: give a number of recipients per second")
        if key is not None and UNFIT.search(key):
            fail("--key: must be UTF-8 without control characters")
        file = _readable(recipients) if recipients is not None else None
        told: dict[str, Any] = {"text": text, "rate": rate, "unknown": unknown.value}
        optional = {"title": title, "send_at": send_at, "expires_at": expires_at}
        told |= {name: value for name, value in optional.items() if value is not None}
        key = f"cli-{secrets.token_hex(8)}" if key is None else key
        to = access(config_path, tenant, url, token)
        try:
            campaign = run(_send(to, told, key, file))
        except KeyboardInterrupt:
            if file is not None and not file.given:
                say("Broken off before the gateway had the whole audience: nothing is sent.")
            else:
                say(
                    "Broken off before the gateway answered: the campaign may be running. Run this"
                    f" again with --key {key} to see: nobody gets it twice."
                )
            raise typer.Exit(INTERRUPTED) from None
        begun = campaign["state"] != "scheduled"
        _follow(to, campaign, wait=wait and begun, as_json=as_json)


def _readable(path: Path) -> _File:
    form = ENDINGS.get(path.suffix.lower())
    if form is None:
        fail(f"{path}: the file must be called .csv, .jsonl or .ndjson")
    try:
        with path.open("rb"):
            return _File(path, form)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")


async def _send(to: Access, told: dict[str, Any], key: str, file: _File | None) -> _Campaign:
    import aiohttp

    headers = {"Idempotency-Key": key}
    async with Service(to) as service:
        try:
            if file is None:
                body = told | {"audience": "devices"}
                return await service.call(
                    "POST", "/v1/campaigns", _Campaign, json=body, headers=headers
                )
            with aiohttp.MultipartWriter("form-data") as parts:
                first = parts.append_json(told)
                first.set_content_disposition("form-data", name="campaign")
                second = parts.append(file.pieces(), {"Content-Type": file.form.value})
                second.set_content_disposition("form-data", name="recipients")
            return await service.call(
                "POST", "/v1/campaigns", _Campaign, data=parts, headers=headers
            )
        except Failed as error:
            if not error.passing:
                raise
            raise Unreachable(
                f"{error} (If it was while sending, run this again with --key {key}: nobody gets"
                " it twice.)"
            ) from None


class _File:
    """The recipients' file; `given` once all of it is on its way."""

    def __init__(self, path: Path, form: Format) -> None:
        self._path = path
        self.form = form
        self.given = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file, with a bar for how much of it is on its way."""
        with self._path.open("rb") as file, bar() as progress:
            size = self._path.stat().st_size
            task = progress.add_task("taking the audience", total=max(1, -(-size // 1024)))
            done = 0
            while piece := file.read(PIECE):
                yield piece
                done += len(piece)
                progress.update(task, completed=-(-done // 1024))
        self.given = True


def _describe(campaign: _Campaign) -> None:
    doubles = campaign["duplicates"]
    also = f" ({doubles:,} came more than once)" if doubles else ""
    again = " It was sent before, under this key." if campaign.get("duplicate") else ""
    say(f"Campaign {campaign['id']}: {campaign['recipients']:,} recipients{also}.{again}")
    if campaign["state"] == "scheduled":
        say(f"It begins at {campaign['send_at']}.")


# Following


def _follow(to: Access, campaign: _Campaign, *, wait: bool = True, as_json: bool) -> None:
    """Say what it is, show how far it is until it is over, then the report.

    For machines there is the campaign itself, as it is when this ends.
    """
    id = campaign["id"]
    try:
        _describe(campaign)
        if wait:
            campaign = run(_until_over(to, campaign))
            if not as_json:
                _show_report(run(ask(to, "GET", f"/v1/campaigns/{in_path(id)}/report", _Report)))
            if campaign["state"] != "finished":
                say(f"The campaign is {campaign['state']}.")
        if as_json:
            print(json.dumps(campaign))
    except KeyboardInterrupt:
        say(
            f"The campaign goes on without this command.\n  how far it is:  ringback campaign show"
            f" {id}\n  to stop it:     ringback campaign pause {id}, or cancel {id}"
        )
        raise typer.Exit(INTERRUPTED) from None


async def _until_over(to: Access, campaign: _Campaign) -> _Campaign:
    path = f"/v1/campaigns/{in_path(campaign['id'])}"
    silent_since: float | None = None
    async with Service(to) as service:
        with bar() as progress:
            task = progress.add_task("sending", total=campaign["recipients"])
            while campaign["state"] in GOING:
                await asyncio.sleep(POLL)
                try:
                    campaign = await service.call("GET", path, _Campaign)
                    silent_since = None
                except Failed as error:
                    if not error.passing:
                        raise
                    # It may be starting again: the campaign goes on then, and so do we.
                    silent_since = silent_since or time.monotonic()
                    if time.monotonic() - silent_since > LOST:
                        raise
                done = campaign["sent"] + campaign["skipped"]
                state = "no answer, waiting" if silent_since else _verb(campaign["state"])
                progress.update(task, completed=done, description=state)
    return campaign


def _verb(state: str) -> str:
    return "sending" if state in ("running", "finished") else state


# The others


@app.command("list")
def show_all(
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """The campaigns, newest first."""
    with clearly():
        to = access(config_path, tenant, url, token)
        page = run(ask(to, "GET", f"/v1/campaigns?limit={limit}", _Page))
        if as_json:
            print(json.dumps(page))
            return
        table = Table(id_column("campaign"), "created (UTC)", "state", box=None, pad_edge=False)
        for name in ("recipients", "sent", "skipped", "left"):
            table.add_column(name, justify="right")
        for c in page["campaigns"]:
            counts = (f"{c[name]:,}" for name in ("recipients", "sent", "skipped", "left"))
            table.add_row(c["id"], in_utc(c["created_at"]), c["state"], *counts)
        screen().print(table)
        if page["more"]:
            say("There are older ones: --limit shows up to 200.")


@app.command()
def show(
    id: Id,
    as_json: AsJson = False,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until it is over.")] = False,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """One campaign, and how far it is."""
    with clearly():
        to = access(config_path, tenant, url, token)
        campaign = run(ask(to, "GET", f"/v1/campaigns/{in_path(id)}", _Campaign))
        if follow:
            _follow(to, campaign, as_json=as_json)
        elif as_json:
            print(json.dumps(campaign))
        else:
            _show(campaign)


def _show(campaign: _Campaign) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in campaign.items():
        if value is not None:
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            table.add_row(name, text)
    screen().print(table)


@app.command()
def report(
    id: Id,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """What became of everybody: rung, in chat, read, skipped why, failed why."""
    with clearly():
        to = access(config_path, tenant, url, token)
        told = run(ask(to, "GET", f"/v1/campaigns/{in_path(id)}/report", _Report))
        if as_json:
            print(json.dumps(told))
        else:
            _show_report(told)


def _show_report(told: _Report) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("recipients", f"{told['recipients']:,}")
    told_of = {"rung": told["rung"], "in chat": told["in_chat"], "pending": told["pending"]}
    for name, many in told_of.items():
        table.add_row(f"  {name}", f"{many:,}")
    for name, reasons in (("skipped", told["skipped"]), ("failed", told["failed"])):
        for reason, many in sorted(reasons.items()):
            table.add_row(f"  {name}: {reason}", f"{many:,}")
    table.add_row("  left", f"{told['left']:,}")
    table.add_row("read", f"{told['read']:,}")
    screen().print(table)


def _step(name: str, told: str) -> Callable[..., None]:
    def step(
        id: Id,
        config_path: ConfigPath = None,
        tenant: TenantName = None,
        url: Url = None,
        token: Token = None,
    ) -> None:
        with clearly():
            to = access(config_path, tenant, url, token)
            campaign = run(ask(to, "POST", f"/v1/campaigns/{in_path(id)}/{name}", _Campaign))
            say(
                f"Campaign {campaign['id']} is {campaign['state']}: {campaign['sent']:,} sent,"
                f" {campaign['left']:,} left."
            )

    step.__doc__ = told
    return step


app.command("pause")(_step("pause", "Send no more until it is resumed."))
app.command("resume")(_step("resume", "Go on at the exact place."))
app.command("cancel")(_step("cancel", "Send no more, for good. What was sent stays sent."))
