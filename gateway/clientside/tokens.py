"""Which token a client says hello with: as it was given, or asked for and kept until it expires.

When one has expired, or a new one is there, is told by `gateway.clientside.link`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.clientside.watch import report

TOKEN_WITHIN: Final = 60.0  # seconds: the app's server may have to start first

Token = str | Callable[[], str | Awaitable[str]]


class NoToken(Exception):
    """The token callable raised, gave no text, or took longer than `TOKEN_WITHIN`."""


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

    def replace(self, token: str | None) -> str | None:
        """The session is given another, to come back with too; the one that it had."""
        had, self._known = self._known, token
        if token is not None and isinstance(self._given, str):
            self._given = token
        return had

    async def _ask(self) -> str:
        if isinstance(self._given, str):
            return self._given
        try:
            async with asyncio.timeout(TOKEN_WITHIN):
                given = self._given()
                told = await given if inspect.isawaitable(given) else given
            if not isinstance(told, str) or not told:
                raise TypeError(f"the token is {type(told).__name__}; expected a text, not empty")
            return told
        except Exception as error:
            report("the client's token could not be had; it is tried again", error)
            raise NoToken from error
