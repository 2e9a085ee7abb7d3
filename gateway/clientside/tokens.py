"""Which token a client says hello with: as it was given, or asked for and kept until it expires.

When one has expired, or a new one is there, is told by `gateway.clientside.link`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

from gateway.clientside.watch import report

Token = str | Callable[[], str | Awaitable[str]]


class NoToken(Exception):
    """The token callable raised."""


class Tokens:
    """The token to say hello with."""

    def __init__(self, given: Token) -> None:
        self._given = given
        self._known: str | None = None
        self.kept = False
        """Whether the last one got was had earlier and may have aged meanwhile, and another can."""

    async def get(self) -> str:
        """The token. Raises `NoToken`."""
        self.kept = self._known is not None and not isinstance(self._given, str)
        if self._known is None:
            self._known = await self._ask()
        return self._known

    def forget(self) -> None:
        """The one at hand is of no use: ask for another."""
        self._known = None

    def replace(self, token: str) -> None:
        """The session has a new one, to come back with too."""
        self._known = token
        if isinstance(self._given, str):
            self._given = token

    async def _ask(self) -> str:
        if isinstance(self._given, str):
            return self._given
        try:
            told = self._given()
            return await told if inspect.isawaitable(told) else told
        except Exception as error:
            report("the client's token could not be had; it is tried again", error)
            raise NoToken from error
