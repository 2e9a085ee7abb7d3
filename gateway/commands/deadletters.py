"""The commands `ringback deadletters …`: a client of the dead letters' calls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NotRequired, TypedDict
from urllib.parse import urlencode

import typer
from rich.table import Table

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
    Url,
    access,
    ask,
    in_path,
    run,
)
from storage.deadletters import Cause

app = typer.Typer(help="Rings that were given up.", no_args_is_help=True)

Customer = Annotated[str | None, typer.Option(help="Only those of this customer.")]
OfCause = Annotated[Cause | None, typer.Option(help="Only those given up for this.")]
Since = Annotated[str | None, typer.Option(help="Not before then: 2026-11-25T08:00:00Z.")]
Until = Annotated[str | None, typer.Option(help="Not after then.")]


class _Letter(TypedDict):
    """What is read of a dead letter; there is more to it."""

    id: str
    at: str
    customer: str
    seq: int
    device: str
    cause: str
    attempts: int
    answer: NotRequired[str]
    status: NotRequired[int]
    replayed_at: NotRequired[str]


class _Page(TypedDict):
    dead_letters: list[_Letter]
    cursor: NotRequired[str]


class _Replayed(TypedDict):
    replay: str


class _Range(TypedDict):
    """What came of so many; with a cursor there are older ones, so many left."""

    replay: dict[str, int]
    cursor: NotRequired[str]
    left: NotRequired[int]


def _range(
    customer: str | None, cause: Cause | None, since: str | None, until: str | None
) -> dict[str, str]:
    given = {"customer": customer, "cause": cause, "since": since, "until": until}
    return {name: str(value) for name, value in given.items() if value is not None}


@app.command("list")
def show_all(
    customer: Customer = None,
    cause: OfCause = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Those that there are, newest first."""
    with clearly():
        asked = {**_range(customer, cause, since, until), "limit": limit}
        query = urlencode(asked, errors="surrogateescape")
        to = access(config_path, tenant, url, token)
        page = run(ask(to, "GET", f"/v1/dead_letters?{query}", _Page))
        if as_json:
            print(json.dumps(page))
            return
        table = Table(id_column("dead letter"), "at (UTC)", "customer", box=None, pad_edge=False)
        table.add_column("seq", justify="right")
        for name in ("device", "cause"):
            table.add_column(name)
        table.add_column("attempts", justify="right")
        table.add_column("answer")
        table.add_column("replayed (UTC)")
        for letter in page["dead_letters"]:
            table.add_row(*_cells(letter))
        screen().print(table)
        if "cursor" in page:
            say("There are older ones: --limit shows up to 200, --until older ones.")


def _cells(letter: _Letter) -> Iterator[str]:
    yield letter["id"]
    yield in_utc(letter["at"])
    yield letter["customer"]
    yield str(letter["seq"])
    yield letter["device"]
    yield letter["cause"]
    yield str(letter["attempts"])
    status = f" ({letter['status']})" if "status" in letter else ""
    yield letter.get("answer", "") + status
    yield in_utc(letter["replayed_at"]) if "replayed_at" in letter else ""


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The dead letter's id, which is its ring's: r_….")],
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """One, and what a replay would do now."""
    with clearly():
        to = access(config_path, tenant, url, token)
        letter = run(ask(to, "GET", f"/v1/dead_letters/{in_path(id)}", _Letter))
        if as_json:
            print(json.dumps(letter))
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in letter.items():
            table.add_row("a replay now" if name == "replay" else name, str(value))
        screen().print(table)


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Which; or choose a range.")] = None,
    customer: Customer = None,
    cause: OfCause = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    tenant: TenantName = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Ring again for what nobody was told of, one or a range. Nobody is rung twice."""
    with clearly():
        wanted = _range(customer, cause, since, until)
        if sum(map(bool, (ids, wanted, everything))) != 1:
            fail(
                "say which: ids, or a range (--customer, --cause, --since, --until), or --all;"
                " one of the three"
            )
        to = access(config_path, tenant, url, token)
        results = run(_one_by_one(to, ids) if ids else _ranged(to, wanted))
        if as_json:
            print(json.dumps({"replay": results}))
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for result, many in results.most_common():
            table.add_row(result, str(many))
        screen().print(table)
        if not results:
            say("There are none.")


async def _one_by_one(to: Access, ids: list[str]) -> Counter[str]:
    results: Counter[str] = Counter()
    async with Service(to) as service:
        for id in ids:
            path = f"/v1/dead_letters/{in_path(id)}/replay"
            with _telling(results, f"{id}: "):
                results[(await service.call("POST", path, _Replayed))["replay"]] += 1
    return results


async def _ranged(to: Access, wanted: dict[str, str]) -> Counter[str]:
    """Call after call, until there are no older ones."""
    results: Counter[str] = Counter()
    total = 0
    async with Service(to) as service:
        with bar(watched_only=True) as progress:
            task = progress.add_task("replaying", total=None)
            while True:
                with _telling(results, total=total):
                    told = await service.call(
                        "POST", "/v1/dead_letters/replay", _Range, json=wanted
                    )
                results.update(told["replay"])
                total = total or results.total() + told.get("left", 0)
                progress.update(task, completed=results.total(), total=total)
                if "cursor" not in told:
                    return results
                wanted = wanted | {"cursor": told["cursor"]}


@contextmanager
def _telling(results: Counter[str], which: str = "", total: int = 0) -> Iterator[None]:
    """If a call fails, say also what came of those before it."""
    try:
        yield
    except Failed as error:
        done = ", ".join(f"{many} {result}" for result, many in results.items())
        before = f"; those before it: {done}" if done else ""
        of = f", of {total} in all" if total else ""
        raise Failed(f"{which}{error}{before}{of}") from None
