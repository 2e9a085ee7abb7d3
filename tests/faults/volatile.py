"""A disk as a power cut may leave it: what is certain, and what may or may not have survived.

What was not synced survives a cut whole, in part (torn at sectors) or not at all, whatever came
after it; a file's creation or removal is certain once its directory was synced. After a failed
sync nothing that it should have covered reaches the disk any more, as on Linux, where the kernel
drops such pages and calls them clean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import NamedTuple

from tests.faults.recording import Created, Event, Removed, Synced, Truncated, Written


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    loose: list[Written | Truncated] = field(default_factory=list)
    """What was done to it since the last sync, in order."""


class Disk:
    """Files of one directory: what is certain, and what a power cut may or may not keep."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._certain: dict[str, _File] = {}
        self._loose: list[tuple[str, _File | None]] = []

    def apply(self, event: Event) -> None:
        match event:
            case Created(name) if name not in self._files:
                self._files[name] = _File()
                self._loose.append((name, self._files[name]))
            case Removed(name):
                del self._files[name]
                self._loose.append((name, None))
            case Written(name) | Truncated(name):
                self._files[name].loose.append(event)
            case Synced("", failed):
                for name, file in [] if failed else self._loose:
                    _set(self._certain, name, file)
                self._loose.clear()
            case Synced(name, failed):
                file = self._files[name]
                # A kernel may drop what it failed to write, and call the pages clean.
                _settle(file, [] if failed else file.loose)

    def cut(self, rng: Random) -> dict[str, bytes]:
        """The power fails here: one of the states in which the disk may be found."""
        fate = _fate(rng)
        found = dict(self._certain)
        kept = rng.randint(0, len(self._loose))
        for name, file in self._loose[:kept]:
            _set(found, name, file)
        return {name: _survivor(file, fate, rng) for name, file in found.items()}


def _set(files: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        files.pop(name, None)
    else:
        files[name] = file


def _settle(file: _File, kept: Iterable[Written | Truncated]) -> None:
    for change in kept:
        _make(file.durable, change)
    file.loose = []


def _make(data: bytearray, change: Written | Truncated) -> None:
    if isinstance(change, Truncated):
        del data[change.size :]
        data.extend(bytes(change.size - len(data)))
        return
    end = change.offset + len(change.data)
    data.extend(bytes(max(0, end - len(data))))  # what was never written reads as zeros
    data[change.offset : end] = change.data


class _Fate(NamedTuple):
    """Chances of a loose change: to survive whole, and to be torn. `ordered`: none survives one
    that did not."""

    whole: float
    torn: float
    ordered: bool


_FATES = (
    _Fate(0.0, 0.0, ordered=False),
    _Fate(1.0, 0.0, ordered=False),
    _Fate(0.9, 0.05, ordered=True),
    _Fate(0.9, 0.05, ordered=False),
    _Fate(0.5, 0.2, ordered=False),
    _Fate(0.0, 1.0, ordered=False),
)


def _fate(rng: Random) -> _Fate:
    return rng.choice(_FATES)


def _survivor(file: _File, fate: _Fate, rng: Random) -> bytes:
    data = bytearray(file.durable)
    for change in file.loose:
        luck = rng.random()
        if luck < fate.whole:
            _make(data, change)
            continue
        if isinstance(change, Written):
            if luck < fate.whole + fate.torn:
                for part in _torn(change, rng):
                    _make(data, part)
            elif rng.random() < 0.3:  # the size came through, the data did not
                data.extend(bytes(max(0, change.offset + len(change.data) - len(data))))
        if fate.ordered:
            break
    return bytes(data)


def _torn(change: Written, rng: Random) -> Iterator[Written]:
    """Some of the sectors of a write, or the first of them."""
    sector = rng.choice((512, 4096))
    start, end = change.offset, change.offset + len(change.data)
    edges = [start, *range((start // sector + 1) * sector, end, sector), end]
    parts = [(a, b) for a, b in pairwise(edges) if a < b]
    first = rng.randint(0, len(parts)) if rng.random() < 0.5 else None
    for i, (a, b) in enumerate(parts):
        if i < first if first is not None else rng.random() < 0.5:
            yield Written(change.name, a, change.data[a - start : b - start])
