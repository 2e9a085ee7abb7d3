"""What the commands of `ringback` share: options, how things are shown, one line for what fails.

What the operator can mend is one line on stderr and exit code 2, never a traceback. Results are
for stdout; whatever else is to be said goes to stderr.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TextIO, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from gateway import auth
from gateway.config import reading
from gateway.config.development import development
from gateway.config.sections import Config
from gateway.config.values import ConfigError
from storage.errors import StorageError

R = TypeVar("R")

WRITTEN: Final = Path("ringback.toml")  # by `ringback init`, unless told otherwise
WIDE: Final = 1_000  # characters of a line that nobody sees on a terminal
ID_WIDTH: Final = 19  # "cp_" and 16 hex digits
PLAIN: Final = (
    "device tokens are not encrypted at rest: put what `ringback keys new` prints into"
    " storage.encryption_key"
)

ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        readable=False,  # what cannot be read is told in our own words, as all else
        help="The configuration; without it, a development tenant.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
TenantName = Annotated[str | None, typer.Option(help="Not needed when there is only one.")]


def load(path: Path | None) -> Config:
    """The configuration at `path`, or that of the development tenant.

    Who has written a configuration here and forgets to name it is told: it is not used by itself.
    """
    if path is None:
        if WRITTEN.exists():
            say(f"Note: {WRITTEN} is here, and not used: for it give --config {WRITTEN}")
        return development(os.environ)
    return reading.load(path, os.environ)


def tenant_of(settings: Config, name: str | None) -> str:
    """The tenant of that name, or the only one."""
    names = sorted(settings.tenants)
    if name is None and len(names) == 1:
        return names[0]
    if name not in settings.tenants:
        fail(f"--tenant: give one of {', '.join(names)}")
    return name


@contextmanager
def clearly() -> Iterator[None]:
    """One line for what the operator can mend, exit code 2: 1 may say that something is broken."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()  # before the exit code says that it is out
    except (ConfigError, auth.AuthError, StorageError) as error:
        fail(str(error))
    except BrokenPipeError:  # who reads has what they wanted: an end without a word
        raise
    except OSError as error:
        drop(sys.stdout)
        fail(f"the system refuses: {error}")


@contextmanager
def by_its_code() -> Iterator[None]:
    """Let the command end with its own exit code also where nobody can be told why: Python from
    3.13.5 at the latest makes 120 of any, if something is left that stderr does not take."""
    try:
        yield
    finally:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:
            drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Keep what could not be written from being tried again, and told of, at the very end."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run_async(call: Coroutine[Any, Any, R]) -> R:
    """Run it in a loop of its own. Ctrl-C cancels it, and comes out as `KeyboardInterrupt`.

    One that comes while the loop is made waits until it runs: half a loop ends with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    async def listening() -> R:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return await call

    try:
        return asyncio.run(listening())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def must_be_utf_8(given: Mapping[str, str | None]) -> None:
    """Fail with one line if one of these options and arguments, by name, is no text at all."""
    for name, text in given.items():
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            fail(f"{name}: must be UTF-8")


_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and the ends of lines


def plain(text: str) -> str:
    """What others wrote, for a terminal: what would command it (its title, its clipboard, what is
    shown of the rest) is written out, `\\x1b`."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class _Screen(Console):
    """Every text that is no `Text` of ours comes by here, also those in tables."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)


def screen() -> Console:
    """Where tables go: into a pipe nothing is cut off, and no text is taken for markup."""
    out = sys.stdout or io.StringIO()  # closed before the start: only the exit code tells
    width = None if out.isatty() else WIDE
    return _Screen(file=out, highlight=False, markup=False, emoji=False, width=width)


def id_column(name: str) -> Column:
    """Of ids that other commands take: whole, however narrow the terminal."""
    return Column(name, min_width=ID_WIDTH, no_wrap=True)


def in_utc(at: str) -> str:
    """A timestamp of the API as tables show it: date and time, to the second."""
    return at[:19].replace("T", " ")


def bar(*, watched_only: bool = False) -> Progress:
    """How far it is, on stderr; with `watched_only` only if that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=watched_only and not console.is_terminal,
    )


def say(text: str) -> None:
    """To the operator, beside the result; if nobody can be told, that changes nothing."""
    with suppress(OSError):
        # In one piece: unbuffered, as in containers, a line of the log would come before its end.
        print(f"{plain(text)}\n", end="", file=sys.stderr, flush=True)


def fail(problem: str) -> NoReturn:
    """End with this one line and exit code 2."""
    say(f"ringback: {problem}")
    raise typer.Exit(2)
