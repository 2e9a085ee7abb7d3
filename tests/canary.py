"""The canary: over every test, no secret, token or text in a log, a metric or an error (I10).

Whatever a test uses as a secret is kept for as long as the test runs: what a configuration holds as
a `Secret`, the tokens that are issued, the device tokens that are registered, the texts that are
sent. Then everything that could be seen by somebody else is searched for them: what was written to
stdout, stderr and the logs, also by gateways in processes of their own, each metrics page, and each
error that a client is told. A test in which one is found fails, whatever else it says.

This looks on and changes nothing: it wraps the few places where such values come in or go out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gateway import auth, metrics
from gateway.chat import Chat
from gateway.config.values import Secret
from gateway.devices import Devices
from gateway.protocol import FrameError

SHORTEST = 5  # characters: what is shorter is found in words of ours
ORDINARY = frozenset({"hello", "first", "second", "token"})
"""Texts of tests that are words of ours too."""
MOST = 2_000  # of a kind, in one test: a flood of messages is searched for by some of them


class Canary:
    """What is secret in the test that runs, and where it was found."""

    def __init__(self) -> None:
        self.secrets: dict[str, set[str]] = {}
        self.found: list[str] = []
        self.searched: dict[str, int] = {}

    def keep(self, kind: str, value: Any) -> None:
        """Search for `value` from now on."""
        kept = self.secrets.setdefault(kind, set())
        long = isinstance(value, str) and len(value) >= SHORTEST
        if long and value not in ORDINARY and len(kept) < MOST:
            kept.add(value)

    def search(self, place: str, told: str | bytes) -> None:
        """Look through what was told to somebody, in any thread; what is found is not repeated."""
        text = told.decode("utf-8", "replace") if isinstance(told, bytes) else told
        self.searched[place] = self.searched.get(place, 0) + 1
        for kind, kept in tuple(self.secrets.items()):
            if any(value in text for value in tuple(kept)):
                self.found.append(f"{kind} in {place}")

    def end(self) -> list[str]:
        """What was found; the next test begins with nothing."""
        found = list(dict.fromkeys(self.found))
        self.secrets.clear()
        self.found.clear()
        return found


CANARY = Canary()


def watch() -> None:
    """Wrap the places, once for all tests."""
    _after(Secret, "__init__", lambda args, _: CANARY.keep("a configured secret", args[1]))
    _after(auth, "issue", lambda _, token: CANARY.keep("a token", token))
    _after(Devices, "register", lambda args, _: CANARY.keep("a device token", args[3].token))
    _after(Chat, "send", lambda args, _: _sent(args[1]))
    _after(metrics, "generate_latest", lambda _, page: CANARY.search("the metrics", page))
    _after(FrameError, "__init__", lambda args, _: CANARY.search("an error", args[2]))


def _sent(posting: Any) -> None:
    CANARY.keep("a text", posting.text)
    CANARY.keep("a title", posting.title)


def asked(body: object) -> None:
    """What a client of a gateway in another process sends."""
    if isinstance(body, dict):
        for name, kind in (("text", "a text"), ("title", "a title"), ("token", "a device token")):
            CANARY.keep(kind, body.get(name))


def _after(owner: Any, name: str, note: Callable[[tuple[Any, ...], Any], None]) -> None:
    """Call `note` with the arguments and the result of every call."""
    wrapped = getattr(owner, name)

    @functools.wraps(wrapped)
    def watched(*args: Any, **kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        note(args, result)
        return result

    setattr(owner, name, watched)
