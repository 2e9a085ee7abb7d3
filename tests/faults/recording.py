"""What a process did to its database's files, and what it told others, in one order (strace).

`wrapper` goes in front of a gateway; `read` makes events of what it wrote. One thread writes to
the files, so that the order within a file is certain. Between files, sockets and threads the order
is that of the system calls: a write counts from its beginning, a sync from its end, and what was
told from the beginning of the call that told it. A cut between two events is therefore never kinder
than the real one. The `-shm` is left out: it lives in memory, and a power cut loses it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CALLS = (
    "openat,unlink,unlinkat,rename,ftruncate,fallocate,pwrite64,write,writev,sendto,sendmsg,"
    "fsync,fdatasync"
)


class Created(NamedTuple):
    """Opened with O_CREAT: it exists from here on, if it did not before."""

    name: str


class Removed(NamedTuple):
    name: str


class Written(NamedTuple):
    name: str
    offset: int
    data: bytes


class Truncated(NamedTuple):
    name: str
    size: int


class Synced(NamedTuple):
    """Of a file, or of the directory ("")."""

    name: str
    failed: bool


class Sent(NamedTuple):
    """A sender was told that this message is safe."""

    ref: str
    seq: int
    id: str


class Rang(NamedTuple):
    """A request left for the customer backend under this ring's id."""

    id: str


Event = Created | Removed | Written | Truncated | Synced | Sent | Rang

_LINE = re.compile(r"^(\d+)\s+(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)$")
_END = re.compile(r"\)\s+= (-?\d+|\?)(?:<[^>]*>)?(?: .*)?$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>")
_SENT = re.compile(rb'\{[^{}]*"type":"sent"[^{}]*\}')
_RANG = re.compile(rb"webhook-id: *(\w+)", re.IGNORECASE)


def wrapper(output: Path, *more: str) -> tuple[str, ...]:
    """The command that records into `output`; `more` are further options (`-e inject=…`)."""
    return (
        *("strace", "-f", "-qq", "-y", "-xx", "-s", "10000000", "--seccomp-bpf"),
        *("-e", f"trace={CALLS}", "-e", "signal=none", *more, "-o", str(output)),
    )


def read(output: Path, database: Path) -> list[Event]:
    """The events of one recorded process; files are named by their path in the directory."""
    events: list[list[Event]] = []
    begun: dict[str, tuple[str, str, int]] = {}
    with output.open(encoding="ascii") as lines:
        for line in lines:
            found = _LINE.match(line.rstrip("\n"))
            if found is None:
                continue
            thread, resumed, call, rest = found.groups()
            at = len(events)
            if resumed:
                call, before, at = begun.pop(thread)
                rest = before + rest
            elif rest.endswith("<unfinished ...>"):
                begun[thread] = (call, rest.removesuffix("<unfinished ...>"), at)
                events.append([])
                continue
            else:
                events.append([])
            made = list(_events(call, rest, database))
            if made and isinstance(made[0], Synced):
                events.append(made)
            else:
                events[at] += made
    for call, rest, at in begun.values():  # killed before it came back
        events[at] += _events(call, f"{rest}) = ?", database)
    return [event for some in events for event in some]


def _events(call: str, rest: str, database: Path) -> Iterator[Event]:
    end = _END.search(rest)
    if end is None:
        return
    killed = end[1] == "?"  # in the middle of it: what was written or told may have been
    name = _name(call, rest, database)
    if killed and (call != "pwrite64" if name is not None else call not in TELLING):
        return
    result = sys.maxsize if killed else int(end[1])
    if call in ("fsync", "fdatasync") and name is not None:
        yield Synced(name, failed=result < 0)
    elif result < 0:
        return
    elif name is None and call in TELLING:
        yield from _told(b"".join(map(_bytes, _STRING.findall(rest))))
    elif name:
        yield from _changed(call, rest, result, name)


def _changed(call: str, rest: str, result: int, name: str) -> Iterator[Event]:
    if call == "openat":
        assert "O_TRUNC" not in rest
        if "O_CREAT" in rest:
            yield Created(name)
    elif call in ("unlink", "unlinkat"):
        yield Removed(name)
    elif call == "ftruncate":
        yield Truncated(name, int(rest[: rest.index(")")].rpartition(",")[2]))
    elif call == "pwrite64":
        (data,) = _STRING.findall(rest)
        offset = int(rest[: rest.rindex(") ")].rpartition(",")[2])
        yield Written(name, offset, _bytes(data)[:result])
    else:
        raise AssertionError(f"the model of the disk does not know {call} of {name}")


def _told(data: bytes) -> Iterator[Event]:
    for frame in _SENT.findall(data):
        told = json.loads(frame)
        yield Sent(told["ref"], told["seq"], told["id"])
    for id in _RANG.findall(data):
        yield Rang(id.decode())


def _name(call: str, rest: str, database: Path) -> str | None:
    """Which of the database's files a call is about; "" for their directory, None for others."""
    if call in ("openat", "unlink", "unlinkat", "rename"):
        strings = _STRING.findall(rest)
        path = _bytes(strings[0]).decode() if strings else ""
    else:
        descriptor = _FD.match(rest)
        path = _bytes(descriptor[1]).decode() if descriptor and "\\x" in descriptor[1] else ""
    if path == str(database.parent):
        return ""
    names = {f"{database}{suffix}": f"{database.name}{suffix}" for suffix in ("", *SUFFIXES)}
    return names.get(path)


SUFFIXES = ("-wal", "-journal")
TELLING = ("write", "writev", "sendto", "sendmsg")


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))
